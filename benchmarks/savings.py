"""How far is each sampler's picture from its own with plain CFG, where uncond is left out? The demo model, all samplers.

It takes an hour or more. Rows are kept in the cache, so that a stopped run goes on; `savings.json` there is removed at the end.
"""

from __future__ import annotations

import json

import numpy as np
import torch

from .measure import write

SCALE, NUM_PROMPTS = 3.0, 8
BAR = 2.0  # of 255, mean: above it `alternate` is off for a sampler
SETTINGS = {
    "alternate": {"alternate": True},
    "skip 2": {"skip_first_steps": 2},
    "interval to 0.4": {"percent": (0.0, 0.4)},
    "stop at 0.98": {"stop_above": 0.98},
}


@torch.inference_mode()
def main(rounds: int) -> None:
    import dev
    from demo import evaluate, exam

    studio = evaluate.Studio("fp32")  # which finds the host
    guiders, run = dev.load_pack("host.sample.guiders"), dev.load_pack("samplers.guided_run")
    rough, run.ROUGH_SAMPLERS = run.ROUGH_SAMPLERS, frozenset()  # measured without the table that follows from this
    base, asked = studio.model, exam.shapes()[::25][:NUM_PROMPTS]

    def paint(**settings: object) -> tuple[np.ndarray, int, list[str]]:
        told: list[object] = []
        studio.model = guiders.GuidancePatch(run.Guidance(**settings), report=told.append).on(base)
        pictures = np.stack([picture for _, picture in studio.answers(asked, SCALE, NUM_PROMPTS)])
        return pictures, sum(r.prompts for r in told), sorted({note for r in told for note in r.notes})

    lines = [
        f"{len(asked)} prompts of the demo, {evaluate.STEPS} steps of {evaluate.SCHEDULE}, cfg {SCALE:g}: mean difference to "
        "the same sampler's picture with plain CFG, of 255, and the share of prompts computed. `*`: the run found that the "
        f"sampler needs uncond, or that it leaves the schedule, and computed it. Above {BAR:g} under `alternate` a sampler is "
        "in `ROUGH_SAMPLERS`, and computes uncond in every step.",
        "",
        "| sampler | " + " | ".join(SETTINGS) + " |",
        "|---|" + "---|" * len(SETTINGS),
    ]
    kept = dev.cache_dir() / "savings.json"
    rows: dict[str, list[tuple[float, bool, float]]] = json.loads(kept.read_text()) if kept.exists() else {}
    for sampler in studio.comfy.samplers.SAMPLER_NAMES:
        if sampler not in rows:
            evaluate.SAMPLER = sampler
            exact, whole, _ = paint()
            rows[sampler] = []
            for settings in SETTINGS.values():
                pictures, prompts, notes = paint(**settings)
                off = float(np.abs(pictures - exact).mean()) * 255
                rows[sampler].append((off, bool(notes), prompts / whole))
            kept.write_text(json.dumps(rows))
        cells = [f"{off:.2f}{'*' * noted} ({share:.2f})" for off, noted, share in rows[sampler]]
        lines.append(f"| {sampler} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    alternate = list(SETTINGS).index("alternate")
    found = {sampler for sampler, cells in rows.items() if cells[alternate][0] > BAR}
    lines += [
        "",
        f"Above the bar: {', '.join(sorted(found)) or 'none'}; in the table: {', '.join(sorted(rough)) or 'none'}.",
    ]
    write("savings", "Savings by sampler", lines)
    kept.unlink()
