"""The commands as people start them: by path, in a Python that looks nowhere for modules; what all of them tell."""

import json
import os
import subprocess
import sys

import pytest
import support
import torch

import tools
from tools.__main__ import main

ALONE = (sys.executable, "-I")  # as a ._pth file beside it makes Windows portable's Python


def run(*command, **more):
    return subprocess.run([*map(str, command)], capture_output=True, encoding="utf-8", **more)


@pytest.mark.parametrize("place", ["tools", "tools/__main__.py"])
def test_tools_run_by_their_path_in_an_isolated_python(tmp_path, place):
    listed = run(*ALONE, support.ROOT / place, "--help", cwd=tmp_path)
    assert listed.returncode == 0 and listed.stdout.startswith("usage: python tools NAME"), listed.stderr
    done = run(*ALONE, place, "batch", "--help", cwd=support.ROOT)
    assert done.returncode == 0 and "WORKFLOW.json" in done.stdout, done.stderr


def test_quantize_runs_by_its_path_in_an_isolated_python(tmp_path):
    done = run(*ALONE, support.ROOT / "quantize.py", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "q8_0" in done.stdout, done.stderr


def test_pack_that_is_linked_into_custom_nodes_looks_for_the_comfyui_around_it(tmp_path):
    linked = tmp_path / "custom_nodes" / "chroma"
    linked.parent.mkdir()
    linked.symlink_to(support.ROOT, target_is_directory=True)
    (tmp_path / "flow.json").write_text(json.dumps({"1": {"class_type": "Paint", "inputs": {"seed": 0}}}))
    environment = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    command = (linked / "tools", "batch", "flow.json", "--cross", "seed=1", "--out", "out")
    done = run(*ALONE, *command, cwd=tmp_path, env=environment)
    assert f"{tmp_path} around this pack has no main.py" in done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    weights = support.random_weights(support.config())
    return support.write(tmp_path_factory.mktemp("model") / "m.safetensors", support.published(weights))


def narrow(*command):
    """A run whose output is a file in an encoding of the West, as where Windows redirects it."""
    done = run(sys.executable, support.ROOT / "tools", *command, env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_name_that_the_console_cannot_show_is_escaped(model, tmp_path):
    target = tmp_path / "\u30e2\u30c7\u30eb.gguf"
    assert narrow("quantize", model, target, "q8_0").splitlines()[0] == str(tmp_path / "\\u30e2\\u30c7\\u30eb.gguf")
    assert target.is_file()


def test_bars_that_the_console_cannot_show_are_drawn_plainly(model, tmp_path):
    narrow("quantize", model, tmp_path / "small.gguf", "q4_0")
    text = narrow("compare", tmp_path / "small.gguf", model, "--size", 64, "--tokens", 4)
    assert "#" * 30 in text and "\\u" not in text


COMMANDS = {
    "quantize": ("write_quantised", "FileWeights", ("{model}", "{out}.gguf", "q8_0")),
    "compare": ("write_quantised", "FileWeights", ("{model}", "{model}")),
    "distil": ("flux_file", "FluxFile", ("{model}", "{out}.safetensors")),
}
FAULTS = {
    "the memory of cpu is too small for it. Close what else uses it, or use --device cpu": torch.OutOfMemoryError,
    "[Errno 13] Permission denied: 'a'": lambda: PermissionError(13, "Permission denied", "a"),
}


@pytest.mark.parametrize("told", FAULTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_too_little_memory_and_files_that_cannot_be_read_are_told_in_a_line(
    model, tmp_path, monkeypatch, capsys, name, told
):
    def fail(*_, **__):
        raise FAULTS[told]()

    module, reader, arguments = COMMANDS[name]
    monkeypatch.setattr(tools.load_pack(f"loaders.checkpoint.{module}"), reader, fail)
    places = {"model": model, "out": tmp_path / "out"}
    assert main([name, *(argument.format(**places) for argument in arguments)]) == 1
    assert capsys.readouterr().err == f"{name}: {told}\n"
    assert not list(tmp_path.iterdir())
