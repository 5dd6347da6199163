"""Our transformer behind the host's interface: with its attention, patches, control residuals and wrappers.

Written for ComfyUI 0.30. Shapes: B batch, H heads, L tokens, K head size.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import comfy.ops
import comfy.patcher_extension
import torch
from torch import Tensor

from ...chroma_model import ChromaConfig, ChromaTransformer, Ops
from ...chroma_model.embeddings import position_ids
from ...chroma_model.latents import grid_size
from ...chroma_model.radiance import number_text
from ...chroma_model.references import OFFSET, References, reference_ids
from ...loaders.checkpoint.approximator import fill_approximator
from .attention import TEXT_ROWS, TextRows, host_attention
from .joined_texts import Segments, Texts, joined_texts
from .nag import NAG
from .overflow import clamp

# Remedies for a latent of a wrong shape.
LATENT_REMEDY = (
    "Use EmptySD3LatentImage, or encode the image with the VAE that belongs to the model (for Chroma: "
    "FLUX's ae.safetensors)"
)
PIXEL_REMEDY = (
    "It works on pixels: use EmptyChromaRadianceLatentImage, and VAELoader with pixel_space to encode and decode images"
)
# What ChromaRadianceOptions may set for a run -> its type.
RADIANCE_OPTIONS = {"nerf_tile_size": int, "use_sequential_txt_ids": bool}


class HostBlocks:
    """The `run_block` of one forward: the host's patches and control residuals around our blocks."""

    def __init__(
        self,
        options: dict[str, Any],
        control: Mapping[str, Any] | None,
        totals: dict[str, int],
        attention_mask: Tensor | None,
        lengths: tuple[int, ...] | None = None,
        segments: Segments | None = None,
    ):
        """lengths, segments: of `TextRows`, if texts differ in length; the mask in a block's streams says the same."""
        self.options = options
        self.replace = options.get("patches_replace", {}).get("dit", {})
        self.control = control or {}
        self.totals = totals
        self.attention_mask = attention_mask
        self.lengths = lengths
        self.segments = segments
        self.num_txt = 0  # text tokens as given; patches may append more

    def __call__(self, kind: str, index: int, block: Any, **streams: Any) -> Any:
        if kind == "input":
            return self.embed(block, **streams)
        self.options.update(total_blocks=self.totals[kind], block_type=kind, block_index=index)
        if streams["mask"] is None:
            streams["mask"] = self.attention_mask
        elif self.lengths is not None:
            self.options[TEXT_ROWS] = TextRows(
                streams["mask"],
                self.lengths,
                self.num_txt,
                self.segments,
                self.options.get(NAG),
                self.attention_mask if self.segments else None,
            )
        return getattr(self, kind)(index, block, **streams)

    def embed(self, block: Any, x: Tensor, context: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        img, txt, ids = block(x, context, ids)
        self.num_txt = txt.shape[1]
        for patch in self.options.get("patches", {}).get("post_input", ()):
            rows = ids[None].expand(img.shape[0], -1, -1)
            out = patch(
                {
                    "img": img,
                    "txt": txt,
                    "img_ids": rows[:, txt.shape[1] :],
                    "txt_ids": rows[:, : txt.shape[1]],
                    "transformer_options": self.options,
                }
            )
            if self.lengths is not None:
                check_text(txt, out["txt"])
            img, txt = out["img"], out["txt"]
            ids = torch.cat((out["txt_ids"][0], out["img_ids"][0])).float()
        return img, txt, ids

    def double(self, index: int, block: Any, img: Tensor, txt: Tensor, vec: Any, pe: Tensor, mask: Tensor | None):
        def original(a: dict[str, Any]) -> dict[str, Tensor]:
            out = block(
                img=a["img"],
                txt=a["txt"],
                vec=a["vec"],
                pe=a["pe"],
                mask=a.get("attn_mask"),
                options=a.get("transformer_options"),
            )
            return {"img": out[0], "txt": out[1]}

        out = self.patched("double_block", index, original, {"img": img, "txt": txt, "vec": vec, "pe": pe}, mask)
        return self.add_residual(out["img"], "input", index), out["txt"]

    def single(self, index: int, block: Any, x: Tensor, vec: Any, pe: Tensor, mask: Tensor | None, num_txt: int):
        def original(a: dict[str, Any]) -> dict[str, Tensor]:
            return {
                "img": block(
                    a["img"], vec=a["vec"], pe=a["pe"], mask=a.get("attn_mask"), options=a.get("transformer_options")
                )
            }

        self.options["img_slice"] = [num_txt, x.shape[1]]
        out = self.patched("single_block", index, original, {"img": x, "vec": vec, "pe": pe}, mask)
        return self.add_residual(out["img"], "output", index, num_txt)

    def add_residual(self, x: Tensor, side: str, index: int, start: int = 0) -> Tensor:
        """Adds a ControlNet's residual to the rows from `start` on; it may be shorter than those rows."""
        residuals = self.control.get(side)
        residual = residuals[index] if residuals and index < len(residuals) else None
        if residual is None:
            return x
        x = x.clone()  # a patch may still hold the block's output
        x[:, start : start + residual.shape[1]] += residual
        return clamp(x, self.options)

    def patched(
        self, name: str, index: int, original: Any, a: dict[str, Any], mask: Tensor | None
    ) -> dict[str, Tensor]:
        a = {**a, "attn_mask": mask, "transformer_options": self.options}
        replacement = self.replace.get((name, index))
        return original(a) if replacement is None else replacement(a, {"original_block": original})


class HostTransformer(ChromaTransformer):
    """Our transformer behind the host's interface of a diffusion model."""

    def __init__(
        self,
        chroma_config: ChromaConfig,
        dtype: torch.dtype | None = None,
        device: Any = None,
        operations: Any = None,
        **_: Any,
    ):
        float32_layers = operations if getattr(operations, "takes_float32", False) else comfy.ops.manual_cast
        ops = Ops(operations, float32_layers, host_attention, clamp)
        super().__init__(chroma_config, ops, dtype=dtype, device=device)
        fill_approximator(self, chroma_config, ops.approximator_layers, dtype=dtype, device=device)
        self.dtype = dtype
        self.patch_size = chroma_config.patch_size
        self.default_ref_method = OFFSET  # FluxKVCache puts another here

    def forward(self, x, timestep, context, guidance=None, control=None, transformer_options={}, **kwargs):
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        # transformer_options stays the last positional: the host's caches look for it there.
        return executor.execute(x, timestep, context, guidance, control, transformer_options, **kwargs)

    def _forward(self, x, timestep, context, guidance=None, control=None, transformer_options={}, **kwargs):
        check_inputs(self.config, x, context, kwargs.get("input_channels"))
        options = transformer_options.copy()
        radiance = {} if self.config.nerf is None else radiance_options(options)
        texts = joined_texts(
            context,
            mask=kwargs.get("context_mask"),
            lengths=kwargs.get("context_lengths"),
            negative=kwargs.get("nag_context"),
            segments=kwargs.get("nag_segments"),
        )
        references = References(
            latents=tuple(kwargs.get("ref_latents") or ()),
            method=kwargs.get("ref_latents_method", self.default_ref_method),
            modulations=kwargs.get("reference_modulations"),
        )
        for latent in references.latents:
            check_channels(self.config, latent, "a reference")
        if references.latents and x.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"references cannot be shown to this model, since it takes {x.shape[1] - self.config.latent_channels} channels "
                "beside those of the latent (Fill, control LoRA), which they do not have. Take the references off"
            )
        sizes = [grid_size(*size, self.patch_size) for size in references.sizes]
        if sizes:
            options["reference_image_num_tokens"] = [rows * columns for rows, columns in sizes]
        bias, num_ref = kwargs.get("attention_mask"), sum(rows * columns for rows, columns in sizes)
        if bias is not None and num_ref:  # a style's, made for text and image
            bias = torch.nn.functional.pad(bias, (0, num_ref, 0, num_ref))
        is_numbered = radiance.get("use_sequential_txt_ids", self.config.text_ids == "sequential")
        return super().forward(
            x,
            timestep,
            texts.context,
            guidance,
            context_mask=texts.mask,
            modulations=kwargs.get("modulations"),
            ids=ids_of(texts, x.shape[2:], references, self.patch_size, is_numbered, options.get("rope_options") or {}),
            run_block=HostBlocks(
                options,
                control,
                totals={"double": len(self.double_blocks), "single": len(self.single_blocks)},
                attention_mask=bias,
                lengths=texts.lengths,
                segments=texts.segments,
            ),
            nerf_tile=radiance.get("nerf_tile_size", kwargs.get("nerf_tile")),
            references=references,
        )


def check_inputs(config: ChromaConfig, x: Tensor, context: Tensor | None, channels: int | None = None) -> None:
    """raises: ValueError with the remedy if the model does not take such a latent or text.

    channels: that img_in takes, where a LoRA has widened it.
    """
    if context is None:
        raise ValueError("there is no text conditioning. Connect a prompt, an empty one if need be")
    if context.ndim != 3 or context.shape[2] != config.context_dim:
        raise ValueError(
            f"the text encoder gave vectors of width {context.shape[-1]}, this model takes {config.context_dim}. Load "
            "the T5 encoder that belongs to it (CLIPLoader, type chroma)"
        )
    channels = config.channels if channels is None else channels
    if channels == config.latent_channels:
        check_channels(config, x, "the latent")
    elif x.shape[1] != channels:
        raise ValueError(
            f"the latent and what stands beside it have {x.shape[1]} channels, this model takes {channels}. It was made for "
            "other inputs than a picture, or a picture and a mask (Fill), or for another program"
        )


def check_text(before: Tensor, after: Tensor) -> None:
    """raises: ValueError where a patch has put tokens in front of texts whose columns are counted."""
    if after.shape[1] != before.shape[1] and not torch.equal(after[:, : before.shape[1]], before):
        raise ValueError(
            "a patch of another node puts tokens in front of the text (USO style), which Chroma NAG and prompts of different "
            "lengths in one batch do not allow. Take it off, or those"
        )


def check_channels(config: ChromaConfig, x: Tensor, what: str) -> None:
    """raises: ValueError for a latent that is not (B, C, H, W), with the C of the model's own latents."""
    remedy = LATENT_REMEDY if config.nerf is None else PIXEL_REMEDY
    if x.ndim != 4:
        raise ValueError(
            f"{what} has the shape {tuple(x.shape)}, this model takes four dimensions (batch, channels, height, "
            f"width); five are a video's. {remedy}"
        )
    if x.shape[1] != config.latent_channels:
        raise ValueError(f"{what} has {x.shape[1]} channels, this model takes {config.latent_channels}. {remedy}")


def ids_of(
    texts: Texts,
    size: Sequence[int],
    references: References,
    patch_size: int,
    is_numbered: bool,
    rope: Mapping[str, float],
) -> Tensor:
    """Position ids (L_txt + L_img + L_ref, 3).

    size: (H, W) of the latent. is_numbered: each text's tokens are numbered from 0, else all are 0.
    rope: the host's `rope_options`, which stretch and move the ids of the image and of references.
    """
    num_txt, device = texts.context.shape[1], texts.context.device
    grid = grid_size(*size, patch_size)
    scale = rope.get("scale_y", 1.0), rope.get("scale_x", 1.0)
    shift = rope.get("shift_y", 0.0), rope.get("shift_x", 0.0)
    ids = position_ids(num_txt, *grid, device=device, scale=scale, shift=shift)
    if is_numbered:
        for start in texts.starts:
            ids[start:] = number_text(ids[start:], num_txt - start)
    if references.latents:
        shown = reference_ids(references.sizes, references.method, grid, patch_size, device, scale, shift)
        ids = torch.cat((ids, shown))
    ids[num_txt:, 0] += rope.get("shift_t", 0.0)
    return ids


def radiance_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the host's ChromaRadianceOptions node has set for this step.

    raises: ValueError for an option that has no effect here, or a value of another type.
    """
    found = options.get("chroma_radiance_options") or {}
    for name, value in found.items():
        if name not in RADIANCE_OPTIONS or not isinstance(value, RADIANCE_OPTIONS[name]):
            known = ", ".join(f"{k} ({t.__name__})" for k, t in RADIANCE_OPTIONS.items())
            raise ValueError(f"chroma_radiance_options has {name} = {value!r}; it may have {known}")
    return found
