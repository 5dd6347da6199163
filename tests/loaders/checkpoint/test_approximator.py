import pytest
import support
import torch

approximator = support.dev.load_pack("loaders.checkpoint.approximator")


def test_placeholder_is_filled_with_the_sizes_of_the_checkpoint():
    cfg = support.config(approximator=(32, 24, 4))
    net = support.model.ChromaTransformer(cfg)
    assert isinstance(net.distilled_guidance_layer, torch.nn.Identity)
    approximator.fill_approximator(net, cfg, dtype=torch.float16)
    filled = net.distilled_guidance_layer
    assert (filled.in_proj.in_features, filled.in_proj.out_features, len(filled.layers)) == (32, 24, 4)
    assert filled.out_proj.out_features == cfg.hidden_size
    assert filled.in_proj.weight.dtype == torch.float16


def test_filling_twice_is_an_error():
    cfg = support.config()
    with pytest.raises(ValueError, match="filled already"):
        approximator.fill_approximator(support.build(cfg), cfg)
