"""Says which names that this pack uses a folder of ComfyUI lacks, by reading its sources; nothing of it is run."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Iterable, Iterator, Mapping

from . import load_pack
from ._shell import Parser

ROOT = Path(__file__).resolve().parent.parent
OUR_FOLDERS = ("host", "nodes")  # the only ones that import ComfyUI
MODULES = {  # of ComfyUI, at the top of its folder or as packages of their own
    *("comfy", "comfy_api", "comfy_extras", "comfy_execution", "comfy_kitchen", "execution", "folder_paths"),
    *("latent_preview", "node_helpers", "nodes", "server"),
}
# Attributes that only a running server or a parsed command line has.
AT_RUN_TIME = ("comfy.cli_args.args.", "server.PromptServer.instance")
Found = ast.stmt | str | None  # what a name of a module is: a statement, or the dotted name that it was imported from


# --- what the pack uses ----------------------------------------------------------------------------------------------


def used(path: Path) -> set[str]:
    """Every name of the host that a file uses, as "module.attribute...", the longest of those that begin alike."""
    tree, names, out = ast.parse(path.read_text(encoding="utf-8")), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                if top in MODULES:
                    names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in MODULES:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                out.add(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        chain: list[str] = []
        value: ast.AST = node
        while isinstance(value, ast.Attribute):
            chain.append(value.attr)
            value = value.value
        if chain and isinstance(value, ast.Name) and value.id in names:
            out.add(".".join([names[value.id], *reversed(chain)]))
    return {name for name in out if not any(other.startswith(name + ".") for other in out)}


def used_by() -> dict[str, set[str]]:
    """Name of the host -> what of the pack needs it: features of `host/required_names.py`, and else files."""
    out: dict[str, set[str]] = {}
    for feature, names in load_pack("host.required_names").NEEDED.items():
        for name in names:
            out.setdefault(name, set()).add(feature)
    for path in sorted(p for folder in OUR_FOLDERS for p in (ROOT / folder).rglob("*.py")):
        for name in used(path) - out.keys():
            if not name.startswith(AT_RUN_TIME):
                out.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    return out


# --- what a folder of ComfyUI has ------------------------------------------------------------------------------------


@dataclass
class Module:
    """The names at the top of one source file, also within `if`, `try` and `with`."""

    package: str  # that relative imports start from
    names: dict[str, list[Found]] = field(
        default_factory=dict
    )  # several where one of them is made, as in try and except
    stars: list[str] = field(default_factory=list)  # modules of which all is imported
    is_open: bool = False  # names are made while it is run


class HostTree:
    """Looks names up in the sources of a ComfyUI."""

    def __init__(self, root: Path):
        """raises: ValueError where that is no folder of ComfyUI."""
        self.root = root
        if not (root / "main.py").is_file() or not (root / "comfy").is_dir():
            raise ValueError(f"{root}: no ComfyUI, there is no main.py with a folder comfy. Give ComfyUI's own folder")
        self.module = cache(self._module)

    @property
    def version(self) -> str:
        path = self.root / "comfyui_version.py"
        found = (
            re.search(r"""__version__\s*=\s*["']([^"']+)""", path.read_text(encoding="utf-8"))
            if path.is_file()
            else None
        )
        return found[1] if found else "of unknown version"

    def has(self, name: str) -> bool | None:
        """Whether it has a dotted name; None for one of a package that lies elsewhere, or that is made at run time."""
        return self._find("", name.split("."))

    def _find(self, module: str, parts: list[str]) -> bool | None:
        """parts: what is left of the name below a module; that of "" are the packages themselves."""
        if not parts:
            return True
        first, rest = parts[0], parts[1:]
        below = f"{module}.{first}" if module else first
        if not module:
            return self._find(below, rest) if self._is_module(below) else None
        here = self.module(module)
        if here is None:
            return None
        if first in here.names:
            return either(self._within(found, module, rest) for found in here.names[first])
        if self._is_module(below):
            return self._find(below, rest)
        return either([*(self._find(star, parts) for star in here.stars), None if here.is_open else False])

    def _within(self, found: Found, module: str, rest: list[str]) -> bool | None:
        if isinstance(found, str):
            return self._find("", found.split(".") + rest)
        if not rest:
            return True
        if isinstance(found, ast.ClassDef):
            return self._of_class(found, module, rest)
        return None  # an attribute of a value

    def _of_class(self, found: ast.ClassDef, module: str, rest: list[str]) -> bool | None:
        """The class's own names, those that it sets on `self`, and those of its bases."""
        own = [node for name, node in bindings(found.body, "") if name == rest[0]]
        if own:
            return either(self._within(node, module, rest[1:]) for node in own)
        if any(
            isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and n.attr == rest[0] for n in ast.walk(found)
        ):
            return True if len(rest) == 1 else None
        return either([False, *(self._find(module, [*ast.unparse(base).split("."), *rest]) for base in found.bases)])

    def _place(self, module: str) -> Path | None:
        stem = self.root.joinpath(*module.split("."))
        return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)

    def _is_module(self, module: str) -> bool:
        return self._place(module) is not None or self.root.joinpath(*module.split(".")).is_dir()

    def _module(self, module: str) -> Module | None:
        path = self._place(module)
        is_package = path is None or path.name == "__init__.py"
        out = Module(module if is_package else module.rpartition(".")[0])
        if path is None:
            return out if self._is_module(module) else None
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, found in bindings(tree.body, out.package):
            if name == "*":
                out.stars.append(str(found))
            else:
                out.names.setdefault(name, []).append(found)
        out.is_open = "__getattr__" in out.names or any(
            isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "globals" for n in ast.walk(tree)
        )
        return out


def either(answers: Iterable[bool | None]) -> bool | None:
    """Whether one of several holds; None if none does and one is not known."""
    found = list(answers)
    return True if True in found else None if None in found else False


def bindings(body: list[ast.stmt], package: str) -> Iterator[tuple[str, Found]]:
    """(name, what it is) of every name that statements make; ("*", module) where all of a module is imported."""
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0], alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if node.level and package else []
            base = (
                [*parts[: len(parts) - node.level + 1], *filter(None, [node.module])]
                if node.level
                else [node.module or ""]
            )
            for alias in node.names:
                yield alias.asname or alias.name, ".".join(base if alias.name == "*" else [*base, alias.name])
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from ((n.id, node) for n in ast.walk(target) if isinstance(n, ast.Name))
        else:  # if, try, with, for
            for part in ("body", "orelse", "finalbody"):
                yield from bindings(getattr(node, part, []), package)
            for handler in getattr(node, "handlers", []):
                yield from bindings(handler.body, package)


# --- the command -----------------------------------------------------------------------------------------------------


def lacking(root: Path, names: Mapping[str, set[str]]) -> tuple[list[str], list[str]]:
    """(names that this ComfyUI lacks, those that its sources cannot tell)."""
    tree = HostTree(root)
    answers = {name: tree.has(name) for name in sorted(names)}
    return [n for n, found in answers.items() if found is False], [n for n, found in answers.items() if found is None]


def main(arguments: list[str]) -> int:
    parser = Parser(prog="python tools check_host", description=__doc__, allow_abbrev=False)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a ComfyUI, of any version")
    given, names, worst = parser.parse_args(arguments), used_by(), 0
    for folder in given.folders:
        try:
            gone, unclear = lacking(folder, names)
        except (ValueError, OSError, SyntaxError) as error:
            print(error, file=sys.stderr)
            worst = 1
            continue
        known = len(names) - len(gone) - len(unclear)
        print(
            f"{folder}: ComfyUI {HostTree(folder).version} has {known} of the {len(names)} names that this pack uses; "
            f"{len(unclear)} are of packages beside it or made while it runs, {len(gone)} are lacking"
        )
        for name in gone:
            print(f"  {name}: needed for {', '.join(sorted(names[name]))}")
        worst = max(worst, bool(gone))
    return worst
