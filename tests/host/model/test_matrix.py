"""Every layout, storage and variant: one narrow model, loaded through the node, one forward against float32."""

import formats
import pytest
import support
import torch

pytestmark = [pytest.mark.host, pytest.mark.slow]

WIDTH = {"width": 256, "heads": 2, "double": 1, "single": 2, "context": 256}
VARIANTS = {
    "Chroma": {**WIDTH, "approximator": (64, 256, 2)},
    "Chroma lite": {**WIDTH, "approximator": (32, 256, 2)},
    "FLUX": {**WIDTH, "approximator": (64, 256, 2)},
}
CASES = [
    (layout, storage, variant)
    for layouts, storages in ((formats.LAYOUTS, formats.SAFETENSORS), (formats.GGUF_LAYOUTS, formats.GGUF))
    for layout in layouts
    for storage in storages
    for variant in ("Chroma", "Chroma lite", "Radiance", "FLUX")
    if not (variant == "Radiance" and layout in ("diffusers", "sharded"))  # diffusers has no such model
]
# The network's own: relative output error over relative weight error, least and most.
# A Radiance stored in few bits throughout: its NeRF layers make weights of weights, which is why the modes keep them.
GAIN = {"blocks": (0.25, 2.5), "all": (0.25, 2.5), "all of Radiance": (1.0, 8.0)}
WEIGHT_TOLERANCE = 0.25  # of the figure that the bit width implies; groups are finite and scales are rounded too
ACTIVATIONS = 2.0  # inputs rounded to 8 bits beside the weights add about as much again
FLOAT32 = 2e-6


def config_of(variant):
    if variant != "Radiance":
        return support.config(**VARIANTS[variant])
    sizes = {**WIDTH, "approximator": (64, 256, 2)}
    return support.config(**sizes, **support.RADIANCE)


@pytest.fixture(scope="module")
def originals():
    """variant -> (config, float32 weights, inputs, the float32 network's output)."""
    out = {}
    for variant in ("Chroma", "Chroma lite", "Radiance", "FLUX"):
        cfg = config_of(variant)
        weights = support.random_weights(cfg)
        net = support.build(cfg)
        net.load_state_dict(weights)
        given = support.inputs(cfg)
        guidance = torch.full((1,), 3.5 if variant == "FLUX" else 0.0)
        out[variant] = cfg, weights, given, guidance, net(**given, guidance=guidance)
    return out


@pytest.fixture
def node(comfy, monkeypatch, tmp_path, inference):
    """The loader node, with tmp_path as models/diffusion_models."""
    import folder_paths

    entry = ([str(tmp_path)], folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    module = support.dev.load_pack("nodes.loader")
    monkeypatch.setattr(module, "report", lambda node, text: None)  # no server is running here
    return module


def with_modulation(weights, cfg):
    """FLUX's own modulation layers beside its blocks, and no Approximator."""
    d = cfg.hidden_size
    out = {n: t for n, t in weights.items() if not n.startswith("distilled_guidance_layer")}
    for i in range(cfg.num_double_blocks):
        for stream in ("img", "txt"):
            out[f"double_blocks.{i}.{stream}_mod.lin.weight"] = torch.zeros(6 * d, d)
    for i in range(cfg.num_single_blocks):
        out[f"single_blocks.{i}.modulation.lin.weight"] = torch.zeros(3 * d, d)
    out["time_in.in_layer.weight"] = torch.zeros(d, 256)
    return out


def to_flux(write, folder, weights, cfg, stored, layout):
    """The base in the given form, and the Approximator in a file of its own, in float32 as FluxMod's are."""
    name = "distilled_guidance_layer."
    modulator = {n.removeprefix(name): t for n, t in support.published(weights).items() if n.startswith(name)}
    support.write(folder / "modulator.safetensors", modulator)
    diffusers = layout in ("diffusers", "sharded")  # there the modulation layers have other names; none is needed
    base = with_modulation(weights, cfg)
    if diffusers:
        base = {n: t for n, t in base.items() if "_mod" not in n and "modulation" not in n and "time_in" not in n}
    path, names = write(folder, base, cfg, stored)
    return path, {n for n in names if "_mod." not in n and "modulation" not in n and not n.startswith("time_in")}


@pytest.mark.parametrize("layout, storage, variant", CASES)
def test_file_loads_and_is_as_exact_as_its_bits(node, originals, tmp_path, layout, storage, variant):
    cfg, weights, given, guidance, expected = originals[variant]
    stored = {**formats.SAFETENSORS, **formats.GGUF}[storage]
    write = {**formats.LAYOUTS, **formats.GGUF_LAYOUTS}[layout]
    extra = {}
    if variant == "FLUX":
        path, names = to_flux(write, tmp_path, weights, cfg, stored, layout)
        extra["approximator"] = "modulator.safetensors"
    else:
        path, names = write(tmp_path, weights, cfg, stored)
    (patcher,) = node.ChromaDiffusionLoader.execute(path.name, "keep", **extra).result

    net = patcher.model.diffusion_model
    loaded = patcher.model.model_config.loaded.detection
    assert loaded.config == cfg
    state = dict(net.named_parameters())
    wrong = total = implied = 0.0
    for name in {n.removesuffix(".scale") + ".weight" if n.endswith(".scale") else n for n in names or weights}:
        if name not in state:
            continue
        found = state[name]
        found = found.dequantize() if hasattr(found, "dequantize") and found.is_quantized is False else found
        found, exact = found.float(), weights[name]
        wrong += float((found - exact).square().sum())
        total += float(exact.square().sum())
        implied += stored.error(exact.shape[-1]) ** 2 * float(exact.square().sum())
    error, implied = (wrong / total) ** 0.5, (implied / total) ** 0.5
    assert abs(error - implied) <= WEIGHT_TOLERANCE * implied, f"weights {error:.3%}, its bits imply {implied:.3%}"

    x, context = given["x"], given["context"]
    found = net(x, given["timesteps"], context, guidance=guidance)
    output = support.relative(found, expected)
    whole = storage in formats.PLAIN or stored.layers == "all"
    low, high = GAIN["blocks" if not whole else "all of Radiance" if variant == "Radiance" else "all"]
    print(f"gain {output / max(implied, 1e-9):.2f}")
    rounded_inputs = ACTIVATIONS if storage.startswith(("int8", "w4a4")) else 1.0
    assert output <= FLOAT32 + high * rounded_inputs * max(implied, formats.floating(10) if not names else implied)
    assert output >= low * implied
