"""Text as Chroma takes it: tokens and limits, tags. Pure: no host, no weight."""
