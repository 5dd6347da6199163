"""What a run in another type leaves behind in a model that the host moves meanwhile; its pictures are in tests/nodes/test_fluxmod.py."""

from types import SimpleNamespace

import pytest
import support
import torch

pytestmark = pytest.mark.host


def offload(layer):
    """As ComfyUI's ModelPatcher.partially_unload does."""
    layer.prev_comfy_cast_weights = layer.comfy_cast_weights
    layer.comfy_cast_weights = True


def test_a_layer_that_the_host_moves_within_a_run_stays_cast(comfy):
    import comfy.model_patcher

    module = support.dev.load_pack("host.sample.compute_dtype")
    stays, moved, back = layers = [comfy.ops.disable_weight_init.Linear(4, 4, dtype=torch.bfloat16) for _ in range(3)]
    model = SimpleNamespace(
        diffusion_model=torch.nn.Sequential(*layers),
        manual_cast_dtype=None,
        get_dtype_inference=lambda: torch.bfloat16,
    )
    with module.computing_in(torch.float16, model):
        assert all(layer.comfy_cast_weights for layer in layers)
        offload(moved)
        offload(back)
        comfy.model_patcher.wipe_lowvram_weight(back)
    assert [layer.comfy_cast_weights for layer in layers] == [False, True, False] and model.manual_cast_dtype is None
    comfy.model_patcher.wipe_lowvram_weight(moved)
    assert moved.comfy_cast_weights is False  # as it was before the run
