"""The pack as a user gets it: packed by comfy-cli, unpacked in a host of its own, and on a host that lacks something."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import zipfile

import archive
import conftest
import pytest
import support

dev = support.dev
pytestmark = pytest.mark.host
COMFY_CLI = "comfy-cli==1.23.0"
QUIET = {"DO_NOT_TRACK": "1", "NO_COLOR": "1", "PYTHONUTF8": "1"}  # no telemetry and no question about it
PACKED_AS = "node.zip"  # comfy-cli's name for its archive
FOLDER = "chroma-pack"  # the registry's id, by which the manager names the folder
DEVICES = ("NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal")
PROJECT = """
import json
from comfy_cli.registry.config_parser import extract_node_configuration
print(json.dumps(extract_node_configuration("pyproject.toml"), default=vars))
"""


@pytest.fixture(scope="session")
def comfy_cli():
    """A Python with comfy-cli, in an environment of its own: its packages must not touch the host's."""
    folder = dev.cache_dir() / COMFY_CLI.replace("==", "-")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", COMFY_CLI]
        made = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if made.returncode:
            conftest.give_up(f"{COMFY_CLI} could not be installed: {made.stderr[-500:]}")
        (folder / "complete").touch()
    return python


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    return archive.copy(tmp_path_factory.mktemp("repository"))


def call(python, folder, *arguments):
    return subprocess.run(
        [str(python), *arguments],
        cwd=folder,
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_comfy_cli_finds_no_fault(comfy_cli, repository):
    run = call(comfy_cli, repository, "-m", "comfy_cli", "--skip-prompt", "node", "validate")
    said = run.stdout + run.stderr
    assert run.returncode == 0 and "All validation checks passed" in said and "arning" not in said, said


@pytest.mark.slow
def test_comfy_cli_packs_what_the_rules_say(comfy_cli, repository):
    run = call(comfy_cli, repository, "-m", "comfy_cli", "--skip-prompt", "node", "pack")
    assert run.returncode == 0, run.stdout + run.stderr
    packed = zipfile.ZipFile(repository / PACKED_AS)
    assert sorted(packed.namelist()) == archive.packed()
    assert packed.testzip() is None
    (repository / PACKED_AS).unlink()


@pytest.mark.slow
def test_the_registry_gets_every_field(comfy_cli, repository):
    run = call(comfy_cli, repository, "-c", PROJECT)
    found = json.loads(run.stdout)  # a warning before it would be no JSON
    project, comfy = found["project"], found["tool_comfy"]
    requirements = (support.ROOT / "requirements.txt").read_text().splitlines()
    assert project["name"] == FOLDER and project["license"] == {"file": "", "text": "Apache-2.0"}
    assert project["dependencies"] and set(project["dependencies"]) <= set(requirements)
    assert project["supported_os"] == ["OS Independent"] and project["requires_python"] == ">=3.10"
    assert project["supported_comfyui_version"] == f">={support.dev.load_pack().REQUIRED_HOST}"
    assert project["supported_accelerators"] == [f"GPU :: {name}" for name in DEVICES]
    assert project["description"] and comfy["display_name"] == "Chroma Pack" and not comfy["includes"]


# --- unpacked in a real host -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(host_dir, tmp_path_factory):
    """A running host of its own, whose path has spaces and other letters, with nothing but the unpacked archive."""
    base = tmp_path_factory.mktemp("install") / "Meine Bilder é"
    pack = base / "custom_nodes" / FOLDER
    for name in ("input", "output", "models", "user", "temp"):
        (base / name).mkdir(parents=True)
    with zipfile.ZipFile(archive.write(base / PACKED_AS)) as packed:
        packed.extractall(pack)
    log = base / "server.log"
    with dev.Server(arguments=("--base-directory", str(base)), log=log, cpu=True) as running:
        running.pack = pack
        yield running


def listed(server):
    return {k: v for k, v in server.get("/object_info").items() if v["python_module"] == f"custom_nodes.{FOLDER}"}


def fetched(server, path):
    with dev.OPENER.open(f"{server.url}{urllib.parse.quote(path)}", timeout=30) as answer:
        return answer.read()


def test_unpacked_archive_has_the_nodes_of_the_repository(installed, server):
    def facts(nodes):
        return {name: (node["display_name"], node["input_order"], node["output"]) for name, node in nodes.items()}

    assert facts(listed(installed)) == facts(listed(server)) and len(listed(installed)) >= 20


def test_unpacked_archive_loads_without_a_warning(installed):
    log = installed.log.read_text(encoding="utf-8", errors="replace")
    seconds = re.findall(rf"([\d.]+) seconds(.*): .*{FOLDER}", log)
    assert len(seconds) == 1 and seconds[0][1] == "", seconds  # else: (IMPORT FAILED)
    troubles = [line for line in log.splitlines() if re.search(r"WARN|ERROR|Traceback", line)]
    assert not [line for line in troubles if re.search(r"custom_nodes|[Cc]hroma", line)], troubles


def test_unpacked_archive_serves_help_scripts_and_workflows(installed):
    web = installed.pack / "web"
    served = [p.relative_to(web).as_posix() for p in web.rglob("*") if p.is_file()]
    shown = [node for node, told in listed(installed).items() if not told.get("dev_only")]
    assert {f"docs/{node}.md" for node in shown} <= set(served)
    for name in served:
        assert fetched(installed, f"/extensions/{FOLDER}/{name}") == (web / name).read_bytes()
    scripts = installed.get("/extensions")
    assert {f"/extensions/{FOLDER}/{name}" for name in served if name.endswith(".js")} <= set(scripts)
    workflows = sorted((installed.pack / "example_workflows").glob("*.json"))
    assert sorted(installed.get("/workflow_templates")[FOLDER]) == [p.stem for p in workflows]
    for path in workflows:
        assert fetched(installed, f"/api/workflow_templates/{FOLDER}/{path.name}") == path.read_bytes()


def test_unpacked_archive_has_its_translations_and_subgraphs(installed):
    translated = installed.get("/i18n")
    for path in (installed.pack / "locales").glob("*/nodeDefs.json"):
        own = json.loads(path.read_text(encoding="utf-8"))
        assert own.items() <= translated[path.parent.name]["nodeDefs"].items(), path.parent.name
    names = {entry["name"] for entry in installed.get("/global_subgraphs").values() if FOLDER in str(entry["info"])}
    assert names == {path.stem for path in (installed.pack / "subgraphs").glob("*.json")}


def test_unpacked_archive_registers_menus_and_route(installed):
    schedulers = installed.get("/object_info/KSampler")["KSampler"]["input"]["required"]["scheduler"]
    assert "sigmoid_offset" in json.dumps(schedulers)
    assert len(installed.post("/chroma/curve", {"curve": "beta", "steps": 4})["sigmas"]) == 5


def test_unpacked_quantize_runs_by_itself(installed):
    run = call(dev.venv_python(), installed.pack, "-m", "quantize", "--help")
    assert run.returncode == 0 and "--format FORMAT" in run.stdout, run.stderr


# --- what its import brings, and hosts that lack something -----------------------------------------------------------

HEAVY = {  # optional packages, and those that take long
    "bitsandbytes",
    "cv2",
    "diffusers",
    "flash_attn",
    "matplotlib",
    "onnxruntime",
    "pandas",
    "sageattention",
    "scipy.optimize",
    "scipy.stats",
    "torch._inductor",
    "torchvision",
    "transformers",
    "triton",
    "xformers",
}
# Loads the pack by the host's own loader, first where something is missing, then whole; prints what changed.
LOAD = """
import asyncio, json, logging, sys, types
host, pack, *only = sys.argv[1:]
sys.path.insert(0, host)
from comfy.cli_args import args
args.cpu = True
import comfy.samplers, comfy_api.latest, comfyui_version, nodes, server
from aiohttp import web
from app.node_replace_manager import NodeReplaceManager
handlers = []
server.PromptServer.instance = types.SimpleNamespace(
    routes=web.RouteTableDef(), node_replace_manager=NodeReplaceManager(), add_on_prompt_handler=handlers.append
)

class Lines(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())

logging.getLogger().addHandler(Lines())
lines = []

def state():
    samplers = comfy.samplers
    return [
        sorted(nodes.NODE_CLASS_MAPPINGS), sorted(nodes.NODE_DISPLAY_NAME_MAPPINGS), sorted(nodes.EXTENSION_WEB_DIRS),
        list(samplers.SCHEDULER_NAMES), sorted(samplers.SCHEDULER_HANDLERS), list(samplers.SAMPLER_NAMES),
        list(samplers.KSAMPLER_NAMES), len(server.PromptServer.instance.routes),
        len(handlers), sorted(server.PromptServer.instance.node_replace_manager.as_dict()),
    ]

def load():
    for name in [n for n in sys.modules if n.startswith(pack)]:
        del sys.modules[name]
    before = state()
    lines.clear()
    modules = set(sys.modules)
    loaded = asyncio.run(nodes.load_custom_node(pack))
    changed = [i for i, (a, b) in enumerate(zip(before, state())) if a != b]
    new = sorted(n for n in set(sys.modules) - modules if not n.startswith(pack))
    return {"loaded": loaded, "lines": list(lines), "changed": changed, "modules": new}

def without(owner, name, value=None):
    kept = getattr(owner, name)
    delattr(owner, name) if value is None else setattr(owner, name, value)
    try:
        return load()
    finally:
        setattr(owner, name, kept)

io = comfy_api.latest.io
if only:
    print(json.dumps(without(io, only[0])))
    sys.exit()
found = {"old": without(comfyui_version, "__version__", "0.29.1")}
sys.modules["gguf"] = None
found["package"] = load()
del sys.modules["gguf"]
found["whole"] = load()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def loads(host_dir, tmp_path_factory):
    pack = tmp_path_factory.mktemp("loads") / FOLDER
    with zipfile.ZipFile(archive.write(pack.with_suffix(".zip"))) as packed:
        packed.extractall(pack)
    run = call(dev.venv_python(), pack.parent, "-c", LOAD, str(host_dir), str(pack))
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    for name in ("DynamicCombo", "Hidden"):
        part = call(dev.venv_python(), pack.parent, "-c", LOAD, str(host_dir), str(pack), name)
        found[name] = json.loads(part.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", ["DynamicCombo", "Hidden"])
def test_what_a_host_lacks_takes_away_the_nodes_that_need_it(loads, name):
    found = loads[name]
    lines = [line for line in found["lines"] if "Chroma" in line]
    assert found["loaded"] is True and len(lines) == 1 and f"has no attribute '{name}'" in lines[0], lines
    gone = {"ChromaCFGGuider", "ChromaGuidance", "ChromaKSampler", "ChromaPreset", "ChromaTimestepShift"}
    assert gone <= set(lines[0].removeprefix("Chroma Pack: ").partition(" not available")[0].split(", "))
    assert not [line for line in found["lines"] if "Traceback" in line] and 0 in found["changed"]


@pytest.mark.parametrize(
    "missing, told",
    [
        ("old", "It needs ComfyUI 0.30.0 or newer, this is 0.29.1. Update ComfyUI"),
        ("package", "The Python package gguf is missing. Install it into ComfyUI's Python"),
    ],
)
def test_a_host_that_lacks_something_is_told_in_one_line_and_stays_as_it_was(loads, missing, told):
    found = loads[missing]
    lines = [line for line in found["lines"] if "Chroma" in line]
    assert len(lines) == 1 and told in lines[0] and "\n" not in lines[0], found["lines"]
    assert not [line for line in found["lines"] if "Traceback" in line]
    assert found["loaded"] is False
    web = 2  # the host takes the scripts' folder before it asks for nodes
    assert [i for i in found["changed"] if i != web or missing == "old"] == []


def test_the_pack_loads_once_nothing_is_missing(loads):
    whole = loads["whole"]
    assert whole["loaded"] is True and not [line for line in whole["lines"] if "Chroma" in line]
    assert {0, 1, 3, 4, 5, 6, 8, 9} <= set(whole["changed"])


def test_import_brings_no_heavy_or_optional_package(loads):
    modules = {m for found in loads.values() for m in found["modules"]}
    assert "gguf" in modules and not {m for m in modules for h in HEAVY if m == h or m.startswith(f"{h}.")}
