"""The ledger: what it remembers after a kill, and that only one batch has it."""

import errno
import json
import uuid

import pytest

from tools.batching import ledger as module
from tools.batching.ledger import NAME, Ledger


def test_a_job_goes_on_where_it_was(tmp_path):
    with Ledger(tmp_path) as ledger:
        first = ledger.new_id("a")
        ledger.write(job="a", sent=first, to="x")
        ledger.write(job="b", sent=ledger.new_id("b"), to="y")
        ledger.write(job="b", done=["b.png"], seconds=1.5, by="y")
    (tmp_path / "b.png").touch()
    with Ledger(tmp_path) as ledger:
        assert ledger.record("a").open == {first: "x"} and not ledger.is_done("a")
        assert ledger.is_done("b") and ledger.record("b").seconds == 1.5
        assert ledger.new_id("a") != first  # a second try is another prompt
        ledger.write(job="a", lost=first)
        assert ledger.record("a").open == {}
    (tmp_path / "b.png").unlink()
    with Ledger(tmp_path) as ledger:
        assert not ledger.is_done("b")  # a person has removed it


def test_ids_are_uuids_of_run_and_job(tmp_path):
    with Ledger(tmp_path) as ledger:
        found = uuid.UUID(ledger.new_id("a"))
        assert found.version == 5 and str(found) == str(uuid.uuid5(uuid.UUID(ledger.run), "a/0"))


def test_a_line_that_was_cut_off_is_dropped(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.write(job="a", done=["a.png"])
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole + b'{"job": "b", "do')
    with Ledger(tmp_path) as ledger:
        assert ledger.record("a").files == ["a.png"] and "b" not in ledger.jobs
        ledger.write(job="c", failed="x")
    lines = (tmp_path / NAME).read_bytes().splitlines()
    assert [json.loads(line).get("job") for line in lines] == [None, "a", "c"]


@pytest.mark.parametrize(
    "line, why",
    [
        (b"\xec", "'utf-8' codec"),
        (b"{", "Expecting property name"),
        (b"5", "it is no object"),
        (b'{"job": "a", "done": "a.png"}', "done is a str"),
        (b'{"job": "a", "sent": "u"}', "'to'"),
        (b'{"run": "x"}', "badly formed"),
    ],
)
def test_a_damaged_line_is_told_and_the_folder_is_free_again(tmp_path, line, why):
    with Ledger(tmp_path) as ledger:
        ledger.write(job="a", done=["a.png"])
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole + line + b"\n")
    with pytest.raises(ValueError, match=rf"batch.jsonl: line 3 is damaged \({why}.*Remove that line"):
        Ledger(tmp_path).__enter__()
    (tmp_path / NAME).write_bytes(whole)
    with Ledger(tmp_path) as ledger:
        assert ledger.record("a").files == ["a.png"]


def test_a_second_batch_in_the_folder_is_refused(tmp_path):
    with Ledger(tmp_path):
        with pytest.raises(ValueError, match="another batch writes into .*. Wait until it ends, or give another --out"):
            Ledger(tmp_path).__enter__()
    with Ledger(tmp_path):
        pass


@pytest.mark.parametrize(
    "number, told",
    [
        (errno.EACCES, "another batch writes into .*. Wait until"),
        (errno.ENOLCK, r"batch.jsonl cannot be locked against a second batch \(It is so\). Give an --out on a disk of"),
        (errno.EOPNOTSUPP, "cannot be locked against a second batch"),
    ],
)
def test_a_disk_without_locks_is_told_apart_from_another_batch(tmp_path, monkeypatch, number, told):
    def refused(file):
        raise OSError(number, "It is so")

    with monkeypatch.context() as patch:
        patch.setattr(module, "lock", refused)
        with pytest.raises(ValueError, match=told):
            Ledger(tmp_path).__enter__()
    with Ledger(tmp_path):
        pass


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path, monkeypatch):
    with Ledger(tmp_path) as ledger:
        before = (tmp_path / NAME).read_bytes()

        def full(number):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            ledger.write(job="a", done=["a.png"])
        monkeypatch.undo()
        assert (tmp_path / NAME).read_bytes() == before and not ledger.jobs
