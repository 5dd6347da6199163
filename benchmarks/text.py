"""How much does each mode of Chroma Text Encode change one forward, and the demo model's pictures?"""

from __future__ import annotations

import numpy as np
import torch

from . import likeness
from .measure import write

SCALE = 3.0
LENGTHS = (1, 4, 10, 30, 70, 200, 511)  # tokens, with </s>
NUM_PROMPTS = 5
WIDTH, LATENT, TIME = 128, 32, 0.7
T5 = {"vocab_size": 32_128, "width": 64, "num_layers": 24, "num_heads": 2, "head_dim": 32, "mlp_dim": 128}
EVERY = 4  # of the judge's questions
REPEATS = 18  # of a sentence, for a long prompt
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


def demo_table() -> list[str]:
    """Markdown rows: the demo model's forward and pictures against exact, for prompts of three lengths."""
    from demo import evaluate, exam

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
    one, two = (asked[::EVERY] for asked in (exam.shapes(), exam.shape_pairs()))
    lines = [
        f"| prompts | tokens | mode | forward | {' | '.join(likeness.COLUMNS)} | right |",
        "|---|---|---|---|" + "---|" * len(likeness.COLUMNS) + "---|",
    ]
    for name, asked, repeats in (("one thing", one, 1), ("two things", two, 1), ("one thing, repeated", one, REPEATS)):
        exact_forwards, exact_pictures = [], []
        for mode in text.MODES:
            studio.mode, studio.repeats = mode, repeats
            contexts = [studio.text(question.prompt) for question in asked]
            forwards = [net(x, torch.tensor([TIME]), c, guidance=torch.zeros(1)) for c in contexts]
            painted, right = [], []
            for question, picture in studio.answers(asked, SCALE):
                painted.append(picture)
                right.append(question.verdict(picture)["right"])
            if mode == EXACT:
                exact_forwards, exact_pictures = forwards, painted
                lengths = sorted(c.shape[1] - 1 for c in contexts)
                shown = ("", *likeness.cells(painted, painted))
            else:
                off = np.median([float((f - e).norm() / e.norm()) for f, e in zip(forwards, exact_forwards)])
                shown = (f"{off:.2g}", *likeness.cells(painted, exact_pictures))
            lines.append(
                f"| {name} ({len(asked)}) | {lengths[0]} to {lengths[-1]} | {mode} | {' | '.join(shown)} "
                f"| {np.mean(right):.0%} |"
            )
            print(lines[-1], flush=True)
    return lines


@torch.inference_mode()
def main(rounds: int) -> None:
    lines = [
        "Each mode of Chroma Text Encode against `exact`. `forward`: relative error (L2) of the velocity.",
        "",
        "## One forward at Chroma's depth, by the length of the prompt",
        "",
        f"19 + 38 blocks of width {WIDTH} and a T5 of {T5['num_layers']} layers of width {T5['width']}, all weights seeded "
        f"random numbers; {LATENT * 8} x {LATENT * 8} pixels, t = {TIME}; median of {NUM_PROMPTS} prompts of random words. "
        "Trained weights attend less evenly: take the trend, not the figures.",
        "",
        *random_weights_table(),
        "",
        "## The demo model",
        "",
        f"The judge's questions, every {EVERY}th, CFG {SCALE:g}, unseen seeds; the negative prompt is empty and encoded in "
        f"the same mode. {likeness.TOLD}; `right`: all that was asked. "
        "The demo is no likeness of Chroma here: its T5 looks at most 6 words far, so a pad reaches "
        "the last words only; it was trained with zeros in the pad's row, which is what ComfyUI's encoder of T5-base gives "
        "for masked rows and what exact keeps; and that encoder has its mask, so legacy equals exact (120 dB: the same "
        "picture).",
        "",
        *demo_table(),
    ]
    write("text", "What each mode of encoding changes", lines)
