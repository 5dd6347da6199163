"""The trainer of the model of things: a restarted run is the unbroken one."""

import zlib

import pytest
import support
import torch

from demo import latents, lessons, network, train_things, training, vae, words

STEPS = 4


class FewWords(words.TextEncoder):
    """Random word vectors for a few ids, so that no tokenizer and no table of 32,128 words is needed."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.words = torch.randn(256, 768, generator=generator)
        self.layers, self.offsets = [], torch.tensor([1])


def tokenize(texts):
    return [[2 + zlib.crc32(word.encode()) % 250 for word in text.split()] + [1] for text in texts]


SIZES = network.Sizes(32, 1, 1, 1, 16, 1)
KINDS = {
    "chroma": train_things.Kind("toy", SIZES, lessons.PHASES),
    "radiance": train_things.Kind("toy", SIZES, lessons.PIXEL_PHASES, network.PixelSizes(16, 8, 1, 2)),
}


@pytest.fixture(params=KINDS)
def trainer(sprites, monkeypatch, request):
    kind, encoder = KINDS[request.param], vae.Encoder if request.param == "chroma" else train_things.AsPixels
    monkeypatch.setattr(train_things.lessons, "MAX_BATCH", 4)

    def make():
        torch.manual_seed(1)
        return train_things.Trainer(kind, sprites, encoder().requires_grad_(False), FewWords(), tokenize)

    return make


def test_a_restarted_run_ends_as_an_unbroken_one(trainer, tmp_path):
    whole = trainer()
    losses = [whole.advance() for _ in range(STEPS)]
    broken = trainer()
    assert [broken.advance() for _ in range(STEPS // 2)] == losses[: STEPS // 2]
    training.save(broken.state_dict(), tmp_path / "state.pt")
    again = trainer()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [again.advance() for _ in range(STEPS // 2)] == losses[STEPS // 2 :]
    assert again.step == STEPS
    for name, tensor in whole.ema.items():
        assert torch.equal(tensor, again.ema[name]), name


def test_weights_alone_go_on_at_their_step_with_a_warm_up(trainer, tmp_path):
    first = trainer()
    for _ in range(2):
        first.advance()
    first.save_weights(tmp_path / "weights.safetensors")
    other = trainer()
    other.begin_with(tmp_path / "weights.safetensors")
    assert other.step == 2
    for name, tensor in first.ema.items():
        assert torch.equal(other.ema[name], tensor.half().float()), name
    other.advance()
    rate = other.optimisers[0].param_groups[0]["lr"]
    assert rate == pytest.approx(train_things.PEAK_RATE * 0.01)


def test_rate_holds_falls_and_ends_on_request():
    assert training.rate(0, 100) == 0.01
    assert training.rate(1500, 100) == 1
    assert training.rate(1500, 100, began=1500) == 0.01
    assert training.rate(8000, 100) == 0.5
    assert training.rate(1500, 100, (1000, 1000)) == 0.5
    assert training.rate(2000, 100, (1000, 1000)) == 0


def test_loss_is_that_of_a_perfect_velocity():
    """A network that gives noise - data exactly has no loss."""
    z = torch.randn(4, latents.CHANNELS, 2, 2, generator=torch.Generator().manual_seed(0))

    def net(noisy, t, rows, context_mask):
        return (noisy - z) / t.view(-1, 1, 1, 1)

    loss = train_things.loss_of(net, z, torch.zeros(4, 1, 1), torch.ones(4, 1), torch.Generator().manual_seed(1))
    assert loss < 1e-9  # fp32


def test_saved_weights_say_what_they_are(trainer, tmp_path):
    made = trainer()
    made.save_weights(tmp_path / "weights.safetensors")
    header = support.dev.load_pack("loaders.files.read").read_header(tmp_path / "weights.safetensors")
    config = support.dev.load_pack("loaders.checkpoint.detect_variant").detect(header).config
    assert (config.prediction, config.nerf is None) == (("v", True) if made.kind.pixels is None else ("x0", False))
    assert config.patch_size == made.net.config.patch_size
