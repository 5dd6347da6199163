"""How many prompts a run computes, and the steps that are about so many times as fast."""

import pytest
import support
import torch

load_pack = support.dev.load_pack
speed, presets, settings = (load_pack(f"advice.{name}") for name in ("speed", "presets", "user_changes"))
guided_run = load_pack("samplers.guided_run")


def computed(steps, alternate):
    """Prompts that a run under this guidance computes, by its own account of each step."""
    sigmas = [1 - i / steps for i in range(steps + 1)]
    run = guided_run.GuidedRun(guided_run.Guidance(alternate=alternate), sigmas, 3.0)
    count, x = 0, torch.ones(1, 2, 2, 2)
    for sigma in sigmas[:-1]:
        now = run.begin(sigma)
        count += 1 + (now.uncond == guided_run.COMPUTE)
        if now.uncond == guided_run.COMPUTE:
            run.learn(now, x, 0.5 * x, 2 * x, sigma)
    return count


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 12, 13, 20, 27])
@pytest.mark.parametrize("alternate", [False, True])
def test_prompts_are_counted_as_a_run_computes_them(steps, alternate):
    assert speed.num_prompts(steps, True, alternate) == computed(steps, alternate)
    assert speed.num_prompts(steps, False, alternate) == steps


def test_wish_for_speed_gives_the_most_steps_that_are_so_fast():
    """HD computes 26 steps of two prompts, 52."""
    ways = {
        times: speed.for_times(26, True, times, presets.MIN_STEPS) for times in (1.0, 1.3, 1.5, 2.0, 2.5, 3.0, 10.0)
    }
    assert ways == {
        1.0: (26, False),
        1.3: (26, True),  # 40
        1.5: (23, True),  # 36
        2.0: (17, True),  # 27
        2.5: (13, True),  # 21
        3.0: (13, True),  # no faster one is known
        10.0: (13, True),
    }
    counts = [speed.num_prompts(n, True, alternate) for n, alternate in ways.values()]
    assert counts == sorted(counts, reverse=True)
    assert speed.for_times(20, False, 1.5, presets.MIN_STEPS) == (14, False)  # cfg 1: there is nothing to alternate
    assert speed.for_times(8, True, 2.0, presets.MIN_STEPS) == (8, False)  # as few as it had


@pytest.mark.parametrize("name", presets.PRESETS)
@pytest.mark.parametrize("times", [1.0, 1.7, 2.0, 4.0])
def test_each_preset_can_be_asked_for_a_speed(name, times):
    word = presets.times_as_fast(times)
    found = settings.settle(name, choice=word)
    standard = presets.PRESETS[name]
    assert found.preset.cfg == standard.cfg and not found.changed
    if standard.few_steps or times == 1:
        assert (found.steps, found.sampler, found.savings) == (standard.steps, standard.sampler, {})
    else:
        assert found.steps <= standard.steps
        assert found.sampler == ("euler" if found.steps < speed.EULER_BELOW else standard.sampler)
        assert found.steps >= speed.ALTERNATE_FROM or not found.savings


def test_what_a_speed_saves_is_told():
    def told(choice, name=presets.HD):
        return settings.as_fast(presets.PRESETS[name], settings.settle(name, choice=choice))

    assert told("standard") == "52 prompts to compute, as in the preset"
    assert told("draft") == "21 prompts to compute instead of 52: about 2.5 times as fast"
    assert told("about 2 times as fast") == "27 prompts to compute instead of 52: about 1.9 times as fast"
    assert told("quality") == "70 prompts to compute instead of 52: 1.3 times as long"
    assert told("flash", presets.FLASH) == "8 prompts to compute, as in the preset"


@pytest.mark.parametrize("word", ["about twice as fast", "about -1 times as fast", "about 2 times as fast!", ""])
def test_word_that_names_no_speed_is_refused(word):
    with pytest.raises(ValueError, match="is not known. Choose one of: custom, draft, standard"):
        settings.settle(presets.HD, choice=word)
