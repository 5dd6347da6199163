"""The forecasts of others, against polynomials whose values are known, and in the place of our own line."""

import pytest
import support
import torch

from benchmarks import predictors

cache = support.dev.load_pack("samplers.step_cache")
PAST = [0.9, 0.8, 0.65, 0.5, 0.45]
ORDERS = {"hold": 0, "Taylor 2": 2}  # of the polynomials that they continue exactly


def run_of(values):
    """A stream that has seen PAST of -3 s^2 + 2 s + 1."""
    stream = cache.Stream()
    for sigma in PAST:
        stream.keep(sigma, values(sigma))
    return stream


@pytest.mark.parametrize("name, order", ORDERS.items())
def test_a_polynomial_of_its_order_is_continued(name, order):
    weights = predictors.PREDICTORS[name](PAST, 0.4)
    for power in range(order + 1):
        assert float(weights @ torch.tensor(PAST, dtype=torch.float64) ** power) == pytest.approx(0.4**power)


@pytest.mark.parametrize("count, power", [(1, 0), (2, 1)])
def test_taylor_takes_as_many_as_there_are(count, power):
    weights = predictors.taylor(2, PAST[:count], 0.4)
    assert float(weights @ torch.tensor(PAST[:count], dtype=torch.float64) ** power) == pytest.approx(0.4**power)


def test_the_ridge_of_chebyshev_s_fit_is_as_published_and_half_of_it_is_the_line():
    """The fit of T_0 to T_4 by least squares with 0.1 of squared coefficients beside, solved as one larger problem."""
    values = torch.tensor([[1.0, -2.0], [0.5, 3.0], [0.0, 1.0], [2.0, 2.0], [1.5, 0.5]], dtype=torch.float64)
    x = 2 * torch.tensor(PAST, dtype=torch.float64) - 1
    basis = torch.stack([x**0, x, 2 * x**2 - 1, 4 * x**3 - 3 * x, 8 * x**4 - 8 * x**2 + 1], dim=1)
    wide = torch.cat([basis, 0.1**0.5 * torch.eye(5, dtype=torch.float64)])
    coefficients = torch.linalg.lstsq(wide, torch.cat([values, torch.zeros(5, 2, dtype=torch.float64)])).solution
    y = 2 * 0.4 - 1
    fit = torch.tensor([1, y, 2 * y**2 - 1, 4 * y**3 - 3 * y, 8 * y**4 - 8 * y**2 + 1], dtype=torch.float64)
    line = values[-1] + (values[-1] - values[-2]) * (0.4 - PAST[-1]) / (PAST[-1] - PAST[-2])
    found = predictors.chebyshev(PAST, 0.4) @ values
    torch.testing.assert_close(found, 0.5 * fit @ coefficients + 0.5 * line)


def test_a_run_forecasts_with_what_is_named_and_with_its_own_line_after_it():
    def square(sigma):
        return torch.full((1, 2, 3), -3 * sigma**2 + 2 * sigma + 1)

    with predictors.predicting(cache, "Taylor 2"):
        torch.testing.assert_close(run_of(square).forecast(0.4), square(0.4))
    with predictors.predicting(cache, ""):
        assert float((run_of(square).forecast(0.4) - square(0.4)).abs().max()) > 0.01
    with predictors.predicting(cache, "hold"):
        torch.testing.assert_close(run_of(square).forecast(0.4), square(PAST[-1]))
    assert type(run_of(square)).__module__ == cache.__name__
