"""What does it cost an edit to keep the keys and values of its reference from the first step? The demo model and its judge.

ComfyUI's FluxKVCache does that: later steps leave the reference's tokens out. It sets the method `index_timestep_zero`, whose
modulations are those of time 0 in every step.
"""

from __future__ import annotations

import numpy as np
import torch

from . import two_seeds
from .measure import Kept

CFG, NUM_OF_A_KIND = 3.0, 5
METHODS = ("offset", "index_timestep_zero")
COLUMNS = {"difference": ".2f", "thing": ".1%", "right": ".1%"}


@torch.inference_mode()
def main(rounds: int) -> None:
    from demo import edits, evaluate, exam

    studio = evaluate.Studio("fp32")  # which finds the host
    from comfy_extras.nodes_flux import FluxKVCache

    base = studio.model
    asked = two_seeds.both([q for kind in edits.KINDS for q in exam.edits_of(kind)[:NUM_OF_A_KIND]])

    def answers(method: str, is_kept: bool) -> list[two_seeds.Answers]:
        studio.model = FluxKVCache.execute(base).args[0] if is_kept else base.clone()
        studio.model.add_object_patch("diffusion_model.default_ref_method", method)
        return [two_seeds.answers(studio, part, CFG) for part in asked]

    def measured(method: str) -> list[two_seeds.Row]:
        """With all computed, and with what is kept."""
        exact, kept = answers(method, False), answers(method, True)
        off = [float(np.abs(k.pictures - e.pictures).mean()) * 255 for k, e in zip(kept, exact)]
        return [
            [answer.shares() for answer in exact],
            [{"difference": value, **answer.shares()} for value, answer in zip(off, kept)],
        ]

    keeping = Kept("references", [asked, CFG, evaluate.STEPS, evaluate.SAMPLER, evaluate.SCHEDULE, evaluate.SHIFT])
    lines = [
        f"{len(asked[0])} edits of each kind as often, two unseen seeds each, {evaluate.STEPS} steps of {evaluate.SCHEDULE}, cfg "
        f"{CFG:g}; both prompts of guidance see the reference, and each keeps its own. `difference`: mean, of 255, to the picture of the "
        f"same method with all computed. {two_seeds.TOLD}. The demo learnt edits with `offset`, as FLUX.1 Kontext did; the node sets "
        "`index_timestep_zero`.",
        "",
        f"| method | the reference's keys and values | {' | '.join(COLUMNS)} |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    rows: list[two_seeds.Row] = []
    for method in METHODS:
        found = keeping.row(method, lambda method=method: measured(method))
        for name, row in zip(("of every step", "of the first step"), found):
            rows.append(row)
            lines.append(f"| {method} | {name} | {' | '.join(two_seeds.cells(row, COLUMNS))} |")
            print(lines[-1], flush=True)
    lines += ["", two_seeds.noise_line(rows, COLUMNS)]
    keeping.write("Keeping a reference's keys and values", lines)
