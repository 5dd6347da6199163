"""Tables of settings and crossed axes; every way in which a file can be wrong."""

import json
import sys

import pytest
import support

rows = support.dev.load_pack("tables.rows")


def values(path):
    return [dict(row.values) for row in rows.read_rows(path)]


def test_a_csv_gives_its_cells_and_no_value_for_an_empty_one(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('prompt,seed\n"a, ""b""\nc",1\n\n,2\n', encoding="utf-8-sig")
    assert values(path) == [{"prompt": 'a, "b"\nc', "seed": "1"}, {"seed": "2"}]


def test_a_text_gives_a_prompt_a_line_and_leaves_remarks_out(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("# mine\n a fox, {red|grey} \n\n#1 of all\n", encoding="utf-8-sig")
    assert values(path) == [{"prompt": "a fox, {red|grey}"}]


def test_json_lines_and_tabs_are_read_too(tmp_path):
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"prompt": "ü", "seed": 1, "cfg": null}\n\n{"prompt": ""}\n', encoding="utf-8")
    assert values(lines) == [{"prompt": "ü", "seed": 1}, {"prompt": ""}]
    tabs = tmp_path / "rows.tsv"
    tabs.write_text("prompt\tseed\na, b\t1\n", encoding="utf-8")
    assert values(tabs) == [{"prompt": "a, b", "seed": "1"}]


@pytest.mark.parametrize("name, mark", [("rows.csv", ";"), ("rows.csv", "\t"), ("rows.tsv", ";"), ("rows.tsv", ",")])
def test_a_table_is_read_with_the_delimiter_that_its_first_line_has(tmp_path, name, mark):
    path = tmp_path / name
    path.write_text(f'prompt{mark}seed\r\n"a{mark} b"{mark}1\r\n', encoding="utf-8-sig")  # as Excel in Germany: ;
    assert values(path) == [{"prompt": f"a{mark} b", "seed": "1"}]


def test_a_quoted_name_of_the_only_column_stays_whole(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('"prompt; long"\na; b\n', encoding="utf-8")
    assert values(path) == [{"prompt; long": "a; b"}]


def test_parquet_gives_the_same_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"prompt": ["a", None], "seed": [1, 2]}), path)
    assert values(path) == [{"prompt": "a", "seed": 1}, {"seed": 2}]
    path.write_bytes(b"none")
    with pytest.raises(ValueError, match="rows.parquet is no Parquet file"):
        rows.read_rows(path)


def test_without_pyarrow_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.parquet").write_bytes(b"x")
    with pytest.raises(ValueError, match="Parquet is read by pyarrow, which is missing. python -m pip install pyarrow"):
        rows.read_rows(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("rows.xlsx", "", r"rows.xlsx: rows are read from .txt, .csv, .tsv, .jsonl, .ndjson, .parquet, .pq"),
        ("rows.txt", "# nothing\n\n", r"rows.txt has no rows"),
        ("rows.csv", "", r"rows.csv has no rows"),
        ("rows.csv", "prompt\n", r"rows.csv has no rows. Write the names of inputs into its first line"),
        ("rows.csv", "prompt,seed,prompt\na,1,b\n", r"rows.csv has several columns 'prompt'. Keep one of each"),
        ("rows.csv", "prompt,\na,1\n", r"rows.csv has a column without a name"),
        ("rows.csv", b"prompt\n\xff\xfe\n", r"rows.csv is not in UTF-8 .*. Save it as UTF-8"),
        ("rows.csv", 'prompt\n"' + "a" * 200_000 + "\n", r"rows.csv: row 1 is no CSV \(field larger than"),
        ("rows.csv", '"' + "a" * 200_000 + '"\n1\n', r"rows.csv: row 1 is no CSV \(field larger than"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(tmp_path, name, text, told):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=told):
        rows.read_rows(path)


def test_a_bad_row_is_told_and_the_others_are_read(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,seed\na, b,1\nc,2\nd\n", encoding="utf-8")
    first, second, third = rows.read_rows(path)
    assert first.error == "it has 3 cells, the first line 2. Put quotes around text with commas"
    assert (second.values, second.error) == ({"prompt": "c", "seed": "2"}, "")
    assert third.error.startswith("it has 1 cells")
    path.write_text("prompt;seed\na; b;1\n", encoding="utf-8")
    assert rows.read_rows(path)[0].error.endswith("Put quotes around text with semicolons")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"seed": 1}\n{"seed"\n[1]\n', encoding="utf-8")
    assert [row.error[:15] for row in rows.read_rows(path)] == ["", "it is not JSON ", "it is [1], expe"]


@pytest.mark.parametrize(
    "text, values",
    [
        ("seed=1..3", [1, 2, 3]),
        ("cfg= 3, 3.5", ["3", "3.5"]),
        (f"prompt={json.dumps(['a, b', 'c'])}", ["a, b", "c"]),
        ("shift.value=2", ["2"]),
    ],
)
def test_an_axis_is_a_list_or_a_range(text, values):
    assert rows.read_axis(text) == rows.Axis(text.partition("=")[0], values)


def test_an_axis_may_be_a_file_with_a_value_a_line(tmp_path):
    (tmp_path / "prompts.txt").write_text("a, b\n\nc\n", encoding="utf-8")
    assert rows.read_axis(f"prompt=@{tmp_path / 'prompts.txt'}").values == ["a, b", "c"]


@pytest.mark.parametrize("text", ["seed", "seed=", "=1", "seed=3..1", "seed=1..99999999", "seed=[1", "seed=[]"])
def test_an_axis_that_is_none_is_told(text):
    with pytest.raises(ValueError, match="^--cross "):
        rows.read_axis(text)


def test_axes_are_crossed_and_the_last_runs_fastest():
    axes = [rows.Axis("seed", [1, 2]), rows.Axis("cfg", ["3", "4"])]
    crossed = rows.cross([rows.Row(1, {"prompt": "a"}), rows.Row(2, {"prompt": "b"}, "bad")], axes)
    assert [(r.number, *r.values.values(), r.error) for r in crossed[:4]] == [
        (1, "a", 1, "3", ""),
        (2, "a", 1, "4", ""),
        (3, "a", 2, "3", ""),
        (4, "a", 2, "4", ""),
    ]
    assert len(crossed) == 8 and crossed[7].error == "bad"
    with pytest.raises(ValueError, match="'prompt', 'seed' is given twice"):
        rows.cross([rows.Row(1, {"prompt": "a"})], [rows.Axis("prompt", ["b"]), *axes[:1], *axes[:1]])
