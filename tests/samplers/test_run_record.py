"""A run's record, as numbers and as text."""

import json
import math

import support
import torch

RunRecord = support.dev.load_pack("samplers.run_record").RunRecord


def record(**more):
    values = dict(prompts=9, uncond_prompts=3, calls=6, seconds=3.14159, finished=True, plain=12, evaluations=6)
    return RunRecord(3.5, 6, **{**values, **more})


def test_facts_are_numbers_that_json_keeps():
    run = record(skipped=2, extrapolated=1, zeroed=4, stopped=3, cosines=[(0, torch.tensor(0.1234567)), (1, math.nan)])
    run.close()
    assert all(type(value) is float for _, value in run.cosines)
    facts = run.facts()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts == {
        "cfg": 3.5,
        "steps": 6,
        "steps_done": 6,
        "prompts_computed": 9,
        "uncond_computed": 3,
        "network_calls": 6,
        "seconds": 3.142,
        "finished": True,
        "evaluations": 6,
        "steps_zeroed": 4,
        "uncond_skipped": 2,
        "uncond_extrapolated": 1,
        "uncond_stopped_at_step": 3,
        "cosines": [[0, 0.12346], [1, None]],
    }
    assert record(notes=["one"]).facts()["notes"] == ["one"]


def test_seconds_of_a_prompt_leave_out_loading_and_what_did_not_end():
    run = record(prompts=0, evaluations=0, seconds=16.0)
    for evaluation, at in enumerate(
        [4.0, 10.0, 11.0, 14.0], 1
    ):  # the first computes after 4 s of loading, and compiles
        run.evaluations = evaluation
        run.evaluation_begins(at)
        run.prompts += 2
    assert run.warm == (10.0, 2) and run.prompt_seconds == 1.0  # (16 - 10) / (8 - 2)
    run.finished = False
    assert run.prompt_seconds is None
    assert record().prompt_seconds is None  # of one evaluation


def test_a_finished_run_took_its_seconds_for_all_steps_and_a_broken_one_for_those_done():
    assert record().step_seconds == 3.14159 / 6
    assert RunRecord(3.5, 1, seconds=4.0, finished=True).step_seconds == 4.0
    broken = record(finished=False)
    assert broken.step_seconds is None
    broken.step_done(1, 3.0)
    assert broken.step_seconds == 1.5


def test_text_says_all_that_was_left_out():
    run = record(
        zeroed=1, skipped=2, extrapolated=3, stopped=3, cosines=[(0, 0.5), (1, 0.25), (2, 0.75)], notes=["one", "two"]
    )
    assert run.text().split("\n") == [
        "3.1 s, 0.52 s a step",
        "one",
        "two",
        "6 steps, cfg 3.5: 9 prompts computed in 6 forwards; plain CFG computes 12",
        "1 evaluations zeroed, 2 uncond skipped, 3 uncond extrapolated",
        "cond and uncond alike from step 4 on",
        "cosine of cond and uncond 0.500 to 0.750, least 0.250",
    ]


def test_text_says_nothing_that_is_not_known():
    assert record(plain=None, skipped=2).text().split("\n") == [
        "3.1 s, 0.52 s a step",
        "6 steps, cfg 3.5: 9 prompts computed in 6 forwards",
        "2 uncond skipped",
    ]
    assert record(plain=None).text("beta").split("\n")[:2] == ["3.1 s, 0.52 s a step", "beta"]


def test_an_interrupted_run_has_the_speed_of_the_steps_that_were_done():
    run = RunRecord(3.0, 26, seconds=9.0)
    assert run.text() == "9.0 s\nstopped before its end: 0 of 26 steps are done"
    run.step_done(0, 2.5)
    run.step_done(2, 7.5)
    assert run.text() == "9.0 s, 2.50 s a step\nstopped before its end: 3 of 26 steps are done"
    assert (run.facts()["steps"], run.facts()["steps_done"]) == (26, 3)


def test_a_new_record_has_counted_nothing():
    counted = {k: v for k, v in RunRecord(3.0, 4).facts().items() if k not in ("cfg", "steps")}
    assert counted["finished"] is False and counted["uncond_stopped_at_step"] is None and counted["cosines"] == []
    assert not any(counted.values()) and RunRecord(3.0, 4).plain is None
