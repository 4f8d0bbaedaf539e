"""Chapter 3's explorer: the bound and its gap, by integrating on a grid."""

import numpy as np
import pytest
from explorer_pages import at_position, close, curve, numbers
from scipy.stats import norm

from ddpm_edu.explorers import elbo_explorer


@pytest.fixture(scope="module")
def explorer():
    return elbo_explorer()


@pytest.mark.parametrize("j, k", [(4, 6), (0, 8), (8, 2), (8, 5), (16, 0), (12, 9), (3, 4)])
def test_elbo_and_gap_add_up(explorer, j, k):
    """z ~ N(0, 1), x = 2z + N(0, 1), x = 2.5: everything by integrating on a grid, the posterior by Bayes' rule."""
    page = at_position(explorer.to_html(), (j, k))
    z = np.linspace(-12, 12, 48001)
    step = z[1] - z[0]
    log_joint = norm.logpdf(z) + norm.logpdf(2.5, 2 * z, 1)
    log_p = np.log(np.exp(log_joint).sum() * step)
    post = np.exp(log_joint - log_p)
    width = [1 / 4, 1 / 3, 1 / 2, 2**-0.5, 0.8, 1, 1.5, 2, 5**0.5, 3][k] * 0.2**0.5
    q, log_q = norm.pdf(z, j / 8, width), norm.logpdf(z, j / 8, width)
    elbo = (q * (log_joint - log_q)).sum() * step
    seen = (z > -1.9) & (z < 2.9)
    for curve_at, want in ((0, norm.pdf(z)), (1, post), (2, q)):
        np.testing.assert_allclose(np.interp(z, *curve(page, 0, curve_at))[seen], want[seen], atol=0.04)
    shown = numbers(page)
    assert close(shown["ELBO"], elbo) and close(shown["their sum, log p(x)"], log_p)
    assert float(shown["gap KL(q ‖ p(z | x))"].split()[0]) == pytest.approx(log_p - elbo, rel=6e-3, abs=1e-9)
    # Where q is at most 1/√2 as wide as the posterior, the weights have no variance and nothing is left.
    share = 1 / (np.exp(2 * (log_joint - log_p) - log_q).sum() * step) if width**2 > 0.1 + 1e-9 else 0
    assert float(shown["ESS / n"].split()[0]) == pytest.approx(100 * share, abs=0.051)
    bars = page.select(".ddpm-panel > svg")[1].find_all("rect")
    assert [int(bar["height"]) / 2000 * 8 for bar in bars] == pytest.approx([-elbo, -log_p], abs=8e-3)
