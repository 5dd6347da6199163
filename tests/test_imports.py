"""The two import rules of the design, read from the syntax tree: arrows point up one list, the host is behind one door."""

import ast
import importlib.util
import re
import subprocess
import sys

import pytest
import support

from tools import check_host

HOST_DOOR = ("host", "nodes")  # whose files may import it
HOST = check_host.MODULES
# Room -> the rooms whose files it may import, beside its own and `constants`. A file directly in a folder is a room too.
LOADERS = (
    "loaders.tensor_info",
    "loaders.files",
    "loaders.formats",
    "loaders.checkpoint",
    "loaders.lora",
    "loaders.t5",
)
PURE = ("chroma_model", "samplers", "prompts", "tables", "advice", *LOADERS)
HOST_ROOMS = ("host", "host.run", "host.model", "host.text", "host.sample")  # for nodes
ALLOWED: dict[str, tuple[str, ...]] = {
    "constants": (),
    "chroma_model": (),
    "samplers": (),
    "prompts": (),
    "tables": (),
    "loaders": (),
    "loaders.tensor_info": (),
    "loaders.files": LOADERS[:1],
    "loaders.formats": LOADERS[:2],
    "loaders.checkpoint": ("chroma_model", *LOADERS[:3]),
    "loaders.lora": LOADERS[:4],
    "loaders.t5": LOADERS[:4],
    "advice": ("samplers",),
    "host": (),
    "host.run": PURE,
    "host.model": (*PURE, "host.run"),
    "host.text": (*PURE, "host.run", "host.model"),
    "host.sample": (*PURE, "host.run"),
    "host.api": (*PURE, *HOST_ROOMS),
    "nodes.shared": (*PURE, *HOST_ROOMS),
    "nodes": (*PURE, *HOST_ROOMS, "nodes.shared"),
}
FOLDERS = sorted({room.split(".")[0] for room in ALLOWED} - {"constants"})
FILES = [support.ROOT / "constants.py", *(p for f in FOLDERS for p in sorted((support.ROOT / f).rglob("*.py")))]


def module_of(path):
    parts = path.relative_to(support.ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module):
    """The longest room that a module lies in."""
    return max((room for room in ALLOWED if module == room or module.startswith(room + ".")), key=len, default=module)


def imports(path):
    """(whether of this pack, absolute module) of every import statement; `from . import x` gives x."""
    package = path.parent.relative_to(support.ROOT).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((False, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield False, node.module
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
            names = [".".join([*base, alias.name]) for alias in node.names]
            for name in names:
                is_module = (support.ROOT / name.replace(".", "/")).with_suffix(".py").is_file()
                yield True, name if is_module else ".".join(base)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(support.ROOT)))
def test_imports_point_up_and_the_host_stays_behind_its_door(path):
    room = room_of(module_of(path))
    allowed = (room, "constants", *ALLOWED[room]) if room != "constants" else ()
    for ours, module in imports(path):
        if ours:
            assert room_of(module) in allowed, f"{room} must not import {module}"
        elif module.split(".")[0] in HOST:
            assert room.split(".")[0] in HOST_DOOR, f"{module} is the host's"


def test_every_room_is_there_and_no_file_lies_outside_of_one():
    rooms = {room_of(module_of(path)) for path in FILES}
    assert rooms == set(ALLOWED)


def test_no_room_holds_more_than_a_fifth_of_the_code():
    lines: dict[str, int] = {}
    for path in FILES:
        room = room_of(module_of(path))
        lines[room] = lines.get(room, 0) + len(path.read_text(encoding="utf-8").splitlines())
    share = {room: n / sum(lines.values()) for room, n in lines.items()}
    assert max(share.values()) < 0.2, share


def test_package_imports_without_host_or_torch():
    code = "import dev, sys; dev.load_pack(); print('torch' in sys.modules, 'comfy_api' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=support.ROOT, capture_output=True, text=True)
    assert run.stdout.split() == ["False", "False"], run.stderr


SCRIPTS = [p for f in ("benchmarks", "demo", "tools") for p in sorted((support.ROOT / f).rglob("*.py"))]
WITHOUT_INSTALL = {
    "atheris",
    "convert_to_quant",
    "cosmic_ray",
    "fcntl",
    "mlx",
    "msvcrt",
    "pyarrow",
    "ray",
    "resource",
    "resvg_py",
    "stable_diffusion_cpp",
}  # the script says how to get it, or needs it on one system only


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: str(p.relative_to(support.ROOT)))
def test_scripts_name_modules_that_are_there(path):
    """Also in functions, which no test may run."""
    for ours, module in imports(path):
        top = module.split(".")[0]
        if not ours and top not in HOST | WITHOUT_INSTALL:
            assert importlib.util.find_spec(top) is not None, module
    for name in re.findall(r'load_pack\("([\w.]+)"\)', path.read_text(encoding="utf-8")):
        stem = support.ROOT / name.replace(".", "/")
        assert stem.is_dir() or stem.with_suffix(".py").is_file(), name
