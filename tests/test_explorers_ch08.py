"""Chapter 8's explorer: variances of a step back, by Bayes' rule on a grid."""

import numpy as np
import pytest
from explorer_pages import at_position, close, curve, mixture, numbers
from scipy.stats import norm

from ddpm_edu.explorers import reverse_variance_explorer


@pytest.fixture(scope="module")
def explorer():
    return reverse_variance_explorer()


@pytest.mark.parametrize("t, x_t", [(2, -0.25), (2, 2.0), (3, -0.5), (6, 0.0), (10, -2.0)])
def test_reverse_variance_is_that_of_bayes_rule(explorer, t, x_t):
    page = at_position(explorer.to_html(), (t - 2, explorer.sliders[1].values.index(x_t)))
    betas = np.array([0.1 + 0.4 * k / 9 for k in range(10)])
    before, beta_t = float(np.prod(1 - betas[: t - 1])), float(betas[t - 1])
    grid = np.linspace(-8, 8, 8001)
    step = grid[1] - grid[0]

    def by_bayes(seen):
        weight = mixture(grid, before) * norm.pdf(seen, (1 - beta_t) ** 0.5 * grid, beta_t**0.5)
        evidence = weight.sum() * step
        mean = (grid * weight).sum() * step / evidence
        return evidence, weight / evidence, ((grid - mean) ** 2 * weight).sum() * step / evidence

    _, _, var = by_bayes(x_t)
    shown = numbers(page)
    assert close(shown["truth"], var)
    assert close(shown["βt"], beta_t)
    assert close(shown["β̃t"], beta_t * (1 - before) / (1 - before * (1 - beta_t)))
    places = np.linspace(-6, 6, 601)
    columns = [by_bayes(place) for place in places]
    assert close(shown["its average over xt"], sum(e * v for e, _, v in columns) * (places[1] - places[0]))

    seen = np.linspace(-2.2, 2.2, 45)
    want = [by_bayes(place)[2] / beta_t for place in seen]
    np.testing.assert_allclose(np.interp(seen, *curve(page, 0, 3)), want, atol=1e-2)
    dot = page.select(".ddpm-panel > svg")[0].find("circle")
    assert 2.4 * (1 - int(dot["cy"]) / 2000) == pytest.approx(var / beta_t, abs=2e-3)
