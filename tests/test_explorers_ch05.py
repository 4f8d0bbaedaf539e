"""Chapter 5's explorer: the posterior, by Bayes' rule on a grid."""

import re

import numpy as np
import pytest
from explorer_pages import at_position, close, curve, curve_top, numbers
from scipy.stats import norm

from ddpm_edu.explorers import posterior_explorer


@pytest.fixture(scope="module")
def explorer():
    return posterior_explorer()


@pytest.mark.parametrize("t, x_t", [(2, -2.0), (2, 1.0), (4, 0.0), (7, 1.25), (10, 2.0), (10, -0.5)])
def test_posterior_is_the_product_of_prior_and_likelihood(explorer, t, x_t):
    page = at_position(explorer.to_html(), (t - 2, explorer.sliders[1].values.index(x_t)))
    betas = np.array([0.1 + 0.4 * k / 9 for k in range(10)])
    before = float(np.prod(1 - betas[: t - 1]))
    beta_t = float(betas[t - 1])
    grid = np.linspace(-7, 7, 20001)
    step = grid[1] - grid[0]

    # Bayes' rule on a grid, from the two Gaussians of the forward process alone.
    prior = norm.pdf(grid, before**0.5, (1 - before) ** 0.5)
    likelihood = norm.pdf(x_t, (1 - beta_t) ** 0.5 * grid, beta_t**0.5)
    evidence = (prior * likelihood).sum() * step
    posterior = prior * likelihood / evidence
    mean = (grid * posterior).sum() * step
    var = ((grid - mean) ** 2 * posterior).sum() * step

    seen = abs(grid) < 3.9
    # x is rounded by up to 1/925; times the steepest slope, 4, twice (for curve and shift), that is 0.01. The straight
    # pieces between the drawn points add up to 0.005.
    for k, want in ((0, prior), (1, likelihood), (3, posterior)):
        np.testing.assert_allclose(np.interp(grid, *curve(page, 0, k))[seen], want[seen], atol=0.02)
    x, y = curve_top(page, 0, 2)
    np.testing.assert_allclose(np.interp(grid, x, y)[seen], (prior * likelihood)[seen], atol=0.02)

    shown = numbers(page)
    of_x_0, of_x_t, total = (float(n) for n in re.findall(r"-?\d+\.\d+", shown["mean μ̃t"]))
    assert total == pytest.approx(mean, rel=6e-3, abs=1e-3)
    assert of_x_0 + of_x_t * x_t == pytest.approx(mean, abs=2e-3)
    assert close(shown["variance β̃t"], var) and close(shown["βt"], beta_t)
    assert close(shown["area of the product, q(xt | x0)"], evidence)
    # What the caption says.
    centres = sorted([before**0.5, x_t / (1 - beta_t) ** 0.5])
    assert centres[0] < mean < centres[1]
    assert var < min(1 - before, beta_t / (1 - beta_t))


def test_posterior_variances_over_t(explorer):
    page = at_position(explorer.to_html(), (0, 0))
    betas = np.array([0.1 + 0.4 * k / 9 for k in range(10)])
    before, after = np.cumprod(np.concatenate([[1], 1 - betas]))[:-1], np.cumprod(1 - betas)
    t, y = curve(page, 1, 1)
    np.testing.assert_allclose(np.interp(np.arange(1, 11), t, y), betas, atol=1e-3)
    t, y = curve(page, 1, 2)
    np.testing.assert_allclose(np.interp(np.arange(1, 11), t, y), (1 - before) / (1 - after) * betas, atol=1e-3)
