"""Every format and every layout on a card: a narrow model, loaded and run there, against float32 on the CPU."""

import formats
import pytest
import support
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.host]

CONFIG = support.config(width=256, heads=2, double=1, single=2, context=256, approximator=(64, 256, 2))
ALL = {**formats.SAFETENSORS, **formats.GGUF}
CASES = [
    *(("BFL", storage) for storage in formats.SAFETENSORS),
    *(("GGUF", storage) for storage in formats.GGUF),
    *((layout, "bf16") for layout in formats.LAYOUTS if layout != "BFL"),
    ("GGUF with prefix", "Q8_0"),
]
# As in tests/host/model/test_matrix.py: the network's output error over the weights'; 8-bit products round inputs too.
GAIN, ACTIVATIONS = 2.5, 2.0
SIXTEEN_BITS = 0.02  # a network of three blocks that computes in bfloat16, as on a card


@pytest.fixture(scope="module")
def original():
    """(weights, inputs, the float32 network's output on the CPU)."""
    weights, given = support.random_weights(CONFIG), support.inputs(CONFIG)
    net = support.build(CONFIG)
    net.load_state_dict(weights)
    return weights, given, net(**given, guidance=torch.zeros(1))


@pytest.mark.parametrize("layout, storage", CASES)
def test_file_runs_on_the_card_as_exactly_as_its_bits(card, comfy, inference, original, tmp_path, layout, storage):
    weights, given, expected = original
    stored = ALL[storage]
    path, _ = {**formats.LAYOUTS, **formats.GGUF_LAYOUTS}[layout](tmp_path, weights, CONFIG, stored)
    patcher = support.dev.load_pack("host.model.load").load_chroma(str(path), "keep")
    comfy.model_management.load_models_gpu([patcher])
    assert patcher.load_device.type == card.type
    found = patcher.model.apply_model(
        given["x"].to(card),
        given["timesteps"].to(card),
        c_crossattn=given["context"].to(card),
        guidance=torch.zeros(1, device=card),
        transformer_options={},
    )
    assert found.device.type == card.type and torch.isfinite(found).all()
    # apply_model gives the denoised picture: x - t * velocity
    t = given["timesteps"].view(-1, 1, 1, 1)
    velocity = (given["x"] - found.float().cpu()) / t
    error = support.relative(velocity, expected)
    print(f"{error:.2e}")
    assert error <= SIXTEEN_BITS + GAIN * ACTIVATIONS * stored.error(CONFIG.hidden_size)
    comfy.model_management.unload_all_models()
