"""Sizes by a ratio: whole tokens, within what each checkpoint is good for, and as the run then sees them."""

import math

import pytest
import support

load = support.dev.load_pack
sizes, presets = load("advice.sizes"), load("advice.presets")
Graph = load("advice.queued_graph").Graph


@pytest.mark.parametrize("name", [name for name, p in presets.PRESETS.items() if p.sizes[0] < p.sizes[1]])
def test_every_size_is_of_whole_tokens_and_within_the_checkpoints_range(name):
    preset = presets.PRESETS[name]
    for ratio in sizes.RATIOS:
        wide, high = map(int, ratio.split(":"))
        for area in sizes.AREAS:
            width, height = sizes.size_of(preset, ratio, area)
            assert width % 16 == height % 16 == 0
            assert preset.sizes[0] <= math.sqrt(width * height) <= preset.sizes[1]
            assert width / height == pytest.approx(wide / high, rel=0.08)  # a token of 16 in a short side of 320
            assert sizes.size_of(preset, f"{high}:{wide}", area) == (height, width)


@pytest.mark.parametrize(
    "ratio, area, want",
    [("1:1", "standard", (1024, 1024)), ("1:1", "large", (1152, 1152)), ("1:1", "small", (512, 512)),
     ("3:2", "standard", (1248, 832)), ("2:3", "standard", (832, 1248)), ("16:9", "standard", (1360, 768))],
)  # fmt: skip
def test_sizes_of_hd(ratio, area, want):
    assert sizes.size_of(presets.PRESETS[presets.HD], ratio, area) == want


def test_kontexts_sizes_are_read_from_the_menu():
    for width, height in sizes.KONTEXT_SIZES:
        assert sizes.size_of_text(f"{width} x {height}") == (width, height)


def graph(**inputs):
    nodes = {
        "1": ("ChromaDiffusionLoader", {"unet_name": "Chroma1-Flash.safetensors"}),
        "2": ("ChromaSize", {"size": "by ratio", "size.ratio": "3:2", "size.area": "standard", **inputs}),
        "3": ("EmptySD3LatentImage", {"width": ["2", 0], "height": ["2", 1], "batch_size": 1}),
        "4": ("KSampler", {"model": ["1", 0], "positive": ["5", 0], "latent_image": ["3", 0], "cfg": 1.0}),
        "5": ("ChromaTextEncode", {"text": "a fox"}),
    }
    return Graph({key: {"class_type": kind, "inputs": given} for key, (kind, given) in nodes.items()})


@pytest.mark.parametrize(
    "inputs, want",
    [
        ({"model": ["1", 0]}, (944, 624)),  # of Flash's 768 x 768
        ({}, (1248, 832)),
        ({"size": "Kontext's sizes", "size.pixels": "1568 x 672"}, (1568, 672)),
        ({"size.ratio": ["5", 0]}, None),
        ({"size.ratio": "7:9", "size.area": "huge"}, None),
    ],
    ids=str,
)
def test_doctor_and_what_is_told_before_a_run_see_the_size(inputs, want):
    found = graph(**inputs)
    (run,) = load("advice.queued_run").runs(found, {})
    size = load("advice.queued_run").picture_size(found, run)
    assert (size and size[:2]) == want


def test_a_size_outside_of_the_range_is_told():
    assert sizes.tell("Chroma1-HD", (1248, 832)).split("\n") == [
        "1248 x 832 pixels, as many as 1019 x 1019", "Chroma1-HD is good for 512 to 1152 a side"]  # fmt: skip
    assert sizes.tell("Chroma1-Flash", (1360, 1360)).endswith("Chroma1-Flash is good for 512 to 1024 a side only")


def test_kontexts_sizes_are_of_one_area_and_in_pairs():
    assert len(sizes.KONTEXT_SIZES) == 17 == len(set(sizes.KONTEXT_SIZES))
    assert {(h, w) for w, h in sizes.KONTEXT_SIZES} == set(sizes.KONTEXT_SIZES)
    assert all(w % 16 == h % 16 == 0 and abs(w * h / sizes.MEGAPIXEL - 1) < 0.03 for w, h in sizes.KONTEXT_SIZES)


@pytest.mark.parametrize("size, found", [((1920, 1080), (1392, 752)), ((10, 10), (1024, 1024)), ((1, 9), (672, 1568))])
def test_size_of_kontext_is_the_nearest_in_shape(size, found):
    assert sizes.size_of_kontext(*size) == found


@pytest.mark.parametrize("megapixels, multiple", [(1.0, 16), (0.25, 64), (4.0, 32)])
def test_size_by_area_keeps_the_shape(megapixels, multiple):
    width, height = sizes.size_of_area(1920, 1080, megapixels, multiple)
    assert width % multiple == height % multiple == 0
    wanted = math.sqrt(megapixels * sizes.MEGAPIXEL * 1920 / 1080)
    assert abs(width - wanted) <= multiple / 2 and abs(height - wanted * 1080 / 1920) <= multiple / 2
    assert sizes.size_of_area(1000, 2, 0.01, 64)[1] == 64  # never nothing
