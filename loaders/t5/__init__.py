"""T5 encoders in files."""
