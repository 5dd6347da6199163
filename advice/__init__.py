"""What settings fit a checkpoint, and what in a graph does nothing or harms. Pure: graphs as data."""
