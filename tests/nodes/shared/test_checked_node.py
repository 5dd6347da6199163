"""Whatever comes by a link: each node's inputs against its own schema, before anything is computed."""

import inspect
import types

import pytest
import support
import torch
from node_inputs import chosen, inputs

pytestmark = pytest.mark.host
dev = support.dev
NAN, INF = float("nan"), float("inf")
TELLING = {"ChromaDoctor", "ChromaRunReport"}  # what only tells never fails a run


@pytest.fixture(scope="module")
def checks(comfy):
    return dev.load_pack("nodes.shared.checked_node")


@pytest.fixture(scope="module")
def nodes(comfy):
    features = dev.load_pack("nodes").FEATURES
    return [getattr(dev.load_pack(f"nodes.{f.module}"), name) for f in features for name in f.nodes]


def prepared(node, **hidden):
    """A node's class as the host's executor prepares it."""
    from comfy_api.latest import io

    return node.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden[key]: value for key, value in hidden.items()}})


def refused(checks, node, given):
    with pytest.raises(ValueError) as error:
        checks.check_inputs(node, {**chosen(node), **given})
    text = str(error.value)
    assert "\n" not in text and len(text) < 2000
    return text


def test_every_node_is_checked_but_those_that_only_tell(checks, nodes):
    unchecked = {n.define_schema().node_id for n in nodes if not issubclass(n, checks.CheckedNode)}
    assert unchecked == TELLING
    node = next(n for n in nodes if issubclass(n, checks.CheckedNode))
    assert prepared(node).execute.__func__ is node.execute.__func__  # not wrapped again


class Thing:
    """An object that no node knows."""

    def __str__(self):
        return "thing"


THING = Thing()


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e30, -1e30, 10**400, True, None, "4", [4], {}, THING], ids=str)
def test_no_node_takes_a_number_that_is_none(checks, nodes, value):
    num = 0
    for node in nodes:
        for given, name, one in inputs(node):
            if one.get_io_type() in ("INT", "FLOAT"):
                assert refused(checks, node, given(value)).startswith(f"{name} is ")
                num += 1
    assert num > 60


def test_numbers_at_the_ends_of_their_range_are_taken(checks, nodes):
    for node in nodes:
        for given, _, one in inputs(node):
            if one.get_io_type() in ("INT", "FLOAT"):
                for value in (one.min, one.max, one.default):
                    checks.check_inputs(node, {**chosen(node), **given(value)})
                for value in (one.min - 1, one.max + 1):
                    is_taken = value in (one.min, one.max)  # 2**64 as a float
                    if not is_taken and not (value < 0 and getattr(one, "control_after_generate", None)):  # no seed
                        assert "allowed is a" in refused(checks, node, given(value))


@pytest.mark.parametrize("value", [None, 5, NAN, {}, {"samples": 3}, [5], [[5, {}]], [[None]], "text", THING], ids=str)
def test_no_node_takes_an_object_of_another_kind(checks, nodes, value):
    num = 0
    for node in nodes:
        for given, name, one in inputs(node):
            kind = one.get_io_type()
            fits = kind not in checks.KINDS or checks.KINDS[kind][0](value) or (value is None and one.optional)
            if kind != "COMBO" and not fits:
                text = refused(checks, node, given(value))
                assert text == f"{name} is {checks.found(value)}; allowed is {checks.KINDS[kind][1]}"
                num += 1
    assert num > 15


@pytest.mark.parametrize("value", ["", "no such choice", "\x00", "x" * 5000], ids=lambda text: text[:14])
def test_no_node_takes_a_choice_that_a_menu_does_not_have(checks, nodes, value):
    """Those within a dynamic choice too, which the host does not look at where they come by a link."""
    num = 0
    for node in nodes:
        for given, name, one in inputs(node):
            if one.get_io_type() == "COMBO" and one.id not in checks.OPEN_MENUS and value not in one.options:
                assert refused(checks, node, given(value)).startswith(f"{name} is ")
                num += 1
    assert num > 20


def test_none_of_an_optional_text_or_choice_is_its_default(checks, nodes):
    num = 0
    for node in nodes:
        for given, name, one in inputs(node):
            if one.optional and one.get_io_type() in ("STRING", "COMBO") and "." not in name:
                many = node.define_schema().is_input_list
                out = checks.check_inputs(node, {**chosen(node), **given(None)})[name]
                assert out == ([one.default] if many else one.default)
                num += 1
    assert num > 5


def test_what_is_named_is_short(checks):
    assert checks.found({"a": 1}) == "of the type dict"
    assert checks.found(torch.zeros(3)) == "of the type Tensor"
    assert len(checks.found("x" * 1000)) < 100


def test_whole_numbers_may_come_as_floats(checks, nodes):
    node = next(n for n in nodes if n.__name__ == "KSamplerMod")
    out = checks.check_inputs(node, {"steps": 26.0})
    assert out == {"steps": 26} and isinstance(out["steps"], int)
    assert refused(checks, node, {"steps": 26.5}) == "steps is 26.5; allowed is a whole number from 1 to 10000"
    assert refused(checks, node, {"steps": 10**9}) == "steps is 1000000000; allowed is a whole number from 1 to 10000"


def test_denoise_near_0_does_not_ask_for_an_endless_schedule(checks, nodes):
    for node in nodes:
        if {"steps", "denoise"} <= {one.id for one in node.define_schema().inputs}:
            assert checks.check_inputs(node, {**chosen(node), "steps": 26, "denoise": 0.0})["denoise"] == 0
            checks.check_inputs(node, {**chosen(node), "steps": 10_000, "denoise": 0.01})
            assert "26 steps would be the end of a schedule of 3e+10" in refused(
                checks, node, {"steps": 26, "denoise": 1e-9}
            )


# --- dynamic choices ---------------------------------------------------------------------------------------------------


def test_choice_and_its_inputs_may_be_linked(checks, comfy):
    node = dev.load_pack("nodes.schedule").ChromaScheduler
    curves = dev.load_pack("samplers.schedules").CURVES
    assert checks.check_inputs(node, {"curve": {"curve": "beta", "alpha": 0.7}}) == {
        "curve": {"curve": "beta", "alpha": 0.7}
    }
    defaults = curves["beta"].defaults
    assert checks.check_inputs(node, {"curve": "beta"}) == {"curve": {"curve": "beta", **defaults}}
    # the host gives a linked choice as it is, and what is linked beside it under its whole name
    linked = checks.check_inputs(node, {"curve": "beta", "curve.alpha": 0.7, "curve.shift": 3.0})
    assert linked == {"curve": {"curve": "beta", **defaults, "alpha": 0.7}}
    assert refused(checks, node, {"curve": "beta", "curve.alpha": NAN}).startswith("curve.alpha is nan; allowed is a")
    for value in (None, 5, ["beta"], {"curve": 5}, "best"):
        assert "; it must be one of " in refused(checks, node, {"curve": value})


def test_choice_that_the_host_has_dropped_is_told(checks, comfy, monkeypatch):
    node = dev.load_pack("nodes.guidance").ChromaGuidance
    graph = {"7": {"class_type": "ChromaGuidance", "inputs": {"form": "best"}}}
    monkeypatch.setattr(checks, "running_graph", lambda: graph)
    told = refused(checks, prepared(node, unique_id="7"), {"form": None})
    assert told.startswith("form is 'best'; it must be one of plain, CFG-Zero")
    assert checks.check_inputs(prepared(node, unique_id="8"), {"form": None}) == {}


def test_nodes_work_with_a_linked_choice(comfy, inference, tmp_path):
    weights = support.published(support.random_weights(support.config()))
    path = support.write(tmp_path / "tiny.safetensors", weights)
    model = dev.load_pack("host.model.load").load_chroma(str(path))
    scheduler = dev.load_pack("nodes.schedule").ChromaScheduler
    shift, guidance = dev.load_pack("nodes.shift").ChromaTimestepShift, dev.load_pack("nodes.guidance").ChromaGuidance
    typed = prepared(scheduler).execute(model=model, curve={"curve": "power_shift"}, steps=8)[0]
    linked = prepared(scheduler).execute(model=model, curve="power_shift", steps=8.0)[0]
    assert torch.equal(typed, linked) and len(linked) == 9
    shifted = prepared(shift).execute(**{"model": model, "mode": "fixed", "mode.shift": 2.0})[0]
    assert float(shifted.get_model_object("model_sampling").shift) == pytest.approx(2.0)
    guided = prepared(guidance).execute(**{"model": model, "interval": "percent", "interval.end": 0.5})[0]
    assert dev.load_pack("host.sample.guiders").patch_on(guided).guidance.percent == (0.0, 0.5)


def test_nothing_is_sampled_with_what_is_refused(comfy, monkeypatch):
    node = dev.load_pack("nodes.fluxmod")
    monkeypatch.setattr(node, "common_ksampler", lambda *_: pytest.fail("sampled"))
    model = types.SimpleNamespace(clone=0, get_model_object=0, model_options={})
    with pytest.raises(ValueError, match="steps is 1000000000; allowed"):
        node.KSamplerMod.execute(model, 1, 10**9, 3.0, "euler", "beta", [], [], {"samples": torch.zeros(1, 16, 4, 4)})


def test_menu_is_the_hosts_as_it_is_now(checks, comfy, monkeypatch):
    node = prepared(dev.load_pack("nodes.fluxmod").KSamplerMod)
    node.GET_SCHEMA()
    assert refused(checks, node, {"scheduler": "later"}).startswith("scheduler is 'later'; it must be one of ")
    monkeypatch.setattr(comfy.samplers.KSampler, "SCHEDULERS", [*comfy.samplers.KSampler.SCHEDULERS, "later"])
    assert checks.check_inputs(node, {"scheduler": "later"}) == {"scheduler": "later"}


def test_an_input_that_is_unknown_or_missing_is_named(nodes):
    """A link to an input of another node's, as in a workflow of another version."""
    encode = next(n for n in nodes if n.__name__ == "ChromaTextEncode")
    with pytest.raises(ValueError, match="'no such input' is no input of this node .*clip, text, mode.*Remove it"):
        prepared(encode).execute(clip=None, text="", **{"no such input": 1})
    with pytest.raises(ValueError, match="clip is missing"):
        prepared(encode).execute(text="")


def test_every_node_names_an_input_that_it_does_not_have(nodes, checks):
    """Also those whose `execute` takes what comes by name."""
    for node in nodes:
        if node.define_schema().node_id not in TELLING:
            parameters = dict(list(inspect.signature(node.execute.__func__.__wrapped__).parameters.items())[1:])
            with pytest.raises(ValueError, match="^'no such input' is no input of this node .its inputs: [a-z]"):
                checks.check_names(node, {"no such input": 1}, parameters)


@pytest.mark.parametrize("name", sorted(TELLING))
def test_nodes_that_only_tell_take_inputs_that_they_do_not_have(nodes, name):
    node = next(n for n in nodes if n.define_schema().node_id == name)
    assert (
        prepared(node, prompt={}, unique_id="1", extra_pnginfo={}, dynprompt=None).execute(**{"no such input": 1})
        is not None
    )


def test_a_long_menu_is_told_by_what_is_near_and_what_is_first():
    module = support.dev.load_pack("nodes.shared.checked_node")
    names = [f"sampler_{i}" for i in range(60)] + ["euler"]
    told = module.listed(names, "eular")
    assert told.startswith("euler, sampler_0, sampler_1, ") and told.endswith(" and 41 more")
    assert module.listed(names[:20], "x") == ", ".join(names[:20])
    assert len(module.listed(["a" * 9] * 99, "🦊" * 5000)) < 300


@pytest.mark.parametrize("seed", [-1, -556_214_681_354_742, -(1 << 63)])
def test_linked_seed_below_0_is_the_one_that_torch_makes_of_it(checks, nodes, seed):
    """ComfyUI's Int node draws such ones, and its own samplers take them."""

    def noise(value):
        return torch.randn(4, generator=torch.Generator().manual_seed(value))

    seeded = [node for node in nodes if any(one.id == "seed" for one in node.define_schema().inputs)]
    assert len(seeded) >= 3
    for node in seeded:
        taken = checks.check_inputs(node, {**chosen(node), "seed": seed})["seed"]
        assert taken == seed + 2**64 and torch.equal(noise(taken), noise(seed))
        assert "allowed is a whole number" in refused(checks, node, {"seed": -(1 << 63) - 1})
