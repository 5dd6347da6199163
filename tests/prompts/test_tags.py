"""What the prompt builder adds. No host."""

import pytest
import support

rules = support.dev.load_pack("prompts.tags")

SENTENCE = "A red fox sits in the snow."


def built(words, **choice):
    return rules.build(words, rules.Choice(**choice))[0]


@pytest.mark.parametrize("words", ["", "  a fox \n", SENTENCE, "tags, more tags,"])
@pytest.mark.parametrize("style", rules.STYLES)
def test_nothing_is_added_unasked(words, style):
    assert rules.build(words, rules.Choice(style)) == (words, [])


@pytest.mark.parametrize(
    "words, style, expected",
    [
        (SENTENCE, "photograph", SENTENCE + " snow. winter. aesthetic 9. best quality."),
        ("a red fox", "photograph", "a red fox. snow. winter. aesthetic 9. best quality."),
        (SENTENCE, "drawing", SENTENCE + " snow, winter, aesthetic 9, best quality"),
        ("a red fox ", "drawing", "a red fox, snow, winter, aesthetic 9, best quality"),
        ("a red fox,", "drawing", "a red fox, snow, winter, aesthetic 9, best quality"),
        ("", "drawing", "snow, winter, aesthetic 9, best quality"),
    ],
)
def test_tags_follow_the_sentences_joined_as_the_style_asks(words, style, expected):
    tags = " snow,winter ,, " if words != SENTENCE else "(snow),\nwinter."
    expected = expected.replace(SENTENCE + " snow", SENTENCE + " (snow)")
    assert built(words, style=style, tags=tags, aesthetic="aesthetic 9", quality="best quality") == expected


def test_tag_that_is_there_is_not_added_again_and_a_part_of_one_is():
    out, used = rules.build("a fox. Aesthetic 10.", rules.Choice(aesthetic="aesthetic 10", tags="fox, ox"))
    assert out == "a fox. Aesthetic 10. ox."
    assert used == []
    assert built("a fox. aesthetic 10.", aesthetic="aesthetic 1") == "a fox. aesthetic 10. aesthetic 1."


def test_opening_and_photo_sentences_stand_at_the_ends():
    choice = {"opening": "A casual snapshot of", "photo_sentences": 2, "aesthetic": "aesthetic 8"}
    expected = "A casual snapshot of a fox. aesthetic 8. The photograph is a . The photograph is a ."
    assert built("a fox", **choice) == expected
    assert built("a casual snapshot of a fox", **choice)[1:] == expected[1:]


def test_unknown_choices_are_refused_with_what_is_known():
    with pytest.raises(ValueError, match="aesthetic 'aesthetic 12' is not known .known: none, aesthetic 10"):
        built("a fox", aesthetic="aesthetic 12")
    with pytest.raises(ValueError, match="style 'film' is not known .known: photograph, drawing"):
        built("a fox", style="film")


def test_every_rule_names_a_source_that_can_be_looked_up():
    tables = (rules.STYLES, rules.AESTHETICS, rules.QUALITIES, rules.OPENINGS)
    every = [rule for table in tables for rule in table.values() if rule is not None] + [rules.PHOTO_SENTENCE]
    assert len(every) == 2 + 12 + 5 + 1 + 1
    assert all(rule.told and rule.source.url.startswith("https://") and rule.source.standing for rule in every)
    page = (support.ROOT / "web" / "docs" / "ChromaPrompt.md").read_text()
    assert all(rule.source.url in page for rule in every)
    styles = [rule for rule in rules.STYLE_PROMPTS.values() if rule is not None]
    assert len(styles) == 14
    assert all(style.source is rules.OURS and style.text.count(rules.PLACE) == 1 for style in styles)
    assert "The style prompts are this pack's own" in page


def test_style_prompt_is_merged_with_the_text_and_tags_follow():
    expected = "A watercolor painting on rough paper. {} Loose washes, soft edges, white paper."
    assert built(SENTENCE, style_prompt="watercolor") == expected.format(SENTENCE)
    assert built("a red fox ", style_prompt="watercolor") == expected.format("a red fox.")
    assert built(SENTENCE, style_prompt="watercolor", tags="dusk") == expected.format(SENTENCE) + " dusk."
    out, used = rules.build("a fox", rules.Choice(style_prompt="anime", opening="A casual snapshot of"))
    assert out.startswith("A digital illustration in anime style. A casual snapshot of a fox. Clean line art")
    assert [a.text for a in used] == ["A casual snapshot of", rules.STYLE_PROMPTS["anime"].text]
    with pytest.raises(ValueError, match="style prompt 'fresco' is not known .known: none, film photograph"):
        built("a fox", style_prompt="fresco")


@pytest.mark.parametrize(
    "style, expected",
    [
        ("{prompt}", "a fox"),
        ("  ", "a fox"),
        ("Seen from above.", "a fox. Seen from above."),
        ("Seen from above", "a fox. Seen from above"),
        ("seen from above", "a fox. seen from above"),
        ("a sketch of {prompt}, on grey paper", "a sketch of a fox, on grey paper"),
        ("a sketch of {prompt} on grey paper", "a sketch of a fox on grey paper"),
        ("A sketch. {prompt} Grey paper.", "A sketch. a fox. Grey paper."),
        ("A sketch. {prompt}", "A sketch. a fox"),
        ("{prompt}{prompt} Grey.", "a fox. Grey."),
    ],
)
def test_own_style_prompt_takes_the_text_at_its_place(style, expected):
    assert built("a fox", own_style=style) == expected


def test_text_that_has_the_mark_itself_is_left_as_it_is():
    assert built("{prompt} a fox", own_style="Ink. {prompt} Lines.") == "Ink. {prompt} a fox. Lines."


def test_own_style_prompt_stands_around_the_chosen_one():
    out, used = rules.build("a fox.", rules.Choice(style_prompt="pixel art", own_style="Night. {prompt}"))
    assert out == "Night. Pixel art of a 16-bit game. a fox. Limited palette, hard pixel edges."
    assert used[-1].told == "your own style prompt, merged with the text"
