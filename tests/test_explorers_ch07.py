"""Chapter 7's explorer: predictions, by quadrature over the noise."""

import numpy as np
import pytest
from explorer_pages import BETAS, alpha_bar, at_position, close, mixture, numbers
from scipy.stats import norm

from ddpm_edu.explorers import coordinates_explorer


@pytest.fixture(scope="module")
def explorer():
    return coordinates_explorer()


@pytest.mark.parametrize("t, x_t", [(1, -1.5), (50, 0.0), (300, 0.5), (700, 1.25), (1000, -0.25)])
def test_coordinates_are_the_means_of_the_pairs_that_make_x_t(explorer, t, x_t):
    position = (explorer.sliders[0].values.index(t), explorer.sliders[1].values.index(x_t))
    page, a = at_position(explorer.to_html(), position), alpha_bar("linear", t)
    # Bayes' rule by quadrature over ε, from the definition of x_t: no oracle, no converter.
    eps = np.linspace(-20, 20, 400_001)
    x_0 = (x_t - (1 - a) ** 0.5 * eps) / a**0.5
    weight = mixture(x_0, 1.0) * norm.pdf(eps)
    weight /= weight.sum()
    mean_eps, mean_x_0 = (weight * eps).sum(), (weight * x_0).sum()
    shown = numbers(page)
    assert close(shown["ε̂"], mean_eps) and close(shown["x̂0"], mean_x_0)
    assert close(shown["v̂"], a**0.5 * mean_eps - (1 - a) ** 0.5 * mean_x_0)
    assert close(shown["factor of ε̂"], ((1 - a) / a) ** 0.5)
    step = 1e-4  # the slope of the marginal's log-density
    slope = (np.log(mixture(x_t + step, a)) - np.log(mixture(x_t - step, a))) / (2 * step)
    assert close(shown["score"], slope)
    beta = BETAS["linear"][t - 1]
    assert float(shown["mean of the step, μ"]) == pytest.approx((x_t + beta * slope) / (1 - beta) ** 0.5, rel=6e-3, abs=1e-4)
