"""A file as the host's MODEL, and back."""
