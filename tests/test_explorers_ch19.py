"""Chapter 19's explorer: the read-out and the curves against sums written out in numpy."""

import functools

import numpy as np
import pytest
from explorer_pages import at_position, close, curve, numbers

from ddpm_edu.explorers.ch19 import importance_explorer

BETAS = np.linspace(1e-4, 0.02, 1000)
BARS = np.cumprod(1 - BETAS)
BEFORE = np.append(1, BARS[:-1])


@pytest.fixture(scope="module")
def page():
    html = importance_explorer().to_html()
    return functools.cache(lambda *position: at_position(html, position))


def second_moments(network, variance):
    tildes = (1 - BEFORE) / (1 - BARS) * BETAS
    tildes[0] = tildes[1]
    weight = BETAS**2 / (2 * (tildes if variance else BETAS) * (1 - BETAS) * (1 - BARS))
    return 4 * weight**2 * (BARS if network else 1)


@pytest.mark.parametrize("k, network, variance", [(5, 0, 0), (0, 0, 0), (10, 1, 0), (3, 1, 1), (8, 0, 1)])
def test_readout(page, k, network, variance):
    s, a = second_moments(network, variance), k / 10
    p = s**a / (s**a).sum()
    shown = numbers(page(k, network, variance))
    assert float(shown["power a"]) == a
    assert close(shown["second moment / smallest"], (s / p).sum() / np.sqrt(s).sum() ** 2)
    assert close(shown["share of the draws with t <= 10"], p[:10].sum())
    assert close(shown["largest weight 1 / (T pt)"], (1 / (1000 * p)).max())


@pytest.mark.parametrize("network, variance", [(0, 0), (1, 1)])
def test_the_valley_is_symmetric_and_lowest_at_one_half(page, network, variance):
    s = second_moments(network, variance)
    a, y = curve(page(2, network, variance), 1, 0)
    want = np.array([(s**x).sum() * (s ** (1 - x)).sum() for x in a]) / np.sqrt(s).sum() ** 2
    assert np.allclose(y, want, atol=0.01 * want.max())
    assert abs(a[y.argmin()] - 0.5) < 0.06


def test_at_one_half_the_draws_run_along_the_lengths(page):
    for x_y in zip(curve(page(5, 0, 0), 0, 0), curve(page(5, 0, 0), 0, 1)):
        assert np.allclose(*x_y, atol=0.02)
