"""Chroma XY Plot beside its plan, which tests/tables looks at: what it offers is there on Chroma's own nodes."""

import json

import pytest
import support

pytestmark = pytest.mark.host

INPUTS = {
    "loader": ("loader", "ChromaDiffusionLoader", {"unet_name": "a.gguf", "quant_mode": "auto"}),
    "good": ("text", "ChromaTextEncode", {"clip": ["c", 0], "text": "x"}),
    "bad": ("text", "ChromaTextEncode", {"clip": ["c", 0], "text": "y"}),
}
LINKS = {"model": ["loader", 0], "positive": ["good", 0], "negative": ["bad", 0], "latent": ["l", 0]}


@pytest.fixture
def module(comfy):
    return support.dev.load_pack("nodes.xy_plot")


def definition(node):
    return {"input": node.INPUT_TYPES(), "output": list(node.RETURN_TYPES)}


@pytest.fixture
def flow(module):
    """Chroma KSampler with a loader and two prompts, and the definitions of these."""
    definitions, prompt = module.Definitions(), {}
    for key, (file, kind, inputs) in INPUTS.items():
        definitions[kind] = definition(getattr(support.dev.load_pack(f"nodes.{file}"), kind))
        prompt[key] = {"class_type": kind, "inputs": inputs}
    sampler = support.dev.load_pack("nodes.ksampler").ChromaKSampler
    definitions["ChromaKSampler"] = definition(sampler)
    own = {one.id: getattr(one, "default", None) for one in sampler.define_schema().inputs}
    prompt["sampler"] = {"class_type": "ChromaKSampler", "inputs": {**own, "shift": "1 (as trained)", **LINKS}}
    return module.Workflow(prompt), definitions


def test_every_offered_axis_is_an_input_and_begins_with_values_that_it_takes(module, flow):
    places = {}
    for name, text in module.AXES.items():
        found = module.axis_of("x", {"x": name, "values": text or "a fox, asleep"}, *flow)
        places[name] = found.place.node
        assert found.values and (text or found.values == ("a fox, asleep",))
    assert places.pop("precision") == "loader"
    assert (places.pop("prompt"), places.pop("negative prompt")) == ("good", "bad")
    assert set(places.values()) == {"sampler"}


def test_what_a_choice_stands_in_the_place_of_are_inputs_of_the_node(flow):
    """tables/ knows no node; what it says of Chroma KSampler is what that has."""
    (kind, (name, own, inputs)), *_ = support.dev.load_pack("tables.places").CHOICES.items()
    sampler = support.dev.load_pack("nodes.ksampler").ChromaKSampler.define_schema()
    schema = {one.id: one for one in sampler.inputs}
    assert sampler.node_id == kind and set(inputs) < set(schema) and own in schema[name].options


def test_time_is_that_of_what_makes_latents_of_latents(flow):
    _, definitions = flow
    assert definitions.samples("ChromaKSampler") and not definitions.samples("ChromaDiffusionLoader")


@pytest.mark.parametrize(
    "given, told", [({"x": "cfg", "values": "x"}, "x: cfg is 'x'"), ({"x": "steps", "values": ""}, "x: there are")]
)
def test_the_axis_is_named(module, flow, given, told):
    with pytest.raises(ValueError, match=told):
        module.axis_of("x", given, *flow)


def test_seconds_of_a_node_are_those_from_its_last_start_to_its_end(comfy, monkeypatch):
    times = support.dev.load_pack("host.run.node_times")
    clock = iter([1.0, 5.0, 7.5])
    monkeypatch.setattr(times.time, "perf_counter", lambda: next(clock))
    found = times.NodeTimes()
    found.start_handler("a", None, "p")  # it asks for an input
    found.start_handler("a", None, "p")
    found.finish_handler("a", None, "p")
    found.finish_handler("a", None, "p")  # from the cache in a later run
    assert found.seconds == {"a": 2.5}


ABOUT = {"column": 0, "row": 0, "timed": [], "heads": ["1"], "sides": [], "largest": 64, "number": 1, "of": 1}


@pytest.mark.parametrize(
    "cell",
    ["", "x", "{'a': 1}", "[]", "{}", "9" * 5000, "[" * 100_000]
    + [
        json.dumps({**ABOUT, **wrong})
        for wrong in ({"column": 1}, {"row": -1}, {"heads": [1]}, {"of": "1"}, {"largest": 0})
    ],
    ids=lambda text: text[:30],
)
def test_a_place_that_it_has_not_written_is_refused_in_a_sentence(module, cell):
    assert module.read_cell(json.dumps(ABOUT)) == ABOUT
    with pytest.raises(ValueError, match="no picture's place in a plot. Use Chroma XY Plot"):
        module.read_cell(cell)
