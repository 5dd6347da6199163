import pytest
import support
import torch

registry = support.dev.load_pack("loaders.formats.base.registry")


@pytest.mark.parametrize(
    "dtype, shape",
    [(torch.float8_e4m3fn, s) for s in ((64,), (64, 1), (4, 8), (64, 4), (4, 8, 1))] + [(torch.int8, (4, 8))],
)
def test_scaled_elements_unpack_as_scale_times_element(dtype, shape):
    elements = (torch.randn(64, 128) * 20).to(dtype)
    scale = torch.rand(shape) + 0.5
    rows = len(shape) == 1 or shape[1:] == (1,)
    wide = scale.reshape(-1, 1) if rows else scale.reshape(shape[:2])
    wide = wide.repeat_interleave(64 // wide.shape[0], 0).repeat_interleave(128 // wide.shape[1], 1)
    format = ("int8" if dtype == torch.int8 else "float8_e4m3fn") + ("_rowwise" if rows else "_blockwise")
    found = registry.FORMATS[format].unpack(elements, {"weight_scale": scale}, {}, torch.float32)
    assert torch.equal(found, elements.float() * wide)
