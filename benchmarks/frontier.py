"""Which settings are nearest to the solution for what they compute? Samplers, schedules, guidance savings, the demo model.

It takes an hour or so. A new way to save is a row of `rows()`; the table marks what nothing beats.
"""

from __future__ import annotations

from typing import Iterator

import numpy as np
import torch

from . import two_seeds
from .likeness import SHARPNESS, psnr, ssim
from .measure import RESULTS, Kept
from .painter import Painter, Painting, Setting
from .predictors import PREDICTORS

CFG, NUM_QUESTIONS = 3.0, 12
EXACT = Setting(200, CFG, "chroma_res_2s", "linear")
PLAIN = Setting(26, CFG, "euler", "beta", {"alpha": 0.6, "beta": 0.6})  # what PSNR and SSIM are against
STEPS = (6, 8, 11, 14, 20, 26, 40)
FEW = (8, 14, 20, 26, 40)  # steps of the samplers that are not the first choice
SHORT_AND_LONG = (8, 20)  # steps of the schedules beside the plain one
SAVING = (14, 20, 26)  # steps of what leaves out computing
SAMPLERS = ("euler", "res_multistep", "dpmpp_2m", "chroma_res_2m", "chroma_sigma_2m", "chroma_sigma_3m")
OVER_SIGMA, BETWEEN = (
    ("chroma_sigma_2m", "chroma_sigma_3m"),
    (10, 13, 16, 18, 19),
)  # of the choices of quality, further steps
OTHERS = ("deis", "uni_pc", "ipndm", "ipndm_v", "lms", "gradient_estimation")
TWO_STAGES = ("heun", "dpm_2", "chroma_res_2s")  # which compute the model twice a step
FIRST_AND_SECOND_ORDER = ("euler", "chroma_sigma_2m")
SCHEDULES = (("beta", {"alpha": 0.4, "beta": 0.4}), ("linear", {}), ("bong_tangent", {}), ("sigmoid_offset", {}))
SAVINGS = {
    "alternate": {"alternate": True},
    "stop when alike 0.98": {"stop_above": 0.98},
    "first 0.6 guided": {"percent": (0.0, 0.6)},
    "2 steps without cfg": {"skip_first_steps": 2},
}
CACHES = {
    "forecast by plan": {"compute": 0.0},
    "forecast by gate 0.05": {"compute": None, "threshold": 0.05},
    "forecast by gate 0.1": {"compute": None, "threshold": 0.1},
}
PREDICTED = (20, 26)  # steps of the forecasts of others, at as many computed ones as our own by plan
HOST_CACHES = ("EasyCache", "LazyCache")
HOST_CACHED, THRESHOLDS = (26, 40), (0.1, 0.2)  # steps, and what may change between them
COLUMNS = {
    "forwards": ".0f",
    "distance": ".4f",
    "PSNR, dB": ".1f",
    "SSIM": ".3f",
    "sharpness": ".2f",
    **two_seeds.SHARES,
    "CPU seconds": ".2f",
}


def rows() -> Iterator[tuple[str, Setting]]:
    """(name of the family, setting)."""

    def setting(
        steps: int, sampler: str, schedule: str = "beta", params: dict[str, float] = PLAIN.params, **more: object
    ):
        return Setting(steps, CFG, sampler, schedule, params, **more)

    for sampler in SAMPLERS:
        yield from ((sampler, setting(n, sampler)) for n in STEPS)
    for sampler in OVER_SIGMA:
        yield from ((sampler, setting(n, sampler)) for n in BETWEEN)
    for sampler in OTHERS:
        yield from ((sampler, setting(n, sampler)) for n in FEW)
    for sampler in TWO_STAGES:
        yield from ((sampler, setting(n // 2, sampler)) for n in FEW)
    for sampler in FIRST_AND_SECOND_ORDER:
        for schedule, params in SCHEDULES:
            name = setting(1, sampler, schedule, params).schedule_text()
            yield from ((f"{sampler}, {name}", setting(n, sampler, schedule, params)) for n in SHORT_AND_LONG)
        for name, guidance in SAVINGS.items():
            yield from ((f"{sampler}, {name}", setting(n, sampler, guidance=guidance)) for n in SAVING)
        for name, cache in CACHES.items():
            yield from ((f"{sampler}, {name}", setting(n, sampler, cache=cache)) for n in SAVING)
        for name in PREDICTORS:
            yield from (
                (f"{sampler}, {name}, by plan", setting(n, sampler, cache={"compute": 0.0}, predictor=name))
                for n in PREDICTED
            )
    for name in HOST_CACHES:
        for threshold in THRESHOLDS:
            yield from (
                (f"euler, {name} {threshold:g}", setting(n, "euler", host_cache=(name, threshold))) for n in HOST_CACHED
            )


def figures(found: Painting, exact: Painting, plain: Painting) -> dict[str, float]:
    """What COLUMNS tell of one seed."""
    pairs = list(zip(found.pictures, plain.pictures))
    return {
        "forwards": found.forwards,
        "distance": found.distance(exact),
        "PSNR, dB": float(np.median([psnr(a, b) for a, b in pairs])),
        "SSIM": float(np.median([ssim(a, b) for a, b in pairs])),
        "sharpness": found.sharpness(exact),
        **found.shares(),
        "CPU seconds": found.seconds,
    }


def frontier(found: dict[str, dict[str, float]]) -> set[str]:
    """The rows that no other one beats: at as few forwards nearer to the solution, or as near with fewer."""
    return {
        name
        for name, row in found.items()
        if not any(
            (o["forwards"], o["distance"]) != (row["forwards"], row["distance"])
            and o["forwards"] <= row["forwards"]
            and o["distance"] <= row["distance"]
            for o in found.values()
        )
    }


@torch.inference_mode()
def main(rounds: int) -> None:
    from demo import evaluate, exam

    painter = Painter(evaluate.Studio("fp32"), exam.mixed(NUM_QUESTIONS))
    painter.warm_up()
    kept = Kept("frontier", [painter.asked, EXACT, PLAIN])
    exact, plain = (painter.paint_once(kept, setting) for setting in (EXACT, PLAIN))
    families, done = dict[str, list[str]](), dict[str, two_seeds.Row]()
    for family, setting in rows():
        name = f"{setting.steps} steps of {family}"
        families.setdefault(family, []).append(name)
        done[name] = kept.row(
            setting, lambda s=setting: [figures(*three) for three in zip(painter.paint_all(s), exact, plain)]
        )
        print(name, two_seeds.cells(done[name], COLUMNS), flush=True)
    means = {name: {key: (one[key] + other[key]) / 2 for key in one} for name, (one, other) in done.items()}
    best = frontier(means)
    lines = [
        f"The demo model in float32, {NUM_QUESTIONS} prompts {two_seeds.ASKED}, with two unseen seeds each, cfg {CFG:g}, "
        f"{PLAIN.schedule_text()} where no schedule is named. `forwards`: prompts computed for a picture; `distance`: relative, of "
        f"the latent to that of {EXACT.steps} steps of {EXACT.sampler}, mean; `PSNR` and `SSIM`: to {PLAIN.steps} steps of "
        f"{PLAIN.sampler}, median; `sharpness`: {SHARPNESS}, relative to the solution's, which is "
        f"{np.mean([e.shares()['right'] for e in exact]):.1%} right; {two_seeds.TOLD}. **Bold**: no other row is as near with as "
        f"few forwards. `CPU seconds`: of one processor for a picture, beside other work; those of equal work differ by a fifth. "
        f"{two_seeds.CAVEAT}.",
        "",
        f"| | {' | '.join(COLUMNS)} |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for names in families.values():
        for name in names:
            cells = " | ".join(two_seeds.cells(done[name], COLUMNS))
            lines.append(f"| {f'**{name}**' if name in best else name} | {cells} |")
    plot(families, means, best)
    lines += ["", two_seeds.noise_line(list(done.values()), COLUMNS)]
    lines += ["", "![Distance against forwards](frontier.svg)"]
    kept.write("Picture against time", lines)


WIDTH, HEIGHT, MARGIN = 900, 560, 60
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8c564b",
    "#7f7f7f",
)  # Okabe and Ito's, and two


def plot(families: dict[str, list[str]], done: dict[str, dict[str, float]], best: set[str]) -> None:
    """A curve for each sampler, a dot for each other row, both axes logarithmic; a ring around those that none beats."""
    forwards = np.log([r["forwards"] for r in done.values()])
    distances = np.log([max(r["distance"], 1e-5) for r in done.values()])

    def place(row: dict[str, float]) -> tuple[float, float]:
        x = (np.log(row["forwards"]) - forwards.min()) / np.ptp(forwards)
        y = (np.log(max(row["distance"], 1e-5)) - distances.min()) / np.ptp(distances)
        return MARGIN + x * (WIDTH - 4 * MARGIN), HEIGHT - MARGIN - y * (HEIGHT - 2 * MARGIN)

    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for exponent in range(int(np.floor(distances.min() / np.log(10))), 2):
        for factor in (1, 3):
            value = factor * 10.0**exponent
            if distances.min() <= np.log(value) <= distances.max():
                _, y = place({"forwards": float(np.exp(forwards.min())), "distance": value})
                parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - 3 * MARGIN}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
                parts.append(f'<text x="{MARGIN - 6}" y="{y + 4:.0f}" text-anchor="end">{value:g}</text>')
    for value in (12, 16, 22, 28, 40, 52, 80):
        x, _ = place({"forwards": value, "distance": float(np.exp(distances.min()))})
        parts.append(f'<text x="{x:.0f}" y="{HEIGHT - MARGIN + 20}" text-anchor="middle">{value}</text>')
    parts.append(f'<text x="{WIDTH / 2 - MARGIN}" y="{HEIGHT - 12}" text-anchor="middle">forwards of one prompt</text>')
    parts.append(f'<text x="{MARGIN}" y="30">distance to the solution</text>')
    curves = [family for family in families if family in SAMPLERS]
    for i, family in enumerate(curves):
        points = sorted(place(done[name]) for name in families[family])
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = COLOURS[i % len(COLOURS)]
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - 3 * MARGIN + 8}" y="{MARGIN + 20 * i}" fill="{colour}">{family}</text>')
    for family, names in families.items():
        colour = COLOURS[curves.index(family) % len(COLOURS)] if family in curves else "#555"
        for name in names:
            x, y = place(done[name])
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{name}</title></circle>')
            if name in best:
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="none" stroke="{colour}"/>')
    parts.append(f'<text x="{WIDTH - 3 * MARGIN + 8}" y="{MARGIN + 20 * len(curves)}" fill="#555">other rows</text>')
    parts.append(
        f'<text x="{WIDTH - 3 * MARGIN + 8}" y="{MARGIN + 20 * len(curves) + 20}" fill="#555">ring: none better</text>'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">'
    (RESULTS / "frontier.svg").write_text(head + "".join(parts) + "</svg>\n", encoding="utf-8")
