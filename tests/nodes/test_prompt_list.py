"""Chroma Prompt List, Row Value and Picture Grid as nodes; and in a server, where each row becomes a picture."""

import json

import numpy as np
import pytest
import support
import torch
from graphs import Graph

pytestmark = pytest.mark.host

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def node(comfy, monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    module = support.dev.load_pack("nodes.prompt_list")
    monkeypatch.setattr(module, "said", [], raising=False)
    monkeypatch.setattr(module, "report", lambda node, text: module.said.append(text()))
    return module


@pytest.fixture
def grid(comfy):
    return support.dev.load_pack("nodes.picture_grid").ChromaPictureGrid


def test_each_line_is_a_prompt_and_is_told(node):
    prompts, negatives, seeds, labels, rows = node.ChromaPromptList.execute("# two\na fox\n\na hen\n", seed=3).args
    assert (prompts, negatives, seeds) == (["a fox", "a hen"], ["", ""], [3, 4])
    assert labels == ["3: a fox", "4: a hen"] and rows == [{"prompt": "a fox"}, {"prompt": "a hen"}]
    assert node.said == ["2 pictures, from 2 of 2 rows\n3: a fox\n4: a hen\ncolumns: prompt"]


def test_a_table_and_wildcards_lie_in_the_input_folder(node, tmp_path):
    (tmp_path / "rows.CSV").write_text("prompt,steps\na __what__,26\n,30\nlast,5\n")
    (tmp_path / "wildcards").mkdir()
    (tmp_path / "wildcards" / "what.txt").write_text("hen\n")
    (tmp_path / "picture.png").touch()
    options = next(i.options for i in node.ChromaPromptList.define_schema().inputs if i.id == "file")
    assert options == ["none", "rows.CSV"]
    prompts, *_, rows = node.ChromaPromptList.execute("of the node", "rows.CSV", num_rows=2).args
    assert prompts == ["a hen", "of the node"]
    assert [node.ChromaRowValue.execute(row, "Steps").args for row in rows] == [(26,), (30,)]
    assert node.ChromaPromptList.execute("", "rows.CSV", first_row=3).args[0] == ["last"]


def test_a_change_of_a_table_or_wildcard_shows(node, tmp_path):
    import os

    (tmp_path / "rows.txt").write_text("a")
    (tmp_path / "wildcards").mkdir()
    seen = [node.ChromaPromptList.fingerprint_inputs(file="rows.txt", text="a")]
    os.utime(tmp_path / "rows.txt", (1, 1))
    seen.append(node.ChromaPromptList.fingerprint_inputs(file="rows.txt"))
    (tmp_path / "wildcards" / "a.txt").write_text("a")
    seen.append(node.ChromaPromptList.fingerprint_inputs(file="rows.txt"))
    assert seen[0] != seen[1] != seen[2] and seen[2] == node.ChromaPromptList.fingerprint_inputs(file="rows.txt")


@pytest.mark.parametrize(
    "given, told",
    [
        ({"text": " \n# none"}, "^there are no rows. Write a prompt a line, or choose a file"),
        ({"text": "", "file": "rows.csv"}, "^rows.csv, row 2: seed is 'x', expected a whole number"),
        ({"text": "a", "first_row": 3}, "^first row is 3, but the last is 1. Lower it"),
        ({"text": "a __none__"}, r"^row 1: __none__: wildcards/none.txt cannot be read"),
        ({"text": "a", "file": "../rows.csv"}, "^file is '../rows.csv'; it must be one of none, rows.csv"),
        ({"text": "a", "repeats": 0}, "^repeats is 0; allowed is a whole number from 1 to 1000"),
    ],
)
def test_what_cannot_be_used_is_told(node, tmp_path, given, told):
    (tmp_path / "rows.csv").write_text("prompt,seed\na,1\nb,x\n")
    with pytest.raises(ValueError, match=told):
        node.ChromaPromptList.execute(**given)


def test_the_page_does_not_choose_wildcards_itself(node):
    text = next(i for i in node.ChromaPromptList.define_schema().inputs if i.id == "text")
    assert text.dynamic_prompts is False


def painted(*values, side=64):
    return [torch.full((1, side, side, 3), value) for value in values]


def test_a_list_is_laid_out_in_its_order(grid):
    """Grey values of 8 bits, read from the middle of each cell of 128."""
    (sheet,) = grid.execute(images=painted(0.0, 0.2, 0.4), columns=[2]).args
    assert sheet.shape == (1, 8 + 2 * 136, 8 + 2 * 136, 3) and sheet.dtype == torch.float32
    at = [sheet[0, 8 + 32 + 136 * row, 8 + 64 + 136 * column, 0].item() * 255 for row in (0, 1) for column in (0, 1)]
    assert [round(value) for value in at] == [0, 51, 102, 255]


def test_labels_come_as_a_list_or_as_lines_and_make_room(grid):
    images = painted(0.0, 0.2)
    plain, listed, lines = (
        grid.execute(images=images, columns=[2], labels=labels).args[0] for labels in ([""], ["a", "b"], ["a\nb"])
    )
    assert torch.equal(listed, lines) and listed.shape[1] == plain.shape[1] + 4 * 16
    assert (listed[0, 8 + 128 :] < 0.5).any()


def test_a_batch_is_laid_out_too_and_shares_its_entrys_label(grid):
    batch = torch.cat(painted(0.0, 0.2, 0.4, 0.6))
    assert grid.execute(images=[batch]).args[0].shape[1:3] == (280, 280)
    shared = grid.execute(images=[batch[:2], batch[2:]], columns=[4], labels=["x", "y"]).args[0]
    each = grid.execute(images=[batch], columns=[4], labels=["x\nx\ny\ny"]).args[0]
    assert torch.equal(shared, each)


def test_column_labels_set_the_number_of_columns(grid):
    (sheet,) = grid.execute(images=painted(*[0.1] * 6), column_labels=["cfg 3\ncfg 4\ncfg 5"], row_labels=["a\nb"]).args
    assert sheet.shape[2] == 10 * 16 + 3 * 136 and sheet.shape[1] == 4 * 16 + 2 * 136


@pytest.mark.parametrize(
    "given, told",
    [
        ({"columns": [-1]}, "columns is -1; allowed is a whole number from 0 to 1000"),
        ({"images": ["x"]}, "images is 'x'; allowed is an IMAGE"),
        ({"images": painted(0.0, side=256) * 70, "largest": [256], "columns": [70]}, "the sheet would have"),
    ],
    ids=["columns", "images", "size"],
)
def test_wrong_inputs_of_the_grid_are_told(grid, given, told):
    with pytest.raises(ValueError, match=told):
        grid.execute(**{"images": painted(0.1), **given})


# --- in a server -----------------------------------------------------------------------------------------------------


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_rows_of_a_table_are_painted_in_one_run_as_by_hand(server):
    """Prompt, seed and steps of each row; the grid shows the three pictures, larger than its cells at their own size."""
    folder = support.dev.base_dir() / "input"
    rows = [("a red circle", 801, 2), ("a blue square", 802, 3), ("a red circle", 803, 2)]
    (folder / "list-test.jsonl").write_text(
        "\n".join(json.dumps({"prompt": p, "seed": s, "steps": n, "label": f"row {s}"}) for p, s, n in rows)
    )
    (folder / "wildcards").mkdir(exist_ok=True)
    graph = Graph.demo(server)
    listed = graph.copy()
    key = listed.add("ChromaPromptList", text="", file="list-test.jsonl", seed=0, repeats=1)
    steps = listed.add("ChromaRowValue", row=[key, 4], column="steps")
    listed.set("ChromaTextEncode", "Prompt", text=[key, 0]).set("KSampler", seed=[key, 2], steps=[steps, 0])
    (save,) = [node for node in listed.nodes.values() if node["class_type"] == "SaveImage"]
    listed.add("ChromaPictureGrid", images=save["inputs"]["images"], labels=[key, 3], columns=3, largest=512)
    *several, sheet = sorted(listed.run(server), key=lambda path: "temp" in path.parts)
    byhand = []
    for prompt, seed, num in rows:
        one = graph.copy().set("KSampler", seed=seed, steps=num).set("ChromaTextEncode", "Prompt", text=prompt)
        byhand.append(pixels(one.run(server)[0]))
    assert [(pixels(path) == wanted).all() for path, wanted in zip(several, byhand, strict=True)] == [True] * 3
    shown = pixels(sheet)
    for i, wanted in enumerate(byhand):
        left = 8 + i * (128 + 8)
        assert np.abs(shown[8 : 8 + 128, left : left + 128] - wanted).max() <= 1  # of 255, floats on the way


def test_an_empty_cell_ends_the_run_with_its_column(server):
    graph = Graph.demo(server)
    key = graph.add("ChromaPromptList", text="a red circle", file="none", seed=0, repeats=1)
    steps = graph.add("ChromaRowValue", row=[key, 4], column="steps")
    graph.set("KSampler", seed=[key, 2], steps=[steps, 0])
    assert "a row has no value in the column 'steps'; it has 'prompt'" in graph.fails(server)


def test_a_file_that_comes_by_a_link_has_a_fingerprint(node):
    """The host asks with None for it; what a failing one gives is never equal, so nothing behind it would be kept."""
    fingerprint = node.ChromaPromptList.fingerprint_inputs
    assert fingerprint(file=None) == fingerprint(file=None)
