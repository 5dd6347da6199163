import pytest
import support
import torch

pytestmark = pytest.mark.host


@pytest.fixture
def node(comfy, monkeypatch):
    module = support.dev.load_pack("nodes.kontext")
    module.ChromaKontextSize.told = []
    monkeypatch.setattr(module, "report", lambda _, text: module.ChromaKontextSize.told.append(text))
    return module.ChromaKontextSize


@pytest.mark.parametrize("width, height", [(64, 64), (96, 54), (50, 80), (200, 20)])
def test_kontexts_sizes_give_the_hosts_picture(node, width, height):
    from comfy_extras.nodes_flux import FluxKontextImageScale

    image = torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(1))
    ours, given_width, given_height = node.execute(image, {"mode": "Kontext's sizes"}).args
    theirs = FluxKontextImageScale.execute(image).args[0]
    assert torch.equal(ours, theirs) and ours.shape[1:3] == (given_height, given_width)


def test_by_area_keeps_the_shape_and_says_what_is_cut(node):
    image = torch.rand(1, 108, 192, 3)
    scaled, width, height = node.execute(image, {"mode": "by area", "megapixels": 0.02, "multiple": 16}).args
    assert (width, height) == (192, 112) and scaled.shape == (1, 112, 192, 3)
    assert node.told == ["192 x 108 -> 192 x 112 pixels, 3.6% cut off"]
