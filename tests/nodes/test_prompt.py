"""Chroma Prompt as a node."""

import pytest
import support

pytestmark = pytest.mark.host


@pytest.fixture
def node(comfy, monkeypatch):
    module = support.dev.load_pack("nodes.prompt")
    monkeypatch.setattr(module, "said", [], raising=False)
    monkeypatch.setattr(
        module, "report", lambda node, text: module.said.append(text() if callable(text) else text)
    )  # no server is running here
    return module


def test_defaults_of_the_node_change_nothing(node):
    schema = node.ChromaPrompt.define_schema()
    defaults = {i.id: i.default for i in schema.inputs if i.id != "text"}
    assert node.ChromaPrompt.execute(" a fox in the snow at dawn\n", **defaults).result == (
        " a fox in the snow at dawn\n",
    )
    assert node.ChromaPrompt.execute(" a fox in the snow at dawn\n").result == (" a fox in the snow at dawn\n",)
    assert node.said == ["nothing added"] * 2


def test_node_shows_the_prompt_and_what_each_addition_is(node):
    (prompt,) = node.ChromaPrompt.execute(
        "a fox in the snow at dawn", "photograph", "aesthetic 11", "best quality", "winter"
    ).result
    assert prompt == "a fox in the snow at dawn. winter. aesthetic 11. best quality."
    assert node.said[0].splitlines() == [
        prompt,
        "aesthetic 11 — marks choice pictures made by AI; other words of the prompt may bleed",
        "best quality — a usual quality tag; it may work or not",
    ]


def test_every_input_has_a_tooltip_and_the_ids_of_the_method(node):
    schema = node.ChromaPrompt.define_schema()
    assert all(i.tooltip for i in schema.inputs)
    assert (support.ROOT / "web" / "docs" / f"{schema.node_id}.md").is_file()
