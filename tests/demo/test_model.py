"""The committed demo model."""

import pytest
import support
import torch

dev = support.dev
WEIGHTS = support.ROOT / "demo" / "weights"


def test_weights_are_half_precision_and_small():
    """But for the Radiance, whose blocks have five bits a weight."""
    total = 0
    paths = [path for path in WEIGHTS.iterdir() if path.name in dev.DEMO_FILES or path.suffix == ".safetensors"]
    assert {path.name for path in paths} >= set(dev.DEMO_FILES)
    for path in paths:
        if path.suffix == ".gguf":
            assert path.stat().st_size <= 10e6
            continue
        header = dev.load_pack("loaders.files.read").read_header(path)
        total += path.stat().st_size
        assert {t.dtype for t in header.tensors.values() if t.numel > 1} == {torch.float16}
        assert path.name not in dev.DEMO_FILES or "demo" in header.metadata["title"]
    assert total < 40e6


def test_sizes_are_inferred_and_unlike_the_published_ones():
    read, detect = dev.load_pack("loaders.files.read"), dev.load_pack("loaders.checkpoint.detect_variant")
    found = detect.detect(read.read_header(WEIGHTS / "chroma-demo.safetensors")).config
    assert (found.hidden_size, found.num_heads, found.num_double_blocks, found.num_single_blocks) == (256, 4, 4, 8)
    assert found.num_modulations == 74


@pytest.mark.host
def test_rows_of_text_are_those_of_training(comfy):
    """Chroma Text Encode with the host's T5, and `words`, which is compared with transformers' in test_words.py."""
    from demo import evaluate, words

    encoder, tokenize = words.TextEncoder(), words.tokenizer()
    with torch.inference_mode():
        studio = evaluate.Studio()
        for text in ("a red circle on a blue background", "", "a flat rocket on the left and a 3D fox on the right"):
            rows, _ = encoder.encode(tokenize([text]))
            assert support.relative(studio.text(text), rows) < 1e-5


@pytest.mark.host
@pytest.mark.slow
def test_pictures_show_what_the_prompt_says_and_cfg_helps(comfy):
    """Coloured shapes, of which `python dev.py bench judge` tells the shares with their noise."""
    from demo import evaluate, exam

    with torch.inference_mode():
        studio = evaluate.Studio()
    asked = exam.shapes()[::5]
    with_cfg, without = (evaluate.scores(studio, asked, cfg) for cfg in (3.0, 1.0))
    assert with_cfg["right"] >= 0.9
    assert with_cfg["right"] > without["right"]
