"""How much does each mode of Chroma Text Encode change one forward, and the demo model's pictures?"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from . import likeness, two_seeds
from .measure import Kept

SCALE = 3.0
LENGTHS = (1, 4, 10, 30, 70, 200, 511)  # tokens, with </s>
NUM_PROMPTS = 5
WIDTH, LATENT, TIME = 128, 32, 0.7
T5 = {"vocab_size": 32_128, "width": 64, "num_layers": 24, "num_heads": 2, "head_dim": 32, "mlp_dim": 128}
NUM_QUESTIONS, NUM_REPEATED = 24, 12
REPEATS = 18  # of a sentence, for a long prompt
COLUMNS = {**likeness.COLUMNS, **two_seeds.SHARES}
EXACT = "exact"


def random_prompts(tokenizer, count: int) -> list[str]:
    """Seeded prompts of `count` tokens: words of one token each."""
    words = sorted(w[1:] for w in tokenizer.get_vocab() if w[0] == "▁" and w[1:].isascii() and w[1:].isalpha())
    words = [w for w in words if len(w) > 2]
    rng = np.random.default_rng(count)
    return [" ".join(words[i] for i in rng.integers(len(words), size=count - 1)) for _ in range(NUM_PROMPTS)]


def random_weights_table() -> list[str]:
    """Markdown rows: relative error of the velocity against exact, by the prompt's length, at Chroma's depth."""
    from . import networks as n

    load_pack = n.support.dev.load_pack
    encode, loader = (load_pack(f"host.text.{name}") for name in ("encode_prompt", "t5_clip"))
    t5 = load_pack("loaders.t5.sizes")
    config = t5.T5Config(**T5, gated=True)
    encoder = loader.HOST_ENCODERS[True]
    options = {"dtype": torch.float32, "t5xxl_model_config": loader.host_config(config)}
    clip = n.comfy.sd.CLIP(
        loader.Target(encoder.model, encoder.tokenizer),
        state_dict=[n.host_models.random_t5_weights(config)],
        model_options=options,
    )
    cfg, weights = n.case(WIDTH, context=config.width)
    net = n.support.build(cfg)
    net.load_state_dict(weights)
    given = n.support.inputs(cfg, height=LATENT, width=LATENT)
    t = torch.full((1,), TIME)

    def velocity(prompt: str, mode: str) -> torch.Tensor:
        conditioning, told = encode.encode(clip, prompt, mode)
        return net(given["x"], t, conditioning[0][0])

    modes = [mode for mode in load_pack("prompts.tokens").MODES if mode != EXACT]
    tokenizer = encode.find_t5(clip).tokenizer.tokenizer
    lines = ["| tokens | " + " | ".join(modes) + " |", "|---" * (len(modes) + 1) + "|"]
    for count in LENGTHS:
        prompts = random_prompts(tokenizer, count)
        assert all(len(tokenizer(p)["input_ids"]) == count for p in prompts)
        exact = [velocity(p, EXACT) for p in prompts]
        errors = [[n.support.relative(velocity(p, mode), e) for p, e in zip(prompts, exact)] for mode in modes]
        lines.append(f"| {count} | " + " | ".join(f"{np.median(e):.2g}" for e in errors) + " |")
        print(lines[-1], flush=True)
    return lines


class Painted(NamedTuple):
    """Of one seed; see `two_seeds.Answers`. velocities: of one forward a question, (B, C, h, w). tokens: with `</s>`, (B,)."""

    pictures: np.ndarray
    verdicts: np.ndarray
    velocities: np.ndarray
    tokens: np.ndarray


def figures(found: Painted, exact: Painted) -> dict[str, float]:
    """`forward` and COLUMNS."""
    off, size = ((a.reshape(len(a), -1)) for a in (found.velocities - exact.velocities, exact.velocities))
    errors = np.linalg.norm(off, axis=1) / np.linalg.norm(size, axis=1)
    likes = likeness.figures(found.pictures, exact.pictures)
    shares = two_seeds.Answers(found.pictures, found.verdicts).shares()
    return {"forward": float(np.median(errors)), **likes, **shares}


def demo_table(kept: Kept, kinds: dict[str, tuple[Any, int]]) -> list[str]:
    """Markdown rows: the demo model's forward and pictures against exact. kinds: name -> questions of both seeds, repeats."""
    from demo import evaluate

    from . import networks as n

    encode, text = (n.support.dev.load_pack(name) for name in ("host.text.encode_prompt", "prompts.tokens"))

    class Studio(evaluate.Studio):
        """Encodes in one of the modes, and repeats what is asked for."""

        mode, repeats = EXACT, 1

        def text(self, prompt: str) -> torch.Tensor:
            words = ". ".join([prompt] * self.repeats) if prompt else prompt
            return encode.encode(self.clip, words, self.mode)[0][0][0]

    studio = Studio()
    net = studio.model.model.diffusion_model
    x = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(1))

    def paint(mode: str, asked: Any, repeats: int) -> list[Painted]:
        studio.mode, studio.repeats = mode, repeats
        contexts = [studio.text(question.prompt) for question in asked[0]]  # the same for both seeds
        v = torch.cat([net(x, torch.tensor([TIME]), c, guidance=torch.zeros(1)) for c in contexts]).numpy()
        tokens = np.array([c.shape[1] - 1 for c in contexts])
        return [Painted(*two_seeds.answers(studio, part, SCALE), v, tokens) for part in asked]

    columns = {"forward": ".2g", **COLUMNS}
    lines = [
        f"| prompts | tokens | mode | {' | '.join(columns)} |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    compared: list[two_seeds.Row] = []
    for name, (asked, repeats) in kinds.items():
        exact = kept.painted(Painted, [EXACT, name], lambda asked=asked, n=repeats: paint(EXACT, asked, n))
        rows = {EXACT: [two_seeds.Answers(one.pictures, one.verdicts).shares() for one in exact]}
        for mode in text.MODES:
            if mode != EXACT:
                rows[mode] = kept.row(
                    [mode, name],
                    lambda mode=mode, asked=asked, n=repeats, exact=exact: [
                        figures(*pair) for pair in zip(paint(mode, asked, n), exact)
                    ],
                )
                compared.append(rows[mode])
                print(name, mode, two_seeds.cells(rows[mode], columns), flush=True)
        lengths = f"{exact[0].tokens.min()} to {exact[0].tokens.max()}"
        lines += [
            f"| {name} ({len(asked[0])}) | {lengths} | {mode} | {' | '.join(two_seeds.cells(row, columns))} |"
            for mode, row in rows.items()
        ]
    return [*lines, "", two_seeds.noise_line(compared, COLUMNS)]


@torch.inference_mode()
def main(rounds: int) -> None:
    from demo import evaluate, exam

    kinds = {
        "as asked": (two_seeds.both(exam.mixed(NUM_QUESTIONS)), 1),
        f"{REPEATS} times each": (two_seeds.both(exam.mixed(NUM_REPEATED)), REPEATS),
    }
    kept = Kept("text", [kinds, SCALE, TIME, evaluate.STEPS, evaluate.SAMPLER, evaluate.SCHEDULE, evaluate.SHIFT])
    lines = [
        "Each mode of Chroma Text Encode against `exact`. `forward`: relative error (L2) of the velocity.",
        "",
        "## One forward at Chroma's depth, by the length of the prompt",
        "",
        f"19 + 38 blocks of width {WIDTH} and a T5 of {T5['num_layers']} layers of width {T5['width']}, all weights seeded "
        f"random numbers; {LATENT * 8} x {LATENT * 8} pixels, t = {TIME}; median of {NUM_PROMPTS} prompts of random words. "
        "Trained weights attend less evenly: take the trend, not the figures.",
        "",
        *kept.row([LENGTHS, NUM_PROMPTS, WIDTH, LATENT, T5], random_weights_table),
        "",
        "## The demo model",
        "",
        f"{NUM_QUESTIONS} and {NUM_REPEATED} prompts {two_seeds.ASKED}, with two unseen seeds each, CFG {SCALE:g}; the negative "
        f"prompt is empty and encoded in the same mode. {likeness.TOLD}; {two_seeds.TOLD}. {two_seeds.CAVEAT}. "
        "It is no likeness of Chroma here: its T5 looks at most 6 words far, so a pad reaches the last words only; and "
        "ComfyUI's encoder of T5-base, which `legacy` is, has its mask and gives zeros in the pad's row.",
        "",
        *demo_table(kept, kinds),
    ]
    kept.write("What each mode of encoding changes", lines)
