"""What is told before a run is what the run then takes."""

import re

import pytest
import support
import torch

pytestmark = pytest.mark.host
dev = support.dev
FROM_PRESET = dev.load_pack("constants").FROM_PRESET
NOT_YET = "expected: not run here yet; the first picture tells how long it takes"


@pytest.fixture
def ahead(comfy, monkeypatch, files, tmp_path):
    names = "settings_ahead", "before_run", "file_ahead"
    module, before_run, file_ahead = (dev.load_pack(f"nodes.shared.{name}") for name in names)

    def path(name):
        if name not in files:
            raise ValueError(f"{name}: not among the model files")
        return str(files[name])

    monkeypatch.setattr(file_ahead, "model_path", path)
    monkeypatch.setattr(file_ahead, "encoder_path", path)
    monkeypatch.setattr(file_ahead.folder_paths, "get_full_path", lambda kind, name: str(files[name]))
    monkeypatch.setattr(before_run, "file", lambda: tmp_path / "costs.json")
    monkeypatch.setattr(before_run.SPEED, "of", lambda *_: None)  # a machine that cannot be tried
    return module


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Tiny checkpoints under published files' names, and one whose header alone tells what it is."""
    folder = tmp_path_factory.mktemp("m")
    chroma = support.published(support.random_weights(support.config()))
    radiance = support.published(support.random_weights(support.config(**support.RADIANCE)))
    names = ("Chroma1-HD.safetensors", "Chroma1-Flash.safetensors", "chroma-merge.safetensors")
    out = {name: support.write(folder / name, chroma) for name in names}
    (folder / "broken.safetensors").write_bytes(b"no weights")
    sdxl = {f"lora_te2_text_model.lora_{x}.weight": torch.zeros(2, 2) for x in ("down", "up")}
    out["lora.safetensors"] = support.write(folder / "lora.safetensors", sdxl)
    return out | {
        "anything.safetensors": support.write(folder / "anything.safetensors", radiance),
        "broken.safetensors": folder / "broken.safetensors",
    }


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def preset(file="Chroma1-HD.safetensors", **inputs):
    given = {"preset": "auto", "sampler": FROM_PRESET, "schedule": FROM_PRESET, "shift": FROM_PRESET}
    return {
        "graph": {
            "1": node("ChromaDiffusionLoader", unet_name=file, approximator="from the model file"),
            "2": node("ChromaPreset", **{"model": ["1", 0], "steps": 0, "cfg": 0, "width": 0, "height": 0, **given, **inputs}),
        },
        "node": "2",
    }  # fmt: skip


def sampler(quality, file="Chroma1-HD.safetensors", **inputs):
    loader = node("ChromaDiffusionLoader", unet_name=file, approximator="from the model file")
    return {"graph": {"1": loader, "2": node("ChromaKSampler", model=["1", 0], quality=quality, **inputs)}, "node": "2"}


@pytest.mark.parametrize(
    "file, row",
    [
        ("Chroma1-HD.safetensors", "Chroma1-HD"),
        ("Chroma1-Flash.safetensors", "Chroma1-Flash"),
        ("anything.safetensors", "Radiance, x0"),  # by its header
        ("chroma-merge.safetensors", "Chroma1-HD"),
    ],
)
def test_preset_is_told_from_the_file_with_its_curve(ahead, file, row):
    p = dev.load_pack("advice.presets").PRESETS[row]
    told = ahead.ahead(preset(file))
    text = told["report"]["text"]
    assert text.startswith(f"{row}: ") and f"\nsteps {p.steps}: " in text and f"\ncfg {p.cfg:g}: " in text
    schedule = dev.load_pack("samplers.schedules").schedule
    table = torch.arange(1, 1001) / 1000
    assert told["sigmas"] == pytest.approx(schedule(p.curve, p.steps, p.params, table, keep_steps=True).tolist())


def test_what_a_person_sets_is_told(ahead):
    given = {"steps": 12, "schedule": "fixed_shift", "schedule.value": 2.0, "shift": "fixed", "shift.value": 3.0}
    told = ahead.ahead(preset(**given))
    text = told["report"]["text"]
    assert "steps 12: set by you" in text and "fixed_shift shift 2: set by you" in text and told["steps"] == 12
    assert told["sigmas"][6] == pytest.approx(2 / 3)  # 2 t / (1 + t) at t = 0.5
    text = ahead.ahead(preset(cfg=["1", 0]))["report"]["text"]
    assert text.endswith("\ncfg: by link, known once it runs")


def test_choice_of_quality_is_told_with_the_widgets_values(ahead):
    told = ahead.ahead(sampler("draft"))
    assert told["report"]["text"].splitlines() == [
        "draft: Chroma1-HD, recognised by the name Chroma1-HD.safetensors",
        "8 steps, cfg 3.5, chroma_sigma_2m, beta alpha 0.6 beta 0.6, shift 1",
    ]
    values = {"steps": 8, "cfg": 3.5, "sampler": "chroma_sigma_2m", "schedule": "beta", "shift": "1 (as trained)"}
    assert told["values"] == values
    assert ahead.ahead(sampler("custom"))["report"] is None
    graph = sampler("custom", settings=["3", 7])
    graph["graph"]["3"] = preset(steps=9)["graph"]["2"]
    assert ahead.ahead(graph)["report"]["text"].startswith("settings of the node before: Chroma1-HD\n9 steps, cfg 3.5")


def studio(quality="draft", mode="text to image", **inputs):
    """A Chroma Studio, and a picture for the modes that need one."""
    files = {"unet_name": "Chroma1-HD.safetensors", "clip_name": "t5.safetensors", "vae_name": "ae.safetensors"}
    values = {"mode": mode, "quality": quality, "prompt": "a fox", "negative": "", "seed": 1, "loras": "none", **files}
    return {"graph": {"2": node("ChromaStudio", **{**values, **inputs}), "5": node("LoadImage")}, "node": "2"}


def test_studio_tells_what_its_samplers_would(ahead):
    told = ahead.ahead(studio())
    expected = ahead.ahead(painting("draft", 1024))["report"]["text"].splitlines()
    assert told["report"]["text"].splitlines() == [*expected[:2], NOT_YET]
    assert told["values"] == {} and told["sigmas"] is None
    by_hand = {"quality.steps": 9, "quality.cfg": 4.0, "quality.sampler": "euler", "quality.schedule": "beta"}
    text = ahead.ahead(studio("custom", **by_hand))["report"]["text"]
    assert text == NOT_YET
    text = ahead.ahead(studio("flash"))["report"]["text"]
    assert text.startswith("ERROR: quality is flash, and the model is Chroma1-HD")
    assert ahead.ahead(studio(mode="edit"))["report"] is None  # its picture is missing, which the run tells
    linked = {"mode.image": ["5", 0], "mode.denoise": 0.6, "mode.megapixels": 1.0}
    text = ahead.ahead(studio(mode="image to image", **linked))["report"]["text"]
    assert text.startswith("draft: Chroma1-HD, recognised by the name")


def test_each_pass_of_a_studio_tells_its_time(ahead, monkeypatch):
    told = iter(["expected: 1 s", "expected: 2 s"])
    monkeypatch.setattr(ahead.before_run, "ahead", lambda *_: next(told))
    text = ahead.ahead(studio(mode="enlarge"))["report"]["text"]
    assert text.splitlines()[2:] == ["expected: 1 s", "expected: 2 s"]


def test_errors_of_the_run_are_told_before_it(ahead):
    for query, text in (
        (sampler("flash"), "ERROR: quality is flash, and the model is Chroma1-HD"),
        (preset("broken.safetensors"), "ERROR: broken.safetensors: "),
        (preset("none.safetensors"), "ERROR: none.safetensors: not among the model files"),
        ({"graph": {"2": node("ChromaPreset")}, "node": "2"}, "ERROR: Connect a model"),
    ):
        report = ahead.ahead(query)["report"]
        assert report["text"].startswith(text) and report["level"] == "error"


@pytest.mark.parametrize(
    "kind, value, text",
    [
        ("ChromaDiffusionLoader", "Chroma1-HD.safetensors", None),
        ("ChromaDiffusionLoader", "lora.safetensors", "ERROR: lora.safetensors: .* it looks like a LoRA; it belongs in models/loras"),
        ("ChromaDiffusionLoader", "broken.safetensors", "ERROR: broken.safetensors: "),
        ("ChromaDiffusionLoader", "none.safetensors", None),  # which the page tells
        ("ChromaDiffusionLoader", "model.ckpt", None),  # known once it is read
        ("ChromaCLIPLoader", "Chroma1-HD.safetensors", "ERROR: Chroma1-HD.safetensors: .*a Chroma model; it belongs in"),
        ("ChromaLoraLoader", "lora.safetensors", "Warning: lora.safetensors looks like a LoRA for SDXL"),
        ("ChromaFlash", "Chroma1-HD.safetensors", "Warning: Chroma1-HD.safetensors looks like a whole checkpoint"),
        ("ChromaFlash", ["3", 0], None),
    ],
    ids=str,
)  # fmt: skip
def test_a_loader_tells_what_a_wrong_file_is(ahead, files, kind, value, text):
    name = {"ChromaDiffusionLoader": "unet_name", "ChromaCLIPLoader": "clip_name"}.get(kind, "lora_name")
    report = ahead.ahead({"graph": {"1": node(kind, **{name: value})}, "node": "1"})["report"]
    assert (report is None) == (text is None)
    assert text is None or re.match(text, report["text"]) and report["level"] == text.split(":")[0].lower()


def test_studio_tells_what_a_wrong_file_is_once(ahead):
    wrong = {"unet_name": "lora.safetensors", "clip_name": "Chroma1-HD.safetensors"}
    loras = {"loras": "1", "loras.lora_1": "lora.safetensors", "loras.strength_1": 1.0}
    lines = ahead.ahead(studio(**wrong, **loras))["report"]["text"].splitlines()
    for text in (
        "ERROR: lora.safetensors: .* it looks like a LoRA",
        "ERROR: Chroma1-HD.safetensors: .*a Chroma model",
        "Warning: lora.safetensors looks like a LoRA for SDXL",
    ):
        assert len([line for line in lines if re.match(text, line)]) == 1


def test_page_asks_for_all_that_is_told_ahead(ahead):
    """web/js/settings.js has the names of the nodes, so that it need not wait for the server."""
    script = (support.ROOT / "web" / "js" / "settings.js").read_text(encoding="utf-8")
    lists = re.findall(r"^const [A-Z_]+ = \[(.*)\];|^const SAMPLER = (.*);", script, re.MULTILINE)
    named = re.findall(r'"(Chroma\w+)"', str(lists))
    assert sorted(named) == sorted(ahead.KINDS)


@pytest.mark.parametrize(
    "query", [{}, [], {"graph": [], "node": "2"}, {"graph": {}, "node": "2"}, {"other": 1}], ids=str
)
def test_query_of_another_form_is_refused(ahead, query):
    with pytest.raises(ValueError, match="^(the query|graph|node)[: ]"):
        ahead.ahead(query)


# --- before a run ----------------------------------------------------------------------------------------------------


def painting(quality="custom", width=512, **inputs):
    """A whole graph of one picture."""
    values = {"steps": 10, "cfg": 3.0, "sampler": "euler", "schedule": "beta", "skip_first_steps": 0, "denoise": 1.0}
    links = {"positive": ["3", 0], "negative": ["3", 0], "latent": ["4", 0]}
    query = sampler(quality, **{**values, **links, **inputs})
    query["graph"] |= {
        "3": node("ChromaTextEncode", text="a fox"),
        "4": node("EmptySD3LatentImage", width=width, height=512, batch_size=1),
    }
    return query


def told(ahead, query):
    report = ahead.ahead(query)["report"]
    return None if report is None else report["text"].splitlines()[-1]


def kept(ahead, **work):
    """Keeps a run of `painting`."""
    costs = dev.load_pack("advice.run_costs")
    graph = dev.load_pack("advice.queued_graph").Graph(painting()["graph"])
    values = {"width": 512, "height": 512, "batch": 1, "steps": 10, "sampler": "euler", "guided": True, **work}
    done = costs.Work(costs.model_of(graph, ["1"]), ahead.before_run.device_name(torch.device("cpu")), **values)
    costs.add(ahead.before_run.file(), costs.Cost(done, 2.0, 0.25, 3 << 30))


def test_time_is_told_before_a_run_by_those_before_it(ahead):
    assert told(ahead, painting()) == NOT_YET
    kept(ahead)
    assert told(ahead, painting()) == "expected: 5.0 s once loaded, as before: 10 steps of 0.5 s; 3.0 GB of memory"
    assert "10 s once loaded, as before: 20 steps of 0.5 s" in told(ahead, painting(steps=20))
    assert "5.0 s once loaded, as before: 10 steps of 0.5 s" in told(ahead, painting(width=501))  # filled up to 512
    assert "estimated from 512 x 512" in told(ahead, painting(width=1024))
    lines = ahead.ahead(painting("standard"))["report"]["text"].splitlines()
    assert lines[1].startswith("14 steps, cfg 3.5") and "7.0 s once loaded, as before: 14 steps" in lines[2]
    assert "26 steps of 0.5 s" in told(ahead, preset(width=512, height=512))


def test_time_of_a_first_run_is_guessed_but_not_while_another_goes_on(ahead, monkeypatch):
    """By the speed of a machine of 1e9 multiplications a second: nothing is timed."""
    before_run, asked = ahead.before_run, []
    monkeypatch.setattr(before_run.SPEED, "of", lambda *machine: asked.append(machine) or 1e9)
    seconds = 2 * support.config().multiplications(1024) / 1e9  # both prompts
    guess = (
        f"expected: about {10 * seconds:.0f} s once loaded, guessed from the model's size for its first run here: "
        f"10 steps of {seconds:.2g} s"  # of such a small model the memory is left out
    )
    assert told(ahead, painting()) == guess
    assert asked == [(torch.device("cpu"), torch.float32, support.config().hidden_size)]
    assert told(ahead, painting(quality="standard")).startswith("expected: about ")
    assert "expected" not in told(ahead, preset(width=512, height=512))  # its sampler says so
    kept(ahead)
    assert "as before" in told(ahead, painting())  # what has run here counts
    before_run.file().unlink()
    for name, value in (("is_computing", lambda: True), ("found_ahead", lambda *_: None)):
        with monkeypatch.context() as patch:
            patch.setattr(before_run, name, value)
            assert told(ahead, painting()) == NOT_YET
    assert len(asked) == 2
    monkeypatch.setattr(before_run.SPEED, "of", lambda *_: 1 / 0)
    assert told(ahead, painting()) == NOT_YET


@pytest.mark.parametrize("precision", ["bf16", "fp32", "q8_0", "keep"])
def test_weights_take_what_the_loader_keeps(ahead, files, precision):
    """The guess of memory is what the loaded model reports."""
    load, registry = dev.load_pack("host.model.load"), dev.load_pack("loaders.formats.base.registry")
    path = str(files["Chroma1-HD.safetensors"])
    detection, mode = load.detect(load.ModelFile(path).header), registry.quant_mode(precision)
    supported = dev.load_pack("host.run.base_model").model_config(detection).supported_inference_dtypes
    _, plain, _ = load.types_of(detection, mode, supported, torch.device("cpu"))
    modules = load.load_chroma(path, precision).model.diffusion_model.modules()
    num_bytes = dev.load_pack("host.model.report").num_bytes
    kept = sum(num_bytes(p) for m in modules for p in m.parameters(recurse=False))
    assert load.weights_size(detection, mode, plain, 0) == pytest.approx(kept, rel=0.02)  # scales of narrow layers


def test_savings_are_of_their_own(ahead):
    kept(ahead)
    kept(ahead, steps=8, savings="skip_first_steps 3 of 8")
    assert "8 steps of 0.5 s" in told(ahead, painting("draft"))
    assert "10 steps of 0.5 s" in told(ahead, painting(skip_first_steps=3))


@pytest.mark.parametrize("inputs", [{"latent": None}, {"cfg": ["3", 0]}, {"steps": None}, {"positive": None}], ids=str)
def test_nothing_is_told_of_a_run_that_the_graph_does_not_tell(ahead, inputs):
    assert ahead.ahead(painting(**inputs))["report"] is None


def test_what_is_told_never_fails(ahead, monkeypatch, caplog):
    monkeypatch.setattr(ahead.before_run, "read", lambda path: 1 / 0)
    assert ahead.ahead(painting())["report"] is None
    assert len(ahead.ahead(painting("draft"))["report"]["text"].splitlines()) == 2
    assert "ZeroDivisionError" in caplog.text
