"""Chroma: FLUX's blocks without modulation weights, and one Approximator that makes every shift, scale and gate.

It works on latents, or, where `config.nerf` is set, on pixels (Chroma1-Radiance). The blocks are the same; the first
and last layers are in `radiance.py`.

Shapes: B batch, C channels of the picture or latent, H rows, W columns, L tokens, D width, M modulations.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Sequence

import torch
from torch import Tensor, nn

from .blocks import DoubleStreamBlock, FinalLayer, LeftOut, SingleStreamBlock
from .config import ChromaConfig
from .embeddings import PositionEmbedder, position_ids
from .latents import grid_size, patchify, unpatchify
from .modulation import ModulationTable, approximator_input
from .ops import Ops
from .radiance import (
    FINAL_LAYERS,
    NerfBlock,
    NerfEmbedder,
    number_text,
    pad_to_patches,
    paint,
    patch_conv,
    velocity_from_data,
)
from .references import NO_REFERENCES, TIMESTEP_ZERO, References, TimestepZeroTable, reference_ids
from .rope_scaling import ScaledPositionEmbedder

RunBlock = Callable[..., Any]


def run_block(kind: str, index: int, block: Callable[..., Any], **streams: Any) -> Any:
    """Runs one stage. A host replaces this function to patch, replace or skip stages and to add control residuals.

    kind:    "input", "double" or "single".
    streams: x, context, ids for the input; img, txt, vec, pe, mask for a double block; x, vec, pe, mask, num_txt for
             a single one, where num_txt tells a host where the image rows begin.
    returns: (img, txt, ids), (img, txt) or x.
    """
    streams.pop("num_txt", None)
    return block(**streams)


class ChromaTransformer(nn.Module):
    def __init__(self, config: ChromaConfig, ops: Ops | None = None, **factory: Any):
        """config: every size. ops: layers and attention. factory: dtype and device of the parameters."""
        super().__init__()
        ops = ops or Ops()
        layers = ops.layers
        self.config = config
        self.table = ModulationTable(config)
        self.pe_embedder = PositionEmbedder(config.axes_dim, config.theta)  # packs such as DyPE put theirs here
        if config.nerf is None:
            self.img_in = layers.Linear(config.in_channels, config.hidden_size, bias=True, **factory)
        else:
            self.img_in_patch = patch_conv(config, layers, **factory)
        self.txt_in = layers.Linear(config.context_dim, config.hidden_size, bias=True, **factory)
        self.distilled_guidance_layer = nn.Identity()  # filled at load time with the checkpoint's Approximator
        self.double_blocks = nn.ModuleList(
            LeftOut() if ("double", i) in config.left_out else DoubleStreamBlock(config, ops, **factory)
            for i in range(config.num_double_blocks)
        )
        self.single_blocks = nn.ModuleList(
            LeftOut() if ("single", i) in config.left_out else SingleStreamBlock(config, ops, **factory)
            for i in range(config.num_single_blocks)
        )
        if config.nerf is None:
            self.final_layer = FinalLayer(config, layers, **factory)
        else:
            self.nerf_image_embedder = NerfEmbedder(config, ops.approximator_layers, **factory)
            self.nerf_blocks = nn.ModuleList(
                NerfBlock(config, layers, **factory) for _ in range(config.nerf.num_blocks)
            )
            name, final_class = FINAL_LAYERS[config.nerf.final]
            self.add_module(name, final_class(config, layers, **factory))
        for name in config.markers:  # so that a saved model says what it is
            stem, _, last = name.rpartition(".")
            self.get_submodule(stem).register_buffer(last, torch.empty(0, device=factory.get("device")))

    def modulations(self, timesteps: Tensor, guidance: Tensor) -> Tensor:
        """Every shift, scale and gate of the model, from one MLP in float32.

        timesteps: (B,) flow time in [0, 1], 1 = noise; not multiplied by 1000.
        guidance:  (B,) 0 for Chroma.
        returns:   (B, M, D) float32, M = config.num_modulations; order: single, img, txt, final (none on pixels).
        raises:    ValueError if the batches differ or no Approximator was put in place.
        source:    the trainer's chroma model; differs: M is computed, never 344.
        """
        if timesteps.shape != guidance.shape:
            raise ValueError(f"timesteps {tuple(timesteps.shape)} and guidance {tuple(guidance.shape)} differ in batch")
        if isinstance(self.distilled_guidance_layer, nn.Identity):
            raise ValueError("distilled_guidance_layer is empty: fill it with the checkpoint's Approximator first")
        config = self.config
        rows = approximator_input(timesteps, guidance, config.num_modulations, config.approximator.in_dim)
        return self.distilled_guidance_layer(rows)

    def embed(
        self, x: Tensor, context: Tensor, ids: Tensor, references: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Picture and text as tokens of width D: img (B, L_img, D), txt (B, L_txt, D), and the ids unchanged.

        references: pictures of any size, whose tokens follow those of x.
        """
        tokens = [self.embed_picture(picture) for picture in (x, *references)]
        return torch.cat(tokens, dim=1) if references else tokens[0], self.txt_in(context), ids

    def embed_positions(self, ids: Tensor, timesteps: Tensor, grid: tuple[int, int]) -> Tensor:
        """Rotary matrices (1 or B, 1, L, K/2, 2, 2) float32 of ids (L, A)."""
        of_run = (timesteps, grid) if isinstance(self.pe_embedder, ScaledPositionEmbedder) else ()
        return self.pe_embedder(ids[None], *of_run).float()

    def embed_picture(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, L, D)."""
        if self.config.nerf is None:
            return self.img_in(patchify(x, self.config.patch_size))
        rows = self.img_in_patch(pad_to_patches(x, self.config.patch_size))
        return rows.flatten(2).transpose(1, 2)  # (B, D, rows, columns) -> (B, L, D)

    def predict(self, img: Tensor, x: Tensor, modulations: Tensor, nerf_tile: int | None = None) -> Tensor:
        """The prediction from the last block's tokens and x: (B, L_img, D) -> (B, C_out, H, W)."""
        config = self.config
        if config.nerf is None:
            img = self.final_layer(img, self.table.final(modulations))
            return unpatchify(img, *x.shape[2:], config.patch_size)
        final = self.get_submodule(FINAL_LAYERS[config.nerf.final][0])
        return paint(x, img, config.patch_size, self.nerf_image_embedder, self.nerf_blocks, final, nerf_tile)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        guidance: Tensor | None = None,
        context_mask: Tensor | None = None,
        modulations: Tensor | None = None,
        ids: Tensor | None = None,
        run_block: RunBlock = run_block,
        nerf_tile: int | None = None,
        references: References = NO_REFERENCES,
    ) -> Tensor:
        """The velocity of the flow at x.

        x:            (B, C, H, W) noisy latent or picture; any size, odd ones are padded and cropped back. What stands
                      beside the latent (a picture, a mask) is in the channels behind it.
        timesteps:    (B,) in [0, 1], 1 = noise.
        context:      (B, L_txt, context_dim) from the text encoder.
        guidance:     (B,) or None for 0, as Chroma was trained.
        context_mask: (B, L_txt) bool or integer, nonzero where a text token may be seen; None where all may.
        modulations:  (1 or B, M, D) if they are known already; otherwise made from timesteps and guidance.
        ids:          (L_txt + L_img + L_ref, 3) position ids, if not the usual grid.
        nerf_tile:    on pixels, how many patches the head paints at a time; see `radiance.paint`.
        references:   pictures that are shown to the model (Kontext).
        returns:      (B, C_out, H, W) in the dtype of x: noise - data, so x_next = x + (t_next - t) * velocity.
        """
        config: ChromaConfig = self.config
        table: ModulationTable | TimestepZeroTable = self.table
        grid = grid_size(*x.shape[2:], config.patch_size)

        guidance = torch.zeros_like(timesteps) if guidance is None else guidance
        if modulations is None:
            modulations = self.modulations(timesteps, guidance)
        modulations = modulations.to(x.dtype)

        if ids is None:
            ids = position_ids(context.shape[1], *grid, device=x.device)
            ids = number_text(ids, context.shape[1]) if config.text_ids == "sequential" else ids
            shown = reference_ids(references.sizes, references.method, grid, config.patch_size, x.device)
            ids = torch.cat((ids, shown))
        embed = functools.partial(self.embed, references=references.latents)
        img, txt, ids = run_block("input", 0, embed, x=x, context=context, ids=ids)
        num_txt, num_img = txt.shape[1], grid[0] * grid[1]
        num_ref = img.shape[1] - num_img  # a host's patch may have left them out
        if references.latents and references.method == TIMESTEP_ZERO and num_ref:
            at_zero = references.modulations
            at_zero = self.modulations(torch.zeros_like(timesteps), guidance) if at_zero is None else at_zero
            table = TimestepZeroTable(table, at_zero.to(x.dtype), num_txt, num_img, num_ref)
        pe = self.embed_positions(ids, timesteps, grid)
        mask = None if context_mask is None else key_mask(context_mask, img.shape[1])

        for i, block in enumerate(self.double_blocks):
            img, txt = run_block(
                "double", i, block, img=img, txt=txt, vec=table.double(modulations, i), pe=pe, mask=mask
            )

        joint = torch.cat((txt, img), dim=1)
        for i, block in enumerate(self.single_blocks):
            joint = run_block(
                "single", i, block, x=joint, vec=table.single(modulations, i), pe=pe, mask=mask, num_txt=num_txt
            )

        img = joint[:, num_txt : num_txt + num_img]
        predicted = self.predict(img, x, modulations, nerf_tile)
        if config.prediction == "x0":
            return velocity_from_data(predicted, x[:, : predicted.shape[1]], timesteps)
        return predicted


def key_mask(context_mask: Tensor, num_img: int) -> Tensor:
    """(B, L_txt) of valid text tokens -> (B, 1, 1, L_txt + L_img) bool; image tokens are always seen."""
    valid = context_mask.bool()
    seen = torch.ones(valid.shape[0], num_img, dtype=torch.bool, device=valid.device)
    return torch.cat((valid, seen), dim=1)[:, None, None]
