"""Written and read again, any tensors are the same; packed again, any weights are the same bytes."""

import json
import tempfile
from pathlib import Path

import pytest
import support
import torch

pytest.importorskip("hypothesis")
from hypothesis import example, given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

read, write = (support.dev.load_pack(f"loaders.files.{n}") for n in ("read", "write"))
export = support.dev.load_pack("loaders.checkpoint.write_quantised")
registry = support.dev.load_pack("loaders.formats.base.registry")
info = support.dev.load_pack("loaders.tensor_info")
TYPES = sorted(set(info.DTYPES) - {"BOOL", "F8_E8M0"})
GGML_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0")

tensor_names = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=40).filter(str.isprintable)
sizes = st.integers(0, 5)


def bytes_of(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def noise(dtype, shape, seed):
    """A tensor of any bits, NaN among them."""
    count = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return raw.view(dtype).reshape(shape)


@given(
    st.dictionaries(tensor_names, st.tuples(st.sampled_from(TYPES), st.lists(sizes, max_size=4)), max_size=8),
    st.dictionaries(tensor_names, st.text(st.characters(exclude_categories=("Cs",)), max_size=40), max_size=4),
    st.integers(0, 99),
)
def test_safetensors_is_read_as_it_was_written(tensors, metadata, seed):
    made = {n: noise(info.DTYPES[t], shape, seed + i) for i, (n, (t, shape)) in enumerate(tensors.items())}
    file = write.SafetensorsFile([write.Stored(n, t, tuple(shape)) for n, (t, shape) in tensors.items()], metadata)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.safetensors"
        with file.open(path):
            for name in reversed(list(made)):  # in any order
                file.write(name, made[name])
        assert path.stat().st_size == file.nbytes
        header, found = read.read_header(path), read.read_tensors(path)
        assert header.metadata == metadata and found.keys() == made.keys() == header.tensors.keys()
        for name, tensor in made.items():
            told = header.tensors[name]
            assert (told.dtype, told.shape) == (tensor.dtype, tuple(tensor.shape))
            assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
            assert bytes_of(found[name]) == bytes_of(tensor)
        del found  # Windows keeps a mapped file


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_0-9.]{1,40}", fullmatch=True),
        st.tuples(st.sampled_from(GGML_TYPES), st.integers(1, 4), st.integers(1, 3)),
        min_size=1,
        max_size=6,
    ),
    st.dictionaries(
        st.from_regex(r"chroma\.[a-z]{1,10}", fullmatch=True),
        st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False)
        | st.text(st.characters(exclude_categories=("Cs",)), max_size=40),
        max_size=4,
    ),
    st.integers(0, 99),
)
@example({"a": ("F32", 1, 1)}, {"chroma.a": ""}, 0)
def test_gguf_is_read_as_it_was_written(tensors, metadata, seed):
    stored = [write.Stored(n, t, (rows, 32 * blocks)) for n, (t, rows, blocks) in tensors.items()]
    made = {s.name: noise(torch.uint8, (s.nbytes,), seed + i) for i, s in enumerate(stored)}
    file = write.GGUFFile(stored, metadata, "any", 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.gguf"
        with file.open(path):
            for name, tensor in made.items():
                file.write(name, tensor)
        assert path.stat().st_size <= file.nbytes
        header, found = read.read_header(path), read.read_tensors(path)
        assert {k: header.metadata[k] for k in metadata} == metadata and found.keys() == made.keys()
        for s in stored:
            assert header.tensors[s.name].shape == s.shape
            assert bytes_of(found[s.name]) == bytes_of(made[s.name])
        del found


@st.composite
def weights(draw):
    """A matrix of Gaussian rows, with rows of zeros, rows of one number and outliers among them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    matrix = torch.randn(draw(st.integers(1, 6)), 256 * draw(st.integers(1, 2)), generator=generator)
    matrix *= 2.0 ** draw(st.integers(-12, 3))
    for row in matrix:
        kind = draw(st.sampled_from(["gaussian"] * 3 + ["zero", "one number", "outlier"]))
        if kind == "zero":
            row.zero_()
        elif kind == "one number":
            row.fill_(float(row[0]))
        elif kind == "outlier":
            row[0] *= 100
    return matrix


@pytest.mark.parametrize("name", registry.EXPORTS)
@given(weight=weights())
def test_packing_loses_no_more_than_a_step_and_keeps_zeros(name, weight):
    export = registry.EXPORTS[name]
    marker = export.format.marker(tuple(weight.shape), True) if export.container == "safetensors" else None
    codes, scale = export.format.pack(weight.clone(), weight.abs().amax(), None)
    beside = {} if scale is None else {"weight_scale": scale}
    found = export.format.unpack(codes, beside, marker or {}, torch.float32).reshape(weight.shape)
    assert bool(found.isfinite().all())
    assert not found[~weight.any(dim=1)].any()
    # No number is further off than the type's coarsest step of the largest number beside it: 1/8 of it with 4 bits, and a
    # number of type fp16 below its least normal one by that one's step.
    assert (found - weight).abs().max() <= weight.abs().max() / 8 + 2**-24
    packed = export.container == "gguf" and export.type not in read.GGML_PLAIN
    stored = info.TensorInfo(export.type if packed else codes.dtype, tuple(weight.shape))
    header = {role: info.TensorInfo(t.dtype, tuple(t.shape)) for role, t in beside.items()}
    storage = registry.storage_of("w", stored, header, json.loads(json.dumps(marker)))
    assert storage.format in (export.format.name, None) and storage.shape == tuple(weight.shape)


@pytest.mark.parametrize("name", registry.EXPORTS)
@given(weight=weights())
def test_rows_packed_alone_mean_what_they_mean_in_the_whole(name, weight):
    export, peak = registry.EXPORTS[name], weight.abs().amax()
    marker = export.format.marker(tuple(weight.shape), True) if export.container == "safetensors" else None

    def meant(rows):
        codes, scale = export.format.pack(rows.clone(), peak, None)
        beside = {} if scale is None else {"weight_scale": scale}
        return export.format.unpack(codes, beside, marker or {}, torch.float32)

    whole = meant(weight)
    for i in range(len(weight)):
        alone = meant(weight[i : i + 1])
        if (
            name == "int8_convrot"
        ):  # turned by a product, whose last bits depend on the number of rows: a code may move by one
            assert (alone - whole[i : i + 1]).norm() <= 0.02 * weight[i].norm()
        else:
            assert torch.equal(alone, whole[i : i + 1])


@st.composite
def models(draw):
    """The sizes of any small model, of which blocks may be left out."""
    heads, double, single = (draw(st.integers(1, 3)) for _ in range(3))
    left_out = {
        (kind, i)
        for kind, count in (("double", double), ("single", single))
        for i in draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    }
    radiance = draw(st.booleans())
    more = dict(support.RADIANCE) if radiance else {"channels": 4 * draw(st.integers(1, 17))}
    return support.config(
        width=32 * heads,
        heads=heads,
        double=double,
        single=single,
        context=32 * draw(st.integers(1, 3)),
        approximator=(16 * draw(st.integers(1, 4)), 32 * draw(st.integers(1, 2)), draw(st.integers(1, 3))),
        prediction=draw(st.sampled_from(["v", "x0"])),
        text_ids=draw(st.sampled_from(["zeros", "sequential"])),
        left_out=frozenset(left_out),
        **more,
    )


@given(name=st.sampled_from(list(registry.EXPORTS)), cfg=models(), seed=st.integers(0, 99))
def test_any_model_is_read_as_it_was_written(name, cfg, seed):
    choice = export.EXPORTS[name]
    weights = {n: tensor for n, tensor in support.random_weights(cfg, seed).items() if n not in cfg.markers}
    with tempfile.TemporaryDirectory() as folder:
        source, first, second = (Path(folder) / f"{n}{choice.suffix}" for n in ("source", "first", "second"))
        markers = {marker: torch.empty(0) for marker in cfg.markers}
        source = support.write(source.with_suffix(".safetensors"), {**support.published(weights), **markers})
        export.write_model(export.FileWeights(source), first, name)
        found = export.FileWeights(first)
        assert found.detection.config == cfg and found.detection.tensors.keys() == weights.keys()
        for tensor, weight in weights.items():
            packed = any(part.storage.format for part in found.detection.tensors[tensor])
            error = support.relative(found.dense(tensor), weight)
            assert error < (1.3 * choice.error if packed else 4e-3), tensor  # rows are narrow; bfloat16
        export.write_model(found, second, name)
        again = export.FileWeights(second)
        assert again.detection.config == cfg
        if name not in (
            "int8_convrot",
            "q4_1",
            "q5_1",
        ):  # which round a turned row, or a block's least number, once more
            assert all(torch.equal(again.dense(tensor), found.dense(tensor)) for tensor in weights)
        del found, again
