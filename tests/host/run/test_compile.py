"""TorchCompileModel's own way of compiling, on the whole network and on its blocks: the same result, and few graphs."""

import pytest
import support
import torch
from host_models import sample

pytestmark = pytest.mark.host
load_pack = support.dev.load_pack
# Tokens of both prompts. The first three show all there is: one forward for both, other lengths, a forward for each.
FIRST, LATER = ((9, 5), (17, 11), (60, 2)), ((30, 12), (70, 3), (12, 11))


@pytest.fixture
def counted():
    """A compiler that runs what it is given as it is, and the graphs that it was given."""
    graphs = []

    def backend(graph, inputs, **_):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    yield backend, graphs
    torch.compiler.reset()


@pytest.mark.parametrize("keys, mode", [("whole", "keep"), ("blocks", "keep"), ("blocks", "int8_convrot")])
def test_a_compiled_model_paints_the_same_and_is_not_compiled_again_for_other_prompts(
    comfy, inference, tmp_path, counted, keys, mode
):
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    backend, graphs = counted
    cfg = support.config(double=1, single=2)
    path = support.write(tmp_path / "m.safetensors", support.published(support.random_weights(cfg)))
    plain = load_pack("host.model.load").load_chroma(str(path), mode)
    blocks = [f"double_blocks.{i}" for i in range(cfg.num_double_blocks)]
    blocks += [f"single_blocks.{i}" for i in range(cfg.num_single_blocks)]
    keys = ["diffusion_model"] if keys == "whole" else [f"diffusion_model.{name}" for name in blocks]
    compiled = plain.clone(disable_dynamic=True)
    set_torch_compile_wrapper(compiled, backend, options={"guard_filter_fn": skip_torch_compile_dict}, keys=keys)

    def close(tokens):
        one, other = (sample(comfy, model, cfg, steps=1, tokens=tokens) for model in (compiled, plain))
        assert support.relative(one, other) < 1e-5

    for tokens in FIRST:
        close(tokens)
    assert graphs
    found = len(graphs)
    for tokens in LATER:
        close(tokens)
    assert len(graphs) == found
