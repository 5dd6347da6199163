"""One forward of the network as the host calls it."""
