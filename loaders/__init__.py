"""From a file to weights under the model's own names: read, detect, convert, quantise. Host code is in host/model."""
