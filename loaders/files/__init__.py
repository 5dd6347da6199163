"""Weight files: headers first, tensors mapped. Renames nothing."""
