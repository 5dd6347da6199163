"""What all stored formats share: the record of one, the registry of all, and the arithmetic that several need."""
