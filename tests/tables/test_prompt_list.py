"""What the rows of one run become: prompts, seeds and labels, in their order; and every row that cannot be used."""

import pytest
import support

rows = support.dev.load_pack("tables.rows")
prompt_list = support.dev.load_pack("tables.prompt_list")
LAST = 2**64 - 1


def entries(*values, text="", seed=5, repeats=1, choices=None):
    found = [rows.Row(i, dict(value)) for i, value in enumerate(values, 1)]
    return prompt_list.entries(found, text, seed, repeats, choices)


def test_each_picture_has_a_seed_of_its_own_and_a_row_may_bring_one():
    found = entries({"prompt": "a"}, {"prompt": "b", "seed": "90"}, {"prompt": "c"}, repeats=2)
    assert [(e.prompt, e.seed) for e in found] == [("a", 5), ("a", 6), ("b", 90), ("b", 91), ("c", 9), ("c", 10)]
    assert [e.seed for e in entries({}, {}, text="a", seed=LAST)] == [LAST, 0]


def test_a_row_without_a_prompt_has_the_nodes_text():
    found = entries({"cfg": 3}, {"Prompt": "mine"}, text=" a fox \n")
    assert [e.prompt for e in found] == ["a fox", "mine"]


@pytest.mark.parametrize("column", ["negative prompt", "negative", "Negative Prompt", "negative_prompt"])
def test_the_negative_prompt_is_a_columns_or_empty(column):
    assert [e.negative for e in entries({"prompt": "a", column: "blurry"}, {"prompt": "a"})] == ["blurry", ""]


def test_a_seed_may_be_written_as_a_float_and_a_long_one_stays_exact():
    found = entries(*({"prompt": "a", "seed": seed} for seed in ("26.0", 26.0, "18446744073709551615")))
    assert [e.seed for e in found] == [26, 26, LAST]


def test_labels_are_a_columns_or_seed_and_prompt():
    assert [e.label for e in entries({"prompt": "a", "label": "first"}, {"prompt": "b"})] == ["first", "6: b"]


def test_wildcards_differ_from_picture_to_picture_and_are_the_same_again():
    choices = {"n": list("0123456789")}.get
    first, again, other = (
        [e.prompt for e in entries({"prompt": "__n__{a|b|c|d|e}"}, seed=seed, repeats=20, choices=choices)]
        for seed in (1, 1, 2)
    )
    assert first == again != other and len(set(first)) > 5


def test_a_picture_has_the_same_words_whatever_comes_after_it():
    one, two = ({"prompt": "{a|b|c|d|e|f}" * 3} for _ in range(2))
    assert entries(one)[0].prompt == entries(one, two, repeats=1)[0].prompt


@pytest.mark.parametrize(
    "values, told",
    [
        ({"promt": "a"}, "row 1: it has no prompt, only 'promt'. Give the table a column prompt"),
        (
            {"prompt": "a", "seed": "many"},
            "row 1: seed is 'many', expected a whole number from 0 to 18446744073709551615",
        ),
        ({"prompt": "a", "seed": -1}, "row 1: seed is -1"),
        ({"prompt": "a", "seed": True}, "row 1: seed is True"),
        ({"prompt": "a", "seed": 1.5}, "row 1: seed is 1.5"),
        ({"prompt": "{0::a|0::b}"}, "row 1: the alternatives"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(values, told):
    with pytest.raises(ValueError, match=told):
        entries(values)


def test_too_many_or_none_are_told():
    with pytest.raises(ValueError, match="there are no rows. Write a prompt a line, or choose a file"):
        entries()
    with pytest.raises(ValueError, match="2 rows, 5001 times each, are more than 10,000 pictures in one run"):
        entries({}, {}, text="a", repeats=5001)
    with pytest.raises(ValueError, match="row 7: it has 3 cells"):
        prompt_list.entries([rows.Row(7, {}, "it has 3 cells")], "", 0, 1, None)


@pytest.mark.parametrize(
    "cell, value",
    [
        ("26", 26),
        ("-3", -3),
        ("3.50", 3.5),
        (".5", 0.5),
        ("1e-3", 1e-3),
        ("euler", "euler"),
        ("1_000", "1_000"),
        ("nan", "nan"),
        ("²", "²"),
        (4, 4),
        (True, True),
    ],
)
def test_a_cell_is_a_number_where_it_is_one(cell, value):
    found = prompt_list.value_of({"Steps": cell}, " steps")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("values", [{"cfg": "3"}, {"cfg": "3", "steps": [1]}])
def test_a_column_that_a_row_lacks_is_told_with_those_that_there_are(values):
    with pytest.raises(ValueError, match="a row has no value in the column 'steps'; it has 'cfg'"):
        prompt_list.value_of(values, "steps")
