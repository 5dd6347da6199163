"""Files of other formats in the real server: the demo model and its text encoder as GGUF, fp8 and shards."""

import itertools
import shutil

import formats
import numpy as np
import pytest
import support
from graphs import Graph

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.host
dev = support.dev
SEED = itertools.count(30_000)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(float) / 255


def psnr(a, b):
    return 10 * np.log10(1 / max(float(np.mean((a - b) ** 2)), 1e-12))


@pytest.fixture
def demo_file(server):
    return dev.base_dir() / "models" / "diffusion_models" / "chroma-demo.safetensors"


@pytest.fixture(scope="module")
def quantize():
    from tools import quantize

    return quantize.main


def pictures(server, seed, **inputs):
    """The same picture from the demo model and from another file."""
    graph = Graph.demo(server).set("KSampler", seed=seed, steps=8)
    first = pixels(graph.copy().run(server)[0])
    return first, pixels(graph.set("ChromaDiffusionLoader", **inputs).run(server)[0])


# 8 bits: more than 30 dB is hard to see; 4 bits change details of so small a model
@pytest.mark.parametrize("format, least", [("q8_0", 35), ("int8_convrot", 32), ("fp8_scaled", 25), ("q4_0", 12)])
def test_written_file_paints_the_same_picture(server, models_dir, demo_file, quantize, format, least):
    name = f"demo-{format}" + (".gguf" if format.startswith("q") else ".safetensors")
    assert quantize([str(demo_file), str(models_dir / name), "--format", format]) == 0
    first, second = pictures(server, next(SEED), unet_name=name)
    assert least < psnr(first, second) < 90  # not the very same: that would be the demo's own file
    assert "Load Chroma Model: Chroma, " in (dev.cache_dir() / f"{dev.BASE}-server.log").read_text()


def test_sharded_folder_paints_the_same_picture(server, models_dir, demo_file):
    detect, read = (dev.load_pack(f"loaders.{m}") for m in ("checkpoint.detect_variant", "files.read"))
    cfg = detect.detect(read.read_header(demo_file)).config
    keys = dev.load_pack("loaders.checkpoint.keys")
    weights = {keys.model_name(n): t for n, t in read.read_tensors(demo_file).items()}
    folder = models_dir / "sharded"
    folder.mkdir()
    try:
        index, _ = formats.sharded(folder, weights, cfg, formats.SAFETENSORS["fp16"])
        first, second = pictures(server, next(SEED), unet_name=f"sharded/{index.name}")
    finally:
        shutil.rmtree(folder)
    assert psnr(first, second) > 90  # the same weights


def test_text_encoder_from_gguf_gives_the_same_picture(server):
    folder = dev.base_dir() / "models" / "text_encoders"
    path = folder / "demo-t5.gguf"
    t5, read = dev.load_pack("loaders.t5.detect_t5"), dev.load_pack("loaders.files.read")
    import gguf

    tensors = read.read_tensors(folder / "chroma-demo-t5.safetensors")
    writer = gguf.GGUFWriter(path, "t5encoder")
    for name, tensor in tensors.items():
        theirs = t5.llama_cpp_name(name, gated=False)
        if theirs is None:
            continue
        tensor = tensor.float()
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(theirs, gguf.quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(theirs, tensor.numpy(), raw_dtype=gguf.GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    try:
        graph = Graph.demo(server).set("KSampler", seed=next(SEED), steps=8)
        first = pixels(graph.copy().run(server)[0])
        key = graph.find("CLIPLoader")
        graph.nodes[key] = {
            "class_type": "ChromaCLIPLoader",
            "inputs": {"clip_name": "demo-t5.gguf", "device": "default"},
            "_meta": {"title": ""},
        }
        second = pixels(graph.run(server)[0])
    finally:
        path.unlink()
    assert 30 < psnr(first, second) < 90


def test_model_is_saved_by_the_node_and_paints_the_same(server, models_dir):
    graph = Graph.demo(server).set("KSampler", seed=next(SEED), steps=8)
    first = pixels(graph.copy().run(server)[0])
    loader = graph.find("ChromaDiffusionLoader")
    graph.add("ChromaSaveQuantized", model=[loader, 0], format="q8_0", filename_prefix="diffusion_models/saved")
    graph.run(server)
    (saved,) = (dev.base_dir() / "output" / "diffusion_models").glob("saved*.gguf")
    shutil.copy(saved, models_dir / "saved.gguf")
    second = pixels(Graph.demo(server).set("KSampler", seed=next(SEED) - 1, steps=8)
                    .set("ChromaDiffusionLoader", unet_name="saved.gguf").run(server)[0])  # fmt: skip
    assert 35 < psnr(first, second) < 90


def test_damaged_gguf_is_told_and_the_server_lives(server, models_dir, demo_file, quantize):
    path = models_dir / "cut.gguf"
    assert quantize([str(demo_file), str(path), "--format", "q8_0"]) == 0
    path.write_bytes(path.read_bytes()[:-100_000])
    graph = Graph.demo(server).set("ChromaDiffusionLoader", unet_name="cut.gguf")
    assert "cut.gguf: damaged or cut short" in graph.fails(server)
    assert pixels(Graph.demo(server).set("KSampler", seed=next(SEED)).run(server)[0]).shape == (128, 128, 3)
