"""How many steps a share of a preset's is, which of our samplers is nearer to the exact picture then, and what a run computes. Pure.

The numbers are of the demo model with 6 to 40 steps: benchmarks/results/frontier.md.
"""

from __future__ import annotations

LEAST_STEPS = 6  # that were measured; there euler is a little nearer
SAMPLERS_FOR_FEW = ("chroma_sigma_2m", "chroma_sigma_2m_sde")
THIRD_ORDER_FROM = 20  # steps; chroma_sigma_2m is nearer up to 18, and as near with 19


def num_prompts(steps: int, guided: bool) -> int:
    """Prompts that a run computes. guided: with a negative prompt."""
    return steps * (1 + guided)


def share_of(steps: int, share: float) -> int:
    """A share of a preset's steps, but not fewer than a sampler needs; all of them where a preset has fewer itself."""
    return max(min(LEAST_STEPS, steps), round(share * steps))


def sampler_for(steps: int) -> str:
    """Of the samplers over sigma, the one that is nearer with so many steps."""
    return "chroma_sigma_3m" if steps >= THIRD_ORDER_FROM else "chroma_sigma_2m"
