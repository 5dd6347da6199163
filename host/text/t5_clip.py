"""Builds every CLIP: a T5 of any size and storage in the host's own encoder, tokenizer and patcher.

Written for ComfyUI 0.30. The host computes T5 in float32 whatever its weights are stored in, since its activations
overflow float16; quantised weights are unpacked at use and never multiplied in 8 bits. This pack does the same.
"""

from __future__ import annotations

import dataclasses
import logging
import weakref
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.text_encoders.pixart_t5
import comfy.text_encoders.sa_t5
import torch
from comfy.patcher_extension import CallbacksMP
from comfy.quant_ops import QuantizedTensor
from comfy_kitchen.tensor.base import get_layout_class
from torch import Tensor

from ...loaders.formats.base.format import FLOAT_DTYPES
from ...loaders.formats.base.registry import ENCODER_MODES, FORMATS, QuantMode
from ...loaders.t5.detect_t5 import T5Detection, detect_t5
from ...loaders.t5.sizes import EMBEDDING, FINAL_NORM, T5Config, is_linear
from ..model.damage import warn_of_damage, warn_of_holes
from ..model.file_stamp import check_unchanged, stamps_of, watch
from ..model.layers import operations, take_marker
from ..model.load import Loaded, ModelFile
from ..model.report import count_text, kept_text, num_bytes, packed_formats, stored_text
from ..model.weights import StateBuilder
from ..run.hook_loras import KEY as HOOKS
from ..run.hook_loras import refuse_encoder

COMPUTE = torch.float32
PRECISIONS = tuple(ENCODER_MODES)
DEVICES = ("default", "cpu")
LOADER = "Load Chroma Text Encoder"
ATTACHMENT = "chroma_t5"  # key of a `Loaded` on the patcher


@dataclasses.dataclass(frozen=True)
class HostEncoder:
    """The host's encoder that holds the weights. name: the host's name for it. tokens: how it pads, for the report."""

    name: str
    model: Any
    tokenizer: Any
    tokens: str


# Whether the MLP is gated -> what the host's own loader uses, with the type chroma, for T5-XXL and for T5-base.
HOST_ENCODERS = {
    True: HostEncoder(
        "t5xxl",
        comfy.text_encoders.pixart_t5.pixart_te(),
        comfy.text_encoders.pixart_t5.PixArtTokenizer,
        "tokens: no padding, no mask",
    ),
    False: HostEncoder(
        "t5base",
        comfy.text_encoders.sa_t5.SAT5Model,
        comfy.text_encoders.sa_t5.SAT5Tokenizer,
        "tokens: padded to 128, masked",
    ),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """What the host makes a CLIP from."""

    clip: Any
    tokenizer: Any
    params: dict[str, Any] = dataclasses.field(default_factory=dict)


class EncoderState(StateBuilder):
    """An encoder's state dict: a precision changes the linears of its blocks; the rest stays as in the file."""

    def is_quantised(self, name: str, ndim: int) -> bool:
        return is_linear(name)

    def entries(self, name: str, parts: Any) -> dict[str, Tensor]:
        format = parts[0].storage.format
        if is_linear(name) or format is None:
            return super().entries(name, parts)
        if name == EMBEDDING and self.mode.dtype is None and FORMATS[format].has_rows:
            return self._keep(name, parts, in_block=False)
        return {name: self._dense(parts, self.mode.dtype or self.storage or self._plain_dtype()).cpu()}


class EncoderLinear:
    """Unpacks its weight in every format: by themselves some of the host's layouts would round the inputs too."""

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        scale = getattr(self, "pre_quant_scale", None)
        return self._unpacked(input if scale is None else input * comfy.ops.cast_to_input(scale, input))


class PackedEmbedding:
    """Unpacks only the rows that are looked up, on the weight's device."""

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        weight = state_dict.pop(prefix + "weight", None)
        if weight is None:
            missing.append(prefix + "weight")
            return
        take_marker(self, state_dict, prefix, weight)
        self.weight = torch.nn.Parameter(weight.to(device=self.weight.device), requires_grad=False)
        self.weight_comfy_model_dtype = weight.dtype

    def forward_comfy_cast_weights(self, input: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        dtype = out_dtype or COMPUTE
        changed = self.weight_function or getattr(self, "weight_lowvram_function", None) is not None
        if isinstance(self.weight, QuantizedTensor) and not changed:
            rows = unpack_rows(self.weight, input.flatten().to(self.weight.device), dtype)
            return rows.to(input.device).unflatten(0, input.shape)
        if not isinstance(self.weight, QuantizedTensor):
            return comfy.ops.manual_cast.Embedding.forward_comfy_cast_weights(self, input, out_dtype)
        # The host has not merged a LoRA of the embedding into it yet; that needs the whole weight.
        weight, _, stream = comfy.ops.cast_bias_weight(self, device=input.device, dtype=dtype, offloadable=True)
        dense = weight.dequantize() if isinstance(weight, QuantizedTensor) else weight
        out = torch.nn.functional.embedding(input, dense)
        comfy.ops.uncast_bias_weight(self, weight, None, stream)
        return out


def encoder_operations(device: torch.device) -> Any:
    """Layer classes for an encoder with weights of any storage, made for each encoder. device: where it will run."""
    host = operations(COMPUTE, device)
    # The embedding's weight is moved and changed by the methods of linear layers.
    shared = {name: getattr(host.Linear, name) for name in ("host_linear", "set_weight", "convert_weight", "_apply")}
    linear = type("Linear", (EncoderLinear, host.Linear), {})
    embedding = type("Embedding", (PackedEmbedding, host.Embedding), shared)
    return type("Layers", (host,), {"Linear": linear, "Embedding": embedding})


def unpack_rows(weight: QuantizedTensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of a packed weight, (R, K) in dtype; its format `has_rows`. index: (R,), on the weight's device."""
    params, num_rows = weight._params, weight.shape[0]
    changes: dict[str, Any] = {"orig_dtype": dtype, "orig_shape": (len(index), weight.shape[1])}
    for field in ("scale", "up", "delta", "delta_scale"):
        value = getattr(params, field, None)
        if value is not None and value.numel() > 1:
            changes[field] = value[index // (num_rows // value.shape[0])]  # a scale may be for a block of rows
    stored = weight._qdata
    rows = stored.view(torch.uint8)[index].view(stored.dtype)  # some devices cannot index fp8
    return get_layout_class(weight._layout_cls).dequantize(rows, dataclasses.replace(params, **changes))


def load_encoder(
    path: str,
    precision: str = "auto",
    device: str = "default",
    embeddings: list[str] | None = None,
    disable_dynamic: bool = False,
) -> Any:
    """A T5 file as the host's CLIP, tokenized as the host's own loader does it for Chroma.

    precision: one of PRECISIONS. auto: as in the file, except 32 bits, which become the host's type for text encoders.
    device:    one of DEVICES.
    embeddings: folders of `embedding:` files.
    disable_dynamic: asked for by the host where it needs a patcher without dynamic VRAM.
    raises:    ValueError naming the file, what was found and the remedy.
    """
    for what, asked, known in (("precision", precision, PRECISIONS), ("device", device, DEVICES)):
        if asked not in known:
            raise ValueError(f"{what} {asked!r} is not known (known: {', '.join(known)})")
    source = ModelFile(path)
    stamps = stamps_of(LOADER, path)
    detection = detect_t5(source.header)
    mode = ENCODER_MODES[precision]
    options: dict[str, Any] = {}
    if device == "cpu":
        options["load_device"] = options["offload_device"] = torch.device("cpu")
    load_device = options.get("load_device", comfy.model_management.text_encoder_device())

    storage = _storage_dtype(precision, mode, detection, load_device)
    tensors = source.tensors()
    warn_of_holes(source.header, detection, tensors)
    weights = EncoderState(detection, tensors, mode, storage, COMPUTE, load_device, full_precision=True).build()
    warn_of_damage(source.header, weights)
    encoder = HOST_ENCODERS[detection.config.gated]
    options["custom_operations"] = encoder_operations(load_device)
    options["dtype"] = weights[FINAL_NORM].dtype
    options[f"{encoder.name}_model_config"] = host_config(detection.config)
    # The host multiplies this by the size of the type, to see whether the weights fit.
    parameters = sum(map(num_bytes, weights.values())) // options["dtype"].itemsize
    clip = comfy.sd.CLIP(
        Target(encoder.model, encoder.tokenizer),
        embedding_directory=embeddings,
        parameters=parameters,
        state_dict=[weights],
        model_options=options,
        disable_dynamic=disable_dynamic,
    )
    clip.patcher.set_attachments(ATTACHMENT, Loaded(source.header.name, source.header.num_bytes, detection, ""))
    watch(clip.patcher, stamps)
    clip.patcher.add_callback_with_key(CallbacksMP.ON_REGISTER_ALL_HOOK_PATCHES, HOOKS, refuse_encoder)
    table = getattr(clip.cond_stage_model, encoder.name).transformer.get_input_embeddings()
    patcher = weakref.ref(
        clip.patcher
    )  # which holds the table: in a circle neither would go before the next collection
    # The host's own nodes read the table first. Clones of the patcher, which keep it, have its stamps.
    table.register_forward_pre_hook(lambda *_: (alive := patcher()) and check_unchanged(alive))
    clip.patcher.cached_patcher_init = (load_patcher, (path, precision, device, embeddings))
    return clip


def load_patcher(
    path: str, precision: str, device: str, embeddings: list[str] | None, disable_dynamic: bool = False
) -> Any:
    """The patcher alone; the host calls this to make another one."""
    return load_encoder(path, precision, device, embeddings, disable_dynamic).patcher


def host_config(config: T5Config) -> dict[str, Any]:
    """Sizes under the names of the host's T5."""
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.width,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "is_gated_act": config.gated,
        "dense_act_fn": "gelu_pytorch_tanh" if config.gated else "relu",
    }


def encoder_report(clip: Any) -> str:
    """What was loaded, for people: what the file is, how the weights are kept, what they compute in."""
    loaded: Loaded = clip.patcher.get_attachment(ATTACHMENT)
    detection: T5Detection = loaded.detection
    config = detection.config
    lines = [
        f"{detection.variant} encoder, {count_text(detection.num_parameters)} parameters, {config.num_layers} layers "
        f"of width {config.width}",
        f"file: {stored_text(detection)}, {loaded.num_bytes / 1e6:,.0f} MB, {detection.layout} names",
    ]
    left_out = ((len(detection.dropped), "of the decoder and the like"), (detection.others, "of other models"))
    lines += [f"{count} tensor{'s' * (count > 1)} {what} left out" for count, what in left_out if count]
    lines.append(kept_text(clip.cond_stage_model, detection.num_parameters))
    unpacked = ", packed weights are unpacked at use" if packed_formats(clip.cond_stage_model) else ""
    lines.append(f"computes in {str(COMPUTE).removeprefix('torch.')}, as ComfyUI does for T5{unpacked}")
    lines.append(HOST_ENCODERS[config.gated].tokens)
    return "\n".join(lines)


def _storage_dtype(precision: str, mode: QuantMode, detection: T5Detection, device: torch.device) -> torch.dtype | None:
    """The type that plain weights are kept in; None leaves each as it is."""
    if mode.dtype is not None or precision == "keep" or detection.formats or detection.dtype != torch.float32:
        return mode.dtype
    chosen = comfy.model_management.text_encoder_dtype(device)
    if chosen not in FLOAT_DTYPES:
        logging.warning(
            "ComfyUI's option for %s text encoders is ignored: a plain cast harms T5. Choose q8_0 as precision", chosen
        )
        return torch.float16
    return chosen
