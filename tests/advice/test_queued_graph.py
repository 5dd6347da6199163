"""How a queued graph is read: titles, values through links, files, LoRAs, and what stays unknown."""

import math

import pytest
import support
from queued_graphs import HARM, IDLE, LONG, between, change, clean, custom, node

queued = support.dev.load_pack("advice.queued_graph")
queued_run = support.dev.load_pack("advice.queued_run")
shifts = support.dev.load_pack("advice.queued_shift")
doctor = support.dev.load_pack("advice.doctor")


def the_run(graph, record=None):
    (run,) = queued_run.runs(queued.Graph(graph), record or {})
    return run


def found(graph):
    return [(f.severity, f.node_id, f.title) for f in doctor.examine(graph)]


@pytest.mark.parametrize(
    "meta, title",
    [
        ({"title": "My sampler"}, "My sampler"),
        ({"title": ""}, "KSampler"),
        ({"title": 3}, "KSampler"),
        ("x", "KSampler"),
    ],
)
def test_a_node_is_called_by_its_title_or_its_kind(meta, title):
    graph = clean()
    graph["10"]["_meta"] = meta
    assert queued.Graph(graph).title("10") == title


def test_a_lora_node_that_is_linked_twice_counts_once():
    graph = clean()
    graph["60"] = node("LoraName", lora_name="style.safetensors", strength=1.0)
    between(graph, "LoraStacker", lora_1=["60", 0], lora_2=["60", 0])
    assert queued.Graph(graph).loras(the_run(graph).models) == (["style.safetensors"], "")


def test_the_reports_file_counts_where_the_graph_names_none():
    graph = clean()
    graph["1"]["inputs"] = {}
    assert the_run(graph).file == ""
    assert the_run(graph, {"node": "4", "file": "Chroma1-HD.safetensors"}).file == "Chroma1-HD.safetensors"
    assert the_run(graph, {"node": "4", "file": None}).file == ""


def test_a_chain_that_ends_before_its_loader_names_its_last_node():
    graph = clean()
    graph["1"] = node("ModelSwitch", on_true=["7", 0], on_false=["8", 0])
    graph["7"], graph["8"] = (node("UNETLoader", unet_name=f"{n}.safetensors") for n in ("chroma-a", "chroma-b"))
    change(graph, "4", "Passes", shift=0)
    graph["4"]["inputs"] = {"model": ["1", 0]}
    run = the_run(graph)
    assert not run.found.sure and "before ModelSwitch (node 1)" in run.found.reason
    assert run.shift == shifts.Shift(None, "1")


@pytest.mark.parametrize("base, most, known", [(0.5, 1.15, True), (0.5, 1e9, False), (0.5, None, False)])
def test_a_shift_that_the_node_refuses_is_not_known(base, most, known):
    found = shifts.by_resolution(1024, 1024, base, most)
    assert found == (pytest.approx(math.exp(1.15)) if known else None)


@pytest.mark.parametrize("side", ["width", "height"])
def test_a_size_that_a_node_computes_is_not_known(side):
    graph = clean()
    assert queued_run.picture_size(queued.Graph(graph), the_run(graph)) == (1024, 1024, "9")
    graph["70"] = node("MathInt", a=1, b=2)
    change(graph, "9", **{side: ["70", 0]})
    assert queued_run.picture_size(queued.Graph(graph), the_run(graph)) is None
    change(graph, "9", **{side: 0})
    assert queued_run.picture_size(queued.Graph(graph), the_run(graph)) is None


@pytest.mark.parametrize("cfg, told", [(1.0, False), (2.0, True), (["70", 0], False)])
def test_one_prompt_on_both_sides_is_idle_where_cfg_acts(cfg, told):
    graph = change(clean(cfg=cfg), "10", negative=["5", 0])
    graph["70"] = node("MathFloat", a=1.0, b=2.0)
    titles = [title for severity, _, title in found(graph) if severity == IDLE]
    assert ("the positive prompt is the negative one too" in titles) == told


def test_both_prompts_are_asked_for_their_length():
    graph = change(clean(), "5", "ChromaTextEncode", text=LONG * 8, over_limit="truncate")
    change(graph, "6", text=LONG * 8)
    assert {(severity, key) for severity, key, title in found(graph) if "token" in title or "cut off" in title} == {
        (IDLE, "5"),
        (HARM, "6"),
    }


def test_a_short_negative_prompt_is_told_at_the_node_that_has_it():
    graph = between(
        change(clean(), "6", text="ugly"), "ConditioningSetTimestepRange", name="negative", start=0.0, end=1.0
    )
    assert [key for _, key, title in found(graph) if title == "a short negative prompt"] == ["6"]


@pytest.mark.parametrize("denoise, told", [(1.0, True), (0.5, False)])
def test_only_whole_runs_are_told_of_a_rough_last_step(denoise, told):
    graph = change(clean(scheduler="simple", steps=4, denoise=denoise), "4", shift=3.0)
    assert any("4 steps of simple" in title for _, _, title in found(graph)) == told


def test_a_run_of_many_nodes_is_read_as_one_of_a_single_node():
    assert the_run(custom()).sampler == the_run(clean()).sampler == "euler"


@pytest.mark.parametrize("role, name", [(role, name) for role, names in queued.ROLES.items() for name in names])
@pytest.mark.parametrize("number", ["", "1", "_1", "_a", "_0"])
def test_what_a_node_passes_on_comes_in_by_a_name_of_its_role(role, name, number):
    """Beside an input of another kind, which a lone link would hide."""
    graph = {"1": node("Maker"), "2": node("Passes", image=["3", 0], **{name + number: ["1", 0]}), "3": node("Image")}
    assert queued.Graph(graph).source("2", role) == ("1", 0)
    graph["2"]["inputs"] = {"image": ["3", 0], name + number + "x": ["1", 0]}
    assert queued.Graph(graph).source("2", role) is None


def test_of_two_names_of_a_role_the_better_one_counts():
    graph = {"1": node("A"), "2": node("B"), "3": node("Passes", conditioning=["1", 0], positive=["2", 0])}
    assert queued.Graph(graph).source("3", "positive") == ("2", 0)
    assert queued.Graph(graph).source("3", "negative") == ("1", 0)


@pytest.mark.parametrize("curve, told", [("constant", True), ("linear", False), ("cosine", False), ("list", False)])
def test_cfg_1_is_told_only_where_it_stays_1(curve, told):
    graph = between(change(clean(cfg=1.0), "6", text=LONG * 2), "ChromaGuidance", curve=curve, **{"curve.end": 5.0})
    titles = {title for _, _, title in found(graph)}
    assert titles == ({"the negative prompt does nothing at cfg 1", "cfg 1 with Chroma1-HD"} if told else set())


@pytest.mark.parametrize(
    "name, maker, value",
    [
        ("text", {"prefix": "a fox"}, None),  # not called a text
        ("text", {"text": "a fox"}, "a fox"),
        ("text", {"text": "a fox", "copies": 2}, "a fox"),
        ("text", {"text": "a fox", "more": ["9", 0]}, None),  # it joins or changes texts
        ("text", {"copies": 2, "more": ["9", 0]}, "an owl"),  # a number beside a link changes no text
        ("steps", {"value": 26}, 26),
        ("steps", {"value": 26, "text": "x"}, None),  # which of the two is not known
        ("steps", {"value": 26, "more": ["9", 0]}, None),
        ("steps", {"more": ["9", 0]}, "an owl"),  # `number` refuses it
    ],
)
def test_a_linked_value_is_known_where_its_maker_holds_one(name, maker, value):
    graph = {"1": node("Takes", **{name: ["2", 0]}), "2": node("Maker", **maker), "9": node("Text", text="an owl")}
    assert queued.Graph(graph).value("1", name) == value
    assert queued.Graph(graph).number("1", name) == (value if isinstance(value, int) else None)


@pytest.mark.parametrize("length, known", [(1, True), (20, True), (21, True), (22, False), (40, False)])
def test_a_value_is_followed_through_twenty_reroutes_and_one(length, known):
    graph = {str(i): node("Reroute", value=[str(i + 1), 0]) for i in range(length)}
    graph[str(length)] = node("Number", value=5)
    assert queued.Graph(graph).value("0", "value") == (5 if known else None)


@pytest.mark.parametrize("switch, kept", [("On", True), (True, True), ("Off", False), (False, False), (None, True)])
def test_a_lora_that_a_switch_takes_off_does_not_count(switch, kept):
    graph = between(clean(), "Stack", lora_name_1="a.safetensors", switch_1=switch)
    assert queued.Graph(graph).loras(the_run(graph).models)[0] == (["a.safetensors"] if kept else [])


def test_the_sampler_is_that_of_the_chains_last_node():
    graph = custom(sampler="dpmpp_2m")
    graph["60"] = node("DetailDaemonSamplerNode", sampler=["22", 0])
    graph["10"]["inputs"]["sampler"] = ["60", 0]
    assert the_run(graph).sampler == "dpmpp_2m"


@pytest.mark.parametrize("known, counts", [("4", True), ("60", False), ("61", False)])
def test_a_report_counts_for_the_loader_that_it_was_made_of_only(known, counts):
    graph = clean()
    graph["1"]["inputs"] = {}
    graph["0"], graph["2a"] = node("UNETLoader"), node("UNETLoader")  # by name before and behind that of the run
    graph["60"], graph["61"] = node("Passes", model=["0", 0]), node("Passes", model=["2a", 0])
    assert bool(the_run(graph, {"node": known, "file": "Chroma1-HD.safetensors"}).file) == counts
