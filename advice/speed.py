"""How many prompts a run computes, and which steps and savings make it about so many times as fast. Pure.

The numbers below are of the demo of edition 0.3. On today's, at equal counts of prompts, fewer steps of `chroma_sigma_2m` are nearer to the
exact picture than what they choose (benchmarks/results/frontier.md).
"""

from __future__ import annotations

ALTERNATE_FROM = 13  # steps
EULER_BELOW = 20  # steps; samplers of higher order overshoot with fewer
SLACK = 1.05  # of the prompts that a wish for speed allows


def num_prompts(steps: int, guided: bool, alternate: bool = False) -> int:
    """Prompts that a run computes. guided: with a negative prompt, which `alternate` leaves out in each second step once
    it has been computed twice."""
    return steps * (1 + guided) - (max(0, (steps - 2) // 2) if guided and alternate else 0)


def for_times(steps: int, guided: bool, times: float, least: int) -> tuple[int, bool]:
    """(number of steps, whether the negative prompt alternates): the most steps that are about `times` as fast as `steps`
    with both prompts; the fastest that there are where none is.

    least: steps that a run has at least.
    """
    ways = [(n, alternate) for n in range(min(least, steps), steps + 1) for alternate in (False, True)]
    ways = [(n, alternate) for n, alternate in ways if not alternate or (guided and n >= ALTERNATE_FROM)]
    budget = SLACK * num_prompts(steps, guided) / times
    fitting = [way for way in ways if num_prompts(way[0], guided, way[1]) <= budget]
    if not fitting:
        return min(ways, key=lambda way: num_prompts(way[0], guided, way[1]))
    return max(fitting, key=lambda way: (way[0], not way[1]))
