"""How far are we from every other implementation of Chroma that can be run? Seeded weights, full depth, float32.

    python -m benchmarks.parity [--flow PATH] [--fluxmod PATH] [--mlx-chroma PATH] [--only NAME ...]

ComfyUI, diffusers and gguf are in the environment of `dev.py setup`. The paths are checkouts of lodestone-rock/flow (the
trainer), lodestone-rock/ComfyUI_FluxMod and jack813/mlx-chroma. Without a path its rows are left out. What else pip must
install, the row says: it can be in a folder on PYTHONPATH. --only: references whose names hold one of these, for a look;
the table of all stays as it is.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.machinery
import importlib.util
import sys
import tempfile
import types
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor

import dev

from .measure import write

WIDTH, STEPS, SCALE = 256, 10, 3.0
TIMES = (0.02, 0.3, 0.7, 1.0)
SHAPES = ({}, {"height": 8, "width": 30}, {"tokens": 2}, {"tokens": 60, "seed": 7})  # of `support.inputs`
PROMPTS = ("", "a red fox", "a fox 🦊 in " + "snow, " * 60, "word " * 600)


class Row(NamedTuple):
    """One comparison: the worst relative distance (L2) of `count` cases. note: what had to be done to run the other."""

    what: str
    count: int
    worst: float
    note: str = ""


@dataclass
class Case:
    """The network of 19 + 38 blocks that all have the weights of."""

    n: Any  # benchmarks.networks

    def __post_init__(self) -> None:
        self.cfg, self.weights = self.n.case(WIDTH)
        self.ours = self.n.host_models.our_net(self.n.comfy, self.cfg, self.weights)
        self.latents = dev.load_pack("chroma_model.latents")
        self.ids = dev.load_pack("chroma_model.embeddings").position_ids
        self.off = self.n.support.relative

    @cached_property
    def model(self) -> Any:
        """Our MODEL, from a file as it is published."""
        support = self.n.support
        with tempfile.TemporaryDirectory() as folder:
            path = support.write(Path(folder) / "deep.safetensors", support.published(self.weights))
            return dev.load_pack("host.model.load").load_chroma(str(path), "fp32")

    def forwards(self, theirs: Callable[[Tensor, Tensor, Tensor], Tensor], **more: Any) -> Iterator[float]:
        """Distances over shapes and times. theirs: (x, timesteps, context) -> velocity, both as latents."""
        for shape in SHAPES:
            for t in TIMES:
                data = self.n.support.inputs(self.cfg, **shape, **more)
                t = torch.full((len(data["x"]),), t)
                mine = self.ours(data["x"].clone(), t, data["context"].clone(), torch.zeros(len(t)))
                yield self.off(theirs(data["x"], t, data["context"]), mine)

    def run(self, noise: Tensor, texts: tuple[Tensor, Tensor], sigmas: Tensor, cfg: float, first: int = 0) -> Tensor:
        """Our run from noise with euler. first: steps without the negative prompt."""
        guiders = dev.load_pack("host.sample.guiders")
        guidance = dev.load_pack("samplers.guided_run").Guidance(skip_first_steps=first)
        positive, negative = ([[t, {}]] for t in texts)
        guider = guiders.chroma_guider(guiders.GuidancePatch(guidance).on(self.model), positive, negative, cfg)
        sampler = self.n.comfy.samplers.sampler_object("euler")
        out = guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=1)
        return self.model.model.process_latent_in(out)  # as the network has it, not as the VAE does

    def texts(self, seed: int, lengths: tuple[int, int] = (17, 5)) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(1, n, self.cfg.context_dim, generator=g) for n in lengths)  # type: ignore[return-value]

    def noise(self, seed: int) -> Tensor:
        return torch.randn(1, self.cfg.channels, 16, 20, generator=torch.Generator().manual_seed(seed))


def row(what: str, distances: Iterator[float], note: str = "") -> Row:
    values = list(distances)
    print(f"{what}: {max(values):.2e}", flush=True)
    return Row(what, len(values), max(values), note)


# --- in the environment ------------------------------------------------------------------------------------------------


def comfyui(case: Case, path: None) -> list[Row]:
    models = case.n.host_models
    net = models.native_net(case.n.comfy, case.cfg, case.weights)

    def runs() -> Iterator[float]:
        theirs = models.native_patcher(case.n.comfy, case.cfg, case.weights)
        for seed, sampler in enumerate(("euler", "res_multistep", "dpmpp_2m")):
            given = dict(steps=STEPS, scale=SCALE, sampler=sampler, seed=seed)
            mine = models.sample(case.n.comfy, case.model, case.cfg, **given)
            yield case.off(mine, models.sample(case.n.comfy, theirs, case.cfg, **given))

    return [
        row("forward", case.forwards(lambda x, t, c: net(x.clone(), t, c, torch.zeros(len(t))))),
        row(f"run, {STEPS} steps, cfg {SCALE:g}", runs()),
    ]


def diffusers(case: Case, path: None) -> list[Row]:
    import diffusers as d

    net = case.n.host_models.diffusers_net(case.cfg, case.weights)

    def forward(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        h, w = x.shape[2] // 2, x.shape[3] // 2
        out = net(
            hidden_states=case.latents.patchify(x, 2),
            encoder_hidden_states=context,
            timestep=t,
            txt_ids=torch.zeros(context.shape[1], 3),
            img_ids=case.ids(0, h, w),
        ).sample
        return case.latents.unpatchify(out, *x.shape[2:], 2)

    def runs() -> Iterator[float]:
        pipe = d.ChromaPipeline(d.FlowMatchEulerDiscreteScheduler(), None, None, None, net)
        pipe.set_progress_bar_config(disable=True)
        sigmas = np.linspace(1.0, 1 / STEPS, STEPS)
        for seed in (1, 2):
            noise, (positive, negative) = case.noise(seed), case.texts(seed)
            packed = pipe(
                prompt_embeds=positive,
                prompt_attention_mask=torch.ones(positive.shape[:2]),
                negative_prompt_embeds=negative,
                negative_prompt_attention_mask=torch.ones(negative.shape[:2]),
                latents=case.latents.patchify(noise, 2),
                height=noise.shape[2] * 8,
                width=noise.shape[3] * 8,
                sigmas=sigmas,
                num_inference_steps=STEPS,
                guidance_scale=SCALE,
                output_type="latent",
                return_dict=False,
            )[0]
            theirs = case.latents.unpatchify(packed, *noise.shape[2:], 2)
            yield case.off(
                case.run(noise, (positive, negative), torch.tensor([*sigmas, 0.0], dtype=torch.float32), SCALE), theirs
            )

    return [
        row("forward", case.forwards(forward)),
        row(f"pipeline's run, {STEPS} steps, cfg {SCALE:g}", runs(), "prompts without pads, whose mask it adds"),
    ]


def gguf(case: Case, path: None) -> list[Row]:
    """Every type of GGML's that we read, unpacked by the package that defines the format."""
    from gguf import quants

    support = case.n.support
    import formats as written  # of the tests: packs each type

    registry = dev.load_pack("loaders.formats.base.registry")
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(3))
    found = []
    for name, known in registry.FORMATS.items():
        if not name.isupper():
            continue
        stored = written.packed_ggml(weight, name)
        stored = torch.as_tensor(np.asarray(stored))
        mine = known.unpack(stored, {}, {}, torch.float32).view(weight.shape)
        theirs = quants.dequantize(
            stored.numpy().view(np.uint8), getattr(importlib.import_module("gguf").GGMLQuantizationType, name)
        )
        found.append(support.relative(mine, torch.from_numpy(theirs).view(weight.shape)))
    return [row("weights of each type, unpacked", iter(found))]


def convert_to_quant(case: Case, path: None) -> list[Row]:
    """Files of each of its formats: our reader's weights and ours run packed, beside its own unpacked ones."""
    from . import converted_files as files

    support, models, load = case.n.support, case.n.host_models, dev.load_pack
    cfg = support.config(width=WIDTH, heads=WIDTH // 64, double=2, single=3, context=512, approximator=(64, 512, 5))
    t5 = load("loaders.t5.sizes").T5Config(
        vocab_size=32_128, width=256, num_layers=2, num_heads=4, head_dim=64, mlp_dim=512, gated=True
    )

    def forwards(pairs: dict[str, files.Pair]) -> Iterator[float]:
        given = support.inputs(cfg)
        data = (given["x"], given["timesteps"], given["context"], torch.zeros(1))
        for found in pairs.values():
            dense = models.our_net(case.n.comfy, cfg, found.theirs)
            model = load("host.model.load").load_chroma(str(found.path), "keep", full_precision=True)
            yield case.off(model.model.diffusion_model(*data), dense(*data))

    def encodings(pairs: dict[str, files.Pair]) -> Iterator[float]:
        encode = load("host.text.encode_prompt").encode
        for found in pairs.values():
            dense = t5_clip(case, t5, found.theirs)
            packed = load("host.text.t5_clip").load_encoder(str(found.path), "keep")
            mine, theirs = (encode(clip, PROMPTS[2])[0][0][0] for clip in (packed, dense))
            yield case.off(mine, theirs)

    with tempfile.TemporaryDirectory() as folder:
        weights = support.published(support.random_weights(cfg), dtype=torch.bfloat16)
        source = support.write(Path(folder) / "chroma.safetensors", weights)
        chroma = files.Compared(source, load("loaders.checkpoint.detect_variant").detect)
        source = support.write(Path(folder) / "t5.safetensors", models.random_t5_weights(t5))
        encoders = files.Compared(source, load("loaders.t5.detect_t5").detect_t5, "--t5xxl")
        return [
            row("files of its formats, unpacked", chroma.weights(case.off)),
            row("forward, weights of its formats unpacked at use", forwards(chroma.pairs), "2 + 3 blocks"),
            row("text encoders of its formats (`--t5xxl`), unpacked", encoders.weights(case.off)),
            row("T5, weights of its formats unpacked at use", encodings(encoders.pairs)),
        ]


def stable_diffusion_cpp(case: Case, path: None) -> list[Row]:
    """ggml's C code, files in both directions, and a picture of Radiance, which needs neither VAE nor text encoder."""
    from . import ggml_library as ggml

    support, models, library = case.n.support, case.n.host_models, ggml.Library()

    def worst(files: Iterator[list[tuple[Tensor, Tensor]]]) -> Iterator[float]:
        return (max(case.off(*pair) for pair in found) for found in files)

    def pictures(folder: str) -> Iterator[float]:
        nerf, sizes = support.nerf(**ggml.NERF), ((64, 96), (80, 48))
        cfg = support.config(width=WIDTH, heads=WIDTH // 128, nerf=nerf, **ggml.FIXED)
        weights = support.random_weights(cfg)
        kernels = {name: w.half().float() for name, w in weights.items() if w.ndim == 4}  # as it keeps them
        path = support.write(Path(folder) / "radiance.safetensors", support.published({**weights, **kernels}))
        net = models.our_net(case.n.comfy, cfg, {**weights, **kernels})
        for size, theirs in zip(sizes, ggml.its_pictures(library, path, sizes)):
            yield case.off(ggml.our_picture(net, *size), theirs)

    with tempfile.TemporaryDirectory() as folder:
        cfg = support.config(width=WIDTH, heads=WIDTH // 64, double=2, single=3, context=512, approximator=(64, 512, 5))
        source = support.write(Path(folder) / "chroma.safetensors", support.published(support.random_weights(cfg)))
        steps = len(ggml.SIGMAS) - 1
        return [
            row("weights of each type, unpacked by ggml's C code", (case.off(*p) for p in ggml.weights(library))),
            row("its files of each type, unpacked", worst(ggml.written_by_it(library, source))),
            row("our files of each type, as it reads them", worst(ggml.written_by_us(library, source))),
            row(
                f"Radiance, a picture in {steps} steps", pictures(folder), "8 bits a colour: one step of one is 7.8e-3"
            ),
        ]


# --- checkouts ---------------------------------------------------------------------------------------------------------


def package(name: str, folder: Path) -> types.ModuleType:
    """A folder as a package of another name, whatever its own `__init__` would import."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module
    return module


class Without(importlib.machinery.SourceFileLoader):
    """Loads a module without the statement that binds `target`."""

    target = ""

    def get_code(self, fullname: str) -> types.CodeType:
        """Without looking for one that is compiled already."""
        tree = ast.parse(self.get_data(self.path))
        targets = [getattr(s.targets[0], "id", "") if isinstance(s, ast.Assign) else "" for s in tree.body]
        tree.body = [s for s, name in zip(tree.body, targets) if name != self.target]
        return compile(tree, self.path, "exec")


def without(path: Path, name: str, target: str) -> types.ModuleType:
    loader = Without(name, str(path))
    loader.target = target
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def params_of(kind: Any, case: Case, **more: Any) -> Any:
    """The sizes as another implementation's record of them. more: fields that the host's has not, or has otherwise."""
    known = {**case.n.host_models.native_params(case.cfg), **more}
    return kind(**{name: known[name] for name in kind.__dataclass_fields__})


def flow(case: Case, path: Path) -> list[Row]:
    folder = path / "src" / "models" / "chroma"
    package("flow_chroma", folder)
    package("flow_chroma.module", folder / "module")
    model = without(folder / "model.py", "flow_chroma.model", "chroma_params")
    sampling = importlib.import_module("flow_chroma.sampling")
    a = case.cfg.approximator
    params = params_of(
        model.ChromaParams,
        case,
        guidance_embed=True,
        approximator_in_dim=a.in_dim,
        approximator_depth=a.num_layers,
        approximator_hidden_size=a.hidden_dim,
        _use_compiled=False,
    )
    params.use_x0 = False
    net = model.Chroma(params).eval().requires_grad_(False)
    net.load_state_dict(case.n.support.published(case.weights))

    def padded(context: Tensor) -> tuple[Tensor, Tensor]:
        """The prompt, one row more for its pad, and others that must not be seen; the tokens' mask has no pad."""
        rest = torch.randn(1, 64 - context.shape[1], context.shape[2], generator=torch.Generator().manual_seed(9))
        return torch.cat([context, rest], 1), (torch.arange(64) < context.shape[1] - 1)[None].float()

    def given(x: Tensor, context: Tensor) -> dict[str, Tensor]:
        text, mask = padded(context)
        return {
            "img": case.latents.patchify(x, 2),
            "img_ids": case.ids(0, x.shape[2] // 2, x.shape[3] // 2)[None],
            "txt": text,
            "txt_ids": torch.zeros(1, text.shape[1], 3),
            "txt_mask": mask,
        }

    def forward(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        out = net(**given(x, context), timesteps=t, guidance=torch.zeros(1))
        return case.latents.unpatchify(out, *x.shape[2:], 2)

    def runs() -> Iterator[float]:
        for seed, first in ((1, 0), (2, 4)):
            noise, texts = case.noise(seed), case.texts(seed)
            times = sampling.get_schedule(STEPS, 4096)
            (text, mask), (other, other_mask) = map(padded, texts)
            base = given(noise, texts[0])
            out = sampling.denoise_cfg(
                net,
                base["img"],
                base["img_ids"],
                text,
                other,
                base["txt_ids"],
                base["txt_ids"],
                mask,
                other_mask,
                times,
                guidance=0.0,
                cfg=SCALE,
                first_n_steps_without_cfg=first,
            )
            theirs = case.latents.unpatchify(out, *noise.shape[2:], 2)
            yield case.off(case.run(noise, texts, torch.tensor(times), SCALE, first), theirs)

    note = "its `chroma_params` dropped: a field is missing"
    return [
        row("forward, 64 text rows with its mask", case.forwards(forward), note),
        row(f"`denoise_cfg`, {STEPS} steps, cfg {SCALE:g}", runs(), note),
        row("T5 with its mask, mode `exact`", t5_distances(case)),
    ]


def t5_clip(case: Case, config: Any, weights: dict[str, Tensor]) -> Any:
    """The host's CLIP of dense weights, in float32."""
    clips = dev.load_pack("host.text.t5_clip")
    encoder = clips.HOST_ENCODERS[True]
    options = {"dtype": torch.float32, "t5xxl_model_config": clips.host_config(config)}
    target = clips.Target(encoder.model, encoder.tokenizer)
    return case.n.comfy.sd.CLIP(target, state_dict=[dict(weights)], model_options=options)


def t5_distances(case: Case) -> Iterator[float]:
    """Our encoding against the trainer's T5 on 512 rows, prompt rows and the one pad."""
    module = importlib.import_module("flow_chroma.module.t5")
    load = dev.load_pack
    detect, encode = load("loaders.t5.sizes"), load("host.text.encode_prompt")
    config = detect.T5Config(
        vocab_size=32_128, width=64, num_layers=4, num_heads=2, head_dim=32, mlp_dim=128, gated=True
    )
    weights = case.n.host_models.random_t5_weights(config)
    theirs = module.T5EncoderModel(
        module.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.width,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            feed_forward_proj="gated-gelu",
            is_decoder=False,
            use_cache=False,
        )
    ).eval()
    theirs.load_state_dict(module.replace_keys(dict(weights)))
    clip = t5_clip(case, config, weights)
    tokenizer = encode.find_t5(clip).tokenizer.tokenizer
    for prompt in PROMPTS:
        ids = tokenizer(prompt, padding="max_length", max_length=512, truncation=True, return_tensors="pt")
        rows = theirs(ids.input_ids, ids.attention_mask)
        kept = min(int(ids.attention_mask.sum()) + 1, 512)
        ((mine, _),), _ = encode.encode(clip, prompt)
        yield case.off(mine, rows[:, :kept])


def fluxmod(case: Case, path: Path) -> list[Row]:
    host = importlib.import_module("comfy.ldm.flux.layers")
    norm = lambda width, operations=None, **more: torch.nn.RMSNorm(width, eps=1e-6)  # noqa: E731
    kept, host.RMSNorm = host.RMSNorm, norm
    try:
        package("fluxmod", path / "flux_mod")
        model, layers = importlib.import_module("fluxmod.model"), importlib.import_module("fluxmod.layers")
        cfg, a = case.cfg, case.cfg.approximator
        ops = case.n.comfy.ops.disable_weight_init
        params = params_of(model.FluxParams, case, vec_in_dim=768, guidance_embed=True)
        net = model.FluxMod(params, dtype=torch.float32, operations=ops)
        net.distilled_guidance_layer = layers.Approximator(a.in_dim, cfg.hidden_size, a.hidden_dim, a.num_layers, ops)
        names = set(net.state_dict())
        given = {k if k in names else k.removesuffix(".weight") + ".scale": v for k, v in case.weights.items()}
        net.load_state_dict(given)
        net = net.eval().requires_grad_(False)
    finally:
        host.RMSNorm = kept

    def forward(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return net(x.clone(), t, context, torch.zeros(len(t)))

    note = "its Approximator given an RMSNorm of eps 1e-6: today's ComfyUI has none under that name"
    return [row("forward", case.forwards(forward), note)]


def mlx_chroma(case: Case, path: Path) -> list[Row]:
    import mlx.core as mx

    package("mlx_chroma", path / "chroma")
    model = importlib.import_module("mlx_chroma.chromamodel")
    net = model.Chroma(params_of(model.ChromaParams, case))
    state = {k: mx.array(v.numpy()) for k, v in case.n.support.published(case.weights).items()}
    state = net.sanitize(state) if hasattr(net, "sanitize") else state
    net.load_weights(list(state.items()))

    def forward(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        to = lambda v: mx.array(v.numpy())  # noqa: E731
        ids = case.ids(0, x.shape[2] // 2, x.shape[3] // 2)[None]
        text_ids = torch.zeros(1, context.shape[1], 3)
        img = case.latents.patchify(x, 2).contiguous()
        out = net(to(img), to(ids), to(context), to(text_ids), to(t), to(torch.zeros(len(t))))
        return case.latents.unpatchify(torch.from_numpy(np.array(out.astype(mx.float32))), *x.shape[2:], 2)

    return [row("forward", case.forwards(forward), "rounds q, k and times to bf16 by itself")]


class Reference(NamedTuple):
    """compare: (case, path or None) -> rows. option: that gives the path. module, packages: what pip must install for it."""

    compare: Callable[..., list[Row]]
    option: str = ""
    module: str = ""
    packages: str = ""


REFERENCES = {
    "ComfyUI": Reference(comfyui),
    "diffusers": Reference(diffusers),
    "gguf": Reference(gguf),
    "stable-diffusion.cpp": Reference(
        stable_diffusion_cpp, module="stable_diffusion_cpp", packages="stable-diffusion-cpp-python==0.4.7"
    ),
    "convert_to_quant": Reference(convert_to_quant, module="convert_to_quant", packages="convert_to_quant==1.3.4"),
    "flow, the trainer": Reference(flow, "flow"),
    "FluxMod": Reference(fluxmod, "fluxmod"),
    "mlx-chroma": Reference(mlx_chroma, "mlx_chroma", "mlx", "mlx mlx-cpu"),
}


def rows_of(case: Case, reference: Reference, path: Path | None) -> list[Row]:
    if reference.module and importlib.util.find_spec(reference.module) is None:
        return [Row("not compared", 0, float("nan"), f"`pip install --no-deps {reference.packages}` was not done")]
    return reference.compare(case, path)


@torch.inference_mode()
def main(rounds: int = 0, paths: dict[str, Path] | None = None, only: Sequence[str] = ()) -> None:
    from . import networks as n

    case, paths = Case(n), paths or {}
    lines = [
        f"19 + 38 blocks of width {WIDTH}, seeded random weights, float32, on a CPU; relative distance (L2), the worst of the "
        f"cases. Forwards: times {', '.join(map(str, TIMES))}, pictures and prompts of several sizes.",
        "",
        "| reference | cases | worst | |",
        "|---|---|---|---|",
    ]
    for name, reference in REFERENCES.items():
        left_out = only and not any(text.lower() in name.lower() for text in only)
        if left_out or (reference.option and reference.option not in paths):
            continue
        for r in rows_of(case, reference, paths.get(reference.option)):
            lines.append(f"| {name}: {r.what} | {r.count} | {r.worst:.1e} | {r.note} |")
    if only:
        print("\n".join(lines))
    else:
        write("parity", "Parity with other implementations", lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option in ("flow", "fluxmod", "mlx-chroma"):
        parser.add_argument(f"--{option}", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=())
    given = {k: v for k, v in vars(parser.parse_args()).items() if v}
    only = given.pop("only", ())
    sys.argv[1:] = []  # ComfyUI reads it too
    main(paths=given, only=only)
