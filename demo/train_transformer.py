"""Trains the demo's Chroma, on a GPU if there is one: flow matching on pictures that are drawn as it goes.

Run from the repository's root, in the environment that `python dev.py setup` makes:

    python -m demo.train_transformer --out DIR [--steps 5000] [--threads 2]

Every SAVE_EVERY steps all state goes to DIR; the same command goes on from there. DIR/chroma-demo.safetensors is the
averaged model in float16.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import dev

from . import latents, network, pictures, text_encoder

WIDTH, HEADS, DOUBLE, SINGLE = 128, 2, 4, 8
APPROXIMATOR_WIDTH, APPROXIMATOR_LAYERS = 192, 3
BATCH, WARM_UP, PEAK_RATE, WEIGHT_DECAY = 48, 100, 2e-3, 0.01
EMA_HALF_LIFE = 150  # steps
# What words mean is learnt on small pictures, which is several times cheaper; then larger ones join.
SMALL_STEPS, SMALL_SIZE = 1800, 64
LARGE_SIZES, LARGE_SHARES = (64, 96, 128), (0.2, 0.2, 0.6)
DROP_PROMPT = 0.1
PAIR_SHARE = 0.15
NUM_PAIRS = 4000
SAVE_EVERY, LOG_EVERY = 200, 20


def build_model() -> torch.nn.Module:
    return network.build(network.Sizes(WIDTH, HEADS, DOUBLE, SINGLE, APPROXIMATOR_WIDTH, APPROXIMATOR_LAYERS))


class Captions:
    """Training prompts as embeddings: valid tokens and one pad row of zeros, as the host's encoder gives them."""

    def __init__(self, cache: Path):
        rng = np.random.default_rng(1)
        scenes = pictures.all_scenes() + [pictures.random_pair(rng) for _ in range(NUM_PAIRS)]
        self.scenes = [s for s in scenes if not any(pictures.is_held_out(c) for c in s.combinations())]
        self.num_single = sum(len(s.things) == 1 for s in self.scenes)
        texts = [p for s in self.scenes for p in pictures.prompts(s)] + [""]
        recipe = Path(text_encoder.__file__).read_bytes() + "\n".join(texts).encode()
        tag = hashlib.sha256(recipe).hexdigest()
        if not cache.exists() or read_tag(cache) != tag:
            save_file(encode_all(texts), cache.with_suffix(".partial"), metadata={"recipe": tag})
            cache.with_suffix(".partial").replace(cache)
        stored = load_file(cache)
        self.rows, self.ends = stored["rows"], stored["ends"].tolist()

    def embedding(self, index: int) -> Tensor:
        rows = self.rows[self.ends[index] : self.ends[index + 1]].float()
        return torch.cat([rows, rows.new_zeros(1, rows.shape[1])])

    def batch(self, rng: np.random.Generator) -> tuple[list[pictures.Scene], Tensor, Tensor]:
        """Scenes of one batch with their context (B, L, 768) and its mask (B, L)."""
        single = rng.random() > PAIR_SHARE  # batches of one kind keep padding short
        low, high = (0, self.num_single) if single else (self.num_single, len(self.scenes))
        picks = rng.integers(low, high, size=BATCH)
        embeddings = [
            self.embedding(len(self.ends) - 2 if rng.random() < DROP_PROMPT else 2 * i + int(rng.integers(2)))
            for i in picks
        ]
        context = torch.nn.utils.rnn.pad_sequence(embeddings, batch_first=True)
        lengths = torch.tensor([len(e) for e in embeddings])
        return [self.scenes[i] for i in picks], context, torch.arange(context.shape[1]) < lengths[:, None]


def read_tag(path: Path) -> str | None:
    with safe_open(path, "pt") as f:
        return (f.metadata() or {}).get("recipe")


def encode_all(texts: list[str]) -> dict[str, Tensor]:
    """Embeddings of the valid tokens of every text, laid end to end, by transformers' T5 with the demo's weights."""
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    tokenizer = T5TokenizerFast.from_pretrained(dev.host_path() / "comfy" / "text_encoders" / "t5_tokenizer")
    layers = text_encoder.NUM_ACTIVE  # the others change nothing
    config = T5Config(
        d_model=text_encoder.WIDTH,
        d_kv=text_encoder.HEAD,
        d_ff=text_encoder.MLP,
        num_layers=layers,
        num_heads=len(text_encoder.OFFSETS),
        vocab_size=text_encoder.VOCABULARY,
        feed_forward_proj="relu",
    )
    encoder = T5EncoderModel(config).eval()
    encoder.load_state_dict({k: v.float() for k, v in text_encoder.state_dict(layers).items()}, strict=False)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), 64):
        picks = order[start : start + 64]
        tokens = tokenizer([texts[i] for i in picks], padding=True, return_tensors="pt")
        with torch.inference_mode():
            out = encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        for i, rows, mask in zip(picks, out, tokens.attention_mask.bool()):
            found[i] = rows[mask].half()
    ends = np.cumsum([0] + [len(found[i]) for i in range(len(texts))])
    return {"rows": torch.cat([found[i] for i in range(len(texts))]), "ends": torch.from_numpy(ends)}


def loss_of(net: torch.nn.Module, x: Tensor, context: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Flow matching: velocity = noise - data, timesteps logit-normal. The draws are the same on every device."""
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    t = torch.sigmoid(torch.randn(len(x), generator=generator)).to(x.device)
    noisy = torch.lerp(x, noise, t.view(-1, 1, 1, 1))
    with torch.autocast(x.device.type, torch.bfloat16):
        velocity = net(noisy, t, context, context_mask=mask)
    return torch.nn.functional.mse_loss(velocity.float(), noise - x)


@torch.inference_mode()
def watch(
    net: torch.nn.Module, captions: Captions, code: latents.BlockCode, cfg: float, size: int, count: int = 32
) -> str:
    """Share of right pictures for seeded training prompts, decoded without the VAE."""
    from . import judge

    rng = np.random.default_rng(7)
    picks = [int(i) for i in rng.integers(captions.num_single, size=count)]
    pad = torch.nn.utils.rnn.pad_sequence
    context = pad(
        [captions.embedding(2 * i) for i in picks] + [captions.embedding(len(captions.ends) - 2)] * count, True
    )
    lengths = torch.tensor([int((row.abs().sum(-1) > 0).sum()) + 1 for row in context])
    mask = torch.arange(context.shape[1]) < lengths[:, None]
    n = size // latents.BLOCK
    x = torch.randn(count, latents.CHANNELS, n, n, generator=torch.Generator().manual_seed(7))
    sigmas = torch.linspace(1, 0, 17)
    for s, s_next in zip(sigmas, sigmas[1:]):
        v_cond, v_uncond = net(torch.cat([x, x]), s.expand(2 * count), context, context_mask=mask).chunk(2)
        x = x + (s_next - s) * (v_uncond + cfg * (v_cond - v_uncond))
    shown = code.decode(x).clamp(0, 1).numpy()
    scores = [judge.score(p, captions.scenes[i]) for p, i in zip(shown, picks)]
    return " ".join(f"{k} {np.mean([s[k] for s in scores]):.2f}" for k in scores[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = build_model().to(device)
    ema = {k: v.clone() for k, v in net.state_dict().items()}
    matrices = [p for n, p in net.named_parameters() if p.ndim == 2 and "_blocks." in n]
    others = [p for n, p in net.named_parameters() if not (p.ndim == 2 and "_blocks." in n)]
    optimisers = [
        torch.optim.Muon(matrices, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    code = latents.fit()
    captions = Captions(args.out / "captions.safetensors")
    state, step = args.out / "state.pt", 0
    if state.exists():
        saved = torch.load(state, weights_only=True, map_location=device)
        net.load_state_dict(saved["net"])
        for optimiser, kept in zip(optimisers, saved["optimisers"]):
            optimiser.load_state_dict(kept)
        ema, step = saved["ema"], saved["step"]
    print(
        f"{sum(p.numel() for p in net.parameters()):,} parameters, {len(captions.scenes)} scenes, from step {step}",
        flush=True,
    )

    began, losses = time.time(), []
    while step < args.steps:
        rng = np.random.default_rng([2, step])  # a restart sees what an unbroken run would have seen
        generator = torch.Generator().manual_seed(1_000_003 + step)
        rate = PEAK_RATE * min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / args.steps)))
        for group in (g for o in optimisers for g in o.param_groups):
            group["lr"] = rate
        scenes, context, mask = captions.batch(rng)
        size = SMALL_SIZE if step < SMALL_STEPS else int(rng.choice(LARGE_SIZES, p=LARGE_SHARES))
        x = code.encode(torch.from_numpy(np.stack([pictures.draw(s, rng, size) for s in scenes])))
        loss = loss_of(net, x.to(device), context.to(device), mask.to(device), generator)
        net.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        keep = 0.5 ** (1 / min(EMA_HALF_LIFE, 1 + step / 10))
        with torch.no_grad():
            for k, v in net.state_dict().items():
                ema[k].lerp_(v, 1 - keep)
        losses.append(loss.item())
        if step % LOG_EVERY == 0:
            print(
                f"step {step} loss {np.mean(losses):.4f} rate {rate:.2e} {(time.time() - began) / len(losses):.2f} s",
                flush=True,
            )
            began, losses = time.time(), []
        if step % SAVE_EVERY == 0 or step == args.steps:
            torch.save(
                {"net": net.state_dict(), "optimisers": [o.state_dict() for o in optimisers], "ema": ema, "step": step},
                state.with_suffix(".partial"),
            )
            state.with_suffix(".partial").replace(state)
            shown = build_model()
            shown.load_state_dict({k: v.cpu() for k, v in ema.items()})
            size = SMALL_SIZE if step <= SMALL_STEPS else pictures.PICTURE_SIZE
            for cfg in (3.0, 1.0):
                print(f"step {step} size {size} cfg {cfg}: {watch(shown, captions, code, cfg, size)}", flush=True)
            save_file(
                {k: v.half().cpu().contiguous() for k, v in ema.items()},
                args.out / "chroma-demo.safetensors",
                metadata={"title": "demo Chroma of coloured shapes", "license": "Apache-2.0", "steps": str(step)},
            )
            began = time.time()


if __name__ == "__main__":
    main()
