"""python -m tools batch with real servers: resumed, killed, stopped; every picture once, with the pixels of a plain loop."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import support
from graphs import Graph

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.host

dev = support.dev
SECONDS = 300  # for a whole batch
SHAPES = ("circle", "square", "triangle")
COLOURS = ("red", "green", "blue", "yellow")


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def command(out, rows, servers, *more):
    urls = [part for server in servers for part in ("--server", server.url)]
    return [
        str(dev.venv_python()),
        "-m",
        "tools",
        "batch",
        str(dev.WORKFLOW),
        str(rows),
        "--out",
        str(out),
        *urls,
        *more,
    ]


def start(out, rows, servers, *more):
    return subprocess.Popen(
        command(out, rows, servers, *more),
        cwd=support.ROOT,
        env={**os.environ, **dev.UTF8},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def batch(out, rows, servers, *more):
    """(return code, all that it printed) of a whole batch."""
    process = start(out, rows, servers, *more)
    text, _ = process.communicate(timeout=SECONDS)
    return process.returncode, text


def table(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def results(out):
    with open(out / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def events(out):
    """Whole lines of the ledger."""
    path = out / "batch.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def painted(server, row):
    """The pixels of a row in a plain loop over the server."""
    graph = Graph.demo(server).set("KSampler", seed=int(row["seed"]), steps=int(row["steps"]))
    graph.set("ChromaTextEncode", "Prompt", text=row["prompt"])
    return pixels(graph.run(server)[0])


def test_a_batch_is_painted_as_by_hand_told_and_not_painted_again(server, tmp_path):
    rows = [
        {"prompt": "a red circle", "seed": 201, "steps": 2},
        {"prompt": "a blue square, on yellow", "seed": 202, "steps": 2},
        {"prompt": "a red circle", "seed": 201, "steps": 2},  # the first once more
        {"prompt": "a red circle", "seed": "many", "steps": 2},
        {"prompt": "a red circle", "seed": 203, "steps": 0},
    ]
    file, out = table(tmp_path / "rows.csv", rows), tmp_path / "out"
    code, text = batch(out, file, [server], "--sheet", "--plot", "seed,prompt")
    assert code == 1 and "row 4 is left out: seed is 'many', expected a whole number from 0 to" in text
    assert "row 5 is left out: steps is '0', expected a whole number from 1 to 10000" in text
    found = results(out)
    assert [line["status"] for line in found] == ["done", "done", "done", "refused", "refused"]
    assert found[0]["files"] == found[2]["files"] != found[1]["files"]
    for line in found[:2]:
        assert (pixels(out / line["files"]) == painted(server, line)).all()
    assert len(list(out.glob("*.png"))) == 2
    assert Image.open(out / "sheet-1.jpg").width > 300 and Image.open(out / "plot.jpg").width > 300
    before = (out / "batch.jsonl").read_bytes()
    batch(out, file, [server])
    assert (out / "batch.jsonl").read_bytes() == before  # nothing was sent
    (out / found[1]["files"]).unlink()
    batch(out, file, [server])
    later = events(out)[len(before.splitlines()) :]
    assert [[e["job"] for e in later if what in e] for what in ("sent", "done")] == [[found[1]["files"][:-4]]] * 2


@pytest.mark.parametrize("form, suffix", [("png", "png"), ("webp", "webp"), ("jpeg", "jpg")])
def test_pictures_carry_prompt_workflow_and_parameters(server, tmp_path, form, suffix):
    out = tmp_path / "out"
    rows = table(tmp_path / "rows.csv", [{"prompt": "a grün circle", "seed": 211, "steps": 2}])
    code, text = batch(out, rows, [server], "--format", form)
    assert code == 0, text
    (path,) = out.glob(f"*.{suffix}")
    image = Image.open(path)
    if form == "png":
        prompt, workflow, told = (image.info[key] for key in ("prompt", "workflow", "parameters"))
    else:
        exif = image.getexif()
        prompt, workflow = (exif[tag].partition(":")[2] for tag in (0x0110, 0x010F))
        told = exif.get_ifd(0x8769)[0x9286][8:].decode("utf-16-be")
    nodes = {node["class_type"]: node["inputs"] for node in json.loads(prompt).values()}
    assert (nodes["KSampler"]["seed"], nodes["KSampler"]["steps"]) == (211, 2)
    saved = {
        node["type"]: node["widgets_values"] for node in json.loads(workflow)["nodes"] if node["type"] == "KSampler"
    }
    assert saved["KSampler"][:3] == [211, "randomize", 2]  # what the page opens has the row's values
    assert told.splitlines()[0] == "a grün circle"
    assert told.splitlines()[-1] == (
        "Steps: 2, Sampler: euler, Schedule type: beta, CFG scale: 3.0, Seed: 211, Size: 128x128, Model: chroma-demo"
    )


def test_a_row_that_a_node_refuses_is_told_and_the_others_are_painted(server, tmp_path):
    """A picture of a row is uploaded; one that is no picture fails in the server."""
    graph = Graph.demo(server)
    graph.add("PreviewImage", images=[graph.add("LoadImage", image="example.png"), 0])
    flow = tmp_path / "flow.json"
    flow.write_text(json.dumps({k: {**n, "inputs": {**n["inputs"]}} for k, n in graph.nodes.items()}))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    names = [tmp_path / "bad.png", tmp_path / "red.png"]
    rows = table(tmp_path / "rows.csv", [{"image": str(name), "seed": 221} for name in names])
    out = tmp_path / "out"
    process = subprocess.run(
        [*command(out, rows, [server])[:4], str(flow), *command(out, rows, [server])[5:]],
        cwd=support.ROOT,
        capture_output=True,
        text=True,
    )
    bad, good = results(out)
    assert (bad["status"], good["status"]) == ("failed", "done"), process.stderr
    assert "row 1 failed: LoadImage: " in process.stderr and bad["error"].startswith("LoadImage: ")
    assert len(list(out.glob("*.png"))) == 1


def until(condition, what):
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGSTOP")
def test_killed_and_stopped_servers_and_a_killed_driver_lose_nothing(host_dir, tmp_path):
    rows = [
        {"prompt": f"a {colour} {shape}", "seed": 230 + i, "steps": 3}
        for i, (colour, shape) in enumerate((c, s) for c in COLOURS for s in SHAPES * 2)
    ]
    file, out = table(tmp_path / "rows.csv", rows), tmp_path / "out"
    servers = [
        dev.Server(arguments=dev.front_end(), log=dev.cache_dir() / f"test-batch-{i}.log", cpu=True) for i in range(3)
    ]
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        list(pool.map(stack.enter_context, servers))
        killed, stopped, whole = servers
        driver = start(out, file, servers, "--patience", "3")
        stack.callback(driver.kill)
        until(lambda: {e.get("by") for e in events(out) if "done" in e} >= {s.url for s in servers}, "all three paint")
        killed.process.kill()
        stopped.process.send_signal(signal.SIGSTOP)
        stack.callback(stopped.process.send_signal, signal.SIGCONT)
        held = {e["job"] for e in events(out) if e.get("to") == stopped.url}
        held -= {e["job"] for e in events(out) if "done" in e}
        assert held
        at = len(events(out))
        until(lambda: held & {e["job"] for e in events(out)[at:] if e.get("to") == whole.url}, "its rows go to others")
        stopped.process.send_signal(signal.SIGCONT)
        at = len(events(out))
        until(lambda: [e for e in events(out)[at:] if e.get("to") == stopped.url], "it is used again")
        driver.kill()
        driver.communicate()
        num_done = sum("done" in e for e in events(out))
        assert num_done < len(rows)  # there is something left to lose
        code, text = batch(out, file, servers, "--patience", "3")
        assert code == 0, text
        assert f"{killed.url} does not answer" in text
        found, log = results(out), events(out)
        assert [line["status"] for line in found] == ["done"] * len(rows)
        done = [e["job"] for e in log if "done" in e]
        assert len(done) == len(set(done)) == len(rows) == len(list(out.glob("*.png")))
        sent = [e["sent"] for e in log if "sent" in e]
        assert len(set(sent)) == len(sent)
        differing = [line["row"] for line in found if (pixels(out / line["files"]) != painted(whole, line)).any()]
        assert differing == []
        print(f"{len(rows)} pictures, {num_done} before the driver was killed, {len(sent)} prompts sent")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_two_workers_of_ray_one_of_them_killed_and_a_killed_driver_lose_nothing(server, host_dir, tmp_path):
    """Each worker has a ComfyUI of its own; Ray replaces the one that is killed. `server` paints the plain loop."""
    pytest.importorskip("ray", reason="python -m pip install ray")
    rows = [
        {"prompt": f"a {colour} {shape}", "seed": 270 + i, "steps": 3}
        for i, (colour, shape) in enumerate((c, s) for c in COLOURS for s in SHAPES)
    ]
    file, out = table(tmp_path / "rows.csv", rows), tmp_path / "out"
    host = [
        "--base-directory",
        str(dev.base_dir()),
        "--cpu",
        "--disable-api-nodes",
        "--database-url",
        "sqlite:///:memory:",
    ]
    _, *ours = command(out, file, [], "--ray", "2", f"--comfyui={' '.join(host)}")

    def started():
        environment = {**os.environ, **dev.UTF8, "COMFYUI_PATH": str(host_dir)}
        return subprocess.Popen(
            [sys.executable, *ours],
            cwd=support.ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def done():
        return [e for e in events(out) if "done" in e]

    driver = started()
    try:
        until(lambda: {e["by"] for e in done()} == {"ray-0", "ray-1"}, "both paint")
        os.kill(workers_of(driver.pid)[0], signal.SIGKILL)
        at = len(done())
        until(lambda: len(done()) > at + 1, "it goes on")
    finally:
        driver.kill()
    driver.communicate()
    num_done = len(done())
    assert num_done < len(rows)
    again = started()
    text, _ = again.communicate(timeout=SECONDS)
    assert again.returncode == 0, text
    names = [e["job"] for e in done()]
    assert len(names) == len(set(names)) == len(rows) == len(list(out.glob("*.png")))
    differing = [line["row"] for line in results(out) if (pixels(out / line["files"]) != painted(server, line)).any()]
    assert differing == []
    print(f"{len(rows)} pictures, {num_done} before the driver was killed")


def workers_of(driver):
    """Processes of Ray's actors below a driver."""
    import psutil

    return [p.pid for p in psutil.Process(driver).children(recursive=True) if "ray::Worker" in " ".join(p.cmdline())]
