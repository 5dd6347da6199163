"""Writing a model that ends anywhere: the place is as it was before, and the reason is told in one sentence."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import broken_disk
import pytest
import support
import torch

load_pack = support.dev.load_pack
export = load_pack("loaders.checkpoint.write_quantised")
writers = load_pack("loaders.files.write")
FORMATS = ("fp8_scaled", "q8_0")
MEMORY = "/dev/shm"  # noqa: S108  a folder of a drawn name is made in it


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    weights = support.random_weights(support.config())
    return support.write(tmp_path_factory.mktemp("model") / "tiny.safetensors", support.published(weights))


def write(source, folder, name, **more):
    path = folder / f"out{export.EXPORTS[name].suffix}"
    export.write_model(export.FileWeights(source), path, name, **more)
    return path


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", FORMATS)
def test_interrupted_at_every_tensor_it_leaves_nothing(source, tmp_path, name):
    seen = []
    write(source, tmp_path, name, progress=lambda *a: seen.append(a)).unlink()
    for at in range(len(seen)):
        left = [at]

        def progress(*_):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped

        with pytest.raises(Stopped):
            write(source, tmp_path, name, progress=progress)
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_fails_at_the_very_end_leaves_the_old_file(source, tmp_path, monkeypatch, name, call, code):
    """NFS and USB tell of a full or broken disk no earlier."""
    path = write(source, tmp_path, name)
    before = path.read_bytes()

    def broken(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(writers.os, call, broken)
    with pytest.raises(ValueError, match=f"out.*: could not be written to {tmp_path}") as caught:
        write(source, tmp_path, name, overwrite=True)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", broken_disk.ERRORS)
@pytest.mark.parametrize("at", [0, 40])
def test_a_source_whose_disk_fails_while_it_is_opened_is_told(source, tmp_path, monkeypatch, name, kind, at):
    before = write(source, tmp_path, name).read_bytes()
    with monkeypatch.context() as patched:
        broken_disk.fails(patched, source.name, at, kind)
        with pytest.raises(ValueError) as caught:
            write(source, tmp_path, name, overwrite=True)
    assert str(caught.value) == broken_disk.told(source.name, kind)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == before
    path.unlink()
    assert write(source, tmp_path, name).read_bytes() == before


class Failing(dict):
    """A file's tensors, the last of which cannot be read."""

    def __getitem__(self, name):
        if name == list(self)[-1]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().__getitem__(name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_source_that_fails_while_it_is_written_is_told_by_its_own_name(source, tmp_path, name):
    weights = export.FileWeights(source)
    weights.tensors = Failing(weights.tensors)
    seen, path = [], tmp_path / f"out{export.EXPORTS[name].suffix}"
    with pytest.raises(ValueError) as caught:
        export.write_model(weights, path, name, progress=lambda *a: seen.append(a))
    assert len(seen) > 1  # some were written before
    assert str(caught.value) == broken_disk.told(source.name)
    assert os.listdir(tmp_path) == []
    assert write(source, tmp_path, name) == path


LIMITED = """
import resource, sys, dev
from pathlib import Path
export = dev.load_pack("loaders.checkpoint.write_quantised")
source = export.FileWeights(Path(sys.argv[1]))
for limit in map(int, sys.argv[4:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        export.write_model(source, Path(sys.argv[2]), sys.argv[3])
    except ValueError as error:
        print(error)
    print(sorted(p.name for p in Path(sys.argv[2]).parent.iterdir()))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_takes_only_so_much_is_told_wherever_it_ends(source, tmp_path, name):
    """The system itself refuses the bytes: the limit of a process stands in for a full FAT32 stick."""
    size = write(source, tmp_path, name).stat().st_size
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    limits = [0, 10, 4096, *(size * part // 8 for part in range(1, 8)), size - 1]
    target = tmp_path / f"out{export.EXPORTS[name].suffix}"
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(source), str(target), name, *map(str, limits)],
        cwd=support.ROOT,
        capture_output=True,
        text=True,
    )
    lines = run.stdout.splitlines()
    assert len(lines) == 2 * len(limits), run.stderr
    assert all("that disk does not take files so large" in line for line in lines[::2])
    assert set(lines[1::2]) == {"[]"}


def test_a_clock_that_goes_backwards_harms_nothing(source, tmp_path, monkeypatch):
    """A file of ours that seems to be of tomorrow is somebody's at work, and no time is asked for anything else."""
    left = tmp_path / "123.other.gguf.partial"
    left.touch()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 10**6)
    write(source, tmp_path, "q8_0")
    assert sorted(os.listdir(tmp_path)) == [left.name, "out.gguf"]


# --- folders ---------------------------------------------------------------------------------------------------------

ODD = ("a b", "\u00fc\U0001f98a", "100% [x] {y}", "it's", "-f", "a.safetensors", "#;&$(x)", "x" * 200, "...")


@pytest.mark.parametrize("folder", ODD)
@pytest.mark.parametrize("name", FORMATS)
def test_folders_of_odd_names_are_written_to_and_read_from(source, tmp_path, folder, name):
    (tmp_path / folder).mkdir()
    path = write(source, tmp_path / folder, name)
    found = export.FileWeights(path)
    wanted = export.FileWeights(source)
    for tensor in ("img_in.weight", "single_blocks.0.linear1.weight"):
        assert support.relative(found.dense(tensor), wanted.dense(tensor).float()) < 0.05
    assert os.listdir(tmp_path / folder) == [path.name]


@pytest.mark.skipif(not os.path.isdir(MEMORY), reason="Linux's file system in memory is the other device")
def test_a_folder_on_another_device_is_written_to_through_a_link(source, tmp_path):
    import tempfile

    memory = "/dev/shm"  # noqa: S108  the folder in it has a name that is drawn
    with tempfile.TemporaryDirectory(dir=memory) as other:
        if os.stat(other).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("no other device here")
        support.link(tmp_path / "link", Path(other))
        path = write(source, tmp_path / "link", "q8_0")
        assert os.listdir(other) == [path.name]
        assert torch.isfinite(export.FileWeights(path).dense("img_in.weight")).all()


def test_a_folder_that_may_only_be_read_is_read(source, tmp_path):
    own = tmp_path / "ro" / source.name
    own.parent.mkdir()
    own.write_bytes(source.read_bytes())
    own.chmod(0o444)
    own.parent.chmod(0o555)
    try:
        assert export.FileWeights(own).detection.tensors.keys() == export.FileWeights(source).detection.tensors.keys()
        assert os.listdir(own.parent) == [own.name]
    finally:
        own.parent.chmod(0o755)
