"""python -m tools batch: each input that cannot be used is one line; faults of servers, with small ones of our own."""

import asyncio
import errno
import io
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

import tools.batch as batch
from tools.batching import local, pictures, servers
from tools.batching.fill import name_of
from tools.batching.ledger import Ledger

web = pytest.importorskip("aiohttp.web")
Image = pytest.importorskip("PIL.Image")

INFO = {
    "Paint": {"input": {"required": {"seed": ["INT", {"min": 0, "max": 99}]}}},
    "SaveImage": {"input": {"required": {"images": ["IMAGE", {}], "filename_prefix": ["STRING", {}]}}},
}
PROMPT = {
    "1": {"class_type": "Paint", "inputs": {"seed": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


def png(seed):
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (seed, 0, 0)).save(out, "PNG")
    return out.getvalue()


class Fake:
    """What a ComfyUI answers, of which a test changes a part. `ran` are the seeds that it has painted."""

    def __init__(self, version="0.30.0", info=INFO, forget=0, busy=0):
        """forget: so many prompts are dropped without a word. busy: so many questions get no answer."""
        self.version, self.info, self.forget, self.busy = version, info, forget, busy
        self.files, self.jobs, self.ran, self.cancelled = {}, {}, [], []

    def app(self):
        app = web.Application()
        app.router.add_get("/system_stats", self.stats)
        app.router.add_get("/object_info", self.object_info)
        app.router.add_post("/prompt", self.prompt)
        app.router.add_get("/api/jobs/{id}", self.job)
        app.router.add_post("/api/jobs/{id}/cancel", self.cancel)
        app.router.add_get("/view", self.view)
        return app

    async def cancel(self, request):
        self.cancelled.append(request.match_info["id"])
        return web.json_response({"cancelled": True})

    async def object_info(self, request):
        return web.json_response(self.info)

    async def stats(self, request):
        if self.busy:
            self.busy -= 1
            await asyncio.sleep(5)
        return web.json_response({"system": {"comfyui_version": self.version}})

    async def prompt(self, request):
        body = await request.json()
        seed, save = (body["prompt"][key]["inputs"] for key in ("1", "2"))
        if self.forget:
            self.forget -= 1
            return web.json_response({"prompt_id": body["prompt_id"]})
        if seed["seed"] == 13:
            error = {"errors": [{"message": "Value not valid", "details": "13"}], "class_type": "Paint"}
            return web.json_response({"error": {"message": "invalid"}, "node_errors": {"1": error}}, status=400)
        if seed["seed"] == 15:  # one of its outputs is valid, and runs
            error = {"errors": [{"message": "Value not in list", "details": "b"}], "class_type": "SaveImage"}
            self.jobs[body["prompt_id"]] = {"status": "in_progress"}
            return web.json_response({"prompt_id": body["prompt_id"], "node_errors": {"3": error}})
        if seed["seed"] == 14:
            error = {"node_type": "Paint", "exception_message": "out of\npaint"}
            self.jobs[body["prompt_id"]] = {"status": "failed", "execution_error": error}
            return web.json_response({})
        name = save["filename_prefix"].partition("/")[2] + "_00001_.png"
        self.ran.append(seed["seed"])
        self.files[name] = png(seed["seed"])
        image = {"filename": name, "subfolder": "chroma-batch", "type": "output"}
        self.jobs[body["prompt_id"]] = {"status": "completed", "outputs": {"2": {"images": [image]}}}
        return web.json_response({"prompt_id": body["prompt_id"]})

    async def job(self, request):
        found = self.jobs.get(request.match_info["id"])
        return web.json_response(found or {"error": "Job not found"}, status=200 if found else 404)

    async def view(self, request):
        data = self.files.get(request.query["filename"])
        return web.Response(body=data, content_type="image/png") if data else web.Response(status=404)


@pytest.fixture
def serve():
    """Starts a Fake in a thread; gives its address. All end with the test."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runners = []

    def started(fake):
        async def start():
            runner = web.AppRunner(fake.app(), shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            runners.append(runner)
            return site._server.sockets[0].getsockname()[1]

        return f"http://127.0.0.1:{asyncio.run_coroutine_threadsafe(start(), loop).result(20)}"

    yield started
    for runner in runners:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)


@pytest.fixture
def files(tmp_path):
    """(workflow, rows, out); the rows' seeds are 1, 13, 14, 2."""
    (tmp_path / "flow.json").write_text(json.dumps(PROMPT))
    (tmp_path / "rows.csv").write_text("seed\n1\n13\n14\n2\n")
    return tmp_path / "flow.json", tmp_path / "rows.csv", tmp_path / "out"


def run(capsys, flow, rows, out, *more):
    """(return code, lines of standard error that are ours)."""
    code = batch.main([str(flow), *([str(rows)] if rows else []), "--out", str(out), *more])
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return code, [line for line in lines if line.startswith("batch: ")]


def test_a_refused_and_a_failed_row_do_not_end_the_run(serve, files, capsys):
    fake = Fake()
    code, told = run(capsys, *files, "--server", serve(fake))
    assert code == 1 and sorted(fake.ran) == [1, 2]
    assert "batch: row 2 failed: Paint: Value not valid (13)" in told
    assert "batch: row 3 failed: Paint: out of paint" in told
    seeds = sorted(Image.open(path).getpixel((0, 0))[0] for path in files[2].glob("*.png"))
    assert seeds == [1, 2]


def test_a_prompt_that_the_server_has_lost_is_sent_again(serve, files, capsys):
    fake = Fake(forget=1)
    run(capsys, *files, "--server", serve(fake))
    assert sorted(fake.ran) == [1, 2]


def test_a_disk_that_is_full_ends_the_run_and_nothing_is_painted_twice(serve, files, capsys, monkeypatch):
    fake = Fake()
    url = serve(fake)

    def full(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "save", full)
        code, told = run(capsys, *files, "--server", url)
    assert code == 1
    assert any("No space left on device. The disk is full: make room and run the same command again" in t for t in told)
    run(capsys, *files, "--server", url)
    assert sorted(fake.ran) == [1, 2]  # what was painted before was fetched, not painted again
    assert len(list(files[2].glob("*.png"))) == 2


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize(
    "number, remedy",
    [(errno.EACCES, "Close results.csv where it is open; the same command"), (errno.EIO, "The same command")],
)
def test_a_table_that_cannot_be_written_is_told_and_the_rest_is_done(
    serve, files, capsys, monkeypatch, number, remedy, stopped
):
    """As Windows refuses to replace a file that a spreadsheet has open."""
    flow, rows, out = files
    rows.write_text("seed\n1\n2\n")

    def refused(partial, path, replace=os.replace):
        if Path(path).name != batch.RESULTS:
            return replace(partial, path)
        raise OSError(number, "It is so", str(partial), None, str(path))

    def stop(*_):
        raise KeyboardInterrupt

    url = serve(Fake())
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        if stopped:
            patch.setattr(servers.Run, "all", stop)
        code, told = run(capsys, flow, rows, out, "--server", url, "--sheet")
    assert f"batch: {out / 'results.csv'}: It is so. {remedy} writes it again" in told
    assert {path.name for path in out.glob("results*")} == set()
    assert (out / "sheet-1.jpg").exists() is not stopped
    if stopped:
        assert code == 130 and told[-1] == "batch: stopped. The same command goes on from here"
        return
    assert code == 1
    code, told = run(capsys, flow, rows, out, "--server", url)
    assert (code, told, (out / "results.csv").is_file()) == (0, [], True)


def sent_before(serve, files, num_pictures, earlier=None):
    """A job that an earlier driver sent, and whose pictures its server has saved. returns: (server, address, job's name).

    earlier: the job's result before that, whose picture is on the server too.
    """
    _, rows, out = files
    rows.write_text("seed\n5\n")
    fake = Fake()
    url = serve(fake)
    name = name_of({**PROMPT, "1": {**PROMPT["1"], "inputs": {"seed": 5}}})
    with Ledger(out) as ledger:
        mark = ledger.run[:8]
        if earlier:
            ledger.write(job=name, sent=ledger.new_id(name), to=url)
            fake.files[f"{name}-{mark}_00001_.png"] = png(66)
            ledger.write(job=name, **earlier)
            mark += "r2"
        if num_pictures:
            ledger.write(job=name, sent=ledger.new_id(name), to=url)
        for number in range(1, num_pictures + 1):
            fake.files[f"{name}-{mark}_{number:05}_.png"] = png(77)
    return fake, url, name


EARLIER = [{"done": ["removed.png"]}, {"failed": "x"}]


@pytest.mark.parametrize("earlier", EARLIER)
def test_a_job_that_had_a_result_is_painted_anew(serve, files, capsys, earlier):
    """A person has removed the picture, or the row is tried again: the server's old file is not taken."""
    fake, url, name = sent_before(serve, files, 0, earlier)
    flow, rows, out = files
    code, told = run(capsys, flow, rows, out, "--server", url)
    assert code == 0 and fake.ran == [5], told
    assert Image.open(out / f"{name}.png").getpixel((0, 0))[0] == 5


def test_a_row_of_which_the_server_takes_a_part_is_refused_and_taken_back(serve, files, capsys):
    files[1].write_text("seed\n15\n1\n")
    fake = Fake()
    code, told = run(capsys, *files, "--server", serve(fake))
    assert code == 1 and "batch: row 1 failed: SaveImage: Value not in list (b)" in told
    assert fake.cancelled == [event["sent"] for event in events(files[2]) if "sent" in event][:1]


@pytest.mark.parametrize("earlier", [None, *EARLIER])
def test_pictures_that_a_server_saved_before_it_ended_are_found_by_name(serve, files, capsys, earlier):
    """The driver is gone before it learns of them, and the server has lost its history."""
    fake, url, name = sent_before(serve, files, 1, earlier)
    flow, rows, out = files
    code, told = run(capsys, flow, rows, out, "--server", url)
    assert code == 0, told
    assert Image.open(out / f"{name}.png").getpixel((0, 0))[0] == 77 and fake.ran == []


def test_several_pictures_of_one_prompt_are_painted_again(serve, files, capsys):
    """Nobody knows whether the server had saved all of them when it ended."""
    fake, url, name = sent_before(serve, files, 2)
    flow, rows, out = files
    code, told = run(capsys, flow, rows, out, "--server", url)
    assert code == 0 and fake.ran == [5], told


@pytest.mark.parametrize("name", ["text", "prompt", "string", "value"])
def test_a_prompt_that_comes_by_a_link_is_in_the_text_that_others_read(name):
    """From the host's nodes that hold a text, such as PrimitiveString."""
    prompt = {
        "1": {"class_type": "Text", "inputs": {name: "a red fox"}},
        "2": {"class_type": "Encode", "inputs": {"clip": ["9", 0], "text": ["1", 0]}},
        "3": {"class_type": "KSampler", "inputs": {"positive": ["2", 0], "steps": 20}},
    }
    assert pictures.parameters(prompt) == "a red fox\nSteps: 20"


def test_a_server_that_ends_is_replaced_by_the_others(serve, files, capsys):
    fake = Fake()
    code, told = run(capsys, *files, "--server", "http://127.0.0.1:9", "--server", serve(fake))
    assert sorted(fake.ran) == [1, 2]
    assert told[0].startswith("batch: http://127.0.0.1:9 does not answer (") and told[0].endswith("as soon as it does")


def test_a_server_that_is_busy_is_waited_for(serve, files, capsys, monkeypatch):
    monkeypatch.setattr(servers, "ANSWER_SECONDS", 0.2)
    fake = Fake(busy=2)
    code, told = run(capsys, *files, "--server", serve(fake))
    assert sorted(fake.ran) == [1, 2] and not any("does not answer" in line for line in told)
    monkeypatch.setattr(servers, "BUSY_SECONDS", 0.1)
    code, (line,) = run(capsys, *files, "--server", serve(Fake(busy=100)))
    assert code == 1 and line.endswith("Start ComfyUI there, or wait until it has done what keeps it busy")


@pytest.mark.parametrize(
    "fake, told",
    [
        (Fake(version="0.29.1"), "runs ComfyUI 0.29.1, expected 0.30.0 or newer. Update it"),
        (Fake(version=None), "is no ComfyUI: it names no version. Check the address"),
        (Fake(info={}), "the workflow has a node Paint, SaveImage, which this ComfyUI does not know. Install its pack"),
    ],
    ids=["old", "other", "without the pack"],
)
def test_a_server_that_cannot_be_used_is_one_line(serve, files, capsys, fake, told):
    code, (line,) = run(capsys, *files, "--server", serve(fake))
    assert code == 1 and told in line


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda f: f[0].write_text("{"), "flow.json is no workflow: it is not JSON"),
        (lambda f: f[0].unlink(), "flow.json: No such file or directory"),
        (lambda f: f[1].unlink(), "rows.csv: No such file or directory"),
        (lambda f: f[1].write_text("sed\n1\n"), "the column 'sed' fills no input of the workflow. Its inputs are seed"),
        (lambda f: f[1].write_text("7.seed\n1\n"), "the column '7.seed' fills no input of the workflow"),
        (lambda f: f[1].write_text("seed,1.seed\n1,2\n"), "both fill 1.seed. Remove one"),
        (lambda f: f[1].write_text("\n"), "rows.csv has no rows"),
        (lambda f: f[2].write_text("a file"), "out: File exists"),
        (lambda f: f[1].write_text("Nobody.seed\n1\n"), "the column 'Nobody.seed' fills no input of the workflow"),
        (lambda f: f[0].write_bytes(png(1)), "flow.json is no workflow: it is not JSON"),
        (lambda f: f[0].write_text("[1]"), "flow.json is JSON, but no workflow. Save one with Workflow > Save"),
        (lambda f: (f[1].unlink(), f[1].mkdir()), "rows.csv: "),
        (lambda f: f[1].write_bytes("seed,#\n1,grün\n".encode("latin-1")), "rows.csv is not in UTF-8"),
        (lambda f: f[1].write_bytes(b'seed\n"' + b"1" * 200_000), "rows.csv: row 1 is no CSV"),
        (lambda f: (f[2].write_text("a file"), f.append(f[2] / "x")), "x: "),
        (lambda f: f.append(held(f[2])), "another batch writes into"),
    ],
    ids=[
        *("no JSON", "no workflow", "no rows", "unknown column", "unknown node", "twice", "empty", "out is a file"),
        *("unknown title", "a picture as workflow", "a list as workflow", "a folder as rows", "not UTF-8"),
        *("another kind of table", "out in a file", "out is in use"),
    ],
)
def test_input_that_cannot_be_used_is_one_line_and_nothing_runs(serve, files, capsys, change, told):
    fake, given = Fake(), list(files)
    url = serve(fake)
    change(given)
    *_, out = (part for part in given if isinstance(part, Path))
    code, (line,) = run(capsys, *given[:2], out, "--server", url)
    assert code == 1 and told in line and fake.ran == []


def held(folder):
    """A folder that another batch has, until this is collected."""
    return Ledger(folder).__enter__()


def test_a_row_of_the_wrong_type_is_left_out_and_named(serve, files, capsys):
    files[1].write_text("seed\nmany\n1.5\n100\n3\n")
    fake = Fake()
    code, told = run(capsys, *files, "--server", serve(fake))
    assert code == 1 and fake.ran == [3]
    expected = [
        f"batch: row {row} is left out: seed is '{value}', expected a whole number from 0 to 99"
        for row, value in enumerate(("many", "1.5", "100"), 1)
    ]
    assert told[:3] == expected


def test_a_bad_cell_that_is_crossed_is_told_once(serve, files, capsys):
    files[1].write_text("seed,#\n3,good\nmany,bad\n")
    fake = Fake()
    columns = [str(n) for n in range(20)]
    code, told = run(capsys, *files, "--cross", f"#try={','.join(columns)}", "--server", serve(fake))
    assert code == 1 and fake.ran == [3]
    rows = "21, 22, 23, 24, 25, 26, 27, 28 and 12 more"
    assert told[0] == f"batch: rows {rows} are left out: seed is 'many', expected a whole number from 0 to 99"
    assert sum("many" in line for line in told) == 1


def test_a_disk_that_is_full_from_the_first_is_told_and_nothing_runs(serve, files, capsys, monkeypatch):
    fake = Fake()
    url = serve(fake)

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        code, (line,) = run(capsys, *files, "--server", url)
    assert code == 1 and "No space left on device. The disk is full: make room" in line and fake.ran == []
    run(capsys, *files, "--server", url)
    assert sorted(fake.ran) == [1, 2]


def test_one_of_two_servers_of_another_version_ends_the_command_before_it_begins(serve, files, capsys):
    good, old = Fake(), Fake(version="0.29.1")
    code, (line,) = run(capsys, *files, "--server", serve(good), "--server", serve(old))
    assert code == 1 and "runs ComfyUI 0.29.1, expected 0.30.0 or newer. Update it" in line and good.ran == []


@pytest.mark.parametrize(
    "text, escapes, expected",
    [
        ("", False, []),
        (r'--base-directory "D:\AI models" --lowvram', False, ["--base-directory", r"D:\AI models", "--lowvram"]),
        (r"--base-directory C:\Users\O'Brien\AI", False, ["--base-directory", r"C:\Users\O'Brien\AI"]),
        (r'--base-directory="D:\AI models"', False, [r"--base-directory=D:\AI models"]),
        (r"--base-directory D:\models#2", False, ["--base-directory", r"D:\models#2"]),
        (r"--base-directory '/a b' /c\ d", True, ["--base-directory", "/a b", "/c d"]),
    ],
)
def test_options_for_comfyui_are_split_as_a_shell_does_it(text, escapes, expected):
    assert batch.options_of(text, escapes) == expected


@pytest.mark.parametrize(
    "more, told",
    [
        (["--comfyui", "'--lowvram"], "--comfyui '--lowvram: No closing quotation"),
        (["--server", "http://127.0.0.1:9"], "http://127.0.0.1:9 does not answer (Cannot connect"),
        (["--server", "127.0.0.1:8188"], "expected an address as http://127.0.0.1:8188"),
        (["--cross", "seed"], "--cross seed: expected NAME=1,2,3"),
        (["--cross", "seed=1,2", "--server", "http://127.0.0.1:9"], "'seed' is given twice, as a column or by --cross"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(files, capsys, more, told):
    code, (line,) = run(capsys, *files, *more)
    assert code == 1 and told in line


@pytest.mark.parametrize(
    "more, told",
    [
        (["--quality", "0"], "--quality is 0, expected 1 to 100"),
        (["--plot", "seed"], "--plot is seed, expected two columns"),
        (["--patience", "0"], "--patience is 0, expected seconds"),
        (["--ray", "0"], "--ray is a number of workers from 1, in place of --server"),
        (["--ray", "2", "--server", "http://127.0.0.1:9"], "--ray is a number of workers from 1, in place of --server"),
        (["--format", "tiff"], "invalid choice: 'tiff'"),
    ],
)
def test_wrong_options_are_told_with_the_help(files, capsys, more, told):
    with pytest.raises(SystemExit):
        run(capsys, *files, *more)
    assert told in capsys.readouterr().err


def test_the_table_that_is_read_is_not_replaced_by_the_results(serve, files, capsys):
    flow, rows, out = files
    out.mkdir()
    own = rows.rename(out / "results.csv")
    before = own.read_bytes()
    with pytest.raises(SystemExit):
        run(capsys, flow, own, out, "--server", serve(Fake()))
    assert "results.csv is where the results are written. Give it another name" in capsys.readouterr().err
    assert own.read_bytes() == before


def test_labels_of_a_sheet_say_what_differs_and_what_is_short_first():
    rows = [{"text": "a red fox on a stone", "seed": 1, "style": "ink"}, {"text": "an owl", "seed": 2, "style": "ink"}]
    assert batch.labels_of([("a.png", {"values": row}) for row in rows]) == ["1, a red fox on a stone", "2, an owl"]
    assert batch.labels_of([("a.png", {"values": rows[0]})]) == ["1, ink, a red fox on a stone"]
    assert batch.labels_of([("a.png", {"values": {}})]) == [""]


def test_a_dry_run_says_what_each_column_fills(serve, files, capsys):
    fake = Fake()
    batch.main([*map(str, files[:2]), "--out", str(files[2]), "--server", serve(fake), "--dry-run"])
    assert capsys.readouterr().out.splitlines() == ["seed: 1.seed", "4 rows, 4 different pictures"]
    assert fake.ran == []


def test_without_a_comfyui_the_remedy_is_told(files, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    code, (line,) = run(capsys, *files)
    assert code == 1 and "which has none. Set COMFYUI_PATH to the folder with ComfyUI's main.py (and" in line


# --- a ComfyUI of this machine -----------------------------------------------------------------------------------------

MAIN = """
import argparse, asyncio, os, sys
sys.path[:0] = {paths}
from test_batch import Fake
from aiohttp import web

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--listen")
for flag in ("--disable-auto-launch", "--cpu"):
    parser.add_argument(flag, action="store_true")
options = parser.parse_args()  # refuses others

if "FAKE_PARENTS" in os.environ:
    with open(os.environ["FAKE_PARENTS"], "a") as file:
        print(os.getppid(), file=file)

class Mortal(Fake):
    async def prompt(self, request):
        await asyncio.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
        if (await request.json())["prompt"]["1"]["inputs"]["seed"] == 13:
            os._exit(9)
        return await super().prompt(request)

web.run_app(Mortal().app(), host=options.listen, port=options.port, print=None)
"""


@pytest.fixture
def comfyui(tmp_path, monkeypatch):
    """A folder whose main.py is a Fake that ends when it is asked for the seed 13."""
    folder = tmp_path / "ComfyUI"
    folder.mkdir()
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent.parent)]
    (folder / "main.py").write_text(MAIN.format(paths=paths))
    monkeypatch.setenv("COMFYUI_PATH", str(folder))
    monkeypatch.setattr(local, "HERE", tmp_path)  # not in custom_nodes, wherever the tests run
    monkeypatch.setattr(local, "has_device", lambda: False)


def test_a_comfyui_is_started_started_again_and_ended_and_the_row_that_ends_it_is_named(comfyui, files, capsys):
    code, told = run(capsys, *files)
    assert code == 1 and f"batch: row 2 failed: {servers.MAX_DEATHS} servers ended while they had it" in told
    assert any("ComfyUI has ended and is started again. Its log is " in line for line in told)
    seeds = sorted(Image.open(path).getpixel((0, 0))[0] for path in files[2].glob("*.png"))
    assert seeds == [1, 2]
    url = json.loads((files[2] / "batch.jsonl").read_text().splitlines()[1])["to"]
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0  # it is not left behind


def test_a_comfyui_that_does_not_start_is_told_with_the_end_of_its_log(comfyui, files, capsys):
    code, lines = run(capsys, *files, "--comfyui=--no-such-option")
    assert code == 1 and lines[0].startswith("batch: ComfyUI does not start (Cannot connect")


@pytest.mark.skipif(os.name == "nt", reason="a program of a shell")
def test_a_comfyui_writes_utf8_where_python_takes_no_variables(comfyui, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -E "$@"\n')
    python.chmod(0o755)
    (tmp_path / "ComfyUI" / "main.py").write_text("import sys; print(sys.flags.utf8_mode)")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")  # in the plain C locale Python does so by itself
    server = local.LocalServer(tmp_path / "log", [])
    server.start()
    server.process.wait(20)
    assert server.tail() == "1"


# --- workers of Ray ----------------------------------------------------------------------------------------------------


def events(out):
    path = out / "batch.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


@pytest.fixture
def ray(comfyui, monkeypatch):
    return pytest.importorskip("ray", reason="python -m pip install ray")


@pytest.mark.slow
def test_rays_workers_paint_each_row_once_and_the_row_that_ends_them_is_named(ray, files, capsys):
    code, told = run(capsys, *files, "--ray", "2", "--comfyui=--cpu")
    assert code == 1 and f"batch: row 2 failed: {servers.MAX_DEATHS} servers ended while they had it" in told
    seeds = sorted(Image.open(path).getpixel((0, 0))[0] for path in files[2].glob("*.png"))
    assert seeds == [1, 2]
    assert {event["to"] for event in events(files[2]) if "sent" in event} == {"ray-0", "ray-1"}


@pytest.mark.slow
def test_a_worker_of_ray_that_is_killed_is_replaced_and_loses_no_row(ray, files, capsys, monkeypatch, tmp_path):
    """A third process more than the two that were asked for, and each picture once."""
    flow, rows, out = files
    rows.write_text("seed\n" + "\n".join(str(seed) for seed in range(20, 60)))
    parents = tmp_path / "parents"
    monkeypatch.setenv("FAKE_PARENTS", str(parents))
    monkeypatch.setenv("FAKE_SECONDS", "0.2")

    def kill():
        while sum("done" in event for event in events(out)) < 8:
            time.sleep(0.05)
        os.kill(int(parents.read_text().split()[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    code, told = run(capsys, flow, rows, out, "--ray", "2", "--comfyui=--cpu")
    assert code == 0, told
    assert any("has ended (the worker is gone" in line for line in told) and any("is back" in line for line in told)
    assert len(parents.read_text().split()) == 3
    seeds = sorted(Image.open(path).getpixel((0, 0))[0] for path in out.glob("*.png"))
    assert seeds == list(range(20, 60))
    done = [event["job"] for event in events(out) if "done" in event]
    assert len(done) == len(set(done)) == 40


@pytest.mark.slow
def test_a_comfyui_of_ray_that_does_not_start_is_told_with_the_end_of_its_log(ray, files, capsys):
    code, lines = run(capsys, *files, "--ray", "1", "--comfyui=--cpu --no-such-option")
    assert code == 1 and lines[0].startswith("batch: ComfyUI does not start on a worker. The end of ")


@pytest.mark.slow
def test_more_workers_than_ray_has_room_for_are_told(ray, files, capsys):
    code, (line,) = run(capsys, *files, "--ray", "5000", "--comfyui=--cpu")
    assert code == 1 and "--ray is 5000, but Ray has " in line and "one for each worker. Give fewer" in line


def test_without_ray_the_remedy_is_told(comfyui, files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, (line,) = run(capsys, *files, "--ray", "2")
    assert code == 1 and line == "batch: --ray needs Ray, which is missing. python -m pip install ray"
