"""LoRA files: which layer of the model each tensor is for."""
