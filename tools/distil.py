"""Makes a modulator file for FLUX: an Approximator that gives what FLUX's own modulation layers give (FluxMod).

    python tools distil FLUX OUT

FLUX is FLUX.1 dev, schnell, Kontext or lite under its own names, in any precision. OUT is a .safetensors file for the input
approximator of Load Chroma Model. What is done is kept in OUT.state now and then; the same command goes on from there.
The time that is left is told while it runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from ._shell import FAILED, INTERRUPTED, Parser, device, loaded, out_of_memory, refuse_to_replace

TYPES = ("bf16", "fp32")
REPORT_SECONDS, SAVE_SECONDS = 10, 300


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python tools distil",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("source", metavar="FLUX", type=Path, help="the FLUX model to read")
    p.add_argument("target", metavar="OUT", type=Path, help="the file to write, .safetensors")
    p.add_argument("--steps", type=int, default=20_000, help="of Adam; default 20000")
    p.add_argument("--hidden", type=int, default=5120, help="width of the Approximator; default 5120, as Chroma's")
    p.add_argument("--layers", type=int, default=5, help="its residual layers; default 5, as Chroma's")
    p.add_argument("--points", type=int, default=16, help="timesteps and guidances of a step; default 16")
    p.add_argument("--rate", type=float, default=1e-3, help="learning rate at the start; it falls to 0; default 0.001")
    p.add_argument(
        "--guidance", type=float, nargs=2, default=(1.0, 10.0), metavar=("LOW", "HIGH"), help="range; default 1 10"
    )
    p.add_argument("--dtype", choices=TYPES, default="bf16", help="of the written weights; default bf16")
    p.add_argument("--device", default="cpu", help="where to compute: cpu (default), cuda, cuda:1")
    p.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return p


def main(arguments: list[str]) -> int:
    flux_file = loaded("distil", "loaders.checkpoint.flux_file")
    distil, modulation = (loaded("distil", f"chroma_model.{name}") for name in ("distil", "modulation"))
    import torch

    p = parser()
    args = p.parse_args(arguments)
    if not args.source.is_file():
        p.error(f"{args.source}: there is no such file")
    if args.target.suffix != ".safetensors":
        p.error(f"{args.target.name}: must end in .safetensors")
    refuse_to_replace(p, args.target, args.source)
    if args.target.exists() and not args.overwrite:
        p.error(f"{args.target} exists already. Choose another name, or add --overwrite")
    if not args.target.parent.is_dir():
        p.error(f"there is no folder {args.target.parent}")
    low, high = args.guidance
    if min(args.steps, args.hidden, args.layers, args.points) < 1 or args.rate <= 0 or not 0 <= low < high:
        p.error(
            "--steps, --hidden, --layers, --points and --rate must be above 0, and of --guidance the first the smaller"
        )
    device(p, args.device)
    state_path = args.target.with_name(args.target.name + ".state")
    try:
        file = flux_file.FluxFile(args.source, args.hidden, args.layers)
        flux = distil.FluxModulation(file.config, file.weight)
        torch.manual_seed(0)
        net = modulation.Approximator(file.config.approximator).to(args.device)
        fit = distil.Fit(flux, net, args.steps, args.points, rate=args.rate, guidance=tuple(args.guidance))
        settings = {name: str(getattr(args, name)) for name in ("steps", "hidden", "layers", "points", "rate")}
        settings["guidance"] = str((low, high))
        settings["file"] = file.name
        resume(state_path, fit, settings)
        train(fit, state_path, settings)
        errors = dict(fit.errors())
        save(args.target, net, args.dtype, args.overwrite, {"chroma.distilled_from": file.name})
        state_path.unlink(missing_ok=True)
    except (ValueError, OSError) as error:
        print(f"distil: {error}", file=sys.stderr)
        return FAILED
    except torch.OutOfMemoryError:
        print(f"distil: {out_of_memory(args.device)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        kept = f"the same command goes on from {state_path.name}" if state_path.exists() else "nothing was kept"
        print(f"distil: stopped; {kept}", file=sys.stderr)
        return INTERRUPTED
    print(f"{args.target}: relative error {sum(errors.values()) / len(errors):.2%} in the mean of the layers")
    for name in sorted(errors, key=lambda n: -errors[n]):
        print(f"  {errors[name]:.2%}  {name}")
    return 0


def resume(path: Path, fit: Any, settings: dict[str, str]) -> None:
    """raises: ValueError for a state of other settings, or one that cannot be read."""
    import torch

    if not path.exists():
        return
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        found = state["settings"]
    except Exception as error:  # whatever a damaged file makes torch raise
        raise ValueError(f"{path.name} cannot be read ({type(error).__name__}). Remove it to begin anew") from error
    changed = [name for name in settings if found.get(name) != settings[name]]
    if changed:
        name = changed[0]
        raise ValueError(
            f"{path.name} was begun with {name} {found.get(name)}, not {settings[name]}. Give the same, or remove it to "
            "begin anew"
        )
    fit.load_state(state)
    print(f"goes on from step {fit.done} of {fit.steps}", file=sys.stderr)


def train(fit: Any, state_path: Path, settings: dict[str, str]) -> None:
    """All steps that are left, with progress; the state is kept every SAVE_SECONDS and when it is stopped."""
    import torch

    def keep() -> None:
        partial = state_path.with_name(state_path.name + ".partial")
        try:
            torch.save({**fit.state(), "settings": settings}, partial)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(f"{state_path.name} cannot be written ({str(error).splitlines()[0]})") from error
        partial.replace(state_path)

    started, begun, shown, saved = time.monotonic(), fit.done, 0.0, time.monotonic()
    try:
        while fit.done < fit.steps:
            error = fit.step() ** 0.5
            now = time.monotonic()
            if now - shown > REPORT_SECONDS:
                shown, each = now, (now - started) / (fit.done - begun)
                left = each * (fit.steps - fit.done) / 60
                print(
                    f"step {fit.done} of {fit.steps}, error {error:.2%}, {each:.2f} s a step, {left:,.0f} min left",
                    file=sys.stderr,
                    flush=True,
                )
            if now - saved > SAVE_SECONDS:
                saved = now
                keep()
    finally:
        keep()


def save(path: Path, net: Any, dtype: str, overwrite: bool, metadata: dict[str, str]) -> None:
    """The Approximator under FluxMod's names, without a prefix: norms are `.scale`."""
    import torch

    write = loaded("distil", "loaders.files.write")

    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    named = {
        n.removesuffix(".weight") + ".scale" if n.startswith("norms.") else n: t for n, t in net.state_dict().items()
    }
    tensors = {name: t.detach().cpu().to(kind).contiguous() for name, t in named.items()}
    stored = [write.Stored(name, write.SAFETENSORS_TYPES[kind], tuple(t.shape)) for name, t in tensors.items()]
    file = write.SafetensorsFile(stored, metadata)
    with write.whole_file(path, file.nbytes, overwrite) as partial, file.open(partial):
        for name, tensor in tensors.items():
            file.write(name, tensor)
