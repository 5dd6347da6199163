"""Numbers and words on which several folders must agree. Imports nothing; all may import it."""

MAX_TOKENS = 512  # of a prompt, with its `</s>`: Chroma's training
SHORT_NEGATIVE = 70  # tokens below which a negative prompt does harm; levzzz's guide to Chroma

# Menu texts, saved in workflows: never renamed.
TRAINED, FIXED, BY_RESOLUTION = "shift 1", "fixed", "by resolution"  # Chroma Timestep Shift, Chroma Preset
AS_TRAINED, FROM_MODEL = "1 (as trained)", "from the model"  # Chroma KSampler, beside FIXED and BY_RESOLUTION
FROM_PRESET = "from the preset"  # Chroma Preset

# The host's key in a conditioning: a style model's mask, over its text and image tokens, is there.
STYLE_MASK = "attention_mask_img_shape"
