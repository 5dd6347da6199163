import errno
import os
import time

import pytest
import support

write = support.dev.load_pack("loaders.files.write")
REASONS = {
    errno.EACCES: "ComfyUI may not write there. Choose another folder",
    errno.EPERM: "ComfyUI may not write there. Choose another folder",
    errno.EROFS: "that disk is read-only. Choose another folder",
    errno.ENAMETOOLONG: "that name is too long. Choose a shorter one",
    errno.ENOSPC: "that disk is full. Make room there",
    errno.EFBIG: "that disk does not take files so large. Write to another disk",
    errno.EIO: "Input/output error. Look at the disk",
}


@pytest.mark.parametrize("code", REASONS, ids=errno.errorcode.get)
def test_each_reason_has_its_own_sentence(tmp_path, code):
    with pytest.raises(ValueError) as caught, write.whole_file(tmp_path / "a.gguf", 1) as partial:
        partial.touch()
        raise OSError(code, os.strerror(code), str(partial))
    told = str(caught.value)
    assert told.startswith(f"a.gguf: could not be written to {tmp_path}: ") and REASONS[code] in told
    assert os.listdir(tmp_path) == []


def test_two_that_write_one_name_do_not_mix(tmp_path):
    """In one process, as in two containers with a folder and a process id in common."""
    path = tmp_path / "a.gguf"
    with write.whole_file(path, 1, overwrite=True) as one, write.whole_file(path, 1, overwrite=True) as two:
        assert one != two and all(write.OUR_PARTIAL.fullmatch(partial.name) for partial in (one, two))
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one" and os.listdir(tmp_path) == ["a.gguf"]


NAMES = {  # name -> whether it is ours
    "1.a.gguf.partial": True,
    "99999.x y.safetensors.partial": True,
    "a_00001_.gguf.123.partial": True,  # of older versions
    "a.sft.1.partial": True,
    "a.gguf.partial": False,
    "a.gguf": False,
    "1.a.gguf": False,
    "model.safetensors.x1y2z3.partial": False,  # a browser's
    "1.notes.txt.partial": False,
}


@pytest.mark.parametrize("age", [60, 7200])
def test_only_ours_that_are_old_are_removed(tmp_path, age):
    for name in NAMES:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / "2.folder.gguf.partial").mkdir()
    with write.whole_file(tmp_path / "new.gguf", 1) as partial:
        partial.touch()
    kept = {name for name, ours in NAMES.items() if age == 60 or not ours}
    assert set(os.listdir(tmp_path)) == kept | {"new.gguf", "2.folder.gguf.partial"}


def test_room_that_an_old_one_took_is_there_for_the_new(tmp_path, monkeypatch):
    old = tmp_path / "1.a.gguf.partial"
    old.touch()
    os.utime(old, (0, 0))
    usage = type("usage", (), {"free": property(lambda self: 0 if old.exists() else 10)})()
    monkeypatch.setattr(write.shutil, "disk_usage", lambda folder: usage)
    with write.whole_file(tmp_path / "new.gguf", 10) as partial:
        partial.touch()
    assert os.listdir(tmp_path) == ["new.gguf"]
