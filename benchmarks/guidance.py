"""What do intervals, skipped steps, adaptive thresholds, forms and NAG cost and do? The demo model and its judge."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import torch

from . import likeness
from .measure import write

SCALE, HIGH = 3.0, 6.0
FLASH_STEPS = 8
AWAY = "a red circle on a blue background"
NUM_AWAY = 64  # pictures without a prompt, of which NAG takes what AWAY names
BATCH = 16


@torch.inference_mode()
def main(rounds: int) -> None:
    import dev
    from demo import evaluate, exam

    studio = evaluate.Studio("fp32")  # which finds the host
    guiders, nag = dev.load_pack("host.sample.guiders"), dev.load_pack("host.run.nag")
    settings = dev.load_pack("samplers.guided_run").Guidance
    base, asked = studio.model, exam.shapes()[::2]
    list(studio.answers(asked, 1.0, BATCH, 1))  # warms up and encodes the prompts

    def away_from(text: str, model: Any = base, **options: Any) -> Any:
        options = {"scale": 5.0, "tau": 2.5, "alpha": 0.25, "percent": (0.0, 1.0), "blocks": None, **options}
        return nag.AttentionGuided(nag.negative_text([[studio.text(text), {}]]), **options).on(model)

    def paint(model: Any, cfg: float, steps: int, **more: Any) -> tuple[list[Any], list[bool], Counter, float]:
        """Pictures and verdicts of all questions; prompts computed and evaluations; seconds."""
        told: list[Any] = []
        studio.model = guiders.GuidancePatch(settings(**more), report=told.append).on(model)
        started = time.process_time()
        answers = list(studio.answers(asked, cfg, BATCH, steps))
        seconds = time.process_time() - started
        counts = Counter()
        for read_out in told:
            counts.update(prompts=read_out.prompts, steps=read_out.steps)
        return [p for _, p in answers], [q.verdict(p)["right"] for q, p in answers], counts, seconds

    def table(
        title: str, model: Any, cfg: float, steps: int, rows: list[tuple[str, Any, float, dict[str, Any]]]
    ) -> None:
        exact, right, counts, base_seconds = paint(model, cfg, steps)
        lines.extend(
            [
                f"## {title}",
                "",
                f"| | prompts a step | CPU seconds, ratio | {' | '.join(likeness.COLUMNS)} | right |",
                "|---|---|---|" + "---|" * len(likeness.COLUMNS) + "---|",
                f"| plain, cfg {cfg:g} | {counts['prompts'] / counts['steps']:.2f} | 1 | | | | 1.00 | {np.mean(right):.1%} |",
            ]
        )
        for name, model, cfg, more in rows:
            steps_here = more.pop("steps", steps)
            pictures, right, counts, seconds = paint(model, cfg, steps_here, **more)
            lines.append(
                f"| {name} | {counts['prompts'] / counts['steps']:.2f} | {seconds / base_seconds:.2f} "
                f"| {' | '.join(likeness.cells(pictures, exact))} | {np.mean(right):.1%} |"
            )
            print(lines[-1], flush=True)
        lines.append("")

    def same(cfg: float, *rows: tuple[str, dict[str, Any]]) -> list[tuple[str, Any, float, dict[str, Any]]]:
        return [(name, base, cfg, more) for name, more in rows]

    lines = [
        f"The demo model in float32, {len(asked)} prompts with unseen seeds, {evaluate.STEPS} {evaluate.SAMPLER} steps of "
        f"{evaluate.SCHEDULE} unless said otherwise. `prompts a step`: prompts computed, 2 with plain CFG; `CPU seconds`: "
        "of the whole run with decoding, relative to the first row of the table, one run each; "
        f"{likeness.TOLD}; `right`: all that was asked "
        "(one standard error is 1 % at 99 %, 3 % at 90 %). A model of coloured shapes: it says which setting is cheap and which "
        "breaks pictures, and nothing of taste.",
        "",
    ]
    cheaper = [
        ("cfg 1", base, 1.0, {}),
        *same(
            SCALE,
            *((f"skip_first_steps {n}", {"skip_first_steps": n}) for n in (1, 2, 4)),
            *((f"interval 0 to {p:g}", {"percent": (0.0, p)}) for p in (0.2, 0.4, 0.6, 0.8)),
            ("interval 0.1 to 0.6", {"percent": (0.1, 0.6)}),
            *((f"stop when alike, {c:g}", {"stop_above": c}) for c in (0.9, 0.95, 0.97, 0.98, 0.99)),
            ("alternate", {"alternate": True}),
            ("alternate, stop at 0.98", {"alternate": True, "stop_above": 0.98}),
            ("linear to 1", {"curve": "linear", "end": 1.0}),
            ("cosine to 1", {"curve": "cosine", "end": 1.0}),
        ),
    ]
    table("Cheaper than plain CFG", base, SCALE, evaluate.STEPS, cheaper)
    forms = (
        ("CFG-Zero*", {"form": "CFG-Zero*"}),
        ("CFG-Zero*, 1 zero-init step", {"form": "CFG-Zero*", "zero_init_steps": 1}),
        ("APG, eta 0", {"form": "APG"}),
        ("APG, eta 0, momentum -0.5", {"form": "APG", "momentum": -0.5}),
        ("rescale 0.7", {"rescale": 0.7}),
        ("normalise", {"normalise": True}),
    )
    table(f"Forms at cfg {SCALE:g}", base, SCALE, evaluate.STEPS, same(SCALE, *forms))
    table(f"Forms at cfg {HIGH:g}", base, HIGH, evaluate.STEPS, same(HIGH, *((n, dict(m)) for n, m in forms)))
    few = [("cfg 3", base, SCALE, {})]
    for scale, more in (
        (1.5, {}),
        (2.0, {}),
        (3.0, {}),
        (5.0, {}),
        (5.0, {"percent": (0.0, 0.25)}),
        (5.0, {"blocks": frozenset(("single", i) for i in range(8))}),
    ):
        words = "".join(f", {'until a quarter' if k == 'percent' else 'single blocks only'}" for k in more)
        few.append((f"NAG {scale:g}, empty negative{words}", away_from("", scale=scale, **more), 1.0, {}))
    table(f"{FLASH_STEPS} steps at cfg 1, as Flash models run", base, 1.0, FLASH_STEPS, few)
    lines += moving_away(studio, base, away_from)
    write("guidance", "Guidance: cost and effect", lines)


def moving_away(studio: Any, base: Any, away_from: Any) -> list[str]:
    """How many of NUM_AWAY pictures without a prompt show what a negative prompt names, by NAG's scale."""
    lines = [
        f"## Moving away: {NUM_AWAY} pictures of the empty prompt at cfg 1, NAG's negative prompt `{AWAY}`",
        "",
        "| NAG scale | blue backgrounds | red things | circles |",
        "|---|---|---|---|",
    ]
    for scale in (None, 2.0, 5.0, 9.0):
        seen = seen_of(studio, base if scale is None else away_from(AWAY, scale=scale), "", NUM_AWAY)
        lines.append(
            f"| {'without' if scale is None else f'{scale:g}'} | {seen['blue background']} | {seen['red']} | {seen['circle']} |"
        )
        print(lines[-1], flush=True)
    return lines


def seen_of(studio: Any, model: Any, prompt: str, count: int, cfg: float = 1.0, batch: int = BATCH) -> Counter:
    """What the judge sees in count pictures of one prompt: background, and colour and shape of the largest thing."""
    from demo import judge

    studio.model = model
    seen: Counter = Counter()
    for start in range(0, count, batch):
        for picture in studio.paint([prompt] * batch, list(range(5000 + start, 5000 + start + batch)), cfg):
            verdict = judge.look(picture)
            seen[f"{verdict.background} background"] += 1
            for thing in verdict.things[:1]:
                seen.update((thing.colour, thing.shape))
    return seen
