"""Chapter 22's explorer: its numbers and curves by scipy's own integration of the two rates."""

import functools

import numpy as np
import pytest
from explorer_pages import at_position, close, curve, numbers
from scipy.integrate import solve_ivp
from scipy.stats import norm

from ddpm_edu.explorers.ch22 import replacement_explorer
from ddpm_edu.steering import replacement_limit

RHOS, REPEATS = [0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], [1, 2, 3, 5, 10, 30]


@pytest.fixture(scope="module")
def page():
    html = replacement_explorer().to_html()
    return functools.cache(lambda *position: at_position(html, position))


def generated(rho, U):
    def rates(a, z):
        pull = 1 - (a * rho) ** 2
        return [(z[0] / 2 - U * (z[0] - a**1.5 * rho) / pull) / a, (z[1] - 2 * U * z[1] / pull + 2 * U - 1) / a]

    return solve_ivp(rates, (1e-7, 1), [0.0, 1.0], method="LSODA", rtol=1e-11, atol=1e-13).y[:, -1]


@pytest.mark.parametrize("i, j", [(0, 0), (3, 0), (3, 2), (6, 5), (7, 4)])
def test_numbers_and_curves(page, i, j):
    rho, here = RHOS[i], page(i, j)
    mean, var = generated(rho, REPEATS[j])
    assert np.abs(np.array(replacement_limit(rho, REPEATS[j])) - [mean, var]).max() < 1e-6
    shown = numbers(here)
    kl = 0.5 * ((1 - rho**2 + (rho - mean) ** 2) / var - 1 - np.log((1 - rho**2) / var))
    for name, want in (
        ("mean, right", rho),
        ("mean, by replacement", mean),
        ("variance, right", 1 - rho**2),
        ("variance, by replacement", var),
        ("KL from right to replacement, nats", kl),
    ):
        assert close(shown[name], want), name
    tops = []
    for path in range(4):  # a filled curve has two paths
        try:
            _, density = curve(here, 1, path)
        except IndexError:
            break
        tops.append(density.max())
    assert min(abs(top - norm.pdf(0, scale=(1 - rho**2) ** 0.5)) for top in tops) < 0.02
    assert min(abs(top - norm.pdf(0, scale=var**0.5)) for top in tops) < 0.02
