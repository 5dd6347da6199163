import pytest
import support
import torch

from demo.muon import Muon, orthogonalise


def test_updates_are_those_of_torch_up_to_its_rounding():
    """Same shapes, tall and wide; torch iterates in bfloat16 (2^-8), and the iteration stretches that."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((24, 64), (96, 32), (24, 64))]
    mine, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    ours = Muon(mine, lr=0.01, weight_decay=0.1)
    torchs = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for a, b in zip(mine, theirs):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        ours.step()
        torchs.step()
    for a, b, p in zip(mine, theirs, start):
        assert support.relative(a - p, b - p) < 2e-2


def test_gram_form_equals_the_iteration_on_the_matrix():
    x = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = x / x.norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = y @ y.mT
        y = 3.4445 * y + (-4.7750 * gram + 2.0315 * gram @ gram) @ y
    assert support.relative(orthogonalise(x), y) < 1e-12  # float64
    assert support.relative(orthogonalise(x.float()), y) < 1e-4  # float32, squared singular values
    assert torch.equal(orthogonalise(x.mT), orthogonalise(x).mT)


def test_filters_are_matrices_of_output_by_the_rest():
    p = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(2))
    Muon([p], lr=0.1).step()
    values = torch.linalg.svdvals(p.detach().flatten(1)) / (0.1 * 0.2 * 6)  # lr * 0.2 * sqrt(36)
    assert values.min() > 0.6 and values.max() == pytest.approx(1, abs=0.25)
