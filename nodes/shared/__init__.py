"""What several nodes need."""
