"""The trainer of the model of things: a restarted run is the unbroken one."""

import zlib

import pytest
import support  # noqa: F401  the repository's root on the path
import torch

from demo import latents, network, train_things, training, vae, words

STEPS = 4


class FewWords(words.TextEncoder):
    """Random word vectors for a few ids, so that no tokenizer and no table of 32,128 words is needed."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.words = torch.randn(256, 768, generator=generator)
        self.layers, self.offsets = [], torch.tensor([1])


def tokenize(texts):
    return [[2 + zlib.crc32(word.encode()) % 250 for word in text.split()] + [1] for text in texts]


@pytest.fixture
def trainer(sprites, monkeypatch):
    monkeypatch.setattr(train_things, "SIZES", network.Sizes(32, 1, 1, 1, 16, 1))
    monkeypatch.setattr(train_things.lessons, "MAX_BATCH", 4)

    def make():
        torch.manual_seed(1)
        return train_things.Trainer(sprites, vae.Encoder().requires_grad_(False), FewWords(), tokenize)

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
