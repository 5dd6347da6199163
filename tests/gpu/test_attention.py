"""Every attention kernel of ComfyUI that this machine has, with and without rows of different text, on a card."""

import pytest
import support
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.host]

CONFIG = support.config(width=256, heads=2, double=1, single=2, context=64)
KERNELS = ("pytorch", "sub_quad", "split", "flash", "sage", "xformers")
LIMITS = {"sage": 0.05}  # it multiplies in 8 bits
SIXTEEN_BITS = 0.02


@pytest.fixture(scope="module")
def case(card, comfy):
    import host_models

    with torch.inference_mode():
        dtype = torch.float32 if card.type == "cpu" else torch.bfloat16
        weights = support.random_weights(CONFIG)
        net = host_models.our_net(comfy, CONFIG, weights, dtype).to(card)
        exact = host_models.our_net(comfy, CONFIG, weights)
    return net, exact, dtype


@pytest.mark.parametrize("lengths", [None, (24, 5)], ids=["alike", "by length"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernel_gives_what_float32_on_the_cpu_gives(card, comfy, inference, case, monkeypatch, name, lengths):
    attention = comfy.ldm.modules.attention
    kernel = attention.get_attention_function(name, None)
    if kernel is None:
        pytest.skip(f"ComfyUI has no attention {name} on this machine")
    net, exact, dtype = case
    given = support.inputs(CONFIG, batch=2)
    if lengths:
        given["context"][1, lengths[1] :] = 0
    more = {"context_lengths": lengths} if lengths else {}
    expected = exact(given["x"], given["timesteps"], given["context"], torch.zeros(2), transformer_options={}, **more)
    monkeypatch.setattr(attention, "optimized_attention", kernel)
    x, context = (given[k].to(card, dtype) for k in ("x", "context"))
    found = net(x, given["timesteps"].to(card), context, torch.zeros(2, device=card), transformer_options={}, **more)
    assert support.relative(found.float().cpu(), expected) < LIMITS.get(name, SIXTEEN_BITS)
