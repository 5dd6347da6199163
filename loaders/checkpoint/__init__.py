"""Tells what a file is, checks it against the model, writes it."""
