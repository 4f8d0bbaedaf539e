"""Chapter 17's explorer: the ODE's dots by scipy's own solver, the SDE's by where the data are, the read-out from the dots."""

import functools

import numpy as np
import pytest
from explorer_pages import at_position, close, numbers
from scipy.integrate import solve_ivp

from ddpm_edu.explorers.ch17 import sde_or_ode_explorer

SHOWN = [1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.06, 0.02, 0.0]
SIZES = [0.9, 0.95, 1.0, 1.05, 1.1]
WEIGHTS, MEANS, VARIANCES = (
    np.array([0.3, 0.3, 0.4]),
    np.array([[-1.2, 0.8], [1.2, 0.8], [0.0, -1.0]]),
    np.array([0.03, 0.03, 0.06]),
)


@pytest.fixture(scope="module")
def page():
    html = sde_or_ode_explorer().to_html()
    return functools.cache(lambda *position: at_position(html, position))


def dots(shown, panel):
    """The dots of a panel whose axes both run from -3 to 3."""
    inside = shown.select(".ddpm-panel > svg")[panel].find("svg")
    size = np.array([float(inside["width"]), float(inside["height"])])
    at = np.array([[int(c["cx"]), int(c["cy"])] for c in inside.find_all("circle")]) / 10 / size
    return np.stack([6 * at[:, 0] - 3, 3 - 6 * at[:, 1]], 1)


def flow(t, x, c):
    """-½ β (x + c ∇log q_t), from the definition."""
    x, a = x.reshape(-1, 2), np.exp(-(0.1 * t + 9.95 * t**2))
    V = a * VARIANCES + 1 - a
    d = a**0.5 * MEANS - x[:, None]
    r = WEIGHTS / V * np.exp(-(d**2).sum(2) / (2 * V))
    score = (r[:, :, None] * d / V[:, None]).sum(1) / r.sum(1, keepdims=True)
    return (-0.5 * (0.1 + 19.9 * t) * (x + c * score)).ravel()


@pytest.mark.parametrize("c", [0, 2, 4])
@pytest.mark.parametrize("k", [4, 10])
def test_the_ode_s_dots_are_where_scipy_carries_them(page, c, k):
    start = dots(page(0, c), 1)
    want = solve_ivp(flow, (1, SHOWN[k]), start.ravel(), args=(SIZES[c],), rtol=1e-7, atol=1e-9).y[:, -1].reshape(-1, 2)
    off = np.abs(dots(page(k, c), 1) - want).max(1)
    assert np.median(off) < 0.01 and np.quantile(off, 0.9) < 0.04  # a start is known to 0.01; near a watershed that matters


def test_both_clouds_start_alike_and_end_in_the_data(page):
    first, last = page(0, 2), page(10, 2)
    assert np.array_equal(dots(first, 0), dots(first, 1))
    for panel in (0, 1):
        x = dots(last, panel)
        z = np.sqrt(((x[:, None] - MEANS) ** 2).sum(2) / VARIANCES)
        near = z.min(1)
        # Distances of two normal coordinates: 86 % below 2. And each mode has about its share of 56 dots.
        assert abs((near < 2).mean() - 0.865) < 0.18 and near.max() < 5
        assert np.abs(np.bincount(z.argmin(1), minlength=3) / len(x) - WEIGHTS).max() < 0.25


@pytest.mark.parametrize("k, c", [(0, 0), (5, 1), (10, 0), (10, 4)])
def test_readout(page, k, c):
    here = page(k, c)
    shown = numbers(here)
    for panel, name in ((0, "SDE"), (1, "ODE")):
        x = dots(here, panel)
        if (np.abs(x) < 2.99).all():
            assert float(shown[f"mean square of the dots, {name}"]) == pytest.approx((x**2).sum(1).mean(), abs=0.02)
    a = np.exp(-(0.1 * SHOWN[k] + 9.95 * SHOWN[k] ** 2))
    assert close(shown["mean square under qt"], a * WEIGHTS @ ((MEANS**2).sum(1) + 2 * VARIANCES) + 2 * (1 - a))


def test_a_wrong_score_moves_the_ode_further_than_the_sde(page):
    spread = {c: [(dots(page(10, c), panel) ** 2).sum(1).mean() for panel in (0, 1)] for c in (0, 2, 4)}
    assert spread[0][1] > spread[0][0] > spread[2][0] and spread[4][1] < spread[4][0] < 1.02 * spread[2][0]
