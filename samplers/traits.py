"""What is known of samplers by their names, the host's and ours: which add noise, call the model several times a step, leave the
schedule, or change the picture where guidance is extrapolated."""

from __future__ import annotations

import re

STOCHASTIC = ("ancestral", "sde", "lcm", "ddpm", "seeds", "sa_solver")
# In steps of several stages the model is called at several noise levels. dpmpp_2m_sde_heun has Heun's weights and one call.
TWO_STAGE = re.compile(
    r"(?<!2m_sde_)heun|^dpm_2|^dpm_fast|^dpm_adaptive|_2s|dpmpp_sde|^seeds_[23]|res_[235]s|sa_solver_pece|midpoint|rk[2-9]"
)
OFF_SCHEDULE = ("dpm_fast", "dpm_adaptive")  # they step on sigmas of their own, as a run finds by itself
# Whose picture moves by over 4 of 255 with `alternate` for other reasons, as `benchmarks/savings.py` finds them.
ROUGH_SAMPLERS = frozenset(
    [
        *("dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"),
        *("dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "lcm", "res_multistep_ancestral", "sa_solver"),
    ]
)


def adds_noise(name: str) -> bool:
    return any(part in name for part in STOCHASTIC)


def is_two_stage(name: str) -> bool:
    return TWO_STAGE.search(name) is not None
