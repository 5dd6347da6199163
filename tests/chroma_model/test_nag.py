"""Normalized attention guidance against its paper, in float64."""

import numpy as np
import support
import torch

nag = support.dev.load_pack("chroma_model.nag").normalized_attention_guidance


def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 8, generator=generator), torch.randn(2, 5, 8, generator=generator)


def test_nag_follows_its_paper():
    """arXiv:2505.21179: extrapolate by phi, limit the quotient of L1 norms to tau, blend by alpha."""
    positive, negative = pair()
    phi, tau, alpha = 4.0, 2.5, 0.25
    result = nag(positive, negative, 1 + phi, tau, alpha).double().numpy()
    limited = 0
    for index in np.ndindex(2, 5):
        z, other = positive[index].double().numpy(), negative[index].double().numpy()
        guided = z + phi * (z - other)
        quotient = np.abs(guided).sum() / np.abs(z).sum()
        limited += quotient > tau
        guided = guided * min(quotient, tau) / quotient
        np.testing.assert_allclose(result[index], alpha * guided + (1 - alpha) * z, atol=1e-5)  # float32, values to 10
    assert 0 < limited  # both sides of the limit were seen
    assert not torch.equal(nag(positive, negative, 5.0, 100.0, alpha), nag(positive, negative, 5.0, tau, alpha))


def test_scale_one_or_alpha_zero_change_nothing():
    positive, negative = pair()
    assert torch.equal(nag(positive, negative, 1.0, 2.5, 0.25), positive)
    assert torch.equal(nag(positive, negative, 5.0, 2.5, 0.0), positive)


def test_zero_rows_stay_zero():
    zero = torch.zeros(1, 3, 4)
    assert torch.equal(nag(zero, zero, 5.0, 2.5, 0.5), zero)


def test_wide_rows_do_not_overflow_in_float16():
    generator = torch.Generator().manual_seed(0)
    positive, negative = (40 * torch.randn(1, 4, 3072, generator=generator) for _ in range(2))  # L1 norms near 100,000
    result = nag(positive.half(), negative.half(), 5.0, 2.5, 0.25)
    torch.testing.assert_close(result.float(), nag(positive, negative, 5.0, 2.5, 0.25), rtol=5e-3, atol=0.5)


def test_rows_whose_norms_are_above_eps_are_limited_as_ever():
    positive, negative = pair()
    size = 1e-5  # the L1 norms are near 1e-4, a hundred times EPS
    torch.testing.assert_close(
        nag(size * positive, size * negative, 5.0, 2.5, 0.25),
        size * nag(positive, negative, 5.0, 2.5, 0.25),
        rtol=1e-5,
        atol=0,
    )
