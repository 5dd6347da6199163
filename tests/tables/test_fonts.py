"""Labels in characters that Pillow's own font lacks: in a font of the system, else as escapes that still differ."""

import string

import pytest
import support

pytest.importorskip("PIL.Image")

fonts, grid = (support.dev.load_pack(f"tables.{name}") for name in ("fonts", "grid"))
FOX, DOG, FOX_RU = "\u72d0", "\u72ac", "\u043b\u0438\u0441\u0430"


@pytest.fixture
def own_font_alone(monkeypatch):
    monkeypatch.setattr(fonts, "FACES", (fonts.OWN,))


def test_plain_text_is_in_pillows_own_font_as_it_is():
    text = string.ascii_letters + string.digits + string.punctuation
    face = fonts.face_for(text, "a b\nc")
    assert face == fonts.Face(fonts.OWN) and face.shown(f"{text}\nb c") == f"{text}\nb c"


def test_what_no_font_has_is_escaped(own_font_alone):
    face = fonts.face_for(FOX)
    assert face.shown(f"a {FOX}\u00a0\t\x07\udcff\nb") == "a \\u72d0  \\x07\\udcff\nb"


def test_a_font_that_has_all_is_taken_before_one_that_lacks_fewer(monkeypatch):
    there = {"small": "a", "latin": "ab", "all": "abc"}
    monkeypatch.setattr(fonts, "FACES", tuple(there))
    monkeypatch.setattr(fonts, "has", lambda name, character: character in there[name])
    assert [fonts.face_for(text).name for text in ("a a", "ab", "cab", "abcd")] == ["small", "latin", "all", "all"]
    assert fonts.face_for("b", "a", "c").name == "all"


def test_cyrillic_is_in_a_font_of_the_system():
    if not any(fonts.opened(name, 16) for name in fonts.FACES[1:]):
        pytest.skip("this system has none of the fonts")
    face = fonts.face_for(FOX_RU)
    assert face.name != fonts.OWN and face.shown(FOX_RU) == FOX_RU


@pytest.mark.parametrize("faces", [fonts.FACES, (fonts.OWN,)], ids=["with the system's fonts", "without"])
def test_labels_that_differ_are_drawn_differently(monkeypatch, faces):
    """They were the same boxes."""
    from PIL import Image

    monkeypatch.setattr(fonts, "FACES", faces)
    picture = Image.new("RGB", (64, 64))
    sheets = [grid.draw([[(picture, label)]], 64, [head]).tobytes() for label, head in (("a", FOX), ("a", DOG), (FOX, ""), (DOG, ""))]  # fmt: skip
    assert len(set(sheets)) == 4
