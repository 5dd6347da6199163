"""The judge of changes to nodes, on changes of each kind to the real record."""

import copy
import json

import node_changes
import pytest
import support

RECORD = json.loads((support.ROOT / "tests" / "nodes" / "nodes.json").read_text(encoding="utf-8"))
RELEASED = sorted((support.ROOT / "tests" / "nodes" / "released").glob("*.json"))  # the record as each release had it
KNOWN_BREAKS = {  # which the changelog tells
    "ChromaSaveQuantized: filename_prefix has the default 'diffusion_models/%model%', before 'diffusion_models/chroma'"
}
NODE = "ChromaBetaScheduler"


def entry(record, name):
    return next(i for i in record[NODE]["inputs"] if i["name"] == name)


def swap(record):
    inputs = record[NODE]["inputs"]
    inputs[2], inputs[3] = inputs[3], inputs[2]


BREAKING = {
    "the node is gone": lambda r: r.pop(NODE),
    "input alpha is gone": lambda r: r[NODE]["inputs"].remove(entry(r, "alpha")),
    "alpha is INT, before FLOAT": lambda r: entry(r, "alpha").update(kind="INT"),
    "alpha has the default 0.5, before 0.6": lambda r: entry(r, "alpha").update(default=0.5),
    "alpha has the max 1, before 50.0": lambda r: entry(r, "alpha").update(max=1),
    "steps has the min 2, before 1": lambda r: entry(r, "steps").update(min=2),
    "denoise is required, and was not": lambda r: r[NODE]["required"].append("denoise"),
    "widgets stand in another order: steps, beta, alpha": swap,
    "widgets stand in another order: new, steps": lambda r: r[NODE]["inputs"].insert(1, {"name": "new", "kind": "INT"}),
    "outputs are MODEL, SIGMAS, before SIGMAS": lambda r: r[NODE]["outputs"].insert(0, ["MODEL", "MODEL"]),
}
COMPATIBLE = {
    "another node": lambda r: r.update(New=r[NODE]),
    "a last widget": lambda r: r[NODE]["inputs"].append({"name": "new", "kind": "INT", "default": 1}),
    "another connection": lambda r: r[NODE]["inputs"].insert(0, {"name": "new", "kind": "VAE"}),
    "a wider range": lambda r: entry(r, "alpha").update(min=0, max=100),
    "no required input": lambda r: r[NODE]["required"].remove("beta"),
    "a last output": lambda r: r[NODE]["outputs"].append(["MODEL", "MODEL"]),
    "another tooltip's step": lambda r: entry(r, "alpha").update(step=0.1),
}


@pytest.mark.parametrize("told", BREAKING)
def test_what_breaks_saved_workflows_is_told(told):
    changed = copy.deepcopy(RECORD)
    BREAKING[told](changed)
    (line,) = node_changes.breaks(RECORD, changed)
    assert line.startswith(f"{NODE}: {told}")


@pytest.mark.parametrize("what", COMPATIBLE)
def test_what_old_workflows_do_not_notice_is_not_told(what):
    changed = copy.deepcopy(RECORD)
    COMPATIBLE[what](changed)
    assert changed != RECORD and node_changes.breaks(RECORD, changed) == []


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_every_release_is_kept_but_for_what_is_known(path):
    """However the record of today is rewritten; a release gets a file here by a copy of `nodes.json`."""
    assert set(node_changes.breaks(json.loads(path.read_text(encoding="utf-8")), RECORD)) <= KNOWN_BREAKS


def test_a_choice_that_is_gone_is_told():
    name, node, combo = next(
        (name, node, i) for name, node in RECORD.items() for i in node["inputs"] if len(i.get("choices", ())) > 2
    )
    changed = copy.deepcopy(RECORD)
    found = next(i for i in changed[name]["inputs"] if i["name"] == combo["name"])
    gone = next(c for c in combo["choices"] if c != combo.get("default"))
    found["choices"].remove(gone)
    assert node_changes.breaks(RECORD, changed) == [f"{name}: {combo['name']} no longer takes {gone}"]
    found["choices"] += [gone, "new"]
    assert node_changes.breaks(RECORD, changed) == []
