"""The numbers that the front end draws on the scheduler nodes, from the running server."""

import asyncio
import json
import math
import random
import urllib.error
import urllib.request

import pytest
import support

from tools.batching.workflow import DYNAMIC_COMBO

pytestmark = pytest.mark.host

dev = support.dev
sigmas = dev.load_pack("samplers.schedules")
BETA = {"curve": "beta", "steps": 8}
DEEP = "[" * 8_000 + "]" * 8_000
QUESTIONS = 240  # of the fuzz, some milliseconds each


def ask(server, query):
    """Status and answer. query: a dict, or the body as it is."""
    body = query if isinstance(query, bytes) else json.dumps(query).encode()
    request = urllib.request.Request(server.url + "/chroma/curve", body, {"Content-Type": "application/json"})
    try:
        with dev.OPENER.open(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("name", sigmas.CURVES)
@pytest.mark.parametrize(
    "options", [{}, {"denoise": 0.6}, {"pin_first": True, "keep_steps": True}], ids=["plain", "denoise", "switches"]
)
def test_curve_equals_schedule_exactly(server, name, options):
    status, answer = ask(server, {"curve": name, "steps": 30, "params": sigmas.CURVES[name].defaults, **options})
    assert status == 200
    assert answer["sigmas"] == sigmas.schedule(name, 30, **options).tolist()
    assert answer["shift"] == (1.0 if sigmas.CURVES[name].from_table else None)


def test_parameters_count_and_those_left_out_have_their_defaults(server):
    _, answer = ask(server, {**BETA, "params": {"alpha": 0.3}})
    assert answer["sigmas"] == sigmas.schedule("beta", 8, {"alpha": 0.3}).tolist()


def test_denoise_0_has_no_sigmas(server):
    assert ask(server, {**BETA, "denoise": 0})[1]["sigmas"] == []


@pytest.mark.parametrize(
    "count, shift", [(1000, {"curve": "fixed_shift", "shift": 3.0}), (10_000, {"curve": "flux_shift"})]
)
def test_model_of_another_shift_moves_the_curve(server, count, shift):
    value = shift.get("shift", math.exp(1.15))  # of a picture of 1024 x 1024, as the host's own for Chroma
    times = [(i + 1) / count for i in range(count)]
    table = [value * t / (1 + (value - 1) * t) for t in times]
    status, answer = ask(server, {**BETA, "shift": shift})
    assert status == 200
    assert answer["shift"] == pytest.approx(value)
    # The host computes its table in float32 in another order.
    assert answer["sigmas"] == pytest.approx(sigmas.schedule("beta", 8, table=table).tolist(), abs=1e-6)


def test_default_shift_is_that_of_the_loaders_model(server):
    """What the page says of ChromaDiffusionLoader: the same schedule as the node makes with its model."""
    graph = {
        "1": {
            "class_type": "ChromaDiffusionLoader",
            "inputs": {"unet_name": "chroma-demo.safetensors", "quant_mode": "auto"},
        },
        "2": {
            "class_type": "ChromaBetaScheduler",
            "inputs": {"model": ["1", 0], "steps": 8, "alpha": 0.6, "beta": 0.6},
        },
        "3": {"class_type": "ChromaSigmasPlot", "inputs": {"sigmas_1": ["2", 0]}},
    }
    for node in graph.values():
        node["_meta"] = {"title": ""}
    server.run(graph)
    _, answer = ask(server, {**BETA, "shift": {"curve": "flux_shift"}})
    first, last = answer["sigmas"][0], answer["sigmas"][-2]
    said = f"Chroma Beta Scheduler: 8 steps, sigma {first:.3f} to {last:.3f}, {sum(s > 0.5 for s in answer['sigmas'])} above"
    assert said in server.log.read_text()


BAD = {
    "no-json": (b"{", "Expecting"),
    "no-text": (b"\xff\xfe\xff", ""),
    "empty": (b"", "Expecting value"),
    "too-deep": (DEEP.encode(), "recursion"),
    "list": ([], "the query is []; allowed is an object"),
    "unknown-key": ({**BETA, "step": 3}, "the query: step is not known"),
    "no-curve": ({"steps": 8}, "curve None is not known. Choose one of: beta, "),
    "unknown-curve": ({"curve": "bta", "steps": 8}, "curve 'bta' is not known. Choose one of: beta, "),
    "curve-is-list": ({"curve": ["beta"], "steps": 8}, "is not known"),
    "no-steps": ({"curve": "beta"}, "beta: steps is None; allowed is a whole number from 1 to 10000"),
    "steps-0": ({"curve": "beta", "steps": 0}, "beta: steps is 0"),
    "steps-far-below-0": (
        b'{"curve": "beta", "steps": -1' + b"0" * 400 + b', "denoise": 0.5}',
        "allowed is a whole number",
    ),
    "too-long": ({"curve": "x" * 2_000_000, "steps": 8}, "the query has more than 16,384 bytes"),
    "long-curve": ({"curve": "x" * 10_000, "steps": 8}, "is not known. Choose one of: beta, "),
    "long-key": ({**BETA, "y" * 10_000: 1}, "is not known (curve, "),
    "half-a-step": ({"curve": "beta", "steps": 2.5}, "beta: steps is 2.5"),
    "too-many-steps": (
        {"curve": "linear", "steps": 1001},
        "1001 steps at denoise 1.0 are not drawn here: at most 1000",
    ),
    "too-many-for-denoise": ({**BETA, "denoise": 1e-9}, "are not drawn here"),
    "denoise-2": ({**BETA, "denoise": 2}, "beta: denoise is 2; allowed is a number from 0 to 1"),
    "denoise-nan": (b'{"curve": "beta", "steps": 8, "denoise": NaN}', "denoise is nan"),
    "switch": ({**BETA, "pin_first": "no"}, "beta: pin_first is 'no'; allowed is true or false"),
    "params-list": ({**BETA, "params": [1]}, "beta: params is [1]; allowed is an object"),
    "unknown-param": ({**BETA, "params": {"rho": 1}}, "rho is not known (alpha, beta)"),
    "param-text": ({**BETA, "params": {"alpha": "1"}}, "beta: alpha is '1'; allowed is a number from 0.01 to 50"),
    "param-range": ({**BETA, "params": {"alpha": 0}}, "beta: alpha is 0; allowed is a number from 0.01 to 50"),
    "repeats": ({"curve": "flux_shift", "steps": 1000, "params": {"base_shift": 10, "max_shift": 10}}, "neighbouring"),
    "shift-number": ({**BETA, "shift": 3}, "shift is 3; allowed is an object"),
    "shift-curve": ({**BETA, "shift": {"curve": "beta"}}, "whose curve is one of: fixed_shift, flux_shift"),
    "shift-range": ({**BETA, "shift": {"curve": "fixed_shift", "shift": 0}}, "fixed_shift: shift is 0"),
    "shift-key": ({**BETA, "shift": {"curve": "fixed_shift", "mu": 1}}, "shift: fixed_shift: mu is not known"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_400_with_one_line_that_says_what(server, name):
    query, text = BAD[name]
    status, answer = ask(server, query)
    assert status == 400
    assert text in answer["error"]
    assert "\n" not in answer["error"] and len(answer["error"]) < 700


def test_no_value_anywhere_makes_a_500(server):
    values = [
        None,
        True,
        "x",
        -1,
        0,
        1e-320,
        1e308,
        10**400,
        -(10**400),
        float("nan"),
        float("inf"),
        [],
        {},
        {"curve": []},
        0.5,
    ]
    keys = ["curve", "steps", "params", "denoise", "pin_first", "keep_steps", "shift"]
    rng = random.Random(0)
    names = list(sigmas.CURVES)
    for i in range(QUESTIONS):
        query = {"curve": names[i % len(names)], "steps": 5, rng.choice(keys): rng.choice(values)}
        parameters = sigmas.CURVES[names[i % len(names)]].parameters
        if parameters and rng.random() < 0.5:
            query["params"] = {rng.choice(parameters).name: rng.choice(values)}
        if rng.random() < 0.3:
            query["shift"] = {"curve": rng.choice(["fixed_shift", "flux_shift"]), "shift": rng.choice(values)}
        status, answer = ask(server, query)
        assert status in (200, 400), (query, status)
        assert ("sigmas" if status == 200 else "error") in answer


# --- the table that the page gets ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(comfy):
    return dev.load_pack("nodes.shared.scheduler_curve").table()


@pytest.fixture(scope="module")
def ours(comfy):
    """Class -> what the host tells of a node of ours: its inputs, required and optional, and what it gives."""
    nodes = asyncio.run(dev.load_pack("nodes").ChromaExtension().get_node_list())
    infos = {node.GET_SCHEMA().node_id: node.GET_SCHEMA().get_v1_info(node) for node in nodes}
    return {
        name: ({**info.input["required"], **info.input.get("optional", {})}, info.output)
        for name, info in infos.items()
    }


@pytest.fixture(scope="module")
def hosts(comfy):
    """The same of the nodes of the host's that the table names: the old form of a node, and the new one."""
    from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow, ModelSamplingFlux
    from comfy_extras.nodes_primitive import Boolean, Float, Int
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    import nodes

    old = {"LoraLoader": nodes.LoraLoader, "LoraLoaderModelOnly": nodes.LoraLoaderModelOnly}
    old |= {"ModelSamplingAuraFlow": ModelSamplingAuraFlow, "ModelSamplingFlux": ModelSamplingFlux}
    found = {name: (node.INPUT_TYPES()["required"], node.RETURN_TYPES) for name, node in old.items()}
    for node in (Boolean, Float, Int, TorchCompileModel):
        info = node.GET_SCHEMA().get_v1_info(node)
        found[node.GET_SCHEMA().node_id] = (info.input["required"], info.output)
    return found


def choices(inputs, combo):
    """Value -> names of the widgets that it brings, of an input that is a dynamic combo."""
    kind, options = inputs[combo]
    assert kind == DYNAMIC_COMBO
    return {
        option["key"]: {
            name
            for group in option["inputs"].values()
            for name, (kind, *_) in group.items()
            if kind in ("INT", "FLOAT")
        }
        for option in options["options"]
    }


def test_table_names_every_node_with_a_schedule_and_its_widgets(table, ours):
    schedulers = {name for name, (inputs, outputs) in ours.items() if outputs == ["SIGMAS"] and "steps" in inputs}
    assert set(table["nodes"]) == schedulers
    for name, place in table["nodes"].items():
        inputs = ours[name][0]
        assert set(table["options"]) <= set(inputs)
        if "combo" in place:
            wanted = {curve: {p.name for p in sigmas.CURVES[curve].parameters} for curve in sigmas.CURVES}
            assert choices(inputs, place["combo"]) == wanted
        else:
            assert set(inputs) == {"model", *place["params"], *table["options"]}
            assert place["params"] == list(sigmas.CURVES[place["curve"]].defaults)


def test_table_names_every_shift_and_its_widgets(table, ours, hosts):
    known = {**ours, **hosts}
    for name, place in table["shifts"].items():
        inputs, outputs = known[name]
        assert "MODEL" in outputs
        if "combo" in place:
            widgets = choices(inputs, place["combo"])
            assert set(place["modes"]) == set(widgets)
            for mode, (curve, *given) in ((mode, list(value)) for mode, value in place["modes"].items()):
                assert curve == "curve"
                assert widgets[mode] | set(given) == set(sigmas.CURVES[place["modes"][mode]["curve"]].defaults)
        elif place["params"]:
            assert set(inputs) == {"model", *place["params"]}
            assert set(place["params"]) == set(sigmas.CURVES[place["curve"]].defaults)


SETS_A_SHIFT = {"ChromaPreset", "ChromaSpeed", "ChromaTimestepShift"}  # the first two's are known to a run only


def test_table_passes_through_all_that_keep_the_models_sigmas(table, ours, hosts):
    patches = {
        name
        for name, (inputs, outputs) in ours.items()
        if "MODEL" in outputs and inputs.get("model", [None])[0] == "MODEL"
    }
    assert {name for name in table["passing"] if name.startswith("Chroma")} == patches - SETS_A_SHIFT
    for name in set(table["passing"]) - patches:
        inputs, outputs = hosts[name]
        assert inputs["model"][0] == "MODEL" and "MODEL" in outputs
    for name in table["constants"]:
        assert list(hosts[name][0]) == ["value"]


def test_server_gives_the_page_the_table(server, table):
    assert server.get("/chroma/curve") == table
