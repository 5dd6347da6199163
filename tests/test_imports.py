"""The two import rules of the design, read from the syntax tree."""

import ast
import subprocess
import sys

import pytest
import support

HOST = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "comfy_kitchen",
    "folder_paths",
    "nodes",
    "node_helpers",
    "server",
    "execution",
    "latent_preview",
}
ALLOWED = {  # folder -> siblings it may import
    "chroma_model": set(),
    "loaders": {"chroma_model"},
    "samplers": set(),
    "nodes": {"chroma_model", "loaders", "samplers"},
}
FILES = [p for folder in ALLOWED for p in sorted((support.ROOT / folder).rglob("*.py"))]


def imports(path):
    """(level, module) of every import statement."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(support.ROOT)))
def test_imports_point_down_and_host_stays_in_its_files(path):
    folder = path.relative_to(support.ROOT).parts[0]
    for level, module in imports(path):
        top = module.split(".")[0]
        if level >= 2:
            assert top in ALLOWED[folder], f"{folder} must not import {top}"
        if level == 0 and top in HOST:
            assert folder == "nodes" or path.name.startswith("comfy_"), f"{module} is the host's"


def test_package_imports_without_host_or_torch():
    code = "import dev, sys; dev.load_pack(); print('torch' in sys.modules, 'comfy_api' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=support.ROOT, capture_output=True, text=True)
    assert run.stdout.split() == ["False", "False"], run.stderr
