"""T5 as the host's CLIP, and the encoding of prompts with it."""
