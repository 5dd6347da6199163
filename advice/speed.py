"""How many steps a share of a preset's is, the sampler that is nearest to the exact picture then, and what a run computes. Pure.

The numbers are of the demo model: benchmarks/results/frontier.md, whose rows of more than 40 and of fewer than 6 steps are not compared.
"""

from __future__ import annotations

LEAST_STEPS = 6  # euler is nearer with fewer
SAMPLERS_FOR_FEW = ("chroma_sigma_2m", "chroma_sigma_2m_sde")
THIRD_ORDER_FROM = 20  # steps; with fewer, chroma_sigma_3m is no nearer than chroma_sigma_2m


def num_prompts(steps: int, guided: bool) -> int:
    """Prompts that a run computes. guided: with a negative prompt."""
    return steps * (1 + guided)


def share_of(steps: int, share: float) -> int:
    """A share of a preset's steps, but not fewer than a sampler needs; all of them where a preset has fewer itself."""
    return max(min(LEAST_STEPS, steps), round(share * steps))


def sampler_for(steps: int) -> str:
    """The nearest sampler to the exact picture with so many steps, of one evaluation each."""
    return "chroma_sigma_3m" if steps >= THIRD_ORDER_FROM else "chroma_sigma_2m"
