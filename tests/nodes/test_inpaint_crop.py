"""Cut out around a mask, and put back."""

import pytest
import support
import torch

pytestmark = pytest.mark.host


@pytest.fixture
def nodes(comfy, monkeypatch):
    module = support.dev.load_pack("nodes.inpaint_crop")
    monkeypatch.setattr(module, "said", [], raising=False)
    monkeypatch.setattr(module, "report", lambda node, text: module.said.append(text))  # no server is running here
    return module


def masked(height, width, top, left, down, across, batch=1):
    mask = torch.zeros(batch, height, width)
    mask[:, top : top + down, left : left + across] = 1
    return mask


@pytest.mark.parametrize(
    "mask, context, box",
    [
        ((400, 600, 100, 200, 100, 200), 1.0, (200, 100, 200, 100)),
        ((400, 600, 100, 200, 100, 200), 1.5, (150, 75, 300, 150)),
        ((400, 600, 0, 0, 100, 100), 2.0, (0, 0, 200, 200)),  # moved inside, not cut
        ((400, 600, 350, 500, 50, 100), 2.0, (400, 300, 200, 100)),
        ((400, 600, 0, 0, 400, 600), 3.0, (0, 0, 600, 400)),
        ((400, 600, 200, 300, 1, 1), 1.0, (268, 168, 64, 64)),  # a dot is shown with its surroundings
        ((40, 50, 20, 20, 4, 4), 1.0, (0, 0, 50, 40)),
    ],
)
def test_box_is_the_masks_with_context_inside_of_the_picture(nodes, mask, context, box):
    assert nodes.box_around(masked(*mask), context) == box


def test_box_holds_the_masks_of_all_pictures(nodes):
    mask = torch.cat((masked(300, 300, 10, 10, 70, 70), masked(300, 300, 200, 100, 80, 90)))
    assert nodes.box_around(mask, 1.0) == (10, 10, 180, 270)


@pytest.mark.parametrize("feather", [4, 16, 64])
def test_soft_edge_is_one_under_the_mask_falls_steadily_and_ends_at_its_width(nodes, feather):
    soft = nodes.softened(masked(300, 300, 100, 100, 100, 100), feather)[0]
    assert (soft[100:200, 100:200] == 1).all()
    row = soft[150, 200:]
    assert (row[1:] <= row[:-1]).all() and row[0] > 0.8 and 0.3 < row[feather // 2] < 0.6
    assert (row[feather:] == 0).all() and row[feather - 2] > 0
    assert torch.equal(nodes.softened(soft[None], 0)[0], soft)


def test_soft_edge_is_that_of_square_boxes_at_the_cost_of_their_sides(nodes, monkeypatch):
    """A square of 512 pixels would take minutes for one picture."""
    F, boxes = torch.nn.functional, []
    mask = (torch.rand(2, 60, 80, generator=torch.Generator().manual_seed(0)) - 0.99).clamp(min=0) * 100
    square = F.max_pool2d(mask[:, None], 17, stride=1, padding=8)
    for _ in range(2):
        square = F.avg_pool2d(F.pad(square, (4,) * 4, mode="replicate"), 9, stride=1)
    for name in ("max_pool2d", "avg_pool2d"):
        pool = getattr(F, name)
        monkeypatch.setattr(F, name, lambda x, box, *more, pool=pool: boxes.append(box) or pool(x, box, *more))
    assert torch.allclose(nodes.softened(mask, 16), torch.maximum(square[:, 0], mask), atol=1e-6)
    assert boxes == [(1, 17), (17, 1), *2 * [(1, 9), (9, 1)]]


@pytest.mark.parametrize("megapixels, size", [(0.25, (512, 512)), (0.01, (96, 96)), (1.0, (1024, 1024))])
def test_cut_has_the_area_asked_for_and_comes_back_to_its_place(nodes, megapixels, size):
    image, mask = (
        torch.rand(1, 300, 400, 3, generator=torch.Generator().manual_seed(0)),
        masked(300, 400, 90, 40, 80, 80),
    )
    cut, cut_mask, cutout = nodes.ChromaInpaintCrop.execute(image, mask, 1.5, megapixels).result
    assert cut.shape == (1, *size, 3) and cut_mask.shape == (1, *size)
    assert cut_mask[0, size[0] // 2, size[1] // 2] == 1 and cut_mask[0, 0, 0] == 0
    (whole,) = nodes.ChromaInpaintStitch.execute(torch.zeros_like(cut), cutout, 8).result
    assert (whole[0, 90:170, 40:120] == 0).all()
    outside = nodes.softened(mask, 8)[0] == 0
    assert torch.equal(whole[0][outside], image[0][outside]) and outside.float().mean() > 0.9
    assert nodes.said == [
        f"120 x 120 of 400 x 300 pixels, from 20, 70; painted at {size[0]} x {size[1]} (x {size[0] / 120:.2f})"
    ]


def test_what_is_put_back_unchanged_changes_nothing(nodes):
    image, mask = torch.rand(2, 200, 200, 3), masked(200, 200, 50, 50, 128, 96)
    cut, _, cutout = nodes.ChromaInpaintCrop.execute(image, mask, 1.0, 128 * 96 / 2**20).result
    assert cut.shape == (2, 128, 96, 3)
    (whole,) = nodes.ChromaInpaintStitch.execute(cut, cutout, 0).result
    assert torch.allclose(whole, image, atol=1e-6)


def test_several_paintings_of_one_picture_each_come_back(nodes):
    image, mask = torch.rand(1, 200, 200, 4), masked(200, 200, 50, 50, 100, 100)
    cut, _, cutout = nodes.ChromaInpaintCrop.execute(image, mask, 1.0, 0.01).result
    painted = torch.stack([torch.full_like(cut[0], level) for level in (0.0, 0.5, 1.0)])
    (whole,) = nodes.ChromaInpaintStitch.execute(painted, cutout, 0).result
    assert whole.shape == (3, 200, 200, 4)
    assert whole[:, 100, 100, 0].tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1 / 255)  # the host scales in 8 bits
    assert torch.equal(whole[..., 3], image[..., 3].expand(3, -1, -1))  # alpha is the picture's own
    with pytest.raises(ValueError, match="2 painted cuts for 3 pictures. Paint one for each"):
        nodes.ChromaInpaintStitch.execute(painted[:2], nodes.Place(image.repeat(3, 1, 1, 1), mask, cutout.box), 0)


def test_several_paintings_of_each_of_two_pictures_go_back_into_their_own(nodes):
    """The host repeats a batch as a whole: a, b, a, b."""
    image = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand(2, 200, 200, 3)
    cut, _, cutout = nodes.ChromaInpaintCrop.execute(image, masked(200, 200, 50, 50, 100, 100), 1.0, 0.01).result
    (whole,) = nodes.ChromaInpaintStitch.execute(cut.repeat(2, 1, 1, 1), cutout, 0).result
    assert whole[:, 100, 100, 0].tolist() == pytest.approx([0.2, 0.8, 0.2, 0.8], abs=1 / 255)
    assert torch.allclose(whole, image.repeat(2, 1, 1, 1), atol=1 / 255)


def test_what_does_not_fit_is_one_sentence(nodes):
    image = torch.rand(2, 100, 100, 3)
    with pytest.raises(ValueError, match="the mask is empty. Paint over what shall be made anew"):
        nodes.ChromaInpaintCrop.execute(image, torch.zeros(1, 100, 100), 1.5, 1.0)
    with pytest.raises(ValueError, match="3 masks for 2 pictures"):
        nodes.ChromaInpaintCrop.execute(image, torch.ones(3, 100, 100), 1.5, 1.0)
    with pytest.raises(ValueError, match="cutout does not come from Chroma Inpaint Crop"):
        nodes.ChromaInpaintStitch.execute(image, {"box": 1}, 8)


def test_mask_of_another_size_is_scaled_to_the_picture(nodes):
    cut, _, cutout = nodes.ChromaInpaintCrop.execute(
        torch.rand(1, 400, 400, 3), masked(100, 100, 25, 25, 50, 50), 1.0, 0.01
    ).result
    left, top, across, down = cutout.box
    assert abs(left - 100) <= 2 and abs(top - 100) <= 2 and abs(across - 200) <= 4 and abs(down - 200) <= 4
