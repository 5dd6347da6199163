"""Chroma Cache on a MODEL: what each choice computes, and what the node tells after a run."""

import re

import pytest
import support
import torch
from host_models import sample

pytestmark = pytest.mark.host
STEPS = 20


@pytest.fixture(scope="module")
def module(comfy):
    return support.dev.load_pack("nodes.cache")


@pytest.fixture
def told(module, monkeypatch):
    found = []
    monkeypatch.setattr(module, "show", lambda title, node, text: found.append((title, node, text())))
    monkeypatch.setattr(module, "node_before", lambda kind, role: f"{kind} by {role}")
    return found


@pytest.fixture(scope="module")
def case(comfy, tmp_path_factory):
    cfg = support.config(double=2, single=3)
    path = tmp_path_factory.mktemp("m") / "tiny.safetensors"
    support.write(path, support.published(support.random_weights(cfg)))
    with torch.inference_mode():
        return cfg, support.dev.load_pack("host.model.load").load_chroma(str(path))


def cached(module, model, forecast, **more):
    return module.ChromaCache.execute(model, forecast, **more).args[0]


@pytest.mark.parametrize(
    "forecast, first",
    [
        ({"forecast": "planned", "compute": 0.8}, "16 of 20 steps computed"),
        ({"forecast": "planned", "compute": 0.0}, "13 of 20 steps computed"),
        ({"forecast": "planned", "compute": 1.0}, "20 of 20 steps computed"),
        ({"forecast": "where little changes", "threshold": 0.0}, "20 of 20 steps computed"),
        ({"forecast": "where little changes", "threshold": 1.0}, "14 of 20 steps computed"),
    ],
)
def test_the_node_tells_what_a_run_computed(comfy, inference, module, case, told, forecast, first):
    cfg, model = case
    sample(comfy, cached(module, model, forecast), cfg, steps=STEPS)
    ((title, node, text),) = told
    assert (title, node) == ("Chroma Cache", "ChromaCache by model") and re.fullmatch(
        rf"{first}, \d+ kB kept for 2 prompts", text.splitlines()[0]
    )
    assert text.splitlines()[1].startswith("forecasts off by ")


def test_a_limit_of_error_ends_forecasts(comfy, inference, module, case, told):
    cfg, model = case
    sample(comfy, cached(module, model, {"forecast": "planned", "compute": 0.0}, max_error=0.001), cfg, steps=STEPS)
    (_, _, text) = told[0]
    assert "so the steps after it are computed" in text and not text.startswith("13 of 20")


def test_another_kind_of_model_is_refused(comfy, inference, module):
    from types import SimpleNamespace

    class SD3:
        diffusion_model = torch.nn.Linear(1, 1)

    wrong = SimpleNamespace(model=SD3(), clone=None, get_model_object=None, model_options={})
    with pytest.raises(ValueError, match="the model is a SD3, neither Chroma nor FLUX. Connect Load Chroma"):
        cached(module, wrong, {"forecast": "planned", "compute": 0.8})
