"""From a file to weights under the model's own names: read, detect, convert, quantise. The host's side is in host/model."""
