"""Where does one forward spend its time? By kind of operation, blocks of Chroma's own width, counted as often as Chroma has them."""

from __future__ import annotations

import functools
import statistics
from collections import defaultdict
from typing import Any, Callable

import torch

from .measure import alternate, write

HEADS, DOUBLE, SINGLE = 24, 19, 38
WIDTH = 128 * HEADS
TOKENS, TEXT = (256, 1024), 64
ROTARY = "rotary"
KINDS = {  # kind -> names of PyTorch's operations, of whose own time it is the sum
    "matrix products": ("addmm", "mm", "bmm", "linear", "mkl", "mkldnn"),
    "attention": ("scaled_dot_product", "flash_attention", "softmax"),
    "norms": ("layer_norm", "rms_norm"),
    "GELU": ("gelu",),
    "shifts, scales, gates": ("addcmul", "mul", "add"),
    ROTARY: (),  # by the function that they are in
    "copies": ("cat", "copy", "clone", "contiguous", "empty", "to"),
}
OTHER = "all else"


def kind_of(name: str) -> str:
    plain = name.rpartition("::")[2].strip("_")
    return next((k for k, parts in KINDS.items() if any(plain.startswith(p) or f"_{p}" in plain for p in parts)), OTHER)


def times(call: Callable[[], object], rounds: int) -> dict[str, float]:
    """Seconds of one call by kind, the mean of so many after a warm-up."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profiled:
        for _ in range(rounds):
            call()
    out: dict[str, float] = defaultdict(float)
    for event in profiled.events():
        kind = ROTARY if is_within(event, ROTARY) else kind_of(event.name)
        out[kind] += event.self_cpu_time_total / 1e6 / rounds
    return out


def is_within(event: Any, name: str) -> bool:
    while event is not None and event.name != name:
        event = event.cpu_parent
    return event is not None


def marked(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function, as a part of its own in the profile."""

    @functools.wraps(function)
    def call(*args: Any) -> torch.Tensor:
        with torch.profiler.record_function(ROTARY):
            return function(*args)

    return call


def mark_rotary(attention: Any) -> None:
    """Whichever of them the attention takes: ours, or comfy-kitchen's."""
    import comfy.quant_ops

    attention.apply_rope = marked(attention.apply_rope)
    for name in ("apply_rope", "apply_rope1"):
        setattr(comfy.quant_ops.ck, name, marked(getattr(comfy.quant_ops.ck, name)))


@torch.inference_mode()
def main(rounds: int) -> None:
    from . import networks as n

    cfg = n.support.config(width=WIDTH, heads=HEADS, double=1, single=1, context=4096, approximator=(64, 64, 1))
    net = n.host_models.our_net(n.comfy, cfg, n.support.random_weights(cfg))
    pack = n.support.dev.load_pack
    mark_rotary(pack("host.run.attention"))
    lines = [
        f"One double and one single block of width {WIDTH}, float32, {TEXT} text tokens, {torch.get_num_threads()} threads; "
        f"{DOUBLE} times and {SINGLE} times their own time by kind of operation, mean of {rounds}. `at most`: how many times as "
        "fast a forward would be if all but matrix products and attention took no time.",
        "",
        "| image tokens | " + " | ".join([*KINDS, OTHER]) + " | seconds | at most |",
        "|---|" + "---|" * (len(KINDS) + 3),
    ]
    same = [
        "What is the same in all steps of a run and is made in each forward, as a share of it:",
        "",
        "| image tokens | text projection | position ids | rotary table |",
        "|---|---|---|---|",
    ]
    for tokens in TOKENS:
        side = int(tokens**0.5)
        ids = pack("chroma_model.embeddings").position_ids(TEXT, side, side)
        pe = net.embed_positions(ids, torch.zeros(1), (side, side))
        generator = torch.Generator().manual_seed(0)
        img, txt = (torch.randn(1, length, WIDTH, generator=generator) for length in (tokens, TEXT))
        modulations = net.modulations(torch.full((1,), 0.5), torch.zeros(1))
        double, single = net.table.double(modulations, 0), net.table.single(modulations, 0)
        joint = torch.cat((txt, img), 1)
        total: dict[str, float] = defaultdict(float)
        for count, call in (
            (DOUBLE, functools.partial(net.double_blocks[0], img, txt, double, pe)),
            (SINGLE, functools.partial(net.single_blocks[0], joint, single, pe)),
        ):
            for kind, seconds in times(call, rounds).items():
                total[kind] += count * seconds
        seconds = sum(total.values())
        least = total["matrix products"] + total["attention"]
        cells = [f"{total[kind] / seconds:.1%}" for kind in (*KINDS, OTHER)]
        lines.append(f"| {tokens} | {' | '.join(cells)} | {seconds:.1f} | {seconds / least:.2f} |")
        print(lines[-1], flush=True)
        rows = torch.randn(1, TEXT, cfg.context_dim, generator=generator)
        outside = {
            "text projection": functools.partial(net.txt_in, rows),
            "position ids": functools.partial(pack("chroma_model.embeddings").position_ids, TEXT, side, side),
            "rotary table": functools.partial(net.embed_positions, ids, torch.zeros(1), (side, side)),
        }
        alike = {name: statistics.median(values) for name, values in alternate(outside, rounds).items()}
        same.append(f"| {tokens} | {' | '.join(f'{one / seconds:.2%}' for one in alike.values())} |")
    write("profile", "Where a forward spends its time", [*lines, "", *same])
