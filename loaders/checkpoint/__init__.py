"""What a file is, checked against the model, and written again."""
