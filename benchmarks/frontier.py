"""Which settings are nearest to the solution for what they compute? Samplers, schedules, guidance savings, the demo model.

It takes an hour or so. Rows are kept in the cache, so that a stopped run goes on; `frontier.json` there is removed at the
end. A new way to save is a row of `rows()`; the table is sorted, and marks what nothing beats.
"""

from __future__ import annotations

import json
from typing import Iterator

import numpy as np
import torch

from .likeness import psnr, sharpness, ssim
from .measure import RESULTS, write
from .painter import Painter, Painting, Setting

CFG, NUM_PROMPTS = 3.0, 24
EXACT = Setting(200, CFG, "chroma_res_2s", "linear")
PLAIN = Setting(26, CFG, "euler", "beta", {"alpha": 0.6, "beta": 0.6})  # what PSNR and SSIM are against
STEPS = (6, 8, 11, 14, 17, 20, 26, 40)
FEW = (8, 14, 26)  # steps of the schedules beside the plain one
SAMPLERS = ("euler", "res_multistep", "dpmpp_2m", "deis", "uni_pc", "chroma_res_2m", "chroma_res_2m_limited")
TWO_STAGES = ("heun", "chroma_res_2s", "chroma_res_2s_limited")  # which compute the model twice a step
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
    "forecast by gate 0.15": {"compute": None, "threshold": 0.15},
}
HOST_CACHES = ("EasyCache", "LazyCache")
THRESHOLDS = (0.05, 0.1, 0.2, 0.4)


def rows() -> Iterator[tuple[str, Setting]]:
    """(name of the family, setting)."""

    def setting(
        steps: int, sampler: str, schedule: str = "beta", params: dict[str, float] = PLAIN.params, **more: object
    ):
        return Setting(steps, CFG, sampler, schedule, params, **more)

    for sampler in SAMPLERS:
        yield from ((sampler, setting(n, sampler)) for n in STEPS)
    for sampler in TWO_STAGES:
        yield from ((sampler, setting(n // 2, sampler)) for n in STEPS)
    for schedule, params in SCHEDULES:
        for sampler in ("euler", "chroma_res_2m_limited"):
            yield from ((f"{sampler}, {schedule}", setting(n, sampler, schedule, params)) for n in FEW)
    for name, guidance in SAVINGS.items():
        for sampler in ("euler", "chroma_res_2m", "chroma_res_2m_limited"):
            yield from ((f"{sampler}, {name}", setting(n, sampler, guidance=guidance)) for n in (14, 17, 20, 26, 40))

    for name, cache in CACHES.items():
        for sampler in ("euler", "chroma_res_2m_limited"):
            yield from ((f"{sampler}, {name}", setting(n, sampler, cache=cache)) for n in (14, 20, 26, 40))
    for name in HOST_CACHES:
        for threshold in THRESHOLDS:
            yield from (
                (f"{sampler}, {name} {threshold:g}", setting(n, sampler, host_cache=(name, threshold)))
                for n in (20, 26, 40)
                for sampler in ("euler", "chroma_res_2m_limited")
            )


def figures(found: Painting, exact: Painting, plain: Painting) -> dict[str, float]:
    off = (found.latents - exact.latents).flatten(1).norm(dim=1) / exact.latents.flatten(1).norm(dim=1)
    return {
        "forwards": found.forwards,
        "distance": float(off.mean()),
        "psnr": float(np.median([psnr(a, b) for a, b in zip(found.pictures, plain.pictures)])),
        "ssim": float(np.median([ssim(a, b) for a, b in zip(found.pictures, plain.pictures)])),
        "sharpness": sharpness(found.pictures) / sharpness(exact.pictures),
        "right": found.right,
        "seconds": found.seconds,
    }


def kept_painting(painter: Painter, setting: Setting) -> Painting:
    """From the cache, if it was painted before."""
    import dev

    path = dev.cache_dir() / f"frontier-{setting.steps}.pt"
    if not path.exists():
        torch.save(tuple(painter.paint_all(setting)), path)
    return Painting(*torch.load(path, weights_only=False))


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
    import dev
    from demo import evaluate, exam

    painter = Painter(evaluate.Studio("fp32"), exam.shapes()[:: 200 // NUM_PROMPTS][:NUM_PROMPTS])
    painter.paint_all(Setting(1, CFG, "euler", "linear"))  # warms up and encodes the prompts
    kept = dev.cache_dir() / "frontier.json"
    done: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    exact, plain = (kept_painting(painter, setting) for setting in (EXACT, PLAIN))
    families = dict[str, list[str]]()
    for family, setting in rows():
        name = f"{setting.steps} steps of {family}"
        families.setdefault(family, []).append(name)
        if name not in done:
            done[name] = figures(painter.paint_all(setting), exact, plain)
            kept.write_text(json.dumps(done))
            print(name, done[name], flush=True)
    best = frontier(done)
    lines = [
        f"The demo model in float32, {NUM_PROMPTS} prompts with unseen seeds, cfg {CFG:g}, {PLAIN.schedule_text()} where no schedule is "
        f"named. `forwards`: prompts computed for a picture; `distance`: relative, of the latent to that of {EXACT.steps} steps "
        f"of {EXACT.sampler}, mean; `PSNR` and `SSIM`: to {PLAIN.steps} steps of {PLAIN.sampler}, median; `sharpness`: mean change from "
        f"pixel to pixel, relative to the solution's, which is {exact.right:.1%} right. **Bold**: no other row is as near with as "
        "few forwards.",
        "",
        "| | forwards | distance | PSNR, dB | SSIM | sharpness | right | CPU seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for names in families.values():
        for name in names:
            r = done[name]
            lines.append(
                f"| {f'**{name}**' if name in best else name} | {r['forwards']:.0f} | {r['distance']:.4f} | {r['psnr']:.1f} "
                f"| {r['ssim']:.3f} | {r['sharpness']:.2f} | {r['right']:.1%} | {r['seconds']:.2f} |"
            )
    plot(families, done, best)
    lines += ["", "![Distance against forwards](frontier.svg)"]
    write("frontier", "Picture against time", lines)
    for path in (kept, *dev.cache_dir().glob("frontier-*.pt")):
        path.unlink()


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
    parts.append(
        f'<text x="{WIDTH - 3 * MARGIN + 8}" y="{MARGIN + 20 * len(curves)}" fill="#555">guidance, schedules</text>'
    )
    parts.append(
        f'<text x="{WIDTH - 3 * MARGIN + 8}" y="{MARGIN + 20 * len(curves) + 20}" fill="#555">ring: none better</text>'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">'
    (RESULTS / "frontier.svg").write_text(head + "".join(parts) + "</svg>\n", encoding="utf-8")
