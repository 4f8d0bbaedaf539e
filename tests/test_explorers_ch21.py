"""Chapter 21's explorer: the tilted law by scipy's quadrature, DDIM's by its own walk in numpy, the SDE's by drawing."""

import functools
from itertools import pairwise

import numpy as np
import pytest
from explorer_pages import BETAS, at_position, close, curve, numbers
from scipy.integrate import quad
from scipy.stats import norm

from ddpm_edu.explorers.ch21 import guidance_explorer

SCALES = [0.0, 1.0, 1.5, 2.0, 3.0, 5.0]
MEANS = np.array([-1.3, -0.35, 0.35, 1.3])
ALPHA_BARS = np.concatenate([[1.0], np.cumprod(1 - BETAS["linear"])])
VISITED = [50 * k for k in range(20, -1, -1)]


@pytest.fixture(scope="module")
def page():
    html = guidance_explorer().to_html()
    return functools.cache(lambda *position: at_position(html, position))


def tilt(x, g):
    parts = [norm.pdf(x, m, 0.08**0.5) / 4 for m in MEANS]
    return sum(parts) * ((parts[2] + parts[3]) / sum(parts)) ** g


def guided_eps(x, t, g):
    """The guided noise estimate from the definition of the data."""
    a = ALPHA_BARS[t]
    V, d = 0.08 * a + 1 - a, np.sqrt(a) * MEANS - x[:, None]
    w = np.exp(-(d**2) / (2 * V) + (d**2).min(1, keepdims=True) / (2 * V))
    score = [(w[:, k:] * d[:, k:]).sum(1) / w[:, k:].sum(1) / V for k in (0, 2)]
    return -np.sqrt(1 - a) * ((1 - g) * score[0] + g * score[1])


def walk(g, x, noise=None):
    for t, s in pairwise(VISITED):
        a, b = ALPHA_BARS[t], ALPHA_BARS[s]
        eps = guided_eps(x, t, g)
        x_0 = (x - np.sqrt(1 - a) * eps) / np.sqrt(a)
        if noise is None:
            x = np.sqrt(b) * x_0 + np.sqrt(1 - b) * eps
        else:
            alpha = a / b
            x = np.sqrt(b) * (1 - alpha) / (1 - a) * x_0 + np.sqrt(alpha) * (1 - b) / (1 - a) * x
            x = x + (s > 0) * np.sqrt(1 - alpha) * noise.standard_normal(len(x))
    return x


@pytest.mark.parametrize("k", [0, 1, 4, 5])
def test_the_tilted_law(page, k):
    shown = numbers(page(k, 0))
    Z, mean = (quad(lambda x, p=p: x**p * tilt(x, SCALES[k]), -5, 5, limit=200)[0] for p in (0, 1))
    if SCALES[k]:
        assert close(shown["mean, tilted"], mean / Z)
    assert close(shown["inner share, tilted"], quad(tilt, -5, 0.825, args=(SCALES[k],), limit=200)[0] / Z)
    x, y = curve(page(k, 0), 0, 1)
    assert np.abs(y - tilt(x, SCALES[k]) / Z).max() < 0.01


@pytest.mark.parametrize("k", [1, 4])
def test_ddim_s_law(page, k):
    shown = numbers(page(k, 1))
    x = walk(SCALES[k], norm.ppf((np.arange(20000) + 0.5) / 20000))
    assert close(shown["mean, sampled"], x.mean())
    assert float(shown["inner share, sampled"]) == pytest.approx((x < 0.825).mean(), abs=3e-3)


@pytest.mark.parametrize("k", [1, 4])
def test_ancestral_sampling_s_law(page, k):
    shown, noise = numbers(page(k, 0)), np.random.default_rng(0)
    x = walk(SCALES[k], noise.standard_normal(40000), noise)
    assert float(shown["mean, sampled"]) == pytest.approx(x.mean(), abs=5 * x.std() / 200)
    assert float(shown["inner share, sampled"]) == pytest.approx((x < 0.825).mean(), abs=0.0125)


def test_at_scale_1_all_agree_and_at_3_none_does(page):
    share = lambda k, sampler: [float(numbers(page(k, sampler))[f"inner share, {of}"]) for of in ("tilted", "sampled")]  # noqa: E731
    assert share(1, 0) == pytest.approx([0.5, 0.5], abs=0.01) and share(1, 1) == pytest.approx([0.5, 0.5], abs=0.01)
    (tilted, ancestral), (_, ddim) = share(4, 0), share(4, 1)
    assert tilted - ancestral > 0.15 and ancestral - ddim > 0.15
