"""Does the demo model paint what the prompt says, and does CFG help? Judged by measuring pixels, in the real host."""

from __future__ import annotations

from .measure import write

SCALES = (1.0, 2.0, 3.0, 5.0)
BAR = 0.9


def main(rounds: int) -> None:
    from demo import evaluate, exam

    studio = evaluate.Studio()
    lines = [
        f"{evaluate.STEPS} {evaluate.SAMPLER} steps, schedule {evaluate.SCHEDULE}, shift {evaluate.SHIFT:g}, 128 x 128 pixels. "
        f"200 prompts with one thing, unseen seeds, half of them of (colour, shape, background) held out of training; and "
        f"{exam.NUM_PAIRS} with two things. `right` means shape colour, background and shape. The bar: at least "
        f"{BAR:.0%} right with guidance on.",
        "",
        "| prompts | CFG | right | right, held out | colour | background | shape | place |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, asked in (("one thing", exam.shapes()), ("two things", exam.shape_pairs())):
        for scale in SCALES:
            s = evaluate.scores(studio, asked, scale)
            lines.append(
                f"| {name} ({s['count']}) | {scale:g} | {s['right']:.1%} | {s['right_held_out']:.1%} | {s['colour']:.1%} "
                f"| {s['background']:.1%} | {s['shape']:.1%} | {s['place']:.1%} |"
            )
    write("judge", "What the demo model paints", lines)
