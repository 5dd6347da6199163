"""A look at the model while it trains: the same questions and seeds each time, painted by plain euler steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import dev

from . import classifier, edits, judge_things, latents, pictures, scenes, things

NUM_STEPS, CFG, SEED, COLUMNS = 16, 3.0, 7, 12
FAVOURITES = tuple("fox cat penguin car rocket robot castle guitar".split()) + ("red apple", "face with sunglasses")


def scenes_asked() -> list[scenes.Scene]:
    """Two rows of things, one of held-out (thing, style), one of pairs."""
    rng = np.random.default_rng(11)
    names = things.names()[: things.NUM_FIRST]
    ask = [
        scenes.Scene((scenes.random_item(rng, thing, style),), scenes.random_ground(rng))
        for thing, style in zip(FAVOURITES, things.STYLES * 4)
    ]
    ask += [scenes.random_single(rng, names) for _ in range(2 * COLUMNS - len(ask))]
    ask += [scenes.random_single(rng, names, held_out=True) for _ in range(COLUMNS)]
    return ask + [scenes.random_pair(rng, names) for _ in range(COLUMNS)]


def questions() -> list[str]:
    """Captions of those scenes, and of half a row of shapes."""
    rng = np.random.default_rng(12)
    shapes = [pictures.random_pair(rng) if i % 3 == 2 else pictures.all_scenes()[rng.integers(3000)] for i in range(6)]
    return [scenes.caption(scene) for scene in scenes_asked()] + [pictures.prompts(scene)[0] for scene in shapes]


def figures(images: Tensor, judge: Path) -> dict[str, float]:
    """Shares of right answers in the painted sheet: of known things, held-out ones and pairs; and the sharpness.

    images: (B, 3, H, W) for `questions`; judge: the classifier's file.
    """
    asked, sprites = scenes_asked(), things.load()
    images = images[: len(asked)].clamp(0, 1)
    found = judge_things.verdicts(images, asked, *classifier.load(judge))
    parts = {
        "known": slice(2 * COLUMNS),
        "held_out": slice(2 * COLUMNS, 3 * COLUMNS),
        "pairs": slice(3 * COLUMNS, None),
    }
    shares = {
        f"{name}_{key}": float(np.mean([v[key] for v in found[part]]))
        for name, part in parts.items()
        for key in ("thing", "style", "ground", "place")
    }
    real = scenes.draw(asked, sprites, *images.shape[2:]).permute(0, 3, 1, 2)
    return shares | {"sharpness": judge_things.sharpness(images, real)}


def edits_asked() -> list[edits.Edit]:
    """A row of edits, each kind as often."""
    rng, names = np.random.default_rng(13), things.names()[: things.NUM_FIRST]
    kinds = list(edits.KINDS.values())
    return [kinds[i % len(kinds)](rng, names) for i in range(COLUMNS)]


def edit_figures(images: Tensor, judge: Path) -> dict[str, float]:
    """Share of the edits in which everything that is judged is as asked, and shares of each; images as in `figures`."""
    asked = [edit.after for edit in edits_asked()]
    found = judge_things.verdicts(images.clamp(0, 1), asked, *classifier.load(judge))
    shares = {f"edits_{key}": float(np.mean([v[key] for v in found])) for key in found[0]}
    return {"edits": float(np.mean([all(v.values()) for v in found]))} | shares


def shown(source: Tensor | None) -> dict[str, Any]:
    """The transformer's argument that shows it this latent (B, C, h, w) beside what it paints."""
    if source is None:
        return {}
    return {"references": dev.load_pack("chroma_model.references").References((source,))}


@torch.inference_mode()
def paint(
    net: nn.Module,
    cond: tuple[Tensor, Tensor],
    uncond: tuple[Tensor, Tensor],
    size: tuple[int, int],
    seed: int = SEED,
    cfg: float = CFG,
    num_steps: int = NUM_STEPS,
    source: Tensor | None = None,
) -> Tensor:
    """Latents (B, 16, h, w), or pictures (B, 3, H, W) of a model that works on them, in [-1, 1].

    cond: rows (B, L, D) and mask; uncond: the same for one empty prompt; size: (H, W) in pixels.
    source: like what is painted; shown to both as reference.
    """
    rows, mask = cond
    block = latents.BLOCK if net.config.nerf is None else 1
    shape = (len(rows), net.config.latent_channels, size[0] // block, size[1] // block)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(rows.device)
    sigmas = torch.linspace(1, 0, num_steps + 1)
    for s, s_next in zip(sigmas.tolist(), sigmas[1:].tolist()):
        t = torch.full((len(x),), s, device=x.device)
        v = net(x, t, rows, context_mask=mask, **shown(source))
        if cfg != 1:
            rows_0, mask_0 = uncond[0].expand(len(x), -1, -1), uncond[1].expand(len(x), -1)
            empty = net(x, t, rows_0, context_mask=mask_0, **shown(source))
            v = empty + cfg * (v - empty)
        x = x + (s_next - s) * v
    return x


def sheet(images: Tensor, path: Path) -> None:
    """(B, 3, H, W) in rows of COLUMNS; the last row may be short."""
    from PIL import Image

    b, c, h, w = images.shape
    num_rows = -(-b // COLUMNS)
    full = torch.ones(num_rows * COLUMNS, c, h, w)
    full[:b] = images.clamp(0, 1).cpu()
    full = full.view(num_rows, COLUMNS, c, h, w).permute(0, 3, 1, 4, 2).reshape(num_rows * h, COLUMNS * w, c)
    Image.fromarray((full * 255).round().byte().numpy()).save(path)
