"""How a prompt is cut, counted and told. No host."""

import itertools
import random

import pytest
import support

text = support.dev.load_pack("prompts.tokens")


def tokens(count):
    return [(number, 1.0) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 510, 511, 512, 1021, 1022, 1023, 5000])
def test_chunks_cover_every_token_once_and_end_before_a_word(count):
    rng = random.Random(count)
    starts = [rng.random() < 0.4 for _ in range(count)]
    runs = text.chunks(starts, 511)
    assert list(itertools.chain(*(range(r.start, r.stop) for r in runs))) == list(range(count))
    assert all(r.stop - r.start <= 511 for r in runs)
    assert all(starts[r.start] for r in runs[1:])
    assert (len(runs) == 1) == (count <= 511)


def test_chunk_without_a_words_beginning_is_cut_where_it_is_full():
    assert text.chunks([True] + [False] * 9, 4) == [slice(0, 4), slice(4, 8), slice(8, 10)]


@pytest.mark.parametrize("count, kept", [(0, 0), (511, 511), (512, 511), (2000, 511)])
def test_truncation_leaves_511_tokens_and_an_end(count, kept):
    (run,) = text.fit(tokens(count), [False] * count, "truncate")
    assert run == tokens(kept)


def test_limit_of_error_names_both_numbers_and_the_remedy():
    assert text.fit(tokens(511), [True] * 511, "error") == [tokens(511)]
    with pytest.raises(ValueError, match="has 601 tokens, Chroma takes 512. Shorten it by 89, or choose truncate"):
        text.fit(tokens(600), [True] * 600, "error")
    with pytest.raises(ValueError, match="above 512 tokens: 'ignore' is not known .known: truncate"):
        text.fit(tokens(3), [True] * 3, "ignore")


def test_a_dropped_word_is_told_from_its_beginning():
    starts = [True, False, False, True, False]
    assert [text.word_start(starts, i) for i in range(5)] == [0, 0, 0, 3, 3]
    assert text.word_start([False, False], 1) == 1


@pytest.mark.parametrize("count, full", [(1, 1), (13, 1), (256, 10), (511, 20), (512, 20), (9000, 20)])
def test_bar_is_as_full_as_the_prompt(count, full):
    assert text.bar(count) == "█" * full + "░" * (20 - full)


def test_lines_tell_count_mode_loss_and_weights():
    prompt = text.Prompt(
        2000, dropped=1488, first_dropped="and then a", unknown=2, weights=(("red fox", 1.2), ("sky", 0.5))
    )
    assert text.prompt_report(prompt, "exact", "positive").splitlines() == [
        "████████████████████ 2,000 of 512 tokens",
        "exact: T5 with its mask, one pad, as trained",
        "weights: red fox 1.2, sky 0.5",
        "WARNING: the last 1,488 tokens are dropped, from “and then a” on. Shorten the prompt",
        "WARNING: T5 does not know the characters of 2 of the tokens, which all look alike to the model; write English",
    ]
    many = text.Prompt(40, weights=tuple((f"word{i}", 1.1) for i in range(12)))
    assert text.prompt_report(many, "exact", "positive").endswith("word7 1.1 and 4 more")
    assert "in 3 chunks, each encoded alone" in text.prompt_report(text.Prompt(1400, chunks=3), "exact", "positive")
    assert "WARNING: 88 tokens more than Chroma has learnt" in text.prompt_report(
        text.Prompt(600), "legacy", "positive"
    )


@pytest.mark.parametrize("count, hinted", [(1, False), (2, True), (69, True), (70, False), (512, False)])
def test_only_a_short_negative_prompt_gets_a_hint(count, hinted):
    assert ("hint: a negative prompt" in text.prompt_report(text.Prompt(count), "exact", "negative")) is hinted
    assert "hint" not in text.prompt_report(text.Prompt(count), "exact", "positive")


@pytest.mark.parametrize(
    "prompt, found",
    [
        ("a fox <lora:style_v2:0.8>, snow", "<lora:style_v2:0.8>"),
        ("a fox BREAK a forest", "BREAK"),
        ("a __animals/wild__ in snow", "__animals/wild__"),
        ("a fox __ in snow__, breaking news, a < b", None),
    ],
)
def test_syntax_of_other_programs_is_hinted_at(prompt, found):
    lines = text.prompt_report(text.Prompt(9), "exact", "positive", prompt).splitlines()[2:]
    assert [line.split("”")[0] for line in lines] == ([f"hint: “{found}"] if found else [])
