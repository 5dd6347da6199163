import pytest
import support
import torch

references = support.dev.load_pack("chroma_model.references")
embeddings = support.dev.load_pack("chroma_model.embeddings")


@pytest.mark.parametrize(
    "method, sizes, found",
    [
        ("index", [(8, 8), (4, 4)], [(1, 0, 0), (2, 0, 0)]),
        ("index_timestep_zero", [(8, 8), (4, 4)], [(1, 0, 0), (2, 0, 0)]),
        ("uxo", [(8, 6), (4, 4)], [(0, 16, 20), (0, 24, 26)]),
        # the first at the corner; a wide one below a wide one, a tall one beside a tall one, so that all stay near a square
        ("offset", [(4, 8), (4, 8)], [(1, 0, 0), (1, 4, 0)]),
        ("offset", [(8, 4), (8, 4)], [(1, 0, 0), (1, 0, 4)]),
        ("offset", [(8, 8), (8, 8), (8, 8)], [(1, 0, 0), (1, 8, 0), (1, 0, 8)]),
        ("offset", [], []),
    ],
)
def test_places_of_each_method(method, sizes, found):
    assert references.places(sizes, method, (16, 20)) == found


def test_ids_begin_where_the_method_says_and_are_stretched_with_the_images():
    ids = references.reference_ids([(4, 6), (3, 4)], "uxo", (8, 10), 2, None, (1.5, 0.5), (2.0, -1.0))
    first, second = ids[:6].view(2, 3, 3), ids[6:].view(2, 2, 3)  # 3 rows of a latent are 2 of patches
    assert first[:, 0, 1].tolist() == [8 + 2.0, 8 + 2.0 + 1.5] and first[0, :, 2].tolist() == [9.0, 9.5, 10.0]
    assert second[0, 0].tolist() == [0, 8 + 2 + 2.0, 10 + 3 - 1.0]
    assert references.reference_ids([], "offset", (8, 10), 2).shape == (0, 3)
    assert set(references.reference_ids([(4, 4), (4, 4)], "index", (8, 10), 2)[:, 0].tolist()) == {1.0, 2.0}


def test_a_method_that_is_not_known_is_named():
    with pytest.raises(ValueError, match="method is 'left'; it must be one of offset, index, index_timestep_zero, uxo"):
        references.places([(4, 4)], "left", (8, 8))


@pytest.fixture(scope="module")
def case():
    cfg = support.config()
    net = support.build(cfg)
    net.load_state_dict(support.random_weights(cfg))
    generator = torch.Generator().manual_seed(2)
    return cfg, net, support.inputs(cfg, batch=2), torch.randn(2, cfg.channels, 12, 8, generator=generator)


def test_references_are_seen_and_left_out_of_the_result(case):
    cfg, net, data, shown = case
    plain = net(*data.values())
    for method in references.METHODS:
        found = net(*data.values(), references=references.References((shown,), method))
        assert found.shape == plain.shape and support.relative(found, plain) > 1e-2
    assert torch.equal(net(*data.values(), references=references.References()), plain)


def test_a_reference_of_timestep_zero_is_a_reference_where_the_image_is_at_zero_too(case):
    """There both kinds of rows have the same vectors."""
    cfg, net, data, shown = case
    zero = torch.zeros(2)
    index, at_zero = (
        net(data["x"], zero, data["context"], references=references.References((shown,), method))
        for method in ("index", "index_timestep_zero")
    )
    assert support.relative(at_zero, index) < 1e-6
    known = net.modulations(zero[:1], zero[:1])
    again = net(*data.values(), references=references.References((shown,), "index_timestep_zero", known))
    assert (
        support.relative(again, net(*data.values(), references=references.References((shown,), "index_timestep_zero")))
        < 1e-6
    )
