"""Wildcards: which choice, by which weight, and every way in which one can be wrong."""

import collections
import random

import pytest
import support

wildcards = support.dev.load_pack("tables.wildcards")


def resolved(text, seed=0, lines={}):
    return wildcards.resolved(text, random.Random(seed), lambda name: lines[name])


def all_of(text, lines={}, tries=200):
    return {resolved(text, seed, lines) for seed in range(tries)}


@pytest.mark.parametrize(
    "text, found",
    [
        ("a {red|grey} fox", {"a red fox", "a grey fox"}),
        ("{a|b}{c|d}", {"ac", "ad", "bc", "bd"}),
        ("{a {b|c}|d}", {"a b", "a c", "d"}),
        ("{|very }old", {"old", "very old"}),
        ("{0::a|1::b}", {"b"}),
        ("__animal__ in __place/wild__", {"fox in a wood", "red hen in a wood", "grey hen in a wood"}),
        ("__one-word.v2__", {"x"}),
        ("{__animal__|d}", {"fox", "red hen", "grey hen", "d"}),
    ],
)
def test_every_choice_is_made_and_no_other(text, found):
    lines = {"animal": ["fox", "{red|grey} hen"], "place/wild": ["a wood"], "one-word.v2": ["x"]}
    assert all_of(text, lines) == found


@pytest.mark.parametrize(
    "text",
    [
        '{"subject": "fox", "size": {"of": 3}}',
        "a } b { c",
        "{",
        "{a|b",
        "a|b",
        "a_b __ c",
        "______",
        "__a b__",
        "\\",
        "c:\\n",
    ],
)
def test_text_without_choices_stays_as_it_is(text):
    assert resolved(text) == text


@pytest.mark.parametrize(
    "text, found", [(r"\{a\|b\}", "{a|b}"), (r"\_\_init\_\_", "__init__"), (r"{\{|\{}", "{"), (r"\(a\)", r"\(a\)")]
)
def test_a_backslash_keeps_a_character(text, found):
    assert resolved(text) == found


def test_weights_are_shares():
    """10,000 draws; 3 of 4 with a standard deviation of 0.43 %."""
    numbers = random.Random(1)
    found = collections.Counter(wildcards.resolved("{3::a|b}", numbers, None) for _ in range(10_000))
    assert abs(found["a"] / 10_000 - 0.75) < 0.02


def test_a_seed_makes_the_same_choices_everywhere():
    """Python promises `random()` of a seed forever, not `choice`."""
    numbers = random.Random("7/0")
    assert [wildcards.resolved("{a|b|c|d}", numbers, None) for _ in range(8)] == [
        "ABCD"[int(r * 4)].lower() for r in values()
    ]


def values():
    numbers = random.Random("7/0")
    return [numbers.random() for _ in range(8)]


def test_a_circle_is_told():
    with pytest.raises(
        ValueError, match=r"more than 20 deep \(__a__ > __b__ > __a__ > __b__ > \.\.\.\). Break the circle"
    ):
        resolved("__a__", lines={"a": ["__b__"], "b": ["__a__"]})
    with pytest.raises(ValueError, match="more than 20 deep"):
        resolved("{0::x|" * 500 + "a" + "}" * 500)


def test_files_that_multiply_each_other_are_told():
    lines = {f"a{i}": [f"__a{i + 1}__ " * 4] for i in range(15)} | {"a15": ["x"]}
    with pytest.raises(ValueError, match="lead to more than 10,000 others, the last __a.*__. Use fewer"):
        resolved("__a0__", lines=lines)
    assert resolved("__a12__", lines=lines).split() == ["x"] * 64


def test_alternatives_that_weigh_nothing_are_told():
    with pytest.raises(ValueError, match=r"the alternatives 0::a\|0::b weigh 0 in all. Raise a weight"):
        resolved("{0::a|0::b}")


def test_many_open_braces_take_no_time_that_grows_with_their_square():
    assert resolved("{" * 200_000) == "{" * 200_000


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "wildcards"
    (found / "birds").mkdir(parents=True)
    (found / "birds" / "wild.txt").write_text("# two\nhen\n\nowl\n", encoding="utf-8-sig")
    (found / "empty.txt").write_text("# none\n")
    (found / "latin.txt").write_bytes("grün".encode("latin-1"))
    (tmp_path / "secret.txt").write_text("secret")
    return wildcards.Folder(found)


def test_a_file_has_a_choice_a_line(folder):
    assert folder.choices("birds/wild") == ["hen", "owl"]


@pytest.mark.parametrize(
    "name, told",
    [
        (
            "none",
            r"__none__: wildcards/none.txt cannot be read \(No such file or directory\). Put it there with a choice",
        ),
        ("empty", r"wildcards/empty.txt has no lines to choose from. Write a choice a line"),
        ("latin", r"wildcards/latin.txt is not in UTF-8 \(.*\). Save it as UTF-8"),
        ("../secret", r"__../secret__ leads out of the folder wildcards. Name a file in it"),
        ("/etc/hosts", r"__/etc/hosts__ leads out of the folder wildcards"),
        ("birds", r"__birds__: wildcards/birds.txt cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(folder, name, told):
    with pytest.raises(ValueError, match=told):
        folder.choices(name)


def test_a_change_of_a_file_shows(folder):
    before = folder.state()
    assert [name for name, *_ in before] == ["birds/wild.txt", "empty.txt", "latin.txt"]
    (folder.folder / "birds" / "wild.txt").write_text("hen\n")
    assert folder.state() != before


def test_linked_files_and_folders_are_read_and_their_changes_show(folder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "tree.txt").write_text("oak\n")
    support.link(folder.folder / "one.txt", disk / "tree.txt")
    support.link(folder.folder / "trees", disk)
    support.link(folder.folder / "gone.txt", tmp_path / "gone")
    assert folder.choices("one") == folder.choices("trees/tree") == ["oak"]
    before = folder.state()
    assert {"one.txt", "trees/tree.txt"} == {name for name, *_ in before} - {"birds/wild.txt", "empty.txt", "latin.txt"}
    (disk / "tree.txt").write_text("oak\nelm\n")
    assert {name for name, *_ in set(before) ^ set(folder.state())} == {"one.txt", "trees/tree.txt"}
