"""A saved workflow becomes the prompt of the page; the page itself is asked in tests/browser/test_workflows.py."""

import copy
import json

import pytest

from tools.batching import workflow

INFO = {
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"control_after_generate": True}],
                "name": [["a", "b"], {}],
                "cfg": ["FLOAT", {}],
            },
            "optional": {"note": ["STRING", {}], "forced": ["INT", {"forceInput": True}]},
        },
        "input_order": {"required": ["model", "seed", "name", "cfg"], "optional": ["note", "forced"]},
    },
    "Loader": {"input": {"required": {"file": ["COMBO", {"options": ["x"]}]}}, "input_order": {"required": ["file"]}},
}
WORKFLOW = {
    "nodes": [
        {"id": 1, "type": "Loader", "inputs": [], "widgets_values": ["x"], "title": "T"},
        {
            "id": 2,
            "type": "Sampler",
            "inputs": [{"name": "model", "link": 7}, {"name": "cfg", "widget": {}, "link": 8}],
            "widgets_values": [5, "randomize", "b", 2.0, "hi"],
        },
        {"id": 3, "type": "MarkdownNote", "inputs": [], "widgets_values": ["words"]},
        {"id": 4, "type": "Loader", "mode": 4, "inputs": [], "widgets_values": ["x"]},
    ],
    "links": [[7, 1, 0, 2, 0, "MODEL"], [8, 1, 1, 2, 1, "FLOAT"]],
}


def test_workflow_becomes_the_prompt_of_the_front_end():
    assert workflow.api_graph(WORKFLOW, INFO) == {
        "1": {"class_type": "Loader", "inputs": {"file": "x"}, "_meta": {"title": "T"}},
        "2": {
            "class_type": "Sampler",
            "inputs": {"model": ["1", 0], "seed": 5, "name": "b", "cfg": ["1", 1], "note": "hi"},
            "_meta": {"title": "Sampler"},
        },
    }


def test_a_dynamic_choice_brings_the_inputs_of_what_is_chosen():
    inner = {"required": {"deep": ["INT", {}]}}
    options = [
        {"key": "off", "inputs": {"required": {}}},
        {"key": "list", "inputs": {"required": {"values": ["STRING", {}]}, "optional": {"picture": ["IMAGE", {}]}}},
        {
            "key": "more",
            "inputs": {"required": {"mode": [workflow.DYNAMIC_COMBO, {"options": [{"key": "x", "inputs": inner}]}]}},
        },
    ]
    info = {
        "Node": {
            "input": {
                "required": {"curve": [workflow.DYNAMIC_COMBO, {"options": options}]},
                "optional": {"last": ["INT", {}]},
            }
        }
    }

    def inputs(*values):
        nodes = [{"id": 1, "type": "Node", "inputs": [], "widgets_values": list(values)}]
        return workflow.api_graph({"nodes": nodes, "links": []}, info)["1"]["inputs"]

    assert inputs("off", 7) == {"curve": "off", "last": 7}
    assert inputs("list", "3, 2", 7) == {"curve": "list", "curve.values": "3, 2", "last": 7}
    assert inputs("more", "x", 5, 7) == {"curve": "more", "curve.mode": "x", "curve.mode.deep": 5, "last": 7}


def test_workflow_with_an_unknown_node_is_told():
    with pytest.raises(ValueError, match="has a node Loader, which this ComfyUI does not know"):
        workflow.api_graph(WORKFLOW, {"Sampler": INFO["Sampler"]})


def test_a_damaged_workflow_is_told_in_a_sentence():
    """tests/corpus/workflow has more."""
    for change, why in (
        (lambda saved: saved["nodes"][0].pop("id"), "KeyError: 'id'"),
        (lambda saved: saved["links"][0].__setitem__(1, 99), "KeyError: 99"),
        (lambda saved: saved["nodes"].append(None), "TypeError: .*"),
    ):
        saved = copy.deepcopy(WORKFLOW)
        change(saved)
        with pytest.raises(ValueError, match=rf"the workflow is damaged \({why}\). Open it on ComfyUI's page"):
            workflow.convert(saved, INFO)
    with pytest.raises(ValueError, match=r"has a node 'A.x7f', B, C, D, E, F, G, H and 1 more, which this"):
        workflow.refuse(["A\x7f", *"BCDEFGHI"])


def node(number, kind, inputs=(), outputs=(), values=(), mode=0, **more):
    """inputs: (name, type, link); outputs: types."""
    return {
        "id": number,
        "type": kind,
        "mode": mode,
        "inputs": [{"name": name, "type": t, "link": link} for name, t, link in inputs],
        "outputs": [{"name": t, "type": t} for t in outputs],
        "widgets_values": list(values),
        **more,
    }


PATCH = {"input": {"required": {"clip": ["CLIP", {}], "model": ["MODEL", {}], "strength": ["FLOAT", {"default": 1.0}]}}}
CHAIN = {**INFO, "Patch": PATCH}


def chain(mode):
    """Loader -> a node that takes CLIP and MODEL and gives MODEL, in this mode -> Reroute -> Sampler."""
    nodes = [
        node(1, "Loader", outputs=("MODEL", "CLIP"), values=["x"]),
        node(2, "Patch", [("clip", "CLIP", 2), ("model", "MODEL", 1)], ["MODEL"], mode=mode),
        node(3, "Reroute", [("", "*", 3)], ["MODEL"]),
        node(4, "Sampler", [("model", "MODEL", 4)], values=[5, "fixed", "a", 1.0, ""]),
    ]
    links = [[1, 1, 0, 2, 1, "MODEL"], [2, 1, 1, 2, 0, "CLIP"], [3, 2, 0, 3, 0, "MODEL"], [4, 3, 0, 4, 0, "MODEL"]]
    return {"nodes": nodes, "links": links}


@pytest.mark.parametrize(
    "mode, model",
    [(workflow.ALWAYS, ["2", 0]), (workflow.BYPASSED, ["1", 0]), (workflow.MUTED, None)],
    ids=["on", "bypassed", "muted"],
)
def test_a_bypassed_node_passes_on_the_input_of_its_type_and_a_muted_one_nothing(mode, model):
    prompt = workflow.api_graph(chain(mode), CHAIN)
    assert prompt["4"]["inputs"].get("model") == model
    assert ("2" in prompt) == (mode == workflow.ALWAYS) and "3" not in prompt


def nested():
    """Sampler in a subgraph in a subgraph; its seed is a widget of the outer one, its model comes from outside."""

    def subgraph(number, inside, inputs, target):
        links = [
            {"id": i, "origin_id": -10, "origin_slot": i, "target_id": target, "target_slot": i, "type": t}
            for i, (_, t) in enumerate(inputs)
        ]
        return {
            "id": number,
            "name": f"inner {number}",
            "nodes": [inside],
            "links": links,
            "inputNode": {"id": -10},
            "inputs": [{"name": name, "type": t} for name, t in inputs],
            "outputs": [],
        }

    slots = [("model", "MODEL"), ("start", "INT")]
    sampler = node(7, "Sampler", [("model", "MODEL", 0), ("seed", "INT", 1)], values=[5, "fixed", "a", 1.0, ""])
    middle = node(6, "deep", [("model", "MODEL", 0), ("start", "INT", 1)])
    outer = node(5, "wide", [("model", "MODEL", 1), ("start", "INT", None)], values=[42], title="Paint")
    outer["inputs"][1]["widget"] = {"name": "start"}
    subgraphs = [subgraph("deep", sampler, slots, 7), subgraph("wide", middle, slots, 6)]
    return {
        "nodes": [node(1, "Loader", outputs=["MODEL"], values=["x"]), outer],
        "links": [[1, 1, 0, 5, 0, "MODEL"]],
        "definitions": {"subgraphs": subgraphs},
    }


def test_subgraphs_are_opened_and_their_widgets_reach_the_nodes_inside():
    converted = workflow.convert(nested(), INFO)
    assert set(converted.prompt) == {"1", "5:6:7"}
    assert converted.prompt["5:6:7"]["inputs"] | {"model": 0} == {
        "model": 0,
        "seed": 42,
        "name": "a",
        "cfg": 1.0,
        "note": "",
    }
    assert converted.prompt["5:6:7"]["inputs"]["model"] == ["1", 0]
    assert converted.shown == {("Paint", "start"): [("5:6:7", "seed")]}


def test_a_muted_subgraph_takes_its_nodes_with_it():
    saved = nested()
    saved["nodes"][1]["mode"] = workflow.MUTED
    assert set(workflow.api_graph(saved, INFO)) == {"1"}


def test_a_primitive_fills_what_it_is_connected_to():
    saved = copy.deepcopy(WORKFLOW)
    saved["links"][1] = [8, 9, 0, 2, 1, "FLOAT"]
    saved["nodes"].append(node(9, "PrimitiveNode", outputs=["FLOAT"], values=[2.5, "fixed"], title="Strength"))
    saved["nodes"][-1]["outputs"][0]["widget"] = {"name": "cfg"}
    converted = workflow.convert(saved, INFO)
    assert converted.prompt["2"]["inputs"]["cfg"] == 2.5
    assert converted.shown == {("Strength", "cfg"): [("2", "cfg")]}


def test_values_that_an_older_file_lacks_are_the_defaults():
    prompt = workflow.api_graph(chain(workflow.ALWAYS), CHAIN)
    assert prompt["2"]["inputs"]["strength"] == 1.0


def test_an_export_for_the_api_stays_as_it_is():
    prompt = {"3": {"class_type": "Loader", "inputs": {"file": "x"}}}
    assert workflow.api_graph(prompt, INFO) == prompt
    with pytest.raises(ValueError, match="a node Gone, which this ComfyUI does not know"):
        workflow.api_graph({"3": {"class_type": "Gone", "inputs": {}}}, INFO)


@pytest.mark.parametrize(
    "text, told",
    [
        ("nodes:", r"wf.json is no workflow: it is not JSON \(.*\). Save it with Workflow > Save"),
        (json.dumps({"a": 1}), "wf.json is JSON, but no workflow"),
        ("[]", "wf.json is JSON, but no workflow"),
        ("\ud83d", None),
    ],
)
def test_a_file_that_is_no_workflow_is_told(tmp_path, text, told):
    path = tmp_path / "wf.json"
    path.write_bytes(b"\xff\xfe\x00" if told is None else text.encode())
    with pytest.raises(ValueError, match=told or "it is not JSON"):
        workflow.read(path)
