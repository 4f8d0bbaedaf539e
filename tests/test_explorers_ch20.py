"""Chapter 20's explorer: prices and information by scipy's quadrature, from the definitions."""

import functools
from itertools import pairwise

import numpy as np
import pytest
from explorer_pages import at_position, close, curve, numbers
from scipy.integrate import quad

from ddpm_edu.explorers.ch20 import snr_explorer

COUNTS = [14, 20, 28, 40, 56, 80]
W, M, V = np.array([0.3, 0.7]), np.array([-1.2, 0.8]), np.array([0.05, 0.10])
X = np.linspace(-8, 8, 3001)


@pytest.fixture(scope="module")
def page():
    html = snr_explorer().to_html()
    return functools.cache(lambda *position: at_position(html, position))


def schedule(kind, t):
    """λ at times t between 6 and -6: a straight line, the cosine's angle, the linear β's integral."""
    if kind == 0:
        return 6 - 12 * t
    if kind == 1:
        ends = [np.arctan(np.exp(-end / 2)) for end in (6, -6)]
        return -2 * np.log(np.tan(ends[0] + (ends[1] - ends[0]) * t))
    ends = [np.roots([9.95, 0.1, -np.log1p(np.exp(-end))]).max() for end in (6, -6)]
    u = ends[0] + (ends[1] - ends[0]) * t
    return -np.log(np.expm1(0.1 * u + 9.95 * u**2))


@functools.cache
def mmse(lam):
    """E Var(x_0 | x_λ): the second moment of x_0 less that of its estimate, both from Bayes' rule."""
    a = 1 / (1 + np.exp(-lam))
    S = a * V + 1 - a
    parts = W * np.exp(-((X[:, None] - np.sqrt(a) * M) ** 2) / (2 * S)) / np.sqrt(2 * np.pi * S)
    estimate = (parts * (M + np.sqrt(a) * V / S * (X[:, None] - np.sqrt(a) * M))).sum(1)
    return W @ (V + M**2) - np.trapezoid(estimate**2 / parts.sum(1), X)


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("k", [0, 3, 5])
def test_readout(page, kind, k):
    n, shown = COUNTS[k], numbers(page(kind, k))
    lam = schedule(kind, np.arange(n + 1) / n)
    paid = sum((np.exp(a) - np.exp(b)) * mmse(float(b)) / 2 for a, b in pairwise(lam))
    received = quad(lambda lam: np.exp(lam) * mmse(lam) / 2, -6, 6, epsabs=1e-8)[0]  # the integral, not the entropies
    simple = np.mean([np.exp(lam) * mmse(float(lam)) for lam in schedule(kind, (np.arange(200) + 0.5) / 200)])
    assert shown["intervals"] == str(n)
    for name, want in (("paid", paid), ("received", received), ("excess", paid - received)):
        assert close(shown[name].split()[0], want), name
    assert close(shown["simple loss"], simple)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_curves(page, kind):
    at, lam = curve(page(kind, 2), 0, 0)
    assert np.abs(lam - schedule(kind, at.clip(0, 1))).max() < 0.12  # a pixel's tenth, on a steep curve
    lams, paid = curve(page(kind, 5), 1, 1)
    lam = schedule(kind, np.arange(81) / 80)
    prices = [(np.exp(a) - np.exp(b)) * mmse(float(b)) / 2 for a, b in pairwise(lam)]
    want = np.append(np.cumsum(prices[::-1])[::-1], 0)  # from the noise's end
    assert np.abs(paid - np.interp(lams[::-1], lam[::-1], want[::-1])[::-1]).max() < 0.03
    lams, received = curve(page(kind, 5), 1, 0)
    for x, y in zip(lams[::6], received[::6]):
        assert abs(y - quad(lambda lam: np.exp(lam) * mmse(lam) / 2, -6, x, epsabs=1e-6)[0]) < 0.02


def test_more_intervals_never_cost_more(page):
    for kind in range(3):
        paid = [float(numbers(page(kind, k))["paid"].split()[0]) for k in range(len(COUNTS))]
        assert all(a >= b for a, b in pairwise(paid))
