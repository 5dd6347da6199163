"""python tools NAME ...: runs one of the commands in this folder; without a name it lists them.

So, by the folder's path, it also runs in a Python that does not look for modules in the current folder, as that of Windows
portable; elsewhere `python -m tools` does the same.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).absolute().parent  # not resolved: the pack may be linked into custom_nodes
if not __package__:
    sys.path.insert(0, str(FOLDER.parent))

from tools._shell import WRONG_ARGUMENTS, escape_what_cannot_be_shown  # noqa: E402


def commands() -> dict[str, str]:
    """Name -> what it does, the first line of its file."""
    files = (path for path in sorted(FOLDER.glob("*.py")) if not path.name.startswith("_"))
    return {path.stem: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).split("\n")[0] for path in files}


def main(arguments: list[str]) -> int:
    escape_what_cannot_be_shown()
    known = commands()
    listed = "\n".join(f"  {name:<12}{text}" for name, text in known.items())
    usage = f"usage: python tools NAME ...\n\n{listed}\n\npython tools NAME --help tells more."
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage)
        return 0 if arguments else WRONG_ARGUMENTS
    name, *rest = arguments
    if name not in known:
        print(f"tools: there is no command {name!r}\n\n{usage}", file=sys.stderr)
        return WRONG_ARGUMENTS
    return importlib.import_module(f"tools.{name}").main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
