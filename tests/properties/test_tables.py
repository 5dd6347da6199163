"""Tables, lists of prompts and the files that tools keep: any of them is read as it was written, and any text does no harm."""

import csv
import dataclasses
import io
import json
import random
import tempfile
from pathlib import Path

import pytest
import support

from tools.batching.ledger import NAME, Ledger

pytest.importorskip("hypothesis")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

prompt_list, rows, wildcards = (support.dev.load_pack(f"tables.{n}") for n in ("prompt_list", "rows", "wildcards"))
run_costs = support.dev.load_pack("advice.run_costs")

texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30)
columns = st.lists(texts.filter(str.strip), min_size=1, max_size=4, unique=True)
numbers = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def tables(draw, cells):
    """Rows of any cells under any names."""
    names = draw(columns)
    return [
        dict(zip(names, cells_)) for cells_ in draw(st.lists(st.tuples(*[cells] * len(names)), min_size=1, max_size=5))
    ]


def read_back(name, raw):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(raw)
        return rows.read_rows(path)


@given(tables(texts | st.sampled_from(['"', "a\nb", ",", "\t", "#"])), st.sampled_from([".csv", ".tsv"]))
def test_a_table_of_cells_is_read_as_it_was_written(table, suffix):
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(table[0]), delimiter="\t" if suffix == ".tsv" else ",", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(table)
    for encoding in ("utf-8", "utf-8-sig"):
        found = read_back(f"any{suffix}", out.getvalue().encode(encoding))
        assert [dict(row.values) for row in found] == [{n: v for n, v in row.items() if v} for row in table]
        assert [row.number for row in found] == list(range(1, len(table) + 1)) and not any(row.error for row in found)


@given(tables(st.none() | st.booleans() | numbers | texts), st.booleans())
def test_a_table_of_objects_is_read_as_it_was_written(table, ascii_only):
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in table]
    found = read_back("any.jsonl", "\n".join(lines).encode())
    assert [dict(row.values) for row in found] == [{n: v for n, v in row.items() if v is not None} for row in table]


@given(st.binary(max_size=300) | texts.map(str.encode), st.sampled_from([".txt", ".csv", ".tsv", ".jsonl"]))
def test_any_bytes_are_a_table_or_refused_in_a_sentence(raw, suffix):
    try:
        found = read_back(f"any{suffix}", raw)
        prompt_list.entries(found, "a fox", 0, 1, lambda name: ["x"])
    except ValueError as error:
        assert type(error) is ValueError and len(str(error)) < 600 and str(error).isprintable(), error


def choices(name):
    return ["a line", "another", "{one|two}"]


@given(st.text(max_size=60) | st.text("{|}_\\:a1. ", max_size=40), st.integers(0, 99))
def test_wildcards_of_any_text_are_chosen_alike_by_a_seed(text, seed):
    try:
        first = wildcards.resolved(text, random.Random(seed), choices)
    except ValueError as error:
        assert len(str(error)) < 300 and str(error).isprintable(), error
        return
    assert first == wildcards.resolved(text, random.Random(seed), choices)
    if not {"{", "_", "\\"} & set(text):
        assert first == text


@given(st.text(max_size=60), st.integers(0, 99))
def test_escaped_text_is_given_back(text, seed):
    # A backslash in front of another character stays, so only those in front of an escaped one would be eaten.
    text = text.replace("\\", "/")
    escaped = "".join("\\" + c if c in wildcards.ESCAPED else c for c in text)
    assert wildcards.resolved(escaped, random.Random(seed), choices) == text


words = st.text("abc ", min_size=1, max_size=5)


@given(st.lists(st.tuples(st.integers(0, 5), words), min_size=2, max_size=5), st.integers(0, 99))
def test_one_of_the_alternatives_that_weigh_something_is_taken(weighted, seed):
    text = "{" + "|".join(f"{weight}::{word}" for weight, word in weighted) + "}"
    taken = {word for weight, word in weighted if weight}
    if not taken:
        with pytest.raises(ValueError, match="weigh 0 in all"):
            wildcards.resolved(text, random.Random(seed), choices)
        return
    assert wildcards.resolved(text, random.Random(seed), choices) in taken


@given(
    st.integers(-999, 999), st.integers(0, 50), st.lists(texts.filter(lambda t: "," not in t), min_size=1, max_size=5)
)
def test_axes_are_read_as_they_are_written(first, count, values):
    assert rows.values_of(f"{first}..{first + count}", 1000) == list(range(first, first + count + 1))
    assert rows.values_of(json.dumps(values), 1000) == values


@given(st.text(max_size=60))
def test_any_axis_is_read_or_refused_in_a_sentence(text):
    try:
        rows.values_of(text, 1000)
    except ValueError as error:
        assert type(error) is ValueError and len(str(error)) < 300 and str(error).isprintable(), error


jobs = st.sampled_from(["a", "b", "ü"])
events = st.one_of(
    st.builds(lambda job, to: {"job": job, "sent": None, "to": to}, jobs, texts),
    st.builds(lambda job, died: {"job": job, "lost": "x", "died": died}, jobs, st.booleans()),
    st.builds(
        lambda job, files, s: {"job": job, "done": files, "seconds": s, "by": "y"},
        jobs,
        st.lists(texts),
        st.floats(0, 9),
    ),
    st.builds(lambda job, error: {"job": job, "failed": error}, jobs, texts),
)


@given(st.lists(events, max_size=8), st.data())
def test_a_ledger_is_read_as_it_was_written_and_so_far_as_it_was(written, data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        states = []
        with Ledger(folder) as ledger:
            for event in written:
                ledger.write(**{**event, **({"sent": ledger.new_id(event["job"])} if "sent" in event else {})})
                states.append(json.dumps([dataclasses.asdict(r) for r in ledger.jobs.values()]))
            run = ledger.run
        with Ledger(folder) as again:
            assert again.run == run
            assert json.dumps([dataclasses.asdict(r) for r in again.jobs.values()]) == (states[-1] if states else "[]")
        raw = (folder / NAME).read_bytes()
        cut = data.draw(st.integers(raw.index(b"\n") + 1, len(raw)))  # killed while it wrote
        (folder / NAME).write_bytes(raw[:cut])
        whole = raw[:cut].count(b"\n") - 1
        with Ledger(folder) as again:
            found = json.dumps([dataclasses.asdict(r) for r in again.jobs.values()])
        assert found == (states[whole - 1] if whole else "[]")


costs = st.builds(
    run_costs.Cost,
    st.builds(
        run_costs.Work,
        model=texts,
        device=texts,
        width=st.integers(1, 9999),
        height=st.integers(1, 9999),
        batch=st.integers(1, 9),
        steps=st.integers(1, 99),
        sampler=texts,
        guided=st.booleans(),
        savings=texts,
    ),
    prompts=st.floats(0.1, 4),
    seconds=st.floats(1e-3, 1e4),
    memory=st.integers(0, 2**40),
    network=st.integers(1, 9999),
)


@given(st.lists(costs, min_size=1, max_size=4, unique_by=lambda cost: cost.work), costs)
def test_run_costs_are_read_as_they_were_written(written, again):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "folder" / "costs.json"
        for cost in written:
            run_costs.add(path, cost)
        assert run_costs.read(path) == written
        newer = dataclasses.replace(again, work=written[0].work)
        run_costs.add(path, newer)
        assert run_costs.read(path) == [*written[1:], newer]


@given(
    st.binary(max_size=200)
    | st.recursive(texts | numbers, lambda v: st.lists(v) | st.dictionaries(texts, v)).map(
        lambda v: json.dumps({"version": 1, "runs": v}).encode()
    )
)
def test_any_file_of_run_costs_does_no_harm(raw):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "costs.json"
        path.write_bytes(raw)
        assert isinstance(run_costs.read(path), list)
