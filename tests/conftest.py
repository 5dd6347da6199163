from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import support
import torch

dev = support.dev


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def host_dir() -> Path:
    """ComfyUI's folder, or a skip when this run has none."""
    try:
        path = dev.host_path()
    except dev.Problem as problem:
        pytest.skip(str(problem))
    if not (path / "main.py").is_file() or not dev.venv_python().is_file():
        pytest.skip("no ComfyUI here: run `python dev.py test`")
    return path


@pytest.fixture(scope="session")
def comfy(host_dir):
    """The host's modules in this process, on the CPU."""
    pytest.importorskip("comfy_kitchen")
    sys.path.insert(0, str(host_dir))
    from comfy.cli_args import args

    args.cpu = True
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


@pytest.fixture(scope="session")
def server(host_dir):
    """A running ComfyUI with this pack and the demo models, shared by all tests."""
    dev.place_models()
    with dev.Server(arguments=("--preview-method", "latent2rgb"), log=dev.cache_dir() / "test-server.log") as running:
        yield running


@pytest.fixture
def models_dir(server):
    """models/diffusion_models of the running server; what a test puts there is removed again."""
    folder = dev.base_dir() / "models" / "diffusion_models"
    before = set(os.listdir(folder))
    yield folder
    for name in set(os.listdir(folder)) - before:
        (folder / name).unlink()
