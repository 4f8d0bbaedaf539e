"""Chapter 18's explorer: paths and laws by plain formulas of the mixture, the distance by quantiles and by draws."""

import functools
from itertools import pairwise

import numpy as np
import pytest
from explorer_pages import at_position, close, curve, numbers
from scipy.stats import norm

from ddpm_edu.explorers.ch18 import ddim_explorer

COUNTS, ETAS = [2, 3, 5, 10, 20, 50], [0.0, 0.25, 0.5, 0.75, 1.0]
BARS = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
PARTS = [(0.3, -1.2, 0.05), (0.7, 0.8, 0.10)]


@pytest.fixture(scope="module")
def page():
    html = ddim_explorer().to_html()
    return functools.cache(lambda *position: at_position(html, position))


def guess(x, a):
    """E[x_0 | x_t = x], from the definition of the mixture."""
    V = [a * v + 1 - a for _, _, v in PARTS]
    density = np.stack([w * norm.pdf(x, a**0.5 * m, u**0.5) for (w, m, _), u in zip(PARTS, V)])
    mean = np.stack([m + a**0.5 * v / u * (x - a**0.5 * m) for (_, m, v), u in zip(PARTS, V)])
    return (density * mean).sum(0) / density.sum(0)


def walk(x, n, eta, rng=None):
    """x from T down to 0 in n even steps, as the paper writes the step."""
    visited = [(1000 * k + n // 2) // n for k in range(n, -1, -1)]
    states = [x]
    for t, s in pairwise(visited):
        a, b = BARS[t], BARS[s]
        x_0 = guess(x, a)
        eps = (x - a**0.5 * x_0) / (1 - a) ** 0.5
        sigma2 = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        x = b**0.5 * x_0 + (1 - b - sigma2) ** 0.5 * eps
        if sigma2 > 0:
            x = x + sigma2**0.5 * rng.standard_normal(x.shape)
        states.append(x)
    return visited, np.stack(states)


def below(x):
    return sum(w * norm.cdf(x, m, v**0.5) for w, m, v in PARTS)


@pytest.mark.parametrize("k", [0, 3, 5])
def test_paths_without_noise(page, k):
    visited, states = walk(norm.ppf((np.arange(12) + 0.5) / 12), COUNTS[k], 0.0)
    for j in (0, 5, 11):
        t, x = curve(page(k, 0), 0, j)
        assert np.abs(np.interp(t, visited[::-1], states[::-1, j]) - x).max() < 0.02
        assert (t[0], t[-1]) == (pytest.approx(1000, abs=2), pytest.approx(0, abs=2))


@pytest.mark.parametrize("k", [0, 2, 4])
def test_distance_without_noise_by_quantiles(page, k):
    u = (np.arange(40000) + 0.5) / 40000
    ends = walk(norm.ppf(u), COUNTS[k], 0.0)[1][-1]
    fine = np.linspace(-4, 4, 80001)
    want = np.abs(ends - np.interp(u, below(fine), fine)).mean()
    assert close(numbers(page(k, 0))["distance to the data, W1"], want)


@pytest.mark.parametrize("k, j", [(1, 4), (3, 2), (3, 4)])
def test_distance_and_law_with_noise_by_draws(page, k, j):
    rng = np.random.default_rng(0)
    ends = np.sort(walk(rng.standard_normal(100_000), COUNTS[k], ETAS[j], rng)[1][-1])
    fine = np.linspace(-4, 4, 80001)
    want = np.abs(ends - np.interp((np.arange(100_000) + 0.5) / 100_000, below(fine), fine)).mean()
    shown = numbers(page(k, j))
    assert float(shown["distance to the data, W1"]) == pytest.approx(want, abs=0.008)
    assert shown["the same with η = 1"] == numbers(page(k, 4))["distance to the data, W1"]
    x, density = curve(page(k, j), 1, 1)
    cells = np.linspace(-2.6, 2.4, 26)
    drawn = np.histogram(ends, cells)[0] / 100_000
    grid = np.linspace(-2.6, 2.4, 2501)
    smooth = np.interp(grid, x, density)
    area = smooth[:2500].reshape(25, 100).sum(1) * 0.002
    assert np.abs(np.array(area) - drawn).max() < 0.02


def test_readout_names_the_controls(page):
    shown = numbers(page(2, 1))
    assert shown["steps"] == "5" and shown["η"] == "0.25"
    assert float(shown["distance to the data, W1"]) < float(shown["the same with η = 1"])
