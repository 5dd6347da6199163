"""Measured blocks: the figures of single forwards of the network, and what a node makes of them."""

import pytest
import support
import torch

pytestmark = pytest.mark.host
load_pack = support.dev.load_pack


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    cfg = support.config(double=3, single=5)
    weights = support.random_weights(cfg)
    weights["single_blocks.3.linear2.weight"] *= 0.01  # matters little
    weights["single_blocks.3.linear2.bias"] *= 0.01
    return cfg, weights, support.write(tmp_path_factory.mktemp("m") / "tiny.safetensors", support.published(weights))


@pytest.fixture
def model(comfy, inference, case):
    return load_pack("host.model.load").load_chroma(str(case[2]))


@pytest.fixture
def text(case):
    return [[torch.randn(1, 9, case[0].context_dim, generator=torch.Generator().manual_seed(2)), {}]]


LATENT = {"samples": torch.zeros(1, 16, 16, 20)}


def test_changes_are_those_of_the_networks_velocity(comfy, model, case, text):
    cfg, weights, _ = case
    probe = load_pack("host.run.probe")
    found, together = probe.measure_blocks(model, text, LATENT, steps=2, seed=3, count=2)
    assert list(found) == [("double", i) for i in range(3)] + [("single", i) for i in range(5)]
    net = support.build(cfg)
    net.load_state_dict(weights)
    run_block = load_pack("chroma_model.transformer").run_block

    def velocity(x, sigma, *left_out):
        def run(kind, index, block, **streams):
            if (kind, index) not in left_out:
                return run_block(kind, index, block, **streams)
            return (streams["img"], streams["txt"]) if kind == "double" else streams["x"]

        return net(x, torch.tensor([sigma]), text[0][0], run_block=run)

    sigmas = probe.sigmas_of(model, 2)
    x = comfy.sample.prepare_noise(LATENT["samples"], 3)
    least = sorted(found, key=found.get)[:2]
    wanted = {block: 0.0 for block in [*found, tuple(least)]}
    for sigma, following in zip(sigmas, sigmas[1:]):
        base = velocity(x, sigma)
        for block in found:
            wanted[block] += support.relative(velocity(x, sigma, block), base) / 2
        wanted[tuple(least)] += support.relative(velocity(x, sigma, *least), base) / 2
        x = x + (following - sigma) * base
    off = max(abs(found[block] / wanted[block] - 1) for block in found)
    print(f"largest relative difference {off:.1e}")
    assert off < 1e-3 and together == pytest.approx(wanted[tuple(least)], rel=1e-3)
    assert least[0] == ("single", 3)


def test_blocks_that_are_left_out_already_are_not_measured(comfy, model, text):
    skip_blocks = load_pack("host.run.skip_blocks")
    skipped = skip_blocks.SkippedBlocks(frozenset({("double", 0), ("single", 4)})).on(model)
    found, _ = load_pack("host.run.probe").measure_blocks(skipped, text, LATENT, steps=1, seed=0)
    assert len(found) == 6 and not {("double", 0), ("single", 4)} & found.keys()


def test_guidance_and_forecasts_on_the_model_change_no_figure(comfy, model, text):
    """A first step that guidance leaves as it is would be one in which no block matters."""
    measure = load_pack("host.run.probe").measure_blocks
    plain = measure(model, text, LATENT, steps=2, seed=3)[0]
    guidance = load_pack("samplers.guided_run").Guidance(zero_init_steps=1)
    told = []
    guided = load_pack("host.sample.guiders").GuidancePatch(guidance, report=told.append).on(model)
    cached = (
        load_pack("host.run.step_cache")
        .StepCache(load_pack("samplers.step_cache").CacheSettings(), told.append)
        .on(guided)
    )
    assert measure(cached, text, LATENT, steps=2, seed=3)[0] == plain
    assert told == []  # no record of a run that was none


def test_blocks_left_out_under_a_cache_are_not_measured(comfy, model, text):
    skipped = load_pack("host.run.skip_blocks").SkippedBlocks(frozenset({("double", 0), ("single", 4)})).on(model)
    cached = load_pack("host.run.step_cache").StepCache(load_pack("samplers.step_cache").CacheSettings()).on(skipped)
    found, _ = load_pack("host.run.probe").measure_blocks(cached, text, LATENT, steps=1, seed=0)
    assert len(found) == 6 and not {("double", 0), ("single", 4)} & found.keys()


def test_model_is_the_same_afterwards(comfy, model, text):
    before = dict(model.model_options["transformer_options"])
    load_pack("host.run.probe").measure_blocks(model, text, LATENT, steps=1, seed=0)
    assert model.model_options["transformer_options"] == before


def test_node_names_the_least_and_draws_all(comfy, model, text, caplog):
    caplog.set_level("INFO")
    node = load_pack("nodes.measure_blocks").ChromaMeasureBlocks.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    double, single, image = node.execute(model, text, LATENT, 1, seed=0, steps=1).args
    assert (double, single) == ("", "3")
    assert image.shape == (1, 640, 1024, 3) and float(image.std()) > 0.02
    assert "the 1 that matter least: single 3" in caplog.text
