"""In which ways a weight is stored."""
