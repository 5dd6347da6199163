"""How many prompts a run computes, and the steps that are about so many times as fast."""

import pytest
import support

load_pack = support.dev.load_pack
speed, presets, settings = (load_pack(f"advice.{name}") for name in ("speed", "presets", "user_changes"))


def test_prompts_are_counted_with_and_without_a_negative_one():
    assert (speed.num_prompts(26, True), speed.num_prompts(26, False)) == (52, 26)


@pytest.mark.parametrize("steps, sampler", [(1, "2m"), (19, "2m"), (20, "3m"), (100, "3m")])
def test_sampler_is_the_nearest_with_so_many_steps(steps, sampler):
    assert speed.sampler_for(steps) == f"chroma_sigma_{sampler}"


def test_share_is_never_below_what_a_sampler_needs():
    shares = {share: speed.share_of(26, share) for share in (1.0, 14 / 26, 1 / 2, 8 / 26, 0.1, 0.0)}
    assert shares == {1.0: 26, 14 / 26: 14, 1 / 2: 13, 8 / 26: 8, 0.1: 6, 0.0: 6}
    assert speed.share_of(4, 0.5) == 4  # as few as it had


@pytest.mark.parametrize("name", presets.PRESETS)
@pytest.mark.parametrize("times", [1.0, 1.7, 2.0, 4.0])
def test_each_preset_can_be_asked_for_a_speed(name, times):
    found = settings.settle(name, choice=presets.times_as_fast(times))
    preset = presets.PRESETS[name]
    assert found.preset.cfg == preset.cfg and not found.changed
    if preset.few_steps:
        assert (found.steps, found.sampler) == (preset.steps, preset.sampler)
    else:
        assert abs(found.steps - preset.steps / times) <= 1
        assert found.sampler == speed.sampler_for(found.steps)


def test_speed_below_that_of_the_preset_is_that_of_the_preset():
    assert settings.settle(presets.HD, choice="about 0.5 times as fast").steps == 26
    assert settings.settle(presets.HD, choice="about 0 times as fast").steps == 26


def test_what_a_speed_saves_is_told():
    def told(choice, name=presets.HD):
        return settings.as_fast(presets.PRESETS[name], settings.settle(name, choice=choice))

    assert told("standard") == "28 prompts to compute instead of 52: about 1.9 times as fast"
    assert told("draft") == "16 prompts to compute instead of 52: about 3.2 times as fast"
    assert told("about 2 times as fast") == "26 prompts to compute instead of 52: about 2.0 times as fast"
    assert told("quality") == told(None) == "52 prompts to compute, as in the preset"
    assert told("flash", presets.FLASH) == "8 prompts to compute, as in the preset"
    longer = settings.settle(presets.HD, steps=35)
    assert (
        settings.as_fast(presets.PRESETS[presets.HD], longer)
        == "70 prompts to compute instead of 52: 1.3 times as long"
    )


@pytest.mark.parametrize("word", ["about twice as fast", "about -1 times as fast", "about 2 times as fast!", ""])
def test_word_that_names_no_speed_is_refused(word):
    with pytest.raises(ValueError, match="is not known. Choose one of: custom, draft, standard"):
        settings.settle(presets.HD, choice=word)
