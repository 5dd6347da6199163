"""Contact sheets and XY plots: which picture stands where, told by its colour."""

import pytest
import support

Image = pytest.importorskip("PIL.Image")

grid = support.dev.load_pack("tables.grid")


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
    image = Image.open(grid.plot(folder, "seed", "prompt", entries[:3]))
    side, top, left = grid.MIN_SIDE, (grid.LABEL_LINES + 1) * grid.LINE, 10 * grid.LINE
    at = {
        (i, j): (left + i * (side + grid.GAP) + side // 2, top + j * (side + grid.GAP) + 16)
        for i in (0, 1)
        for j in (0, 1)
    }
    assert near(image.getpixel(at[0, 0]), (100, 0, 0)) and near(image.getpixel(at[1, 0]), (200, 0, 0))
    assert near(image.getpixel(at[0, 1]), (100, 0, 255))
    assert near(image.getpixel(at[1, 1]), (255, 255, 255))  # there is no such picture
    assert image.crop((0, 0, image.width, top)).convert("L").getextrema()[0] < 100  # labels


def test_a_plot_of_columns_that_no_picture_has_is_told(painted):
    with pytest.raises(ValueError, match="--plot seed,cfg: no picture has both. Name two columns"):
        grid.plot(painted[0], "seed", "cfg", painted[1])


def test_contact_sheets_hold_so_many_pictures_each(painted, monkeypatch):
    monkeypatch.setattr(grid, "PER_SHEET", 3)
    folder, entries = painted
    found = grid.contact_sheets(folder, [(name, "a label of several words " * 5) for name, _ in entries])
    assert [path.name for path in found] == ["sheet-1.jpg", "sheet-2.jpg"]
    assert Image.open(found[0]).width > 2 * Image.open(found[1]).width


def sheet_of(sizes, largest, **more):
    pictures = [Image.new("RGB", size, (0, 200, 0)) for size in sizes]
    return grid.draw(grid.in_rows([(picture, "") for picture in pictures], 2), largest, **more)


def test_a_sheet_is_as_large_as_its_pictures_and_gaps():
    assert sheet_of([(300, 200)] * 4, 1000).size == (8 + 2 * 308, 8 + 2 * 208)
    assert sheet_of([(300, 200)] * 4, 150).size == (8 + 2 * 158, 8 + 2 * 136)  # 150 x 100, in cells of 128 at least
    image = sheet_of([(300, 200)], 1000)
    assert image.getpixel((8, 8)) == (0, 200, 0) and image.getpixel((7, 8)) == (255, 255, 255)


@pytest.mark.parametrize("text", ["a red fox " * 30, "WWWW MMMM " * 30, "ill, ill; " * 30])
def test_text_fills_its_cell_and_does_not_leave_it(text):
    picture = Image.new("RGB", (256, 256), "white")
    sheet = grid.draw([[(picture, text), (picture, "")]], 256).convert("L")
    ink = sheet.point(lambda value: 255 * (value < 128)).getbbox()
    assert 256 * 0.7 < ink[2] - ink[0] <= 256


def test_text_is_larger_on_larger_pictures_and_stays_within_its_cell():
    """Dark pixels of the same label, below pictures of 256 and of 1040."""
    rows = []
    for side in (256, 1040):
        picture = Image.new("RGB", (side, side), "white")
        sheet = grid.draw([[(picture, "a red fox " * 30), (picture, "")]], side).convert("L")
        ink = sheet.point(lambda value: 255 * (value < 128)).getbbox()
        assert ink[2] <= sheet.width // 2 + grid.GAP  # not below the next picture
        rows.append(ink[3] - ink[1])
    assert rows[1] > 2 * rows[0]


def test_a_sheet_that_nobody_can_show_is_told():
    with pytest.raises(ValueError, match="the sheet would have 16459 x 8306 pixels, expected at most 16384 a side"):
        sheet_of([(8000, 8000)] * 2, 8000)


@pytest.mark.parametrize("count, across", [(0, 1), (1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_a_sheet_without_columns_is_about_a_square(count, across):
    assert grid.across_of(count) == across
