"""A stored format is one file: added to a copy of the pack, it loads, reports, runs, and is saved and loaded again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import support

pytestmark = pytest.mark.host
TOY = Path(__file__).with_name("toy.py")
ROOMS = ("chroma_model", "constants.py", "host", "loaders", "samplers", "tools", "__init__.py", "pyproject.toml")
SCRIPT = """
import json, sys
from pathlib import Path
pack, host, plain, folder = map(Path, sys.argv[1:])
sys.path[:0] = [str(pack)]
sys.path.append(str(host))
from comfy.cli_args import args
args.cpu = True
sys.argv[1:] = []
import torch
from tools import load_pack
from tools.__main__ import main

load, report, save = (load_pack(f"host.model.{name}") for name in ("load", "report", "save"))
generator = torch.Generator().manual_seed(0)


def run(model):
    network, config = model.model.diffusion_model, model.model.model_config.chroma_config
    g = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, config.channels, 16, 16, generator=g), torch.randn(1, 8, config.context_dim, generator=g)
    return network(x, torch.tensor([0.5]), text, torch.zeros(1), modulations=None)


def off(a, b):
    return float((a - b).norm() / b.norm())


with torch.inference_mode():
    told = {"modes": list(load_pack("loaders.formats.base.registry").QUANT_MODES)}
    assert main(["quantize", str(plain), str(folder / "toy.safetensors"), "--format", "toy7"]) == 0
    models = {
        "plain": load.load_chroma(str(plain), "fp32"),
        "file": load.load_chroma(str(folder / "toy.safetensors")),
        "mode": load.load_chroma(str(plain), "toy7"),
    }
    save.export_model(models["file"], folder / "again.safetensors", "toy7")
    models["again"] = load.load_chroma(str(folder / "again.safetensors"))
    pictures = {name: run(model) for name, model in models.items()}
    told["report"] = report.model_report(models["file"])
    told["off"] = {name: off(found, pictures["plain"]) for name, found in pictures.items()}
    told["again"] = off(pictures["again"], pictures["file"])
print(json.dumps(told))
"""


@pytest.fixture
def copied(tmp_path):
    pack = tmp_path / "pack"
    pack.mkdir()
    for name in ROOMS:
        source = support.ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, pack / name)
    shutil.copy(TOY, pack / "loaders" / "formats" / TOY.name)
    return pack


def test_a_format_in_one_file_loads_reports_runs_and_is_saved(host_dir, copied, tmp_path):
    cfg = support.config()
    plain = support.write(tmp_path / "plain.safetensors", support.published(support.random_weights(cfg)))
    arguments = [str(path) for path in (copied, host_dir, plain, tmp_path)]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["modes"][-1] == "toy7"
    assert "file: toy7 (" in told["report"] and "kept as toy7 (" in told["report"]
    assert "toy7 is unpacked at use, no device multiplies it as it is" in told["report"]
    for name in ("file", "mode", "again"):
        assert 0.0187 / 4 < told["off"][name] < 0.0187 * 2.5, told["off"]  # as the matrix test bounds it
    assert told["again"] < 0.0187 / 2, told  # packed twice; codes on the grid stay where they are
