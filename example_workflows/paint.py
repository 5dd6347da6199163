"""A picture from Python, with the settings that fit the model. Run it with ComfyUI's Python:

python example_workflows/paint.py MODEL TEXT_ENCODER VAE OUT.png "A photograph of a red fox asleep on a mossy rock."
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent.parent))  # this pack's folder

from chroma_api import Chroma  # noqa: E402

model, text_encoder, vae, out, prompt = sys.argv[1:]
chroma = Chroma(model, text_encoder, vae)
chroma.paint(prompt, seed=7).save(out)
