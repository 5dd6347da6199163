"""chroma_api.py, a ComfyUI in the process of a script, beside the same graph in the server."""

import json
import os
import subprocess

import numpy as np
import pytest
import support
from graphs import Graph

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.host

dev = support.dev
PROMPT = "a small blue triangle on a white background"
SEED = 7  # of the example


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": ""}}


GRAPH = {
    "1": node("ChromaDiffusionLoader", unet_name="chroma-demo.safetensors", quant_mode="auto"),
    "2": node("ChromaCLIPLoader", clip_name="chroma-demo-t5.safetensors"),
    "3": node("VAELoader", vae_name="chroma-demo-vae.safetensors"),
    "4": node("ChromaTextEncode", clip=["2", 0], text=PROMPT),
    "5": node("ChromaTextEncode", clip=["2", 0], text=""),
    "6": node("ChromaPreset", model=["1", 0], preset="auto"),
    "7": node("ChromaCFGGuider", model=["6", 0], positive=["4", 0], negative=["5", 0], cfg=["6", 4]),
    "8": node("EmptySD3LatentImage", width=["6", 5], height=["6", 6], batch_size=1),
    "9": node("RandomNoise", noise_seed=SEED),
    "10": node(
        "SamplerCustomAdvanced",
        noise=["9", 0],
        guider=["7", 0],
        sampler=["6", 1],
        sigmas=["6", 2],
        latent_image=["8", 0],
    ),
    "11": node("VAEDecode", samples=["10", 0], vae=["3", 0]),
    "12": node("SaveImage", images=["11", 0], filename_prefix="api"),
}


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def python(host_dir, folder, *arguments, **environment):
    """A script's run in a folder of its own, with the host's Python."""
    return subprocess.run(
        [str(dev.venv_python()), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **dev.UTF8, "COMFYUI_PATH": str(host_dir), **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def demo_files():
    names = ("diffusion_models/chroma-demo", "text_encoders/chroma-demo-t5", "vae/chroma-demo-vae")
    return [dev.base_dir() / "models" / f"{name}.safetensors" for name in names]


def test_the_example_paints_the_pixels_of_the_graph(server, host_dir, tmp_path):
    renamed = tmp_path / "any name.1"
    renamed.symlink_to(support.ROOT)
    out = tmp_path / "out.png"
    run = python(host_dir, tmp_path, renamed / "example_workflows" / "paint.py", *demo_files(), out, PROMPT)
    assert run.returncode == 0, run.stderr[-3000:]
    (path,) = Graph(GRAPH).run(server)
    assert (pixels(out) == pixels(path)).all() and pixels(out).std() > 10


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv.pop(1))
import chroma_api
from chroma_api import Chroma, decode, encode, sample

chroma = Chroma(*sys.argv[1:4])
parts, settings = chroma.parts, chroma.settings(steps=2, width=64, height=96, curve="linear")
positive = encode(parts.clip, "a red circle")
latent = sample(parts.model, positive, encode(parts.clip, ""), settings, seed=3, batch=2)
images = decode(parts.vae, latent)
same = chroma.paint_batch("a red circle", batch=2, seed=3, steps=2, width=64, height=96, curve="linear")
told = []
for call in (lambda: chroma.paint("x", preset="none"), lambda: chroma.paint("x", sampler="eular"), lambda: Chroma("a.gguf", *sys.argv[2:4])):
    try:
        call()
    except ValueError as error:
        told.append(str(error))
import nodes
print(json.dumps({
    "preset": parts.preset, "latent": list(latent.shape), "images": list(images.shape), "told": told, "nodes": nodes.__file__,
    "equal": [a.tobytes() == b.tobytes() for a, b in zip(chroma_api.pictures(images), same)], "size": same[0].size,
}))
"""


def test_the_parts_give_what_paint_gives_and_errors_name_the_remedy(host_dir, tmp_path):
    run = python(host_dir, support.ROOT, "-c", SCRIPT, support.ROOT, *demo_files())
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["preset"] == "chroma-demo"
    assert (found["latent"], found["images"]) == ([2, 16, 12, 8], [2, 96, 64, 3])
    assert found["equal"] == [True, True] and found["size"] == [64, 96]
    assert found["nodes"] == str(host_dir.resolve() / "nodes.py")  # not this pack's folder of the same name
    preset, sampler, file = found["told"]
    assert preset.startswith("preset 'none' is not known. Choose one of: ")
    assert sampler.startswith("sampler 'eular' is not known. Choose one of: ")
    assert file.startswith("a.gguf: there is no such file, neither as a path nor in models/diffusion_models")


def test_without_a_comfyui_the_import_says_what_to_set(host_dir, tmp_path):
    run = python(host_dir, support.ROOT, "-c", "import chroma_api", COMFYUI_PATH=str(tmp_path))
    assert (
        f"and COMFYUI_PATH is {tmp_path}, which has none. Set COMFYUI_PATH to the folder with ComfyUI's main.py"
        in run.stderr
    )
