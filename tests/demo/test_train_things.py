"""The trainer of the model of things: a restarted run is the unbroken one."""

import signal
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


def test_weights_of_another_kind_give_their_blocks(sprites, monkeypatch, tmp_path):
    """And the file of one that paints pixels says that it predicts the picture."""
    monkeypatch.setattr(train_things.lessons, "MAX_BATCH", 4)
    chroma, radiance = (
        train_things.Trainer(KINDS[name], sprites, torch.nn.Identity(), FewWords(), tokenize) for name in KINDS
    )
    chroma.step = 7
    chroma.save_weights(tmp_path / "chroma.safetensors")
    radiance.begin_with(tmp_path / "chroma.safetensors")
    assert radiance.step == 0
    both = chroma.ema.keys() & radiance.ema.keys()
    assert {name.split(".")[0] for name in both} >= {
        "double_blocks",
        "single_blocks",
        "txt_in",
        "distilled_guidance_layer",
    }
    assert all(torch.equal(radiance.ema[name], chroma.ema[name].half().float()) for name in both)
    assert radiance.ema.keys() - both and chroma.ema.keys() - both
    radiance.step = 3
    radiance.save_weights(tmp_path / "radiance.safetensors")
    read, detect = (support.dev.load_pack(f"loaders.{name}") for name in ("files.read", "checkpoint.detect_variant"))
    found = detect.detect(read.read_header(tmp_path / "radiance.safetensors")).config
    assert found.prediction == "x0" and found.nerf is not None
    radiance.begin_with(tmp_path / "radiance.safetensors")
    assert radiance.step == 3


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


def test_edits_are_learnt_from_the_picture_that_is_shown(sprites, monkeypatch):
    """The loss of a batch of edits depends on its sources, and the sheet shows sources and results."""
    monkeypatch.setattr(train_things.lessons, "MAX_BATCH", 4)
    net = network.build(SIZES).requires_grad_(False)
    torch.nn.init.normal_(net.final_layer.linear.weight)
    z = torch.randn(2, 4, latents.CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    text = torch.randn(4, 3, network.text_encoder.WIDTH), torch.ones(4, 3, dtype=torch.bool)
    losses = {
        train_things.loss_of(net, z[0], *text, torch.Generator().manual_seed(1), source).item()
        for source in (None, z[0], z[1])
    }
    assert len(losses) == 3
    made = train_things.Trainer(KINDS["chroma"], sprites, vae.Encoder().requires_grad_(False), FewWords(), tokenize)
    made.step = next(phase.first_step for phase in lessons.PHASES if phase.edits)
    while lessons.lesson(made.step, sprites).sources is None:
        made.step += 1
    assert 0 < made.advance() < float("inf")


def test_a_run_that_is_asked_to_end_saves_first(monkeypatch):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        stop = training.StopRequest()
        assert not stop
        signal.raise_signal(signal.SIGTERM)
        assert stop and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def test_saved_weights_say_what_they_are(trainer, tmp_path):
    made = trainer()
    made.save_weights(tmp_path / "weights.safetensors")
    header = support.dev.load_pack("loaders.files.read").read_header(tmp_path / "weights.safetensors")
    config = support.dev.load_pack("loaders.checkpoint.detect_variant").detect(header).config
    assert (config.prediction, config.nerf is None) == (("v", True) if made.kind.pixels is None else ("x0", False))
    assert config.patch_size == made.net.config.patch_size
