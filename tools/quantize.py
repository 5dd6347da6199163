"""Writes a Chroma model in another precision, layer by layer, with the memory of one layer. Needs no ComfyUI.

    python tools quantize IN OUT FORMAT

IN is a file of any kind that Load Chroma Model takes: safetensors (one file, or the index of a sharded one), GGUF, .pth;
BFL's or diffusers' names; in 16, 8 or 4 bits. OUT appears only when it is whole.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from ._shell import FAILED, INTERRUPTED, Parser, device, loaded, out_of_memory, refuse_to_replace

REPORT_SECONDS = 10  # between lines of progress where there is no terminal


def parser(formats: dict[str, Any]) -> argparse.ArgumentParser:
    table = "\n".join(f"  {name:<14}{f.container:<13}error of the weights {f.error:.2%}" for name, f in formats.items())
    p = Parser(
        prog="python tools quantize",
        description=__doc__,
        epilog=f"formats:\n{table}\n\nThe linear layers of the blocks change; the rest stays in 16 or 32 bits.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("source", metavar="IN", type=Path, help="the model to read")
    p.add_argument("target", metavar="OUT", type=Path, help="the file to write, .safetensors or .gguf by format")
    p.add_argument("format", nargs="?", choices=list(formats), metavar="FORMAT", help="one of those below")
    p.add_argument("--format", dest="named_format", choices=list(formats), metavar="FORMAT", help="the same, by name")
    p.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    p.add_argument(
        "--fast-matmul",
        action="store_true",
        help="fp8_scaled: let ComfyUI's own loader multiply in fp8, which casts the inputs with a scale of 1",
    )
    p.add_argument("--prediction", choices=("auto", "v", "x0"), default="auto", help="if the file has lost its marker")
    p.add_argument(
        "--text-ids", choices=("auto", "zeros", "sequential"), default="auto", help="if the file has lost its marker"
    )
    p.add_argument(
        "--leave-out",
        default="",
        metavar="BLOCKS",
        help='write a pruned model without these blocks, e.g. "double 3, single 20-22, single 30"',
    )
    p.add_argument(
        "--max-error",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="write the blocks that are harmed most in more bits until the output errs by no more, e.g. 0.03 for 3 %%",
    )
    p.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE",
        help="measure that error on the inputs of this file of activations (python tools compare --help), not on made-up ones",
    )
    p.add_argument("--device", default="cpu", help="where to compute: cpu (default), cuda, cuda:1")
    return p


def progress() -> Any:
    """Shows a percentage on standard error: in place on a terminal, else a line now and then."""
    terminal = sys.stderr.isatty()
    shown = time.monotonic()

    def show(done: int, total: int, name: str) -> None:
        nonlocal shown
        if terminal:
            print(f"\r\033[K{done / total:4.0%} {name}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - shown > REPORT_SECONDS:
            shown = time.monotonic()
            print(f"{done / total:4.0%} {name}", file=sys.stderr, flush=True)

    return show


def main(arguments: list[str]) -> int:
    export = loaded("quantize", "loaders.checkpoint.write_quantised")
    import torch

    p = parser(export.EXPORTS)
    args = p.parse_intermixed_args(arguments)
    if bool(args.format) == bool(args.named_format):
        p.error(f"{'two formats are' if args.format else 'no format is'} given. Give one: {', '.join(export.EXPORTS)}")
    args.format = args.format or args.named_format
    try:
        export.export_format(args.format, args.target)
    except ValueError as error:
        p.error(str(error))
    if not 0 <= args.max_error < 1:
        p.error(f"--max-error is {args.max_error:g}, expected a share from 0 to 1")
    if args.source.is_dir():
        p.error(f"{args.source} is a folder. Give the .safetensors or .index.json file in it")
    if not args.source.is_file():
        p.error(f"{args.source}: there is no such file")
    refuse_to_replace(p, args.target, args.source, args.inputs)
    if args.target.exists() and not args.overwrite:
        p.error(f"{args.target} exists already. Choose another name, or add --overwrite")
    if args.inputs and not args.max_error:
        p.error("--inputs is for --max-error. Give both, or neither")
    if not args.target.parent.is_dir():
        p.error(f"there is no folder {args.target.parent}")
    try:
        source = export.FileWeights(args.source, args.prediction, args.text_ids, device(p, args.device), args.leave_out)
        written = export.write_model(
            source,
            args.target,
            args.format,
            full_precision=not args.fast_matmul,
            overwrite=args.overwrite,
            max_error=args.max_error,
            inputs=loaded("quantize", "loaders.checkpoint.activations").read_dump(args.inputs) if args.inputs else None,
            progress=progress(),
        )
    except (ValueError, OSError) as error:
        print(f"{clear()}quantize: {error}", file=sys.stderr)
        return FAILED
    except torch.OutOfMemoryError:
        print(f"{clear()}quantize: {out_of_memory(args.device)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{clear()}quantize: stopped, nothing was written", file=sys.stderr)
        return INTERRUPTED
    print(clear(), end="", file=sys.stderr)
    print(written.text())
    return 0


def clear() -> str:
    return "\r\033[K" if sys.stderr.isatty() else ""
