"""T5 as the host's CLIP, and a prompt through it."""
