from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import support
import torch
from browser import demo_files

dev = support.dev
WORKER = os.environ.get(
    "PYTEST_XDIST_WORKER", "gw0"
)  # the whole suite runs in three processes, each with its own server
dev.BASE = "test-base" + (
    "" if WORKER == "gw0" else f"-{WORKER}"
)  # models and pictures of tests stay out of the demo's
CARD = os.environ.get("CHROMA_PACK_CARD", "cuda")
REQUIRED = bool(os.environ.get("CHROMA_PACK_REQUIRE_HOST"))

with contextlib.suppress(ImportError):  # the tests of tests/properties skip where there is none
    from hypothesis import settings

    # The same few examples in every run; `--hypothesis-profile many` draws others each time and keeps those that fail.
    settings.register_profile("plain", max_examples=25, derandomize=True, database=None, deadline=None)
    settings.register_profile("many", max_examples=1000, deadline=None, print_blob=True)
    settings.load_profile("plain")


def give_up(reason: str) -> None:
    """Skips, or fails where `python dev.py test` has promised a host."""
    (pytest.fail if REQUIRED else pytest.skip)(reason)


@pytest.fixture(autouse=True)
def known_state():
    """Every test starts from the same seed, and with denormal numbers, which the demo's trainers turn off."""
    torch.manual_seed(0)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def host_source() -> Path:
    """ComfyUI's folder, or a skip when this run has none."""
    try:
        path = dev.host_path()
    except dev.Problem as problem:
        give_up(str(problem))
    if not (path / "main.py").is_file():
        give_up("no ComfyUI here: run `python dev.py test`")
    return path


@pytest.fixture(scope="session")
def host_dir(host_source) -> Path:
    """The same, with an environment and models, so that it can be started."""
    path = host_source
    if not dev.venv_python().is_file():
        give_up("no ComfyUI here: run `python dev.py test`")
    shutil.rmtree(dev.base_dir() / "user", ignore_errors=True)  # the page's settings of an earlier session
    dev.place_models()
    return path


def only_on_card(request) -> bool:
    """Whether this session runs nothing but tests that need a card: ComfyUI chooses one device for its process."""
    return all(item.get_closest_marker("gpu") for item in request.session.items)


@pytest.fixture(scope="session")
def card(request) -> torch.device:
    """The device of tests marked `gpu`; CHROMA_PACK_CARD=cpu has the CPU stand in for it, which rehearses them."""
    if not only_on_card(request):
        pytest.skip("tests of a card need a session of their own: `pytest -m gpu`")
    if CARD == "cuda" and not torch.cuda.is_available():
        pytest.skip("no card here; CHROMA_PACK_CARD=cpu rehearses on the CPU")
    return torch.device(CARD)


@pytest.fixture(scope="session")
def comfy(request):
    """The host's modules in this process, on the CPU, or on the card where only tests of a card run."""
    host_dir = request.getfixturevalue("host_source" if only_on_card(request) else "host_dir")
    if importlib.util.find_spec("comfy_kitchen") is None:
        give_up("this Python lacks ComfyUI's requirements: run `python dev.py test`")
    sys.path.insert(0, str(host_dir))
    from comfy.cli_args import args

    args.cpu = CARD == "cpu" or not (only_on_card(request) and torch.cuda.is_available())
    import comfy.ldm.modules.attention
    import comfy.model_management
    import comfy.samplers
    import comfy.sd

    return comfy


@pytest.fixture
def inference(comfy):
    """Loading and sampling happen in one inference mode, as in the host."""
    with torch.inference_mode():
        yield


@pytest.fixture
def products(comfy, monkeypatch):
    """Says what timing would find of this machine."""
    matmul = support.dev.load_pack("host.model.matmul")
    return lambda found: monkeypatch.setattr(
        matmul, "slowness", lambda format, device: found if format.matmul else None
    )


@pytest.fixture
def fast_products(products):
    products(None)


@pytest.fixture
def slow_products(products):
    products("takes 58 times as long on this device as float32")


@pytest.fixture(scope="session")
def server(host_dir):
    """A running ComfyUI with this pack and the demo models, shared by all tests."""
    demo_files.place(dev.base_dir())
    arguments = ("--preview-method", "latent2rgb", *dev.front_end())
    log = dev.cache_dir() / f"{dev.BASE}-server.log"
    with dev.Server(arguments=arguments, log=log, cpu=True) as running:
        yield running
    # The host's own sign of a model that only the garbage collector frees: it then counts its memory as used.
    assert "memory leak" not in log.read_text(encoding="utf-8", errors="replace"), f"models leak: {log}"
    shutil.rmtree(dev.base_dir() / "output", ignore_errors=True)  # another run of tests may share it


def kept_clean(folder: Path):
    before = set(os.listdir(folder))
    yield folder
    for name in set(os.listdir(folder)) - before:
        with contextlib.suppress(PermissionError):  # Windows keeps files that the server has mapped
            (folder / name).unlink()


@pytest.fixture
def models_dir(server):
    """models/diffusion_models of the running server; what a test puts there is removed again."""
    yield from kept_clean(dev.base_dir() / "models" / "diffusion_models")


@pytest.fixture
def loras_dir(server):
    yield from kept_clean(dev.base_dir() / "models" / "loras")


SLOWEST = 20  # files that the summary names


def pytest_terminal_summary(terminalreporter):
    """Names the files of tests that took longest: the suite is shared out by files, and its time has a limit."""
    seconds, counts = Counter(), Counter()
    for report in (one for group in terminalreporter.stats.values() for one in group if hasattr(one, "duration")):
        file = report.nodeid.partition("::")[0]
        seconds[file] += report.duration
        counts[file] += report.when == "call"
    if sum(seconds.values()) < 60:
        return
    terminalreporter.section("slowest files")
    for file, taken in seconds.most_common(SLOWEST):
        terminalreporter.write_line(f"{taken:7.0f} s  {counts[file]:5d} tests  {file}")
