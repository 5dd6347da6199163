"""Graphs saved with nodes that are gone: which node of ours stands in, on the page and in queued graphs."""
