"""`python -m tools distil`: an Approximator fitted to FLUX's own modulation layers, through the command line."""

import contextlib
import io
import math

import pytest
import support
import torch
from safetensors.torch import load_file

from tools import distil

fitting = support.dev.load_pack("chroma_model.distil")
flux_file = support.dev.load_pack("loaders.checkpoint.flux_file")
modulation = support.dev.load_pack("chroma_model.modulation")
keys = support.dev.load_pack("loaders.checkpoint.keys")

WIDTH, VECTOR = 64, 16
SIZES = ("--hidden", "256", "--layers", "3", "--points", "16")


def layer(rows, columns, generator, slow=None):
    """slow: radians over the range, above which inputs count little: embedders that were trained are smooth."""
    weight = torch.randn(rows, columns, generator=generator)
    if slow is not None:
        speeds = 1000 * torch.exp(-math.log(10_000) * torch.arange(columns // 2) / (columns // 2))
        weight *= 1 / (1 + (speeds.repeat(2) / slow) ** 2)
        weight *= columns**0.5 / (1 / (1 + (speeds.repeat(2) / slow) ** 2)).norm()
    return weight / columns**0.5


def flux(with_guidance=True, double=1, single=1):
    """A narrow FLUX with its own modulation, under the published names."""
    generator = torch.Generator().manual_seed(0)
    cfg = support.config(width=WIDTH, double=double, single=single)
    blocks = {
        n: t for n, t in support.published(support.random_weights(cfg)).items() if not n.startswith(keys.APPROXIMATOR)
    }
    linears = {
        "time_in.in_layer": (WIDTH, 256, 3.0),
        "vector_in.in_layer": (WIDTH, VECTOR, None),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH, None),
        **({"guidance_in.in_layer": (WIDTH, 256, 0.5)} if with_guidance else {}),
        **{f"double_blocks.{i}.{s}_mod.lin": (6 * WIDTH, WIDTH, None) for i in range(double) for s in ("img", "txt")},
        **{f"single_blocks.{i}.modulation.lin": (3 * WIDTH, WIDTH, None) for i in range(single)},
    }
    linears |= {n.replace("in_layer", "out_layer"): (WIDTH, WIDTH, None) for n in linears if n.endswith("in_layer")}
    for name, (rows, columns, slow) in linears.items():
        blocks[f"{name}.weight"] = layer(rows, columns, generator, slow)
        blocks[f"{name}.bias"] = 0.02 * torch.randn(rows, generator=generator)
    return blocks


def by_hand(weights, name, timestep, guidance):
    """FLUX's own formula for one layer, (rows, WIDTH)."""

    def embed(stem, x):
        x = x @ weights[f"{stem}.in_layer.weight"].T + weights[f"{stem}.in_layer.bias"]
        return torch.nn.functional.silu(x) @ weights[f"{stem}.out_layer.weight"].T + weights[f"{stem}.out_layer.bias"]

    def waves(value):
        angles = 1000 * value * 10_000 ** (-torch.arange(128) / 128)
        return torch.cat((angles.cos(), angles.sin()))

    vec = embed("time_in", waves(timestep)) + embed("vector_in", torch.zeros(VECTOR))
    if "guidance_in.in_layer.weight" in weights:
        vec = vec + embed("guidance_in", waves(guidance))
    out = torch.nn.functional.silu(vec) @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return out.view(-1, WIDTH)


@pytest.mark.parametrize("with_guidance", [True, False], ids=["dev", "schnell"])
def test_vectors_are_those_of_fluxs_own_layers(tmp_path, with_guidance):
    weights = flux(with_guidance)
    file = flux_file.FluxFile(support.write(tmp_path / "flux.safetensors", weights), 32, 1)
    found = fitting.FluxModulation(file.config, file.weight)
    names = [(entry.name, entry.first, entry.count) for entry in found.layers]
    assert names == [
        ("single_blocks.0.modulation.lin", 0, 3),
        ("double_blocks.0.img_mod.lin", 3, 6),
        ("double_blocks.0.txt_mod.lin", 9, 6),
        ("final_layer.adaLN_modulation.1", 15, 2),
    ]
    conditions = found.conditions(torch.tensor([0.7, 0.0]), torch.tensor([3.5, 2.0]))
    for entry in found.layers:
        vectors = found.vectors(entry, conditions)
        for row, (t, g) in zip(vectors, ((0.7, 3.5), (0.0, 2.0))):
            torch.testing.assert_close(row, by_hand(weights, entry.name, t, g), rtol=1e-4, atol=1e-5)


def test_pooled_texts_count_by_the_mean_of_their_embeddings(tmp_path):
    file = flux_file.FluxFile(support.write(tmp_path / "flux.safetensors", flux()), 32, 1)
    pooled = torch.randn(2, VECTOR, generator=torch.Generator().manual_seed(1))
    one, two, both = (
        fitting.FluxModulation(file.config, file.weight, p).text for p in (pooled[:1], pooled[1:], pooled)
    )
    torch.testing.assert_close(both, (one + two) / 2)


def test_flux_lite_gets_the_approximator_of_its_kind(tmp_path):
    whole, lite = (
        flux_file.FluxFile(support.write(tmp_path / f"{n}.safetensors", flux(double=n)), 32, 1).config for n in (9, 8)
    )
    assert whole.approximator.in_dim == 64 and lite.approximator.in_dim == 32


def run(folder, *options, steps):
    source = folder / "flux.safetensors"
    if not source.exists():
        support.write(source, flux())
    return distil.main([str(source), str(folder / "m.safetensors"), "--steps", str(steps), *SIZES, *options])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """(folder of a narrow FLUX and its fitted Approximator, what the command said on either stream)."""
    folder, out, err = tmp_path_factory.mktemp("fitted"), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert run(folder, "--rate", "4e-3", "--dtype", "fp32", steps=3000) == 0
    return folder, out.getvalue(), err.getvalue()


@pytest.mark.slow
def test_a_narrow_flux_is_fitted_to_one_percent(fitted):
    folder, out, err = fitted
    assert "relative error" in out and "s a step" in err and "min left" in err
    tensors = load_file(folder / "m.safetensors")
    assert {"in_proj.weight", "norms.0.scale", "layers.2.out_layer.bias", "out_proj.weight"} <= tensors.keys()
    file = flux_file.FluxFile(folder / "flux.safetensors", 256, 3)
    net = modulation.Approximator(file.config.approximator)
    fit = fitting.Fit(fitting.FluxModulation(file.config, file.weight), net, 1)
    net.load_state_dict(
        {n.removesuffix(".scale") + ".weight" if n.startswith("norms.") else n: t for n, t in tensors.items()}
    )
    errors = dict(fit.errors(seed=7))
    assert sum(errors.values()) / len(errors) < 0.01 and max(errors.values()) < 0.013
    assert all(name in out for name in errors)  # every layer is reported
    assert not list(folder.glob("*.state*"))


@pytest.mark.slow
@pytest.mark.host
def test_a_fitted_modulator_paints_as_the_flux_that_it_was_fitted_to(comfy, inference, fitted):
    """From the command's file to a run: ours with the modulator, the host's Flux with its own modulation layers."""
    import flux_models
    from host_models import sample

    folder = fitted[0]
    cfg = support.config(width=WIDTH, double=1, single=1)
    net = flux_models.flux_net(comfy, cfg)
    net.load_state_dict({n.replace("norm.scale", "norm.weight"): t for n, t in flux().items()}, strict=False)
    native = flux_models.native_patcher(net, cfg)
    load = support.dev.load_pack("host.model.load").load_chroma
    ours = load(str(folder / "flux.safetensors"), "fp32", approximator=str(folder / "m.safetensors"))
    text = flux_models.prompts(cfg)
    theirs, mine = (
        sample(comfy, p, cfg, steps=flux_models.STEPS, scale=1.0, positive=text, negative=text) for p in (native, ours)
    )
    assert support.relative(mine, theirs) < 0.02


def test_a_stopped_fit_goes_on_as_if_it_had_not_been_stopped(tmp_path, monkeypatch, capsys):
    (tmp_path / "whole").mkdir(), (tmp_path / "parts").mkdir()
    assert run(tmp_path / "whole", steps=12) == 0
    step, count = fitting.Fit.step, iter(range(100))

    def stopped(self):
        if next(count) == 7:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(fitting.Fit, "step", stopped)
    assert run(tmp_path / "parts", steps=12) == 130
    assert "goes on from m.safetensors.state" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "m.safetensors").exists()
    monkeypatch.setattr(fitting.Fit, "step", step)
    assert run(tmp_path / "parts", "--rate", "0.1", steps=12) == 1
    assert "was begun with rate 0.001, not 0.1" in capsys.readouterr().err
    assert run(tmp_path / "parts", "--guidance", "1", "10", steps=12) == 0  # which are the defaults
    assert "goes on from step 7 of 12" in capsys.readouterr().err
    first, second = (load_file(tmp_path / name / "m.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_damaged_state_is_named(tmp_path, capsys):
    (tmp_path / "m.safetensors.state").write_bytes(b"nothing")
    assert run(tmp_path, steps=2) == 1
    assert "m.safetensors.state cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "weights, told",
    [
        ("chroma", "chroma.safetensors: has no modulation layers under FLUX's own names"),
        ("vae", "vae.safetensors: not a Chroma checkpoint"),
    ],
)
def test_what_is_no_flux_is_refused(tmp_path, capsys, weights, told):
    tensors = {
        "chroma": {n: t for n, t in flux().items() if "_in.in" not in n},
        "vae": {"decoder.conv_in.weight": torch.ones(1)},
    }
    source = support.write(tmp_path / f"{weights}.safetensors", tensors[weights])
    assert distil.main([str(source), str(tmp_path / "m.safetensors")]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["gone.safetensors", "m.safetensors"], "gone.safetensors: there is no such file"),
        (["flux.safetensors", "m.gguf"], "m.gguf: must end in .safetensors"),
        (["flux.safetensors", "no/m.safetensors"], "there is no folder no"),
        (["flux.safetensors", "m.safetensors", "--points", "0"], "must be above 0"),
        (["flux.safetensors", "m.safetensors", "--guidance", "5", "1"], "the first the smaller"),
        (["flux.safetensors", "m.safetensors", "--device", "nowhere"], "--device nowhere cannot be used"),
        (["flux.safetensors", "old.safetensors"], "exists already. Choose another name, or add --overwrite"),
        (["flux.safetensors", "flux.safetensors", "--overwrite"], "flux.safetensors is the file to read"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, capsys, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    support.write(tmp_path / "flux.safetensors", {"x": torch.ones(1)})
    support.write(tmp_path / "old.safetensors", {"x": torch.ones(1)})
    with pytest.raises(SystemExit) as end:
        distil.main(arguments)
    assert end.value.code == 2 and told in capsys.readouterr().err
