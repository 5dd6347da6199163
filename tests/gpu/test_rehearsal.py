"""The whole of benchmarks/gpu on the CPU, so that it runs on the day when there is a card; and its tables."""

import json
import os
import subprocess
import sys
import tarfile

import pytest
import support

from benchmarks.gpu import pack, runner, start, tables
from benchmarks.gpu.parts import BY_NAME, PARTS

MACHINE = {"card": "Card 9000", "torch": "2", "commit": "abc", "python": "3.12"}


@pytest.mark.slow
@pytest.mark.host
def test_every_case_of_every_part_runs(host_dir, tmp_path):
    with tarfile.open(tmp_path / "host.tar", "w") as archive:
        pack.add_host(archive)
    with tarfile.open(tmp_path / "host.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    travelled = tmp_path / start.HOST  # on the other machine there is no more of ComfyUI than this
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--out", str(tmp_path)]
    environment = {**os.environ, "COMFYUI_PATH": str(travelled), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, cwd=support.ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    for part in PARTS:
        content = json.loads((tmp_path / f"{part.name}.json").read_text())
        wrong = {
            name: c for name, c in content["cases"].items() if "error" in c or c.get("failed") or "took_s" not in c
        }
        assert content["cases"] and not wrong, (part.name, wrong)
        for what in part.only_device:
            assert f"{part.name}: {what}" in run.stdout


def test_a_part_goes_on_where_it_ended(tmp_path):
    ran = []

    def case(name, fails=False):
        def call():
            ran.append(name)
            if fails:
                raise RuntimeError("no such kernel\nmore")
            return {"s": 1.0}

        return name, call

    path = tmp_path / "speed.json"
    first = runner.Results(path, "speed", MACHINE, False)
    first.record("b", runner.UNFINISHED)
    first.record("d", {"s": 2.0})
    cases = [case("a", fails=True), case("b"), case("c"), case("d")]
    runner.run_cases(runner.Results(path, "speed", MACHINE, False), cases, 60)
    assert ran == ["a", "c", "b"]  # what was cut off comes after what was never tried
    kept = json.loads(path.read_text())["cases"]
    assert kept["a"]["error"] == "RuntimeError: no such kernel" and kept["d"] == {"s": 2.0}
    runner.run_cases(runner.Results(path, "speed", MACHINE, False), cases, 60, again=True)
    assert ran[3:] == ["a"]
    runner.run_cases(runner.Results(tmp_path / "x.json", "speed", MACHINE, False), cases, -1)
    assert len(ran) == 4


def test_results_of_another_commit_are_not_mixed(tmp_path):
    runner.Results(tmp_path / "speed.json", "speed", MACHINE, False).record("a", {"s": 1.0})
    with pytest.raises(ValueError, match="of commit abc, this run of def. Give another folder"):
        runner.Results(tmp_path / "speed.json", "speed", {**MACHINE, "commit": "def"}, False)


@pytest.mark.skipif(os.name == "nt", reason="process groups")
def test_a_part_that_hangs_is_ended_and_the_rest_runs(tmp_path, monkeypatch):
    hanging, number = tmp_path / "python", tmp_path / "number"
    hanging.write_text(f"#!/bin/sh\necho $$ >{number}\nexec sleep 600\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(runner, "GRACE", 0)
    monkeypatch.setattr(sys, "executable", str(hanging))
    assert runner.run_parts([BY_NAME["speed"]], tmp_path, 2, True, False)
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)


def test_tables_show_figures_and_what_has_none(tmp_path):
    results = runner.Results(tmp_path / "speed.json", "speed", MACHINE, False)
    forward = {"ours, s": 0.1, "ComfyUI, s": 0.12, "ComfyUI / ours": 1.2, "ours, TFLOP/s": 600.4}
    results.record("forward bf16", forward)
    results.record("forward nvfp4", {"error": "RuntimeError: out | of memory"})
    top = [{"kernel": "gemm", "count": 3, "ms": 50.0}]
    shape = {"stored as": "bf16", "span ms": 100.0, "between kernels ms": 5.0, "kernels": 3}
    results.record("profile of the best", {**shape, "top": top})
    text = tables.tables(tables.load(tmp_path))
    assert "card Card 9000" in text and "commit abc" in text
    assert "| | ours, s | ComfyUI, s | ComfyUI to ours | TFLOP/s of ours | note |" in text
    assert "| forward bf16 | 0.100 | 0.120 | 1.20 | 600 |  |" in text
    assert "| forward nvfp4 |  |  |  |  | RuntimeError: out / of memory |" in text
    assert "| `gemm` | 3 | 50.00 | 50.0% |" in text


def test_a_rehearsal_makes_no_table(tmp_path):
    runner.Results(tmp_path / "speed.json", "speed", MACHINE, True).record("a", {"s": 1.0})
    with pytest.raises(ValueError, match="rehearsal"):
        tables.load(tmp_path)
