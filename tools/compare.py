"""Compares two Chroma files, or one with a file of activations, block by block. Needs no ComfyUI.

    python tools compare A B

A and B are files of any kind that Load Chroma Model takes, in any precision. Both are given the same input; after every block
the relative error of A's image and text stream against B's is told, and the blocks that add most. B may also be a
.safetensors file of activations, such as --write or Chroma Compare Models make it, or one made by hand from another program;
then the inputs are taken from it. All is computed in float32, a block at a time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from . import load_pack
from ._shell import FAILED, INTERRUPTED, Parser, can_be_shown, device, loaded, out_of_memory

CELLS = 30  # of the longest bar
CELL, PLAIN_CELL = "█", "#"


def parser(names: str) -> argparse.ArgumentParser:
    p = Parser(
        prog="python tools compare",
        description=__doc__,
        epilog=f"names in a file of activations:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("model", metavar="A", type=Path, help="the model to look at")
    p.add_argument("reference", metavar="B", type=Path, help="a model, or a file of activations")
    p.add_argument(
        "--inputs", type=Path, metavar="FILE", help="take x, timestep and text from this file of activations"
    )
    p.add_argument("--write", type=Path, metavar="FILE", help="write the activations of B into a file")
    p.add_argument("--timestep", type=float, default=0.7, help="without such a file: 1 is noise (default 0.7)")
    p.add_argument(
        "--size", type=int, default=256, help="without such a file: side of the picture in pixels (default 256)"
    )
    p.add_argument("--tokens", type=int, default=32, help="without such a file: of made-up text (default 32)")
    p.add_argument("--seed", type=int, default=0, help="without such a file: of the noise and the text (default 0)")
    p.add_argument("--device", default="cpu", help="where to compute: cpu (default), cuda, cuda:1")
    return p


def table(differences: Any) -> str:
    """A line for each block: errors of both streams, and a bar for what the block adds."""
    added = differences.added()
    cell = CELL if can_be_shown(CELL) else PLAIN_CELL
    most = max(added.values(), default=0) or 1
    lines = [f"{'block':<12}{'img':>10}{'txt':>10}  added"]
    for (kind, i), img, txt in zip(differences.blocks(), differences.curve("img"), differences.curve("txt")):
        cells = cell * round(CELLS * added[kind, i] / most)
        numbers = "".join(f"{'-' if e is None else format(e, '.3g'):>10}" for e in (img, txt))
        lines.append(f"{f'{kind} {i}':<12}{numbers}  {cells}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    activations = loaded("compare", "loaders.checkpoint.activations")
    import torch

    names = activations.__doc__.split(":\n\n", 1)[1]
    p = parser(names)
    args = p.parse_args(arguments)
    for path in (args.model, args.reference, args.inputs):
        if path is not None and not path.is_file():
            p.error(f"{path}: there is no such file")
    if args.write is not None and args.write.exists():
        p.error(f"{args.write} exists already. Choose another name")
    if not 0 < args.timestep <= 1 or args.size < 16 or args.tokens < 1:
        p.error("--timestep must be above 0 and at most 1, --size at least 16 and --tokens at least 1")
    try:
        differences = compared(args, device(p, args.device))
    except (ValueError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return FAILED
    except torch.OutOfMemoryError:
        print(f"compare: {out_of_memory(args.device)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("compare: stopped", file=sys.stderr)
        return INTERRUPTED
    print(table(differences))
    print(differences.text())
    return 0


def compared(args: argparse.Namespace, device: str) -> Any:
    activations = load_pack("loaders.checkpoint.activations")
    source = load_pack("loaders.checkpoint.write_quantised").FileWeights
    made_up = load_pack("loaders.checkpoint.mixed").made_up
    network = load_pack("loaders.checkpoint.run_weights").WeightsNetwork
    model = source(args.model, device=device)

    def run(net: Any, sink: Any) -> None:
        inputs = (wanted[name] for name in activations.INPUTS)
        net.forward(*inputs, sink, guidance=wanted.get(activations.GUIDANCE))

    if activations.is_dump(args.reference):
        wanted = activations.read_dump(args.reference)
    else:
        given = (
            activations.read_dump(args.inputs)
            if args.inputs
            else made_up(model.detection.config, args.timestep, args.size, args.tokens, args.seed)
        )
        wanted = {name: given[name] for name in (*activations.INPUTS, activations.GUIDANCE) if name in given}
        run(
            network(source(args.reference, device=device), device),
            lambda name, value: wanted.update({name: value.cpu()}),
        )
    if args.write is not None:
        activations.write_dump(args.write, wanted)
    found = activations.Differences()

    def tell(name: str, value: Any) -> None:
        if name in wanted:
            found.add(name, value, wanted[name])

    run(network(model, device), tell)
    return found
