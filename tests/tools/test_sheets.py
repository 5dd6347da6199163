"""Contact sheets and XY plots: which picture stands where, told by its colour."""

import pytest

Image = pytest.importorskip("PIL.Image")

from tools.batching import sheets  # noqa: E402


@pytest.fixture
def painted(tmp_path):
    """One picture of one colour for each (x, y), and its row."""
    entries = []
    for x in (1, 2):
        for y in ("a", "b"):
            name, colour = f"{x}{y}.png", (100 * x, 0, 255 if y == "b" else 0)
            Image.new("RGB", (64, 32), colour).save(tmp_path / name)
            entries.append((name, {"seed": x, "prompt": y}))
    return tmp_path, entries


def near(a, b):
    return max(abs(p - q) for p, q in zip(a, b)) < 12  # JPEG


def test_a_plot_has_a_column_for_each_x_and_a_row_for_each_y(painted):
    folder, entries = painted
    image = Image.open(sheets.plot(folder, "seed", "prompt", entries[:3]))
    side, top = sheets.MIN_SIDE, (sheets.LABEL_LINES + 1) * sheets.LINE
    at = {
        (i, j): (sheets.BESIDE + i * (side + sheets.GAP) + side // 2, top + j * (side + sheets.GAP) + 16)
        for i in (0, 1)
        for j in (0, 1)
    }
    assert near(image.getpixel(at[0, 0]), (100, 0, 0)) and near(image.getpixel(at[1, 0]), (200, 0, 0))
    assert near(image.getpixel(at[0, 1]), (100, 0, 255))
    assert near(image.getpixel(at[1, 1]), (255, 255, 255))  # there is no such picture
    assert image.crop((0, 0, image.width, top)).convert("L").getextrema()[0] < 100  # labels


def test_a_plot_of_columns_that_no_picture_has_is_told(painted):
    with pytest.raises(ValueError, match="--plot seed,cfg: no picture has both. Name two columns"):
        sheets.plot(painted[0], "seed", "cfg", painted[1])


def test_contact_sheets_hold_so_many_pictures_each(painted, monkeypatch):
    monkeypatch.setattr(sheets, "PER_SHEET", 3)
    folder, entries = painted
    found = sheets.contact_sheets(folder, [(name, "a label of several words " * 5) for name, _ in entries])
    assert [path.name for path in found] == ["sheet-1.jpg", "sheet-2.jpg"]
    assert Image.open(found[0]).width > 2 * Image.open(found[1]).width
