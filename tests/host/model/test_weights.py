"""Every published kind of file is converted to the model's state at full size, with meta tensors for its weights."""

import pytest
import support
import torch
from header_cases import ACCEPTED, flux, read_header_of

pytestmark = pytest.mark.host
REAL = 1 << 16  # values; scales and vectors are real, since their values are looked at
KINDS = [kind for kind in ACCEPTED if not flux(kind)]


def stored(file):
    """Tensors as a reader gives them: packed bytes for GGML's types."""
    gguf_types = support.dev.load_pack("loaders.formats.ggml")
    out = {}
    for name, info in file.tensors.items():
        shape, dtype = info.shape, info.dtype
        if isinstance(dtype, str):
            shape, dtype = gguf_types.packed_shape(shape, dtype), torch.uint8
        real = info.numel <= REAL
        out[name] = torch.ones(shape).to(dtype) if real else torch.empty(shape, dtype=dtype, device="meta")
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_kind_becomes_the_models_state(comfy, inference, kind):
    detect, convert, quant, comfy_quant = (
        support.dev.load_pack(m)
        for m in (
            "loaders.checkpoint.detect_variant",
            "loaders.checkpoint.check_shapes",
            "loaders.formats.base.registry",
            "host.model.weights",
        )
    )
    file = read_header_of(kind)
    found = detect.detect(file)
    tensors = stored(file)
    builder = comfy_quant.StateBuilder(
        found, tensors, quant.QUANT_MODES["keep"], None, torch.bfloat16, torch.device("cpu")
    )
    state = builder.build()
    shapes = {n: tuple(t.shape) for n, t in state.items() if not n.endswith((".comfy_quant", ".input_scale"))}
    assert shapes == convert.expected_shapes(found.config)
    packed = {n for n, t in state.items() if type(t).__name__ == "QuantizedTensor"}
    two_sizes = {n for n, parts in found.tensors.items() if parts[0].storage.format and len(shapes[n]) == 2}
    assert packed == two_sizes  # every weight that is stored packed stays packed
    assert {f"{n.removesuffix('.weight')}.comfy_quant" for n in packed} <= state.keys()
    left = {n for n in tensors if "vae." not in n and "text_encoders." not in n}
    marks = (".comfy_quant", "scaled_fp8", "__x0__", "__32x32__", "__sequential__")
    assert not {n for n in left if not n.endswith(marks)}  # all else was taken
