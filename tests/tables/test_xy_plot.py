"""XY plots without a host: what is copied, what is shared, in which order."""

from collections import Counter
from types import SimpleNamespace

import pytest
import support
from small_flow import INFO, PROMPT

xy_plot, places = (support.dev.load_pack(f"tables.{name}") for name in ("xy_plot", "places"))
FLOW = SimpleNamespace(prompt={**PROMPT, "7": {"class_type": "Decode", "inputs": {"samples": ["5", 0]}}}, shown={})
INFO = {**INFO, "Decode": {"input": {"required": {"samples": ["LATENT", {}]}}}}


def axis(name, text):
    return xy_plot.axis(name, name, text, FLOW, INFO)


def planned(*axes):
    return xy_plot.plan(FLOW.prompt, ["7", 0], [axis(*one) for one in axes], "x/")


def made_from(plan):
    return Counter(node["override_display_id"] for node in plan.nodes.values())


@pytest.mark.parametrize(
    "text, is_text, values",
    [
        ("3, 4,5", False, ["3", "4", "5"]),
        (" 1..4 ", False, [1, 2, 3, 4]),
        ("-1 .. 1", False, [-1, 0, 1]),
        ("a, b\nc", False, ["a, b", "c"]),  # a value a line
        ("a fox, asleep", True, ["a fox, asleep"]),
        ('["a", "b, c", 3]', True, ["a", "b, c", 3]),
        ("3, 3, 4", False, ["3", "4"]),
    ],
)
def test_values_are_read_from_a_line_lines_or_a_list(text, is_text, values):
    assert xy_plot.values_of(text, is_text) == values


def test_copies_have_no_fingerprint_of_the_hosts():
    """The host writes a node's own into it, and reads it before it asks the node's class."""
    prompt = {key: {**node, "is_changed": [f"of {key}"]} for key, node in FLOW.prompt.items()}
    plan = xy_plot.plan(prompt, ["7", 0], [axis("cfg", "3, 4")], "x/")
    assert plan.nodes and not any("is_changed" in node for node in plan.nodes.values())


@pytest.mark.parametrize(
    "text, told", [("", "there are no values"), (" \n", "no values"), ("[1, 2", "not a JSON list")]
)
def test_text_without_values_is_told(text, told):
    with pytest.raises(ValueError, match=told):
        xy_plot.values_of(text, False)


def test_only_what_a_value_reaches_is_copied_and_once_for_each_value():
    plan = planned(("cfg", "3, 4, 5"), ("width", "64, 96"))
    assert made_from(plan) == {"6": 2, "5": 6, "7": 6}  # the prompts and the model are linked
    for cell in plan.cells:
        decode = plan.nodes[cell.picture[0]]
        sampler = plan.nodes[decode["inputs"]["samples"][0]]["inputs"]
        assert sampler["cfg"] == [3.0, 4.0, 5.0][cell.column]
        assert plan.nodes[sampler["steps"][0]]["inputs"]["width"] == [64, 96][cell.row]
        assert sampler["model"] == ["1", 0] and sampler["positive"] == ["4", 0]
        assert {cell.picture[0], decode["inputs"]["samples"][0]} <= set(cell.copies)
    assert sorted((cell.column, cell.row) for cell in plan.cells) == [(i, j) for i in range(3) for j in range(2)]


def test_ids_follow_from_the_values_so_that_what_was_painted_is_found_again():
    few, more = planned(("cfg", "3, 4")), planned(("cfg", "2, 3, 4"))
    assert set(few.nodes) < set(more.nodes)
    assert all(more.nodes[key] == node for key, node in few.nodes.items())


@pytest.mark.parametrize(
    "x, y, order",
    [
        (("cfg", "3, 4"), ("seed", "1, 2"), [(0, 0), (1, 0), (0, 1), (1, 1)]),  # as one reads
        (("cfg", "3, 4"), ("unet_name", "a.gguf, b.gguf"), [(0, 0), (1, 0), (0, 1), (1, 1)]),
        (("unet_name", "a.gguf, b.gguf"), ("cfg", "3, 4"), [(0, 0), (0, 1), (1, 0), (1, 1)]),
    ],
)
def test_a_file_is_loaded_once_and_used_up_before_the_next(x, y, order):
    plan = planned(x, y)
    assert [(cell.column, cell.row) for cell in plan.cells] == order
    assert made_from(plan)["1"] == (2 if "unet_name" in x + y else 0)


def test_a_linked_input_can_be_set_by_its_whole_name():
    plan = planned(("KSampler.steps", "8, 12"))
    found = [node["inputs"]["steps"] for node in plan.nodes.values() if node["class_type"] == "Sample"]
    assert found == [8, 12]


@pytest.mark.parametrize(
    "axes, told",
    [
        ([("cgf", "3")], "'cgf' fills no input of the workflow. Its inputs are .*cfg"),
        ([("text", "x")], "'text' could fill 'One.text', 'Two. Negative.text'. Write one of these"),
        ([("cfg", "3, many")], "cfg is 'many', expected a number from 0.0 to 100.0"),
        ([("unet_name", "c.gguf")], "unet_name is 'c.gguf', expected one of a.gguf, b.gguf"),
        ([("cfg", "3"), ("KSampler.cfg", "4")], "x and y both set cfg. Choose another input"),
        ([("seed", ",".join(map(str, range(101))))], "seed has 101 values, expected at most 100"),
        ([("seed", "1..999999999")], "expected a range that rises, of at most 100 values"),
        ([("seed", "4..1")], "expected a range that rises"),
        ([("seed", "1..50"), ("width", "16..50")], "50 x 35 pictures are more than 400. Write fewer values"),
    ],
)
def test_what_cannot_be_plotted_is_told(axes, told):
    with pytest.raises(ValueError, match=told):
        planned(*axes)
