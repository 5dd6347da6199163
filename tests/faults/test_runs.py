"""A run or a load that ends in the middle: the next one gives the same picture, and no tensor of the first is left."""

import errno
import gc
import json
import os
import signal
import subprocess
import sys

import broken_disk
import pytest
import support
import torch
from host_models import sample

pytestmark = pytest.mark.host
load_pack = support.dev.load_pack
MODES = ("auto", "q8_0")
STEPS = 3
MEMORY = "/proc/self/mem"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    weights = support.random_weights(support.config())
    return support.write(tmp_path_factory.mktemp("model") / "tiny.safetensors", support.published(weights))


@pytest.fixture
def load(comfy, inference, path):
    return lambda mode="auto": load_pack("host.model.load").load_chroma(str(path), mode)


@pytest.fixture
def paint(comfy, load):
    """(MODEL, what sampling takes further) -> a latent."""
    return lambda model, **more: sample(comfy, model, support.config(), steps=STEPS, **more)


def alive():
    """How many tensors there are, and how many bytes they hold; a packed weight is counted by what it is made of."""
    gc.collect()
    found = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter) and x.layout == torch.strided]
    return len(found), sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}.values())


def fails(work, error):
    """Runs what ends in this error; gives its text. The traceback, which holds every local tensor, is gone afterwards."""
    try:
        work()
    except error as found:
        return str(found)
    pytest.fail(f"no {error.__name__}")


@pytest.fixture
def whole_again(paint):
    """(MODEL, work, error): the work ends in the error, and then the MODEL's picture and all memory are as before."""

    def check(model, work, error):
        reference = paint(model)
        before = alive()
        told = fails(work, error)
        assert alive() == before
        assert torch.equal(paint(model), reference)
        return told

    return check


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at", range(STEPS))
def test_a_run_is_interrupted_at_each_of_its_steps(comfy, load, paint, whole_again, mode, at):
    management = comfy.model_management

    def callback(step, *_):
        if step == at:
            management.interrupt_current_processing()
        management.throw_exception_if_processing_interrupted()

    model = load(mode)
    whole_again(model, lambda: paint(model, callback=callback), management.InterruptProcessingException)


BLOCKS = ["double_blocks.0", "double_blocks.1", "single_blocks.0", "single_blocks.3"]


def out_of_memory(model, place, calls):
    """A hook of the module at this place that ends its call of this number, from 1, as a full device does."""
    left = [calls]

    def hook(*_):
        left[0] -= 1
        if not left[0]:
            raise torch.OutOfMemoryError("Allocation on device")

    return model.model.diffusion_model.get_submodule(place).register_forward_pre_hook(hook)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", [*BLOCKS, "final_layer", "distilled_guidance_layer", "txt_in"])
def test_memory_ends_in_each_part_of_the_network(load, paint, whole_again, mode, place):
    model = load(mode)

    def work():
        hook = out_of_memory(model, place, 2 if place in BLOCKS else 1)  # blocks: of the second forward
        try:
            # The Approximator is asked for other timesteps only, since what it gave is kept.
            paint(model, **({"denoise": 0.5} if place == "distilled_guidance_layer" else {}))
        finally:
            hook.remove()

    assert "Allocation" in whole_again(model, work, torch.OutOfMemoryError)


def test_memory_ends_in_the_head_of_radiance(comfy, inference, tmp_path, whole_again, monkeypatch):
    cfg = support.config(**support.RADIANCE)
    file = support.write(tmp_path / "r.safetensors", support.published(support.random_weights(cfg)))
    model = load_pack("host.model.load").load_chroma(str(file))
    monkeypatch.setattr(load_pack("host.run.head_tile"), "SHARE", 0.0)  # several tiles

    def pixels():
        return sample(comfy, model, cfg, steps=1, latent=torch.zeros(1, 3, 48, 56))

    reference, before = pixels(), alive()
    for call in (1, 3):
        hook = out_of_memory(model, "nerf_blocks.1", call)
        fails(pixels, torch.OutOfMemoryError)
        hook.remove()
        assert alive() == before and torch.equal(pixels(), reference)


# --- loading ---------------------------------------------------------------------------------------------------------


def stopped_after(monkeypatch, count, problem):
    """Has the loader meet a problem at the weight of this number."""
    builder, left = load_pack("host.model.weights").StateBuilder, [count]
    entries = builder.entries

    def counted(self, name, parts):
        left[0] -= 1
        if left[0] < 0:
            problem()
        return entries(self, name, parts)

    monkeypatch.setattr(builder, "entries", counted)


@pytest.mark.parametrize("mode", ["auto", "q8_0", "int8_convrot"])
@pytest.mark.parametrize("count", [0, 60])
@pytest.mark.parametrize("kind", ["interrupt", "memory"])
def test_loading_and_quantising_end_early(comfy, load, whole_again, monkeypatch, mode, count, kind):
    management = comfy.model_management

    def interrupt():
        management.interrupt_current_processing()  # the loader itself looks whether it is

    def memory():
        raise torch.OutOfMemoryError("Allocation on device")

    def work():
        with monkeypatch.context() as patched:
            stopped_after(patched, count, {"interrupt": interrupt, "memory": memory}[kind])
            load(mode)

    error = {"interrupt": management.InterruptProcessingException, "memory": torch.OutOfMemoryError}[kind]
    whole_again(load(mode), work, error)


def test_loading_is_interrupted_at_every_weight(comfy, load, paint, monkeypatch):
    management, at = comfy.model_management, 0
    reference, before = paint(load()), alive()

    def stopped():
        with monkeypatch.context() as patched:
            stopped_after(patched, at, management.interrupt_current_processing)
            load()
        pytest.fail("it ended")

    builder = load_pack("host.model.weights").StateBuilder
    asked = []
    with monkeypatch.context() as patched:
        entries = builder.entries
        patched.setattr(builder, "entries", lambda *a: asked.append(a[1]) or entries(*a))
        load()
    assert len(asked) > 60
    for at in range(len(asked) - 1):  # noqa: B007  `stopped` reads it; behind the last weight nothing looks any more
        fails(stopped, management.InterruptProcessingException)
    assert alive() == before
    assert torch.equal(paint(load()), reference)


class BrokenFile:
    """Of a disk that fails while it is read: the system's error then has no file's name."""

    def __init__(self, code):
        self.code = code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def fileno(self):
        return self.read()

    def read(self, *_):
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE], ids=errno.errorcode.get)
@pytest.mark.parametrize("at", ["open", "read"])
@pytest.mark.parametrize("name", ["t.safetensors", "t.gguf", "model.safetensors.index.json", "t.pth"])
def test_a_disk_that_cannot_be_read_is_told(path, tmp_path, monkeypatch, code, at, name):
    read, file = load_pack("loaders.files.read"), tmp_path / name
    file.write_bytes(path.read_bytes())

    def broken(*_, **__):
        if at == "open":
            raise OSError(code, os.strerror(code), str(file))
        return BrokenFile(code)

    for module in ("kinds", "safetensors"):  # the first touch of every kind, and the header's
        with monkeypatch.context() as patch:
            patch.setattr(load_pack(f"loaders.files.{module}"), "open", broken, raising=False)
            if module == "safetensors" and not name.startswith("t.safe"):
                continue
            with pytest.raises(ValueError, match=f"{name}: it cannot be read .{os.strerror(code)}.. Look at the disk"):
                read.read_header(file)


@pytest.fixture(scope="module")
def shards(path):
    """(the index of the same model in two parts, the second part)."""
    weights = support.published(support.random_weights(support.config()))
    parts = [path.with_name(f"m-0000{i}-of-00002.safetensors") for i in (1, 2)]
    places = {name: parts[2 * i >= len(weights)] for i, name in enumerate(weights)}
    for part in parts:
        support.write(part, {name: weights[name] for name, place in places.items() if place == part})
    index = path.with_name("m.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {name: place.name for name, place in places.items()}}))
    return index, parts[1]


@pytest.mark.parametrize("kind", broken_disk.ERRORS)
@pytest.mark.parametrize("at", [0, 30])
def test_a_disk_that_fails_in_the_second_part_of_a_model_is_told(
    comfy, load, paint, whole_again, monkeypatch, shards, kind, at
):
    index, second = shards
    load_parts = lambda: load_pack("host.model.load").load_chroma(str(index))  # noqa: E731

    def work():
        with monkeypatch.context() as patched:
            broken_disk.fails(patched, second.name, at, kind)
            load_parts()

    model = load_parts()
    assert whole_again(model, work, ValueError) == broken_disk.told(second.name, kind)
    assert torch.equal(paint(load_parts()), paint(load()))


def old_torch_file(folder, zipped):
    torch.save(
        {f"w{i}": torch.randn(20, 30) for i in range(3)}, folder / "t.pth", _use_new_zipfile_serialization=zipped
    )
    return folder / "t.pth"


@pytest.mark.parametrize("zipped", [False, True])
def test_a_disk_that_fails_anywhere_in_a_file_of_torch_is_no_damage_of_it(tmp_path, monkeypatch, zipped):
    read, limited = load_pack("loaders.files.read"), load_pack("loaders.files.pickle")._Limited
    file, plain, asked = old_torch_file(tmp_path, zipped), limited.read, []
    monkeypatch.setattr(limited, "read", lambda *a: asked.append(a[1:]) or plain(*a))
    read.read_tensors(file)
    count = len(asked)
    assert count > 20
    for at in range(0, count, 5):
        left = [at]

        def broken(*a, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return plain(*a)

        monkeypatch.setattr(limited, "read", broken)
        assert fails(lambda: read.read_tensors(file), ValueError) == broken_disk.told(file.name)
    monkeypatch.setattr(limited, "read", plain)
    assert len(read.read_tensors(file)) == 3


@pytest.mark.skipif(not os.path.exists(MEMORY), reason="Linux's file of a process's memory gives a real error")
def test_a_disk_that_fails_under_torchs_own_reading_is_told(tmp_path, monkeypatch):
    """torch reads the weights of its old files by the file's number: here that of one which cannot be read at such places."""
    read, file = load_pack("loaders.files.read"), old_torch_file(tmp_path, zipped=False)
    with open(MEMORY, "rb") as memory:
        monkeypatch.setattr(load_pack("loaders.files.pickle")._Limited, "fileno", lambda self: memory.fileno())
        assert fails(lambda: read.read_tensors(file), ValueError) == broken_disk.told(file.name)


def changed_to(own, other, change):
    """Gives a file the content of another of its size, and a time of its own."""
    if change == "replaced":
        new = own.with_name("new")
        new.write_bytes(other.read_bytes())
        os.replace(new, own)
    else:
        with open(own, "r+b") as file:
            file.write(other.read_bytes())
    os.utime(own, ns=(0, 10**18))


@pytest.fixture(scope="module")
def other_path(tmp_path_factory):
    """A file of the same size with other weights."""
    weights = support.random_weights(support.config(), seed=1)
    return support.write(tmp_path_factory.mktemp("other") / "other.safetensors", support.published(weights))


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps files that are mapped")
@pytest.mark.parametrize("change", ["replaced", "rewritten"])
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_mapped_file_that_changes_is_read_anew_by_the_next_load(
    comfy, load, paint, tmp_path, path, other_path, change, when
):
    """A run that is under way keeps what it has mapped of a file that was replaced; of one that is rewritten it may read both."""
    own, load_own = tmp_path / path.name, lambda: load_pack("host.model.load").load_chroma(str(tmp_path / path.name))
    own.write_bytes(path.read_bytes())
    model, reference = load_own(), paint(load())
    weights = {name: weight.clone() for name, weight in model.model.diffusion_model.named_parameters()}

    def callback(step, *_):
        if step == 0:
            changed_to(own, other_path, change)

    if when == "before":
        callback(0)
    else:
        found = paint(model, callback=callback)
        assert change == "rewritten" or torch.equal(found, reference)
    with pytest.raises(ValueError, match="tiny.safetensors has changed on disk since it was loaded"):
        paint(model)
    kept = [torch.equal(weight, weights[name]) for name, weight in model.model.diffusion_model.named_parameters()]
    assert all(kept) if change == "replaced" else not any(kept)
    assert torch.equal(paint(load_own()), paint(load_pack("host.model.load").load_chroma(str(other_path))))


CUT = """
import os, sys
import torch
sys.path.insert(0, sys.argv[1])
from comfy.cli_args import args
args.cpu = True
import comfy.model_management, comfy.samplers, comfy.sd
import support
from host_models import sample
with torch.inference_mode():
    model = support.dev.load_pack("host.model.load").load_chroma(sys.argv[2])

    def callback(step, *_):
        print("step", step, flush=True)
        os.truncate(sys.argv[2], os.path.getsize(sys.argv[2]) // 2)

    sample(comfy, model, support.config(), steps=2, callback=callback)
print("it went on", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems end otherwise, or do not cut a mapped file")
def test_a_mapped_file_that_is_cut_during_a_run_ends_the_process(host_dir, tmp_path, path):
    """Linux gives no error for a page that is gone, but SIGBUS. docs/limits.md says so."""
    own = tmp_path / path.name
    own.write_bytes(path.read_bytes())
    run = subprocess.run(
        [sys.executable, "-c", CUT, str(host_dir), str(own)],
        cwd=support.ROOT / "tests",
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout.split("\n")[0]) == (-signal.SIGBUS, "step 0"), run.stderr
    assert "it went on" not in run.stdout


@pytest.mark.parametrize("change", ["replaced", "cut", "rewritten"])
def test_a_file_that_changes_during_a_run_ends_the_next_one_with_a_line(comfy, load, paint, tmp_path, path, change):
    own = tmp_path / path.name
    own.write_bytes(path.read_bytes())
    model = load_pack("host.model.load").load_chroma(str(own), "bf16")  # its own copy of the weights, not mapped ones
    reference = paint(model)

    def callback(step, *_):
        if step != 0:
            return
        if change == "replaced":
            other = own.with_name("other")
            other.write_bytes(own.read_bytes())
            os.replace(other, own)
        elif change == "cut":
            os.truncate(own, own.stat().st_size // 2)
        else:
            own.write_bytes(own.read_bytes()[::-1])
        os.utime(own, ns=(0, 10**18))

    assert torch.equal(paint(model, callback=callback), reference)  # the run that is under way is not harmed
    with pytest.raises(ValueError, match="tiny.safetensors has changed on disk since it was loaded"):
        paint(model)
