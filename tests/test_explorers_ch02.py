"""Chapter 2's explorers: the divergence and the product, by integrating."""

import re

import numpy as np
import pytest
from explorer_pages import at_position, close, curve, curve_top, numbers
from scipy.integrate import quad
from scipy.stats import norm

from ddpm_edu.explorers import kl_explorer, product_explorer


@pytest.fixture(scope="module")
def kl():
    return kl_explorer()


@pytest.fixture(scope="module")
def product():
    return product_explorer()


def kl_by_quad(m, v, m_p, v_p):
    def integrand(x):
        return norm.pdf(x, m, v**0.5) * (norm.logpdf(x, m, v**0.5) - norm.logpdf(x, m_p, v_p**0.5))

    return quad(integrand, m - 10 * v**0.5, m + 10 * v**0.5, limit=200)[0]


@pytest.mark.parametrize("j, k", [(0, 0), (12, 0), (6, 8), (10, 2), (6, 4), (3, 6)])
def test_kl_is_the_area_that_is_drawn(kl, j, k):
    explorer = kl
    mean, var = explorer.sliders[0].values[j], explorer.sliders[1].values[k]
    page = at_position(explorer.to_html(), (j, k))
    shown = numbers(page)
    forward, backward, spread = kl_by_quad(0, 1, mean, var), kl_by_quad(mean, var, 0, 1), kl_by_quad(0, 1, 0, var)
    assert close(shown["KL(q ‖ p)"], forward) and close(shown["KL(p ‖ q)"], backward)
    assert close(shown["its part from the variances"], spread) and close(shown["from the means"], forward - spread)
    x = np.linspace(-4, 4, 801)
    np.testing.assert_allclose(np.interp(x, *curve(page, 0, 0)), norm.pdf(x), atol=0.01)
    seen = abs(x - mean) < 2.5
    np.testing.assert_allclose(np.interp(x, *curve(page, 0, 1))[seen], norm.pdf(x, mean, var**0.5)[seen], atol=0.02)
    want = norm.pdf(x) * (norm.logpdf(x) - norm.logpdf(x, mean, var**0.5))
    np.testing.assert_allclose(np.interp(x, *curve_top(page, 1, 0)), want.clip(min=0), atol=0.05)
    x_below, y_below = (line[len(curve_top(page, 1, 1)[0]) :][::-1] for line in curve(page, 1, 1))
    np.testing.assert_allclose(np.interp(x, x_below, y_below), want.clip(max=0), atol=0.05)
    assert want.max() < 3 and want.min() > -0.5  # nothing leaves the axes


def test_kl_caption_a_narrow_p_costs_more_and_in_the_other_direction_less():
    for m in (0.0, 0.5, 1.5):
        for factor in (1.41, 2.0, 4.0):
            assert kl_by_quad(0, 1, m, 1 / factor) > kl_by_quad(0, 1, m, factor)
            assert kl_by_quad(m, 1 / factor, 0, 1) < kl_by_quad(m, factor, 0, 1)


@pytest.mark.parametrize("j, k", [(0, 0), (12, 8), (10, 2), (4, 4)])
def test_product_adds_precisions(product, j, k):
    explorer = product
    mean, var = explorer.sliders[0].values[j], explorer.sliders[1].values[k]
    page = at_position(explorer.to_html(), (j, k))
    x = np.linspace(-15, 15, 30001)
    both = norm.pdf(x, -1, 1) * norm.pdf(x, mean, var**0.5)
    area = both.sum() * 1e-3
    m = (x * both).sum() * 1e-3 / area
    v = ((x - m) ** 2 * both).sum() * 1e-3 / area
    shown = numbers(page)
    assert close(shown["variance"], v) and close(shown["area Z of g × h"], area)
    of_g, at_g, of_h, at_h, total = (float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", shown["mean"]))
    assert (at_g, at_h) == (-1, mean) and total == pytest.approx(m, rel=6e-3, abs=2e-3)
    assert of_g * at_g + of_h * at_h == pytest.approx(m, abs=3e-3)
    seen = abs(x) < 3.9
    np.testing.assert_allclose(np.interp(x, *curve(page, 0, 2))[seen], (both / area)[seen], atol=0.02)
    tops = [float(el.text) for el in page.select(".ddpm-panel > svg")[1].find("svg").find_all("text")]
    assert tops == pytest.approx([1, 1 / var, 1 / v], rel=6e-3)
