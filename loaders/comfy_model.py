"""The one builder of MODEL: our transformer inside the host's own Chroma model, held by the host's own patcher.

Host operations become `Ops`, host patches become a `run_block`. Written for ComfyUI 0.30.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections import Counter
from typing import Any, Mapping

import comfy.conds
import comfy.ldm.modules.attention
import comfy.memory_management
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.quant_ops
import comfy.supported_models
import comfy.utils
import torch
from comfy.cli_args import args
from torch import Tensor

from ..chroma_model import ChromaConfig, ChromaTransformer, Ops
from ..chroma_model.embeddings import apply_rope, position_ids
from ..chroma_model.latents import grid_size
from .approximator import fill_approximator
from .comfy_modulations import OPTION, ModulationStore
from .convert import check, convert, non_finite
from .detect import FLOAT_DTYPES, Detection, detect
from .quant import QUANT_MODES, QuantMode, is_quantised, quant_mode, rotation_group
from .read import SAFETENSORS_SUFFIXES, read_header, read_tensors

KEY = "chroma"  # of our wrappers and callbacks on the patcher
QUANTISE_WORKSPACE = 6  # bytes that quantising takes on the device, in float32 copies of the largest weight


def host_attention(
    q: Tensor, k: Tensor, v: Tensor, pe: Tensor, mask: Tensor | None, options: Mapping[str, Any]
) -> Tensor:
    """The host's attention with its attn1 patches; shapes as in `chroma_model.ops.torch_attention`."""
    if mask is not None and mask.dtype == torch.bool:  # not all of the host's kernels take a boolean mask
        mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -torch.finfo(q.dtype).max)
    patches = options.get("patches", {})
    for patch in patches.get("attn1_patch", ()):
        out = patch(q, k, v, pe=pe, attn_mask=mask, extra_options=options)
        q, k, v = out.get("q", q), out.get("k", k), out.get("v", v)
        pe, mask = out.get("pe", pe), out.get("attn_mask", mask)
    if comfy.model_management.in_training:  # the fused kernel has no backward
        q, k = apply_rope(q, pe), apply_rope(k, pe)
    else:
        q, k = comfy.quant_ops.ck.apply_rope(q, k, pe)
    x = comfy.ldm.modules.attention.optimized_attention(
        q, k, v, q.shape[1], skip_reshape=True, mask=mask, transformer_options=options
    )
    for patch in patches.get("attn1_output_patch", ()):
        x = patch(x, options)
    return x


class HostBlocks:
    """The `run_block` of one forward: the host's patches and control residuals around our blocks."""

    def __init__(self, options: dict[str, Any], control: Mapping[str, Any] | None, totals: dict[str, int],
                 attention_mask: Tensor | None):
        self.options = options
        self.replace = options.get("patches_replace", {}).get("dit", {})
        self.control = control or {}
        self.totals = totals
        self.attention_mask = attention_mask

    def __call__(self, kind: str, index: int, block: Any, **streams: Any) -> Any:
        if kind == "input":
            return self.embed(block, **streams)
        self.options.update(total_blocks=self.totals[kind], block_type=kind, block_index=index)
        if streams["mask"] is None:
            streams["mask"] = self.attention_mask
        return getattr(self, kind)(index, block, **streams)

    def embed(self, block: Any, x: Tensor, context: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        img, txt, ids = block(x, context, ids)
        for patch in self.options.get("patches", {}).get("post_input", ()):
            rows = ids[None].expand(img.shape[0], -1, -1)
            out = patch({"img": img, "txt": txt, "img_ids": rows[:, txt.shape[1]:], "txt_ids": rows[:, :txt.shape[1]],
                         "transformer_options": self.options})
            img, txt = out["img"], out["txt"]
            ids = torch.cat((out["txt_ids"][0], out["img_ids"][0])).float()
        return img, txt, ids

    def double(self, index: int, block: Any, img: Tensor, txt: Tensor, vec: Any, pe: Tensor, mask: Tensor | None):
        def original(a: dict[str, Any]) -> dict[str, Tensor]:
            out = block(img=a["img"], txt=a["txt"], vec=a["vec"], pe=a["pe"], mask=a.get("attn_mask"),
                        options=a.get("transformer_options"))
            return {"img": out[0], "txt": out[1]}

        out = self.patched("double_block", index, original, {"img": img, "txt": txt, "vec": vec, "pe": pe}, mask)
        return add_residual(out["img"], self.control.get("input"), index), out["txt"]

    def single(self, index: int, block: Any, x: Tensor, vec: Any, pe: Tensor, mask: Tensor | None, num_txt: int):
        def original(a: dict[str, Any]) -> dict[str, Tensor]:
            return {"img": block(a["img"], vec=a["vec"], pe=a["pe"], mask=a.get("attn_mask"),
                                 options=a.get("transformer_options"))}

        self.options["img_slice"] = [num_txt, x.shape[1]]
        out = self.patched("single_block", index, original, {"img": x, "vec": vec, "pe": pe}, mask)
        return add_residual(out["img"], self.control.get("output"), index, num_txt)

    def patched(self, name: str, index: int, original: Any, a: dict[str, Any], mask: Tensor | None) -> dict[str, Tensor]:
        a = {**a, "attn_mask": mask, "transformer_options": self.options}
        replacement = self.replace.get((name, index))
        return original(a) if replacement is None else replacement(a, {"original_block": original})


def add_residual(x: Tensor, residuals: list[Tensor | None] | None, index: int, start: int = 0) -> Tensor:
    """Adds a ControlNet's residual to the rows from `start` on; it may be shorter than those rows."""
    residual = residuals[index] if residuals and index < len(residuals) else None
    if residual is None:
        return x
    x = x.clone()  # what a block gave may be held by somebody else
    x[:, start : start + residual.shape[1]] += residual
    return x


class HostTransformer(ChromaTransformer):
    """Our transformer behind the call that the host makes."""

    def __init__(self, chroma_config: ChromaConfig, dtype: torch.dtype | None = None, device: Any = None,
                 operations: Any = None, **_: Any):
        ops = Ops(operations, comfy.ops.manual_cast, host_attention)
        super().__init__(chroma_config, ops, dtype=dtype, device=device)
        fill_approximator(self, chroma_config, ops.approximator_layers, dtype=dtype, device=device)
        self.dtype = dtype
        self.patch_size = chroma_config.patch_size

    def forward(self, x, timestep, context, guidance=None, control=None, transformer_options={}, **kwargs):
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        # transformer_options stays the last positional: the host's caches look for it there.
        return executor.execute(x, timestep, context, guidance, control, transformer_options, **kwargs)

    def _forward(self, x, timestep, context, guidance=None, control=None, transformer_options={}, **kwargs):
        if context is None:
            raise ValueError("there is no text conditioning. Connect a prompt, an empty one if need be")
        if context.ndim != 3 or context.shape[2] != self.config.context_dim:
            raise ValueError(
                f"the text encoder gave vectors of width {context.shape[-1]}, this model takes "
                f"{self.config.context_dim}. Load the T5 encoder that belongs to it (CLIPLoader, type chroma)"
            )
        if x.shape[1] * self.patch_size**2 != self.config.in_channels:
            raise ValueError(
                f"the latent has {x.shape[1]} channels, this model takes "
                f"{self.config.in_channels // self.patch_size**2}. Use EmptySD3LatentImage, or encode the image with "
                "the VAE that belongs to the model (for Chroma: FLUX's ae.safetensors)"
            )
        options = transformer_options.copy()
        rope = options.get("rope_options") or {}
        ids = position_ids(
            context.shape[1], *grid_size(*x.shape[2:], self.patch_size), device=x.device,
            scale=(rope.get("scale_y", 1.0), rope.get("scale_x", 1.0)),
            shift=(rope.get("shift_y", 0.0), rope.get("shift_x", 0.0)),
        )
        ids[context.shape[1]:, 0] += rope.get("shift_t", 0.0)
        totals = {"double": len(self.double_blocks), "single": len(self.single_blocks)}
        run = HostBlocks(options, control, totals, kwargs.get("attention_mask"))
        return super().forward(
            x, timestep, context, guidance, kwargs.get("context_mask"), kwargs.get("modulations"), ids, run,
        )


class ChromaModel(comfy.model_base.Chroma):
    """The host's Chroma with our transformer in it."""

    def __init__(self, model_config: Any, chroma_config: ChromaConfig, device: Any = None):
        super().__init__(model_config, device=device, unet_model=functools.partial(HostTransformer, chroma_config))

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        out = super().extra_conds(**kwargs)
        # Always there and never None, so that cond and uncond can share a batch.
        out["guidance"] = comfy.conds.CONDRegular(torch.FloatTensor([kwargs.get("guidance") or 0.0]))
        mask, text = kwargs.get("attention_mask"), kwargs.get("cross_attn")
        if mask is not None and text is not None and "attention_mask_img_shape" not in kwargs:
            if mask.shape[-1] == text.shape[1] and not bool((mask != 0).all()):  # a mask costs attention its fast path
                # Integers: the host makes floats of everything else, and its attention adds those instead of masking.
                out["context_mask"] = comfy.conds.CONDRegular((mask != 0).long())
        return out

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):
        run = transformer_options.get(OPTION)
        if run is not None:  # outside of the network's forward, so that a compiled network never sees the look-up
            timesteps = self.model_sampling.timestep(t).float()
            guidance = kwargs.get("guidance")
            guidance = torch.zeros_like(timesteps) if guidance is None else guidance.to(timesteps)
            kwargs["modulations"] = run.get(self, timesteps, guidance, self.get_dtype_inference())
        return super()._apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


class ChromaModelConfig(comfy.supported_models.Chroma):
    """The host's record of the model; `unet_config` holds what its LoRA key maps and other packs look at."""

    def __init__(self, detection: Detection):
        config = detection.config
        self.chroma_config = config
        super().__init__({
            "image_model": "chroma",
            "in_channels": config.in_channels,
            "out_channels": config.out_channels,
            "context_in_dim": config.context_dim,
            "hidden_size": config.hidden_size,
            "mlp_ratio": config.mlp_hidden_dim / config.hidden_size,
            "num_heads": config.num_heads,
            "depth": config.num_double_blocks,
            "depth_single_blocks": config.num_single_blocks,
            "axes_dim": list(config.axes_dim),
            "theta": config.theta,
            "patch_size": config.patch_size,
            "qkv_bias": config.qkv_bias,
            "in_dim": config.approximator.in_dim,
            "out_dim": config.approximator.out_dim,
            "hidden_dim": config.approximator.hidden_dim,
            "n_layers": config.approximator.num_layers,
        })

    def get_model(self, state_dict: Mapping[str, Tensor], prefix: str = "", device: Any = None) -> ChromaModel:
        return ChromaModel(self, self.chroma_config, device=device)


def load_chroma(path: str, mode_name: str = "auto", disable_dynamic: bool = False) -> Any:
    """A Chroma file as the host's MODEL.

    mode_name: a name of `quant.QUANT_MODES` or one of its aliases.
    disable_dynamic: asked for by the host where it needs a patcher without dynamic VRAM.
    returns:   a ModelPatcher.
    raises:    ValueError naming the file, what was found and the remedy.
    """
    mode = quant_mode(mode_name)
    header = read_header(path)
    detection = detect(header)
    check(header, detection)
    weights = convert(_host_tensors(path), detection)
    bad = non_finite(weights, sample=True)
    if bad:
        logging.warning(
            "%s: %d tensors hold NaN or infinite weights (%s ...): pictures will be black or noise. "
            "The file is damaged; download it again", header.name, len(bad), ", ".join(bad[:3]),
        )

    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    config = ChromaModelConfig(detection)
    storage = _storage_dtype(detection, mode, config.supported_inference_dtypes)
    quantised = bool(mode.format or detection.extras)
    if detection.extras and mode != QUANT_MODES["auto"]:
        raise ValueError(f"{header.name}: the file is quantised already. Choose auto as precision to keep it as it is")
    # Quantised weights are unpacked at use, so their compute type does not follow from how they are stored.
    compute = comfy.model_management.unet_manual_cast(
        None if quantised else storage, load_device, config.supported_inference_dtypes
    )
    config.set_inference_dtype(storage, compute, device=load_device)
    if quantised:
        config.quant_config = {"mixed_ops": True}
    model = config.get_model(weights)
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    if not comfy.model_management.is_device_cpu(offload_device):
        model.to(offload_device)
    if not patcher.is_dynamic():  # with dynamic VRAM the host casts mapped weights at use
        weights = {k: v.to(storage) if v.dtype in FLOAT_DTYPES and k not in detection.extras else v
                   for k, v in weights.items()}
    if mode.format:
        weights = quantise(weights, mode, load_device)
    # Mapped tensors become the parameters, so that nothing is copied; except where the host's own reader has mapped
    # them read-only and the patcher writes into its parameters.
    assign = patcher.is_dynamic() or not comfy.memory_management.aimdo_enabled
    model.load_model_weights(weights, "", assign=assign)
    store = ModulationStore()
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, store.sample_wrapper)
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, warn_of_nan(header.name))
    patcher.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_DETACH, KEY, lambda _, unpatch_all: store.clear() if unpatch_all else None)
    patcher.cached_patcher_init = (load_chroma, (path, mode_name))
    return patcher


def describe(patcher: Any) -> str:
    """What was loaded, for people: sizes, how the weights are kept, what they compute in."""
    model = patcher.model
    config = model.model_config.chroma_config
    weights = list(model.diffusion_model.parameters())
    count = sum(w.numel() for w in weights)
    size = comfy.model_management.module_size(model.diffusion_model)
    kinds = sorted({getattr(m, "quant_format", None) or "" for m in model.diffusion_model.modules()} - {""})
    kept = ", ".join(kinds) if kinds else str(model.get_dtype()).removeprefix("torch.")
    compute = str(model.get_dtype_inference()).removeprefix("torch.")
    return (
        f"Chroma, {_count(count)} parameters, {config.num_double_blocks} + {config.num_single_blocks} blocks of "
        f"width {config.hidden_size}\n{kept}, {size / 1e6:,.0f} MB, {8 * size / count:.1f} bits a weight, "
        f"computes in {compute}"
    )


def _count(n: int) -> str:
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.1f} M"


def _host_tensors(path: str) -> dict[str, Tensor]:
    """Mapped tensors from the host's reader, which can stream them from the disk to a GPU."""
    if os.path.splitext(path)[1].lower() in SAFETENSORS_SUFFIXES:
        return comfy.utils.load_torch_file(path)
    return read_tensors(path)


def _storage_dtype(detection: Detection, mode: QuantMode, supported: list[torch.dtype]) -> torch.dtype:
    """The type that weights are kept in: the user's, else the file's 16 bits, else what the host prefers."""
    if mode.dtype is not None:
        return mode.dtype
    chosen = comfy.model_management.unet_dtype(
        model_params=detection.num_parameters, supported_dtypes=supported, weight_dtype=detection.dtype
    )
    if chosen == torch.float32 and detection.dtype != torch.float32 and not args.fp32_unet:
        return detection.dtype  # where only float32 is fast, cast at use: twice the memory would buy nothing
    if chosen not in FLOAT_DTYPES:
        logging.warning("the option for %s weights is not followed: a plain cast harms Chroma. Choose fp8_scaled as "
                        "precision in the loader", chosen)
        return detection.dtype
    return chosen


def quantise(weights: dict[str, Tensor], mode: QuantMode, device: torch.device) -> dict[str, Tensor]:
    """The blocks' linears as the host's quantised tensors, layer by layer; all other tensors as they are.

    returns: a state dict in the host's own layout (`weight`, `weight_scale`, `comfy_quant` for each layer).
    """
    layout = comfy.quant_ops.QUANT_ALGOS[mode.format]["comfy_tensor_layout"]
    names = [name for name, w in weights.items() if is_quantised(name, w.ndim)]
    if device.type in ("cuda", "xpu"):
        largest = max(weights[name].numel() for name in names) * torch.float32.itemsize
        comfy.model_management.free_memory(QUANTISE_WORKSPACE * largest, device)
    else:
        device = torch.device("cpu")
    progress = comfy.utils.ProgressBar(len(names))
    out = {name: w for name, w in weights.items() if not is_quantised(name, w.ndim)}
    skipped = Counter[int]()
    for name in names:
        weight = weights.pop(name)
        extra = dict(mode.quantise)
        settings = {"format": mode.format, **mode.settings}
        if mode.rotated:
            group = rotation_group(weight.shape[1])
            if group is None:
                skipped[weight.shape[1]] += 1
                out[name] = weight
                continue
            extra["convrot_groupsize"] = group
            settings |= {"convrot": True, "convrot_groupsize": group}
        packed = comfy.quant_ops.QuantizedTensor.from_float(weight.to(device, torch.float32), layout, **extra)
        out.update({k: v.cpu() for k, v in packed.state_dict(name).items()})
        marker = json.dumps(settings).encode()
        out[name.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(marker), dtype=torch.uint8)
        progress.update(1)
    if device.type != "cpu":
        comfy.model_management.soft_empty_cache()
    for width, count in skipped.items():
        logging.warning("%d layers of input width %d stay unquantised: no rotation fits that width", count, width)
    return out


def warn_of_nan(file: str):
    """An OUTER_SAMPLE wrapper that, when a run ends in NaN, names the weights to blame."""

    def wrapper(executor: Any, *a: Any, **k: Any) -> Any:
        out = executor(*a, **k)
        if torch.is_tensor(out) and not torch.isfinite(out.sum()):
            patcher = executor.class_obj.model_patcher
            bad = non_finite(patcher.model.diffusion_model.state_dict(), sample=False)
            source = "Take the LoRAs and merges off one by one; if it stays, download" if patcher.patches else "Download"
            cause = f"tensors with NaN or infinite weights: {', '.join(bad[:5])}. {source} the file again" if bad else (
                "all weights are finite. If it computes in fp16, choose bf16 or fp32 as precision"
            )
            logging.warning("%s: the run ended in NaN; the picture will be black. %s", file, cause)
        return out

    return wrapper
