"""What in a queued graph does nothing or does harm with Chroma. Pure: `examine` reads the graph and changes nothing.

A rule is a function from a graph and a sampling run in it to findings. Its docstring has the reason and where that is from.
Rules are silent wherever the graph does not tell enough: a false alarm is worse than a missed one.
"""

from __future__ import annotations

from typing import Any, Mapping

from . import rules_models, rules_prompts, rules_schedules
from .finding import SEVERITIES, Facts, Finding, Rule
from .queued_graph import Graph, runs

RULES: tuple[Rule, ...] = (
    rules_prompts.negative_prompt_at_cfg_1,
    rules_prompts.flash_with_high_cfg,
    rules_prompts.undistilled_at_cfg_1,
    rules_prompts.same_prompt_twice,
    rules_prompts.prompt_too_long,
    rules_prompts.short_negative_prompt,
    rules_prompts.flux_guidance,
    rules_prompts.padded_text_encoder,
    rules_schedules.few_steps_of_a_shifted_schedule,
    rules_schedules.shift_not_set,
    rules_schedules.shift_the_schedule_does_not_see,
    rules_schedules.two_shifts,
    rules_schedules.shift_of_another_model,
    rules_schedules.schedule_of_another_model,
    rules_schedules.few_steps,
    rules_models.size_for_another_checkpoint,
    rules_models.size_in_steps_of_16,
    rules_models.denoise_without_a_picture,
    rules_models.vae_of_the_other_kind,
    rules_models.overfit_checkpoint,
    rules_models.cache_with_a_two_stage_sampler,
    rules_models.cache_with_few_steps,
    rules_models.cache_that_does_not_know_chroma,
    rules_models.host_nag,
    rules_models.node_without_effect,
)


def examine(graph: Mapping[str, Any], record: Mapping[str, Any] | None = None) -> list[Finding]:
    """Findings on the runs of Chroma models in a graph of the API format, the gravest first, each once.

    record: what is known beside it, all optional: "node", whose model input has "variant" (as the loader reports it) and
            "file"; "tokens", prompt -> number of its T5 tokens. Without it the files' names tell which runs are Chroma's.
    """
    record = record or {}
    read, facts = Graph(graph), Facts(record.get("tokens", {}))
    found = dict.fromkeys(
        finding for run in runs(read, record) if run.is_chroma for rule in RULES for finding in rule(read, run, facts)
    )
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def prompts(graph: Mapping[str, Any]) -> list[str]:
    """The prompts of all runs that were typed in, for whoever can count their tokens."""
    read = Graph(graph)
    texts = (read.text(chain) for run in runs(read, {}) for chain in (run.positive, run.negative))
    return list(dict.fromkeys(text for text in texts if text))


def describe(findings: list[Finding], graph: Mapping[str, Any]) -> str:
    """Findings for people, with the nodes that they are about."""
    if not findings:
        return "nothing found"
    read, lines = Graph(graph), [f"{len(findings)} finding{'s' * (len(findings) > 1)}"]
    for f in findings:
        name = read.title(f.node_id) if f.node_id in read.nodes else ""
        lines.append(f"\n{f.severity.upper()}: {f.title} (node {f.node_id}, {name})\n{f.text}\n→ {f.remedy}")
    return "\n".join(lines)
