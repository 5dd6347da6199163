"""Radiance in the real server: pixels in and out, at sizes that are no multiple of the patch. Random weights."""

import io as bytes_io

import numpy as np
import pytest
import support
from graphs import Graph, follow

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.host

dev = support.dev
SIZE = (72, 100)  # height, width: the patch is 16
CONFIGS = {
    "16": {"patch_size": 16, "nerf": support.nerf(kernel_size=16)},
    "32, half the pixels": {"patch_size": 32, "nerf": support.nerf(kernel_size=16), "text_ids": "sequential"},
}


@pytest.fixture(params=CONFIGS)
def graph(server, models_dir, request):
    """Text to a picture of SIZE."""
    cfg = support.config(context=768, channels=3, prediction="x0", **CONFIGS[request.param])
    support.write(models_dir / "radiance.safetensors", support.published(support.random_weights(cfg)))
    made = Graph.demo(server).set("ChromaDiffusionLoader", unet_name="radiance.safetensors")
    made.set("VAELoader", vae_name="pixel_space").set("KSampler", steps=3, sampler_name="euler")
    empty = made.nodes[made.find("EmptySD3LatentImage")]
    empty["class_type"], empty["inputs"] = (
        "EmptyChromaRadianceLatentImage",
        {"width": SIZE[1], "height": SIZE[0], "batch_size": 1},
    )
    return made


@pytest.fixture
def with_picture(graph, server, tmp_path):
    """The same from a picture of noise, (graph, its pixels)."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    path = dev.base_dir() / "input" / "radiance-input.png"
    Image.fromarray(picture).save(path)
    load = graph.add("LoadImage", image=path.name)
    encode = graph.add("VAEEncode", pixels=[load, 0], vae=[graph.find("VAELoader"), 0])
    graph.set("KSampler", latent_image=[encode, 0])
    yield graph, picture
    path.unlink()


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_any_size_is_painted_and_every_step_shows_the_pixels(server, graph):
    messages = follow(server, graph.set("KSampler", seed=1))
    previews = [m for m in messages if isinstance(m, bytes) and int.from_bytes(m[:4], "big") in (1, 4)]
    assert len(previews) >= 3
    start = next(i for i in range(len(previews[-1])) if previews[-1][i : i + 2] == b"\xff\xd8")  # of the JPEG
    shown = Image.open(bytes_io.BytesIO(previews[-1][start:]))
    assert shown.size == (512, round(512 * SIZE[0] / SIZE[1]))  # the host makes every preview that wide
    (path,) = graph.set("KSampler", seed=2).run(server)
    assert pixels(path).shape == (*SIZE, 3) and pixels(path).std() > 1


def test_image_to_image_keeps_more_with_less_denoising(server, with_picture):
    graph, picture = with_picture
    graph.set("ChromaDiffusionLoader", prediction="v")  # a random network's own picture keeps nothing
    off = [
        np.abs(pixels(graph.set("KSampler", seed=3, denoise=denoise).run(server)[0]) - picture).mean()
        for denoise in (0.1, 0.9)
    ]
    assert off[0] < off[1]


def test_inpainting_leaves_every_pixel_outside_of_the_mask(server, with_picture):
    graph, picture = with_picture
    mask = graph.add("SolidMask", value=0.0, width=SIZE[1], height=SIZE[0])
    spot = graph.add("SolidMask", value=1.0, width=33, height=21)
    both = graph.add("MaskComposite", destination=[mask, 0], source=[spot, 0], x=40, y=30, operation="add")
    encode = graph.nodes[graph.find("KSampler")]["inputs"]["latent_image"]
    latent = graph.add("SetLatentNoiseMask", samples=encode, mask=[both, 0])
    (path,) = graph.set("KSampler", seed=4, latent_image=[latent, 0]).run(server)
    off = np.abs(pixels(path) - picture).max(axis=2)
    inside = np.zeros(SIZE, bool)
    inside[30:51, 40:73] = True
    assert off[~inside].max() <= 1  # rounded to 8 bits twice
    assert (off[inside] > 1).mean() > 0.5
