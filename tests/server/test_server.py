"""The pack inside a real ComfyUI server, through its HTTP and websocket API."""

import itertools
import json

import numpy as np
import pytest
import support
import torch
from browser.swap import with_demo_files
from graphs import Graph, follow, texts

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.host

NEW_SEED = itertools.count(10_000)  # a seed that was used before would come out of the server's cache
# The same noise and steps as at 1, but another input, so that nothing comes out of the server's cache.
AGAIN = 0.9999

dev = support.dev
NODES = [path.stem for path in sorted((support.ROOT / "web" / "docs").glob("*.md"))]  # each has a help page


@pytest.fixture
def graph(server):
    return Graph.demo(server)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def alive(server, graph):
    """The server still makes new pictures."""
    (path,) = graph.set("KSampler", seed=next(NEW_SEED)).run(server)
    return pixels(path).shape == (128, 128, 3)


def test_demo_workflow_makes_a_picture_of_its_size(server, graph):
    (path,) = graph.set("KSampler", seed=101).run(server)
    assert pixels(path).shape == (128, 128, 3)


def test_same_seed_gives_the_same_pixels(server, graph):
    first = pixels(graph.set("KSampler", seed=102).run(server)[0])
    other = pixels(graph.copy().set("KSampler", seed=103).run(server)[0])
    again = pixels(graph.set("KSampler", denoise=AGAIN).run(server)[0])
    assert (first == again).all()
    assert (first != other).any()


def test_every_input_and_output_of_our_nodes_has_a_tooltip(server):
    nodes = [n for n in server.get("/object_info").values() if n["python_module"] == "custom_nodes.chroma-pack"]
    assert {n["name"] for n in nodes if not n.get("dev_only")} == set(NODES)
    for node in nodes:
        inputs = [v for group in ("required", "optional") for v in node["input"].get(group, {}).values()]
        assert all(options.get("tooltip") for _, options in inputs), node["name"]
        assert all(node["output_tooltips"]) or not node["output"], node["name"]
        assert node["description"]


def test_every_node_has_a_help_page(server):
    for name in NODES:
        with dev.OPENER.open(f"{server.url}/extensions/chroma-pack/docs/{name}.md") as page:
            assert page.read().startswith(b"# ")


def test_workflows_are_offered_as_templates(server):
    assert "chroma_text_to_image" in server.get("/workflow_templates")["chroma-pack"]


WORKFLOWS = sorted((support.ROOT / "example_workflows").glob("*.json"))
PLAIN = [path for path in WORKFLOWS if "definitions" not in json.loads(path.read_text())]  # others: tests/browser


@pytest.mark.parametrize("workflow", PLAIN, ids=lambda p: p.stem)
def test_example_workflow_runs_with_the_demo_files(server, workflow):
    info = server.get("/object_info")
    graph = Graph(with_demo_files(dev.api_graph(json.loads(workflow.read_text()), info)))
    assert all(pixels(path).std() > 1 for path in graph.run(server))  # of 255; an empty picture has 0


@pytest.mark.parametrize(
    "mode",
    ["auto", "bf16", "fp16", "fp32", "fp8_scaled", "int8_convrot", "float8_e4m3fn (8 bit)", "float8_e5m2 (also 8 bit)"],
)
def test_each_precision_runs_and_is_near_float32(server, graph, mode):
    graph.set("KSampler", seed=104, steps=8)
    reference = pixels(graph.copy().set("ChromaDiffusionLoader", quant_mode="fp32").run(server)[0])
    path = graph.set("ChromaDiffusionLoader", quant_mode=mode).set("SaveImage", filename_prefix=mode[:6]).run(server)[0]
    assert np.abs(pixels(path) - reference).mean() < 20  # of 255


def test_unknown_precision_is_refused_with_the_known_ones(server, graph):
    graph.set("ChromaDiffusionLoader", quant_mode="int3")
    with pytest.raises(dev.Problem, match="int3.*not known.*int8_convrot"):
        graph.run(server)


# --- bad files -------------------------------------------------------------------------------------------------------

TINY = support.config()


def tiny(**options):
    return support.published(support.random_weights(TINY), **options)


def without(start):
    return {k: v for k, v in tiny().items() if not k.startswith(start)}


def wrong_shape():
    return {**tiny(), "single_blocks.1.linear2.weight": torch.zeros(128, 639)}


BAD_FILES = {
    "flux": (
        lambda p: support.write(
            p,
            {
                "double_blocks.0.img_attn.qkv.weight": torch.zeros(6, 2),
                "double_blocks.0.img_mod.lin.weight": torch.zeros(2, 2),
            },
        ),
        "it looks like FLUX",
    ),
    "sdxl": (
        lambda p: support.write(
            p,
            {
                "conditioner.embedders.1.x": torch.zeros(1),
                "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1),
            },
        ),
        "it looks like SDXL",
    ),
    "no-approximator": (lambda p: support.write(p, without("distilled")), "no distilled_guidance_layer"),
    "missing-block": (lambda p: support.write(p, without("single_blocks.1.")), "block single_blocks.1 is missing"),
    "missing-tensor": (
        lambda p: support.write(p, without("single_blocks.1.linear1.bias")),
        "tensor single_blocks.1.linear1.bias is missing",
    ),
    "wrong-shape": (lambda p: support.write(p, wrong_shape()), "single_blocks.1.linear2.weight has shape (128, 639)"),
    "extra": (
        lambda p: support.write(p, {**tiny(), "control.x": torch.zeros(1)}),
        "tensor control.x is not part of Chroma",
    ),
    "truncated": (lambda p: p.write_bytes(support.write(p, tiny()).read_bytes()[:200_000]), "cut short"),
    "empty": (lambda p: p.touch(), "the file is empty"),
    "text": (lambda p: p.write_text("<html>Not found</html>" * 99), "this is a web page, not a model"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_told_and_the_server_lives(server, graph, models_dir, kind):
    write, told = BAD_FILES[kind]
    path = models_dir / f"bad-{kind}.safetensors"
    write(path)
    error = graph.copy().set("ChromaDiffusionLoader", unet_name=path.name).fails(server)
    assert error.startswith(f"ChromaDiffusionLoader: bad-{kind}.safetensors: ")
    assert told in error
    assert error.count(".") >= 2 and "Traceback" not in error
    assert alive(server, graph)


class Explosive:
    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return open, (self.proof, "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_refused(server, graph, models_dir, tmp_path, zipped):
    proof = tmp_path / "was-run"
    torch.save({"a": Explosive(proof)}, models_dir / "bad.pth", _use_new_zipfile_serialization=zipped)
    error = graph.copy().set("ChromaDiffusionLoader", unet_name="bad.pth").fails(server)
    assert "bad.pth: refused" in error and "could run code" in error and "safetensors" in error
    assert not proof.exists()
    assert alive(server, graph)


@pytest.mark.parametrize("name", ["../vae/chroma-demo-vae.safetensors", "/etc/passwd", "absent.safetensors"])
def test_path_outside_the_model_folders_is_refused(server, graph, name):
    with pytest.raises(
        dev.Problem, match="not among the model files. Put it into ComfyUI/models/diffusion_models and press R"
    ):
        graph.copy().set("ChromaDiffusionLoader", unet_name=name).run(server)
    assert alive(server, graph)


def test_nan_weights_are_warned_of(server, graph, models_dir):
    weights = support.published({k: v.float() for k, v in demo_weights().items()})
    weights["img_in.bias"][0] = float("nan")
    support.write(models_dir / "bad-nan.safetensors", weights)
    graph.copy().set("ChromaDiffusionLoader", unet_name="bad-nan.safetensors").run(server)
    log = server.log.read_text(errors="replace")
    assert "bad-nan.safetensors: 1 tensors hold NaN or infinite weights (img_in.bias" in log
    assert "bad-nan.safetensors: the run ended in NaN" in log
    assert alive(server, graph)


def demo_weights():
    from safetensors.torch import load_file

    return load_file(support.ROOT / "demo" / "weights" / "chroma-demo.safetensors")


# --- what people do with a MODEL -------------------------------------------------------------------------------------


def test_sampler_custom_advanced_equals_ksampler(server, graph):
    graph.set("KSampler", seed=105, steps=4)
    reference = pixels(graph.run(server)[0])
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    noise = graph.add("RandomNoise", noise_seed=105)
    guider = graph.add("CFGGuider", model=k["model"], positive=k["positive"], negative=k["negative"], cfg=k["cfg"])
    sampler = graph.add("KSamplerSelect", sampler_name=k["sampler_name"])
    sigmas = graph.add("BasicScheduler", model=k["model"], scheduler=k["scheduler"], steps=4, denoise=1.0)
    custom = graph.add(
        "SamplerCustomAdvanced",
        noise=[noise, 0],
        guider=[guider, 0],
        sampler=[sampler, 0],
        sigmas=[sigmas, 0],
        latent_image=k["latent_image"],
    )
    graph.set("VAEDecode", samples=[custom, 0])
    assert (pixels(graph.run(server)[0]) == reference).all()


def test_batch_gives_as_many_different_pictures(server, graph):
    paths = graph.set("EmptySD3LatentImage", batch_size=3).set("KSampler", seed=106).run(server)
    pictures = [pixels(p) for p in paths]
    assert len(pictures) == 3
    assert (pictures[0] != pictures[1]).any()


def encoded(graph, value=0xFF0000):
    """Adds a flat picture through the VAE; gives the latent's link."""
    image = graph.add("EmptyImage", width=128, height=128, batch_size=1, color=value)
    return [graph.add("VAEEncode", pixels=[image, 0], vae=[graph.find("VAELoader"), 0]), 0]


def test_image_to_image_keeps_the_picture_at_low_denoise(server, graph):
    graph.set("KSampler", latent_image=encoded(graph), denoise=0.1, steps=10, cfg=1.0)
    graph.set("ChromaTextEncode", "Prompt", text="")
    mean = pixels(graph.run(server)[0]).mean((0, 1))
    assert mean[0] > 150 and mean[1] < 100 and mean[2] < 100


def test_inpaint_changes_the_masked_half_only(server, graph):
    latent = encoded(graph)
    mask = graph.add("SolidMask", value=1.0, width=64, height=128)
    whole = graph.add("SolidMask", value=0.0, width=128, height=128)
    half = graph.add("MaskComposite", destination=[whole, 0], source=[mask, 0], x=64, y=0, operation="add")
    masked = graph.add("SetLatentNoiseMask", samples=latent, mask=[half, 0])
    reference = graph.copy()
    reference.set("VAEDecode", samples=latent)
    before = pixels(reference.run(server)[0])
    after = pixels(graph.set("KSampler", latent_image=[masked, 0], steps=8, seed=107).run(server)[0])
    assert np.abs(after - before)[:, :40].mean() < 6
    assert np.abs(after - before)[:, 80:].mean() > 12


def lora_files(layout):
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(4, 256, generator=generator) * 0.1, torch.randn(256, 4, generator=generator)
    names = {
        "bfl": (
            "diffusion_model.double_blocks.0.img_attn.proj.lora_A.weight",
            "diffusion_model.double_blocks.0.img_attn.proj.lora_B.weight",
        ),
        "kohya": (
            "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight",
            "lora_unet_double_blocks_0_img_attn_proj.lora_up.weight",
        ),
        "diffusers": (
            "transformer.transformer_blocks.0.attn.to_out.0.lora_A.weight",
            "transformer.transformer_blocks.0.attn.to_out.0.lora_B.weight",
        ),
        "onetrainer": (
            "lora_transformer_transformer_blocks_0_attn_to_out_0.lora_down.weight",
            "lora_transformer_transformer_blocks_0_attn_to_out_0.lora_up.weight",
        ),
    }[layout]
    return dict(zip(names, (a, b)))


@pytest.mark.parametrize("layout", ["bfl", "kohya", "diffusers", "onetrainer"])
def test_lora_from_a_file_changes_the_picture_alike_in_each_layout(server, graph, loras_dir, layout):
    for name in ("bfl", layout):
        support.write(loras_dir / f"test-{name}.safetensors", lora_files(name))
    graph.set("KSampler", seed=108)
    plain = pixels(graph.copy().run(server)[0])
    graph.model_through("LoraLoaderModelOnly", lora_name="test-bfl.safetensors", strength_model=1.0)
    reference = pixels(graph.run(server)[0])
    graph.set("LoraLoaderModelOnly", lora_name=f"test-{layout}.safetensors").set("KSampler", denoise=AGAIN)
    assert (pixels(graph.run(server)[0]) == reference).all()
    assert (reference != plain).any()


def test_merged_and_saved_model_loads_and_gives_the_same_picture(server, graph, models_dir):
    graph.set("KSampler", seed=109)
    reference = pixels(graph.run(server)[0])
    loader = graph.find("ChromaDiffusionLoader")
    merged = graph.model_through("ModelMergeSimple", model1=[loader, 0], model2=[loader, 0], ratio=0.5)
    del graph.nodes[merged]["inputs"]["model"]
    graph.add("ModelSave", model=[merged, 0], filename_prefix="diffusion_models/test-saved")
    assert np.abs(pixels(graph.run(server)[0]) - reference).max() <= 2  # half precision, mean of two equal halves
    saved = sorted((dev.base_dir() / "output" / "diffusion_models").glob("test-saved*.safetensors"))[-1]
    saved.replace(models_dir / "test-saved.safetensors")
    again = Graph.demo(server).set("KSampler", seed=109).set("SaveImage", filename_prefix="saved")
    again.set("ChromaDiffusionLoader", unet_name="test-saved.safetensors")
    assert np.abs(pixels(again.run(server)[0]) - reference).max() <= 2


def test_easycache_runs_in_the_server(server, graph):
    graph.model_through("EasyCache", reuse_threshold=0.3, start_percent=0.1, end_percent=0.95, verbose=False)
    assert pixels(graph.set("KSampler", steps=10, seed=110).run(server)[0]).shape == (128, 128, 3)


def test_skip_layer_guidance_of_the_host_changes_the_picture(server, graph):
    graph.set("KSampler", seed=111, steps=4)
    plain = pixels(graph.copy().run(server)[0])
    graph.model_through(
        "SkipLayerGuidanceDiT",
        double_layers="1",
        single_layers="3",
        scale=3.0,
        start_percent=0.0,
        end_percent=1.0,
        rescaling_scale=0.0,
    )
    assert (pixels(graph.run(server)[0]) != plain).any()


# --- websocket: reports, previews, interrupt ---------------------------------------------------------------------------


def test_nodes_say_what_they_loaded_and_what_they_encoded(server, graph):
    graph.set("ChromaTextEncode", "Prompt", text="a red cross on a blue background")
    shown = texts(follow(server, graph.set("ChromaDiffusionLoader", quant_mode="float8_e4m3fn (8 bit)")))
    assert any(
        t.startswith(
            "Chroma, 13.1 M parameters, 4 + 8 blocks of width 256\nfile: float16, BFL names\nkept as float8_e4m3fn"
        )
        for t in shown
    ), shown
    assert any("10 of 512 tokens" in t for t in shown)  # seven words (each "a" is two tokens) and the end token


def test_every_step_sends_a_preview(server, graph):
    messages = follow(server, graph.set("KSampler", seed=112, steps=5))
    previews = [m for m in messages if isinstance(m, bytes) and int.from_bytes(m[:4], "big") in (1, 4)]
    assert len(previews) >= 5


def test_interrupt_in_the_middle_leaves_a_working_server(server, graph):
    reference = pixels(graph.copy().set("KSampler", seed=113, steps=3).run(server)[0])
    stopped = []

    def stop(step):
        if step == 3 and not stopped:
            stopped.append(step)
            server.post("/interrupt", {})

    messages = follow(server, graph.copy().set("KSampler", seed=113, steps=2000), stop)
    assert messages[-1]["type"] == "execution_interrupted"
    again = graph.set("KSampler", seed=113, steps=3, denoise=AGAIN).run(server)
    assert (pixels(again[0]) == reference).all()
