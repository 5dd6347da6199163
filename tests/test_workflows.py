"""What every shipped workflow has in common, read from its JSON."""

import json

import pytest
import support

WORKFLOWS = [*(support.ROOT / "example_workflows").glob("*.json"), *support.dev.WORKFLOWS]
BLUEPRINTS = [*(support.ROOT / "subgraphs").glob("*.json")]
every = pytest.mark.parametrize("path", sorted(WORKFLOWS), ids=lambda p: p.stem)


def nodes(path):
    """Its nodes, those in subgraphs too."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]
    return [node for graph in graphs for node in graph["nodes"]]


@pytest.mark.parametrize("path", sorted([*WORKFLOWS, *BLUEPRINTS]), ids=lambda p: p.stem)
def test_each_run_has_another_seed(path):
    """The front end keeps what happens to a seed after a run as the widget behind it."""
    controls = [v for node in nodes(path) for v in node.get("widgets_values") or () if v in ("fixed", "randomize")]
    assert controls and set(controls) == {"randomize"}


@every
def test_note_tells_how_to_get_a_picture_again(path):
    (note,) = [node["widgets_values"][0] for node in nodes(path) if node["type"] == "MarkdownNote"]
    again = "drop its file onto the page: its seed and settings are in it"
    assert "Each *Run* makes another picture" in note and (again in note or "*fixed*" in note)  # before the run


@every
def test_notes_have_no_code(path):
    """Nodes 2.0 shows code in a dark theme at a contrast of 1.47 to 1."""
    assert not any("`" in node["widgets_values"][0] for node in nodes(path) if node["type"] == "MarkdownNote")


# It edits with a model of any kind, whose preset may want a negative prompt that it has not.
CUSTOM = {"chroma_edit": 1}


@every
def test_samplers_take_the_settings_of_the_checkpoint(path):
    chosen = [node["widgets_values"][9] for node in nodes(path) if node["type"] == "ChromaKSampler"]
    assert chosen.count("custom") == CUSTOM.get(path.stem, 0) and set(chosen) <= {"standard", "custom"}


@pytest.mark.parametrize("path", sorted([*WORKFLOWS, *BLUEPRINTS]), ids=lambda p: p.stem)
def test_values_of_a_sampler_with_a_choice_are_those_that_it_takes(path):
    """So that a person who reads the file, or opens it where no model is, sees what a run does."""
    advice = {name: support.dev.load_pack(f"advice.{name}") for name in ("presets", "recognise_preset")}
    every = nodes(path)
    names = [v for node in every for v in node.get("widgets_values") or () if isinstance(v, str)]
    file = next(
        (name for name in names if name.lower().startswith("chroma") and name.endswith((".safetensors", ".gguf"))), ""
    )
    row = advice["recognise_preset"].recognise(file=file).name
    for node in every:
        if node["type"] == "ChromaKSampler" and node["widgets_values"][9] != "custom":
            p = advice["presets"].of_choice(row, node["widgets_values"][9])
            assert node["widgets_values"][2:5] == [p.steps, p.cfg, p.sampler], (row, node["id"])
