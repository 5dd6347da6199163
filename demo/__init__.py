"""A small Chroma of our own: pictures, text encoder, training, judge. For demonstration and tests, not for art."""
