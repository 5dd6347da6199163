"""Headers of published checkpoints at full size, without weights: names, dtypes, shapes, metadata.

One JSON per kind of file, written by `python tests/headers/build.py` from the tables in models.py and storage.py,
which do not use the pack's own code. A name in a JSON may stand for many:

    {0..18}     every whole number from 0 to 18
    {img,txt}   each of the texts; one of them may be empty

Several of them in one name give every combination. No real tensor name holds a brace.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
QUANT_METADATA = "_quantization_metadata"
_BRACES = re.compile(r"\{([^{}]*)\}")


def expand(pattern: str) -> list[str]:
    """All names that a pattern stands for, the last brace counting fastest."""
    parts = _BRACES.split(pattern)
    choices = [[text] if i % 2 == 0 else _choices(text) for i, text in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(text: str) -> list[str]:
    first, dots, last = text.partition("..")
    return [str(n) for n in range(int(first), int(last) + 1)] if dots else text.split(",")


def kinds() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(kind: str) -> dict[str, Any]:
    """The header of one kind, every pattern written out.

    tensors:  name -> [dtype, shape]; dtypes are named as in safetensors, in a .gguf file as in ggml; shapes are in
              torch's order and, for ggml's types, those of the unpacked weight.
    metadata: as in the file: text to text for safetensors, numbers also for GGUF.
    markers:  name of each *.comfy_quant tensor -> the JSON text that its bytes are.
    shards:   file -> names of its tensors; only for a folder.
    expect:   what a loader should say: "error", a part of its refusal, or
              variant, layout ("BFL" or "diffusers"), prefix, prediction ("v" or "x0"), num_parameters (of the model,
              scales and other components left out), num_double_blocks, num_single_blocks, approximator (in_dim,
              hidden_dim, num_layers; null for FLUX), storage (format -> number of 2-D weights stored so, see storage.py),
              plain (dtype of most of the 16 and 32 bit floats, null if there are none); for Radiance also head
              ("conv" or "linear"), kernel (of img_in_patch), patch_size, txt_ids ("zeros" or "sequential"); for fp8
              without scales also unscaled (true) and storage_vectors (format -> number of biases and norms so).
    """
    header = json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    header["tensors"] = {name: info for pattern, info in header["tensors"].items() for name in expand(pattern)}
    if QUANT_METADATA in header["metadata"]:
        quant = header["metadata"][QUANT_METADATA]
        quant["layers"] = {name: conf for pattern, conf in quant["layers"].items() for name in expand(pattern)}
        header["metadata"][QUANT_METADATA] = json.dumps(quant)
    markers = {name: conf for pattern, conf in header["markers"].items() for name in expand(pattern)}
    if "*" in markers:
        markers = dict.fromkeys((name for name in header["tensors"] if name.endswith(".comfy_quant")), markers["*"])
    header["markers"] = {name: json.dumps(conf) for name, conf in markers.items()}
    if "shards" in header:
        header["shards"] = {
            file: [name for pattern in patterns for name in expand(pattern)]
            for file, patterns in header["shards"].items()
        }
    return header
