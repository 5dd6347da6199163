"""Builds every MODEL: our transformer inside the host's own Chroma model, held by the host's own patcher.

Written for ComfyUI 0.30.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.utils
import torch
from comfy.cli_args import args
from comfy.quant_ops import QUANT_ALGOS
from torch import Tensor

from ...loaders.checkpoint.check_shapes import check
from ...loaders.checkpoint.detect_variant import Detection, detect
from ...loaders.checkpoint.lite import check_lite, with_lite_patch
from ...loaders.checkpoint.naming import layout_of, source_names, with_approximator
from ...loaders.files.kinds import is_index
from ...loaders.files.read import SAFETENSORS_SUFFIXES, Header, read_header, read_tensors, shards, told, whole
from ...loaders.formats.base.format import FLOAT_DTYPES
from ...loaders.formats.base.kept_layers import is_quantised
from ...loaders.formats.base.registry import FORMATS, QuantMode, quant_mode
from ..run import hook_loras, kept_references
from ..run.base_model import model_config
from ..run.kept_modulations import ModulationStore
from ..run.overflow import tell_overflow
from .damage import warn_of_damage, warn_of_holes, warn_of_nan
from .file_stamp import check_before_run, stamps_of, watch
from .layers import operations
from .matmul import fast_matmul
from .packed_layout import TAKEN
from .weights import StateBuilder

LOADER = "Load Chroma Model"
WRAPPERS = "chroma"  # of our wrappers and callbacks on the patcher


def load_chroma(
    path: str,
    mode_name: str = "auto",
    approximator: str | None = None,
    prediction: str = "auto",
    text_ids: str = "auto",
    full_precision: bool = False,
    lite_patch: str | None = None,
    disable_dynamic: bool = False,
) -> Any:
    """A Chroma file as the host's MODEL.

    mode_name: a name of `formats/base/registry.QUANT_MODES` or one of its aliases.
    approximator: a file to take the Approximator from, in place of the checkpoint's own; needed for FLUX.
    prediction, text_ids: see `detect_variant.detect`.
    full_precision: unpack 8- and 4-bit weights for multiplication also where the device can multiply them as they are.
    lite_patch: a file with the block that makes FLUX.1 lite of FLUX.1, see `checkpoint/lite`.
    disable_dynamic: asked for by the host where it needs a patcher without dynamic VRAM.
    returns:   a ModelPatcher.
    raises:    ValueError naming the file, what was found and the remedy.
    """
    quant_mode(mode_name)
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    source = ModelFile(path, approximator, lite_patch)
    stamps = stamps_of(LOADER, path, approximator, lite_patch)
    header = source.header
    detection = detect(header, prediction, text_ids)
    if lite_patch is not None:
        check_lite(header.name, detection.config.approximator.in_dim)
    check(header, detection)
    mode_name, reason = choose_mode(mode_name, detection, load_device)
    mode = quant_mode(mode_name)

    config = model_config(detection)
    quantised, storage, compute = types_of(detection, mode, config.supported_inference_dtypes, load_device)
    config.set_inference_dtype(storage, compute, device=load_device)
    if quantised:
        config.custom_operations = operations(compute or storage, load_device)
    config.loaded = Loaded(header.name, header.num_bytes, detection, reason, source.own_name)

    model = config.get_model({})
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    if not comfy.model_management.is_device_cpu(offload_device):
        model.to(offload_device)
    # With dynamic VRAM the host casts mapped weights at use.
    plain = None if patcher.is_dynamic() and mode.dtype is None else storage
    tensors = source.tensors()
    warn_of_holes(header, detection, tensors)
    weights = StateBuilder(detection, tensors, mode, plain, compute or storage, load_device, full_precision).build()
    warn_of_damage(header, weights, detection.dtype)
    weights.update({name: torch.empty(0) for name in detection.config.markers})
    # Mapped tensors become the parameters, so that nothing is copied. They are copied where the host's own reader has
    # mapped them read-only and the patcher writes into its parameters.
    assign = patcher.is_dynamic() or not comfy.memory_management.aimdo_enabled
    model.load_model_weights(weights, "", assign=assign)
    watch(patcher, stamps)
    attach(patcher, header)
    patcher.cached_patcher_init = (
        load_chroma,
        (path, mode_name, approximator, prediction, text_ids, full_precision, lite_patch),
    )
    return patcher


def types_of(
    detection: Detection, mode: QuantMode, supported: list[torch.dtype], device: torch.device
) -> tuple[bool, torch.dtype, torch.dtype | None]:
    """(whether weights stay quantised, type of the plain ones, type to compute in: None for that of the plain ones)."""
    quantised = bool(mode.format or (mode.keeps and detection.formats))
    storage = _storage_dtype(detection, mode, supported)
    # Quantised weights are unpacked at use, so their compute type does not follow from how they are stored.
    compute = comfy.model_management.unet_manual_cast(None if quantised else storage, device, supported)
    return quantised, storage, compute


def weights_size(detection: Detection, mode: QuantMode, plain: torch.dtype, in_file: int) -> float:
    """Bytes that the weights take. plain: the type of those that are not quantised; in_file: bytes of the model's files."""
    plain_size = plain.itemsize * detection.num_parameters
    if mode.format is None:
        return min(in_file, plain_size) if mode.keeps and detection.formats else plain_size  # others may be in the file
    sizes = {name: math.prod(shape) for name, shape in detection.shapes.items()}
    packed = sum(n for name, n in sizes.items() if is_quantised(name, len(detection.shapes[name]), detection.variant))
    return plain_size - packed * (plain.itemsize - FORMATS[mode.format].bits / 8)


class ModelFile:
    """A model's file, and, if given, the files that its Approximator and one of its blocks come from."""

    def __init__(self, path: str, approximator: str | None = None, lite_patch: str | None = None):
        self.header = read_header(path)
        self.own_name = self.header.name
        self._path = path
        self._own: Mapping[str, str] | None = (
            None  # name in `header` -> name in the file; None where all stay as they are
        )
        self._others: list[tuple[str, Mapping[str, str]]] = []  # the same of other files
        if lite_patch is not None:
            self.header, self._own, theirs = with_lite_patch(self.header, read_header(lite_patch))
            self._others.append((lite_patch, theirs))
        if approximator is not None:
            other = read_header(approximator)
            self.header = with_approximator(self.header, other)
            prefix = layout_of(self.header)[1]
            self._others.append((approximator, {prefix + name: n for name, n in source_names(other).items()}))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under the names of `header`, mapped."""
        tensors = _host_tensors(self._path)
        if self._own is not None:
            tensors = {name: tensors[n] for name, n in self._own.items()}
        for path, names in self._others:
            theirs = _host_tensors(path)
            tensors.update({name: theirs[n] for name, n in names.items()})
        return tensors


@dataclass(frozen=True)
class Loaded:
    """What a model was made from.

    file:     for messages, all files that it is put together from.
    reason:   why auto chose its precision; empty if it did not choose.
    own_file: the first of them, which the user calls the model.
    """

    file: str
    num_bytes: int
    detection: Detection
    reason: str
    own_file: str = ""


def choose_mode(name: str, detection: Detection, device: torch.device) -> tuple[str, str]:
    """The name of the mode to load with; and the reason, if `auto` leaves the choice to us, else "".

    raises: ValueError for a mode that this ComfyUI lacks, or whose name another extension has registered.
    """
    format = quant_mode(name).format
    if format is not None and FORMATS[format].host_name not in QUANT_ALGOS:
        raise ValueError(
            f"{name} is not known to this ComfyUI's comfy-kitchen. Update ComfyUI, or choose another precision"
        )
    if format in TAKEN:
        raise ValueError(
            f"{name}: something else has registered {FORMATS[format].host_name} with ComfyUI. Remove that extension, "
            "or choose another precision"
        )
    if name != "auto" or detection.formats:
        return name, ""
    room = comfy.model_management.maximum_vram_for_weights(device)
    needed = 2 * detection.num_parameters
    if needed <= room:
        return name, ""
    int8 = FORMATS["int8_tensorwise"]
    problem = fast_matmul(int8, device)
    chosen = "q8_0" if problem else "int8_convrot"
    reason = (
        f"{chosen}, since 16 bits take {needed / 1e9:.1f} GB and there is room for {max(room, 0) / 1e9:.1f} GB of "
        "weights"
    )
    return chosen, f"{reason}. Not int8_convrot: {int8.matmul.name} {problem}" if problem else reason


def attach(patcher: Any, header: Header) -> None:
    """Adds what acts around a model's runs: check of its files, store of modulations, warnings of NaN and overflow, hook LoRAs."""
    store = ModulationStore()

    def forget(_: Any, unpatch_all: bool) -> None:
        if unpatch_all:  # False where a clone takes over the same weights
            store.clear()

    wrapper_type = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    patcher.add_wrapper_with_key(wrapper_type, WRAPPERS, store.sample_wrapper)
    patcher.add_wrapper_with_key(wrapper_type, WRAPPERS, check_before_run)
    patcher.add_wrapper_with_key(wrapper_type, WRAPPERS, warn_of_nan(header.name))
    patcher.add_wrapper_with_key(wrapper_type, WRAPPERS, tell_overflow(header.name))
    patcher.add_wrapper_with_key(wrapper_type, WRAPPERS, kept_references.sample_wrapper)
    callbacks = comfy.patcher_extension.CallbacksMP
    patcher.add_callback_with_key(callbacks.ON_DETACH, WRAPPERS, forget)
    patcher.add_callback_with_key(callbacks.ON_REGISTER_ALL_HOOK_PATCHES, WRAPPERS, hook_loras.take_over)


def _host_tensors(path: str) -> dict[str, Tensor]:
    """Mapped tensors from the host's reader, which can stream them from the disk to a GPU."""
    path = str(whole(path))
    files = [str(file) for file in shards(Path(path))] if is_index(path) else [path]
    tensors: dict[str, Tensor] = {}
    for file in files:
        infos = read_header(file).tensors.values() if file.endswith(SAFETENSORS_SUFFIXES) else ()
        unknown = any(isinstance(t.dtype, str) or t.dtype == getattr(torch, "float8_e8m0fnu", None) for t in infos)
        if infos and not unknown:
            tensors.update(_host_file(file))
        else:  # the host's reader does not know that type, or cannot read such files
            read = read_tensors(file)
            tensors.update({n: t.clone() for n, t in read.items()} if comfy.utils.DISABLE_MMAP else read)
    return tensors


@told
def _host_file(path: str) -> dict[str, Tensor]:
    """The tensors of one file by the host's reader."""
    try:
        return comfy.utils.load_torch_file(path)
    except TypeError as error:
        if isinstance(error.__context__, OSError):  # the host looks for words in what is the number of an error
            raise error.__context__ from None
        raise


def _storage_dtype(detection: Detection, mode: QuantMode, supported: list[torch.dtype]) -> torch.dtype:
    """The type that plain weights are kept in: the user's, else the file's 16 bits, else what the host prefers."""
    if mode.dtype is not None:
        return mode.dtype
    chosen = comfy.model_management.unet_dtype(
        model_params=detection.num_parameters, supported_dtypes=supported, weight_dtype=detection.dtype
    )
    if chosen == torch.float32 and detection.dtype != torch.float32 and not args.fp32_unet:
        return detection.dtype  # where only float32 is fast, cast at use: keeping float32 would only double the memory
    if chosen not in (*FLOAT_DTYPES, torch.float64):
        logging.warning(
            "ComfyUI's option for %s weights is ignored: a plain cast harms Chroma. Choose fp8_scaled as "
            "precision in the loader",
            chosen,
        )
        return detection.dtype
    return chosen
