"""Which prompts are terse, and what is offered for them."""

import pytest
import support

terse = support.dev.load_pack("prompts.terse")
tags = support.dev.load_pack("prompts.tags")


@pytest.mark.parametrize(
    "text", ["a fox", "red fox, mossy rock", "A photograph of a fox", "portrait of a woman", "1girl"]
)
def test_few_words_that_leave_most_open_are_terse(text):
    assert terse.offer(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "A photograph of a red fox asleep on a mossy rock in a birch forest.",
        "a fox in the snow at dawn",  # place and light
        "oil painting of a harbour, golden light",
        "A red fox lies curled up asleep, its tail over its nose, and every hair of its fur can be seen",
    ],
)
def test_prompts_that_tell_more_are_left_alone(text):
    assert terse.offer(text) is None


def test_long_form_keeps_the_words_and_adds_only_what_is_open():
    found = terse.offer("A fox")
    assert found.lacks == ("medium", "place", "light")
    assert found.long.startswith("A photograph of a fox. It stands out from ")
    assert "Soft daylight" in found.long and "Sharp focus" in found.long
    assert terse.offer("Anna, red hair").long.startswith("A photograph of Anna, red hair. ")
    photo = terse.offer("a photograph of a fox")
    assert photo.lacks == ("place", "light") and photo.long.startswith("A photograph of a fox. ")
    assert "daylight" not in terse.offer("a fox at night").long if terse.offer("a fox at night") else True
    drawn = terse.offer("a fox", terse.DRAWING)
    assert drawn.long.startswith("A detailed digital illustration of a fox. ") and "photograph" not in drawn.long


def test_what_is_offered_is_not_terse_itself():
    for style in tags.STYLES:
        assert terse.offer(terse.offer("a fox", style).long, style) is None


def test_every_style_of_the_node_has_its_sentences():
    assert set(terse.DETAIL) == set(terse.NEGATIVE) == set(tags.STYLES)
    for part in terse.PARTS:
        assert set(part.sentence) == set(tags.STYLES)
