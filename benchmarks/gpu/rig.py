"""What every part needs: sizes, ComfyUI in this process, seeded models of each kind and format, and a clock.

Nothing of torch is imported before `Rig.start_host`, since dynamic VRAM must be set up first.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping
from unittest import mock

import dev

COMMIT = "CHROMA_PACK_COMMIT"  # the commit, where the checkout has no .git
GB = 1e9
ROOM = 40 * GB  # of free memory on the card, with which models of other formats stay there
PACKAGES = ("torch", "triton", "comfy-kitchen", "comfy-aimdo", "diffusers", "sageattention", "flash-attn")


@dataclass(frozen=True)
class Scale:
    """How large everything is. sides: of pictures, in pixels; pixels: the one that most cases use."""

    width: int
    heads: int
    context: int
    approximator: tuple[int, int, int]
    sides: tuple[int, ...]
    pixels: int
    text: int
    steps: int
    recipe_steps: int
    rounds: int


FULL = Scale(3072, 24, 4096, (64, 5120, 5), (512, 1024, 2048), 1024, 128, 26, 30, 5)
NARROW = Scale(128, 1, 64, (64, 64, 2), (64, 96), 96, 8, 2, 2, 1)


class Rig:
    """One process's models and clock.

    found: the cases of this part that have results already, by name.
    """

    def __init__(self, out: Path, rehearse: bool):
        self.out = out
        self.rehearse = rehearse
        self.scale = NARROW if rehearse else FULL
        self.found: Mapping[str, dict[str, Any]] = {}
        self._weights: dict[str, Any] | None = None
        self._kept: dict[tuple[str, str], Any] = {}  # (whose, stored as) -> MODEL

    def some(self, names: tuple[Any, ...]) -> tuple[Any, ...]:
        """All of them; in a rehearsal the first and the last, since the others run the same code."""
        return (names[0], names[-1]) if self.rehearse else names

    # --- ComfyUI in this process -------------------------------------------------------------------------------------

    def start_host(self, dynamic: bool) -> None:
        """ComfyUI's modules as its own start would set them up. dynamic: with dynamic VRAM."""
        sys.path[:0] = [str(dev.ROOT / "tests"), str(dev.host_path())]
        from comfy.cli_args import args

        args.cpu = self.rehearse
        args.use_pytorch_cross_attention = True  # the same attention on both sides
        args.disable_dynamic_vram = not dynamic
        if dynamic:
            import comfy_aimdo.control

            comfy_aimdo.control.init()
        import comfy.memory_management
        import comfy.model_management
        import comfy.model_patcher
        import comfy.sample
        import comfy.sd
        import comfy.supported_models
        import host_models
        import support

        if dynamic:
            devices = comfy.model_management.get_all_torch_devices()
            if not comfy_aimdo.control.init_devices([d.index for d in devices]):
                raise RuntimeError("comfy-aimdo does not work here, so dynamic VRAM is not measured")
            comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
            comfy.memory_management.aimdo_enabled = True
        import torch

        torch.set_grad_enabled(False)
        self.comfy, self.models, self.support = comfy, host_models, support
        self.device = comfy.model_management.get_torch_device()
        self.dtype = torch.float32 if self.rehearse else torch.bfloat16
        scale = self.scale
        self.config = support.config(scale.width, scale.heads, 19, 38, scale.context, scale.approximator)

    # --- weights and models ------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Any]:
        """Seeded weights (bfloat16) on the device, under the model's names, scaled so that 57 blocks stay finite."""
        import torch

        if self._weights is None:
            shapes = dev.load_pack("loaders.checkpoint.check_shapes").expected_shapes(self.config)
            generator = torch.Generator(self.device).manual_seed(0)
            self._weights = {}
            for name, shape in shapes.items():
                w = torch.randn(shape, generator=generator, device=self.device, dtype=torch.float32)
                if "norm" in name:
                    w = 1 + 0.1 * w
                elif w.ndim == 2:
                    w *= shape[1] ** -0.5 * (0.3 if name == "distilled_guidance_layer.out_proj.weight" else 1)
                else:
                    w *= 0.02
                self._weights[name] = w.to(torch.bfloat16)
        return self._weights

    def inputs(self, pixels: int | None = None, text: int | None = None, batch: int = 1) -> dict[str, Any]:
        """x, timesteps and context of one forward on the device, seeded."""
        side = (pixels or self.scale.pixels) // 8
        found = self.support.inputs(self.config, batch, side, side, text or self.scale.text)
        return {k: v.to(self.device, v.dtype if k == "timesteps" else self.dtype) for k, v in found.items()}

    def net(self, whose: str, dtype: Any = None, weights: dict[str, Any] | None = None) -> Any:
        """A bare network on the weights: "ours", "ComfyUI" or "diffusers". They share the weights' memory."""
        import torch

        dtype = dtype or self.dtype
        weights = {k: w.to(dtype) for k, w in (weights or self.weights()).items()}
        ops = {"dtype": dtype, "device": "meta", "operations": self.comfy.ops.disable_weight_init}
        if whose == "ours":
            made = dev.load_pack("host.run.forward").HostTransformer(self.config, **ops)
        elif whose == "ComfyUI":
            import comfy.ldm.chroma.model

            made = comfy.ldm.chroma.model.Chroma(**self.models.native_params(self.config), **ops)
        else:
            import diffusers

            a, c = self.config.approximator, self.config
            with torch.device("meta"):
                made = diffusers.ChromaTransformer2DModel(
                    in_channels=c.in_channels,
                    num_layers=c.num_double_blocks,
                    num_single_layers=c.num_single_blocks,
                    attention_head_dim=c.head_dim,
                    num_attention_heads=c.num_heads,
                    joint_attention_dim=c.context_dim,
                    axes_dims_rope=c.axes_dim,
                    approximator_num_channels=a.in_dim,
                    approximator_hidden_dim=a.hidden_dim,
                    approximator_layers=a.num_layers,
                )
            embedding = type(made.time_text_embed)  # whose table is no weight, so it is made anew, off the meta device
            count = 3 * c.num_single_blocks + 12 * c.num_double_blocks + 2
            made.time_text_embed = embedding(a.in_dim // 4, count).to(self.device)
            weights = self.support.to_diffusers(weights, c)
        made.load_state_dict(weights, assign=True)
        return made.eval().requires_grad_(False)

    def free(self) -> None:
        """Forgets all MODELs."""
        self._kept.clear()
        self.comfy.model_management.unload_all_models()
        gc.collect()
        self.comfy.model_management.soft_empty_cache()

    def room(self, stored: str) -> None:
        """Forgets the MODELs of other formats unless the card has room for one more."""
        import torch

        others = any(kept != stored for _, kept in self._kept)
        if others and (self.device.type != "cuda" or torch.cuda.mem_get_info(self.device)[0] < ROOM):
            self.free()

    def ours(self, stored: str) -> Any:
        """Our MODEL with the weights stored so, on the device; by the loader's own code, from tensors instead of a file.

        stored: a name of the loader's precisions, or of a type of GGML's.
        """
        if ("ours", stored) not in self._kept:
            self.room(stored)
            load = dev.load_pack("host.model.load")
            source = Source(*self.stored_as(stored))
            mode = stored if stored in dev.load_pack("loaders.formats.base.registry").QUANT_MODES else "keep"
            with (
                mock.patch.object(load, "ModelFile", lambda *_: source),
                mock.patch.object(load, "stamps_of", lambda *_: ()),
            ):
                patcher = load.load_chroma("synthetic", mode, disable_dynamic=True)
            self.keep("ours", stored, patcher)
        return self._kept["ours", stored]

    def native(self, stored: str) -> Any:
        """ComfyUI's own MODEL on the very tensors of `ours(stored)`.

        raises: ValueError for a format that ComfyUI cannot read.
        """
        import torch

        ours = self.ours(stored)
        if ("ComfyUI", stored) not in self._kept:
            sd = ours.model.diffusion_model.state_dict()
            config = self.comfy.supported_models.Chroma(
                {"image_model": "chroma", **self.models.native_params(self.config)}
            )
            quantised = self.comfy.utils.detect_layer_quantization(sd, "")
            known = self.comfy.quant_ops.QUANT_ALGOS
            for name in [n for n in sd if n.startswith("distilled_guidance_layer")]:
                sd[name] = sd[name].to(torch.bfloat16)  # ours keeps it in float32
            for name in [n for n in sd if n.endswith(".comfy_quant")]:
                sd[name] = sd[name].cpu()
                format = json.loads(bytes(sd[name].tolist()))["format"]
                if "ChromaPacked" in known[format]["comfy_tensor_layout"]:
                    raise ValueError(f"ComfyUI does not read {stored}")
            compute = None if self.dtype == torch.bfloat16 and not quantised else self.dtype
            config.quant_config = quantised
            config.set_inference_dtype(torch.bfloat16, compute, device=self.device)
            model = config.get_model({})
            model.load_model_weights(dict(sd), "", assign=True)
            self.keep("ComfyUI", stored, self.comfy.model_patcher.ModelPatcher(model, self.device, self.device))
        return self._kept["ComfyUI", stored]

    def keep(self, whose: str, stored: str, patcher: Any) -> None:
        """Puts a MODEL on the device for good: its place for unloading is the device too, so nothing is copied back."""
        self._kept[whose, stored] = patcher
        patcher.offload_device = self.device
        self.comfy.model_management.load_models_gpu(list(self._kept.values()))

    def stored_as(self, stored: str) -> tuple[Any, dict[str, Any]]:
        """(header, tensors) as of a file under published names: the weights, or random blocks of a type of GGML's."""
        import torch

        info, header = dev.load_pack("loaders.tensor_info"), dev.load_pack("loaders.files.header")
        tensors = self.support.published(self.weights(), dtype=torch.bfloat16)
        infos = {name: info.TensorInfo(t.dtype, tuple(t.shape)) for name, t in tensors.items()}
        if stored in info.GGML_BLOCKS:
            for name, t in tensors.items():
                if t.ndim == 2 and "_blocks." in name and t.shape[1] % info.GGML_BLOCKS[stored][0] == 0:
                    infos[name] = info.TensorInfo(stored, tuple(t.shape))
                    tensors[name] = self.blocks(stored, t)
        size = sum(t.nbytes for t in tensors.values())
        return header.Header("synthetic", infos, {}, {}, size), tensors

    def blocks(self, name: str, weight: Any) -> Any:
        """Packed blocks (N, bytes) whose values are about as large as the weight's: a few rows, over and over."""
        import formats
        import torch

        rows = formats.packed_ggml(weight[:32].float().cpu(), name)
        return rows.repeat(-(-weight.shape[0] // len(rows)), 1)[: weight.shape[0]].to(self.device, torch.uint8)

    def file(self) -> Path:
        """The weights in a bfloat16 file, in memory where there is room for it: the page cache is warm in any case."""
        from safetensors.torch import save_file

        path = scratch() / f"chroma-{self.scale.width}.safetensors"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            tensors = self.stored_as("bf16")[1]
            save_file({k: t.cpu().contiguous() for k, t in tensors.items()}, path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
        return path

    # --- runs and time -----------------------------------------------------------------------------------------------

    def sample(self, patcher: Any, steps: int, cfg: float, texts: tuple[int, int] = (48, 2), **more: Any) -> Any:
        """A run of ComfyUI's sampler; texts: tokens of prompt and negative."""
        import torch

        if self.rehearse:
            texts = tuple(min(n, self.scale.text) for n in texts)
        generator = torch.Generator().manual_seed(1)
        conds = [[[torch.randn(1, n, self.config.context_dim, generator=generator), {}]] for n in texts]
        side = more.pop("pixels", self.scale.pixels) // 8
        return self.models.sample(
            self.comfy,
            patcher,
            self.config,
            steps=steps,
            scale=cfg,
            size=(side, side),
            positive=conds[0],
            negative=conds[1],
            **more,
        )

    def sync(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def alternate(self, variants: dict[str, Callable[[], Any]], rounds: int | None = None) -> dict[str, Any]:
        """Median seconds of each variant, alternating after a warm-up; all seconds; memory beyond that of the weights."""
        import torch

        figures: dict[str, Any] = {}
        all_seconds: dict[str, list[float]] = {name: [] for name in variants}
        for name, call in variants.items():
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
                before = torch.cuda.memory_allocated(self.device)
            call()
            self.sync()
            if self.device.type == "cuda":
                figures[f"{name}, working GB"] = (torch.cuda.max_memory_allocated(self.device) - before) / GB
        for i in range(rounds or self.scale.rounds):
            for name in list(variants) if i % 2 == 0 else reversed(list(variants)):
                start = time.perf_counter()
                variants[name]()
                self.sync()
                all_seconds[name].append(time.perf_counter() - start)
        medians = {f"{name}, s": statistics.median(values) for name, values in all_seconds.items()}
        base = next(iter(variants))
        ratios = {
            f"{name} / {base}": statistics.median(b / a for a, b in zip(all_seconds[base], values))
            for name, values in all_seconds.items()
            if name != base
        }
        return {**medians, **ratios, **figures, "all": all_seconds}


@dataclass(frozen=True)
class Source:
    """Tensors in the place of the loader's file."""

    header: Any
    given: dict[str, Any]

    @property
    def own_name(self) -> str:
        return self.header.name

    def tensors(self) -> dict[str, Any]:
        return dict(self.given)


@contextlib.contextmanager
def changed(place: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


def scratch() -> Path:
    """A folder for large files: in memory if that has room, else where temporary files go."""
    import shutil
    import tempfile

    memory = Path("/dev/shm")  # noqa: S108  the rig's own machine
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 40 * GB
    return (memory if roomy else Path(tempfile.gettempdir())) / "chroma-pack-gpu"


def flops(config: Any, image: int, text: int) -> float:
    """Floating-point operations of one forward: linears of the blocks and attention. image, text: tokens."""
    d, n = config.hidden_size, image + text
    per_token = (config.num_double_blocks + config.num_single_blocks) * (4 * d * d + 2 * d * config.mlp_hidden_dim)
    attention = (config.num_double_blocks + config.num_single_blocks) * 2 * n * n * d
    return 2.0 * (per_token * n + attention)


def machine(rehearse: bool) -> dict[str, Any]:
    """Card, driver, versions and commit."""
    import torch

    from ..measure import processor

    facts: dict[str, Any] = {
        "processor": processor()[0],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "comfyui": dev.host_version(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "card": "none, rehearsal" if rehearse or not torch.cuda.is_available() else torch.cuda.get_device_name(),
    }
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            facts[name] = version(name)
    if facts["card"] != "none, rehearsal":
        card = torch.cuda.get_device_properties(0)
        facts |= {
            "card GB": card.total_memory / GB,
            "capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
        }
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            facts["driver"] = subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout.strip()
    return facts


def commit() -> str:
    """The commit with its changes marked; from the environment where the checkout has no .git."""
    asked = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    with contextlib.suppress(OSError):
        found = subprocess.run(asked, cwd=dev.ROOT, capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip()
    return os.environ.get(COMMIT, "unknown")
