"""Do cond and uncond cost less in one forward than in two? `Sharing` in host/run/conds.py follows from this."""

from __future__ import annotations

from typing import Any, Callable, Iterator

from .rig import Rig

STORED = ("bf16", "fp8_scaled", "q8_0")
LENGTHS = ((20, 20), (60, 12), (300, 2))
SIDES = (512, 1024)


def cases(rig: Rig) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for stored in rig.some(STORED):
        for side in rig.scale.sides[:2] if rig.rehearse else SIDES:
            for lengths in rig.some(LENGTHS):
                name = f"{stored}, {side} pixels, texts {lengths[0]} and {lengths[1]}"
                yield name, lambda a=stored, b=side, c=lengths: paired(rig, a, b, c)


def paired(rig: Rig, stored: str, side: int, lengths: tuple[int, int]) -> dict[str, Any]:
    """Two forwards against one of both, attention by length or masked, and the share of padding in it."""
    import torch

    import dev

    net = rig.ours(stored).model.diffusion_model
    given = rig.inputs(side, lengths[0], batch=2)
    x, t, context = given["x"], given["timesteps"], given["context"]
    context[1, lengths[1] :] = 0
    guidance = torch.zeros(2, device=rig.device)
    known = {"modulations": net.modulations(t[:1], guidance[:1])}
    mask = (torch.arange(lengths[0])[None] < torch.tensor(lengths)[:, None]).long().to(rig.device)

    def alone() -> None:
        for i, length in enumerate(lengths):
            rows = slice(i, i + 1)
            net(x[rows], t[rows], context[rows, :length], guidance[rows], None, {}, **known)

    def joined(**more: Any) -> None:
        net(x, t, context, guidance, None, {}, **known, **more)

    by_length = {} if lengths[0] == lengths[1] else {"context_lengths": lengths}
    variants = {"two": alone, "by length": lambda: joined(**by_length), "masked": lambda: joined(context_mask=mask)}
    share = dev.load_pack("host.run.conds").pad_share(lengths, (side // 16) ** 2)
    return {"padding": share, **rig.alternate(variants)}
