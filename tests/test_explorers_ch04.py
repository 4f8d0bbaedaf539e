"""Chapter 4's explorer: densities and schedules, from their definitions."""

import re

import numpy as np
import pytest
from explorer_pages import alpha_bar, at_position, close, curve, mixture, numbers
from scipy.integrate import quad
from scipy.stats import norm

from ddpm_edu.explorers import forward_process_explorer


@pytest.fixture(scope="module")
def explorer():
    return forward_process_explorer()


@pytest.mark.parametrize("t, name", [(0, "linear"), (100, "linear"), (325, "cosine"), (650, "quadratic"), (975, "linear")])
def test_forward_process_shows_the_diffused_mixture(explorer, t, name):
    position = (explorer.sliders[0].values.index(t), explorer.sliders[1].values.index(name))
    page, a = at_position(explorer.to_html(), position), alpha_bar(name, t)
    grid = np.linspace(-2.9, 2.9, 500)
    # The drawing rounds to a tenth of a unit, 1/2000 of the height; the steepest slope adds twice that.
    for k, want in ((0, mixture(grid, 1.0)), (1, norm.pdf(grid)), (2, mixture(grid, a))):
        np.testing.assert_allclose(np.interp(grid, *curve(page, 0, k)), want, atol=3e-3)
    shown = numbers(page)
    assert shown["t"] == str(t)
    assert close(shown["ᾱt"], a)
    kl = quad(lambda x: mixture(x, a) * np.log(mixture(x, a) / norm.pdf(x)), -6, 6, limit=400, points=[-1.2, 0, 0.8])[0]
    assert close(shown["KL(q(xt) ‖ N(0, 1))"], kl)
    if t:
        assert close(shown["SNR"], a / (1 - a))
    else:
        assert shown["SNR"] == "∞"


@pytest.mark.parametrize("name", ["linear", "cosine", "quadratic"])
def test_forward_process_shows_signal_and_noise_of_the_schedule(explorer, name):
    page = at_position(explorer.to_html(), (10, explorer.sliders[1].values.index(name)))
    for k, want in ((1, lambda a: a**0.5), (2, lambda a: (1 - a) ** 0.5)):
        t, y = curve(page, 1, k)
        inner = (t > 20) & (t < 980)  # the square root is steep at the ends
        np.testing.assert_allclose(y[inner], [want(alpha_bar(name, round(u))) for u in t[inner]], atol=4e-3)
    dots = page.select(".ddpm-panel > svg")[1].find_all("circle")
    a = alpha_bar(name, 250)
    height = 10 * 200  # the axes go from 0 to 1
    assert [1 - int(dot["cy"]) / height for dot in dots] == pytest.approx([a**0.5, (1 - a) ** 0.5], abs=1 / height)


def test_forward_process_caption_knows_when_the_peaks_merge(explorer):
    x = np.linspace(-2, 2, 40001)

    def peaks(a):
        y = mixture(x, a)
        return ((y[1:-1] > y[:-2]) & (y[1:-1] > y[2:])).sum()

    found = re.findall(r"t\s=\s(\d+) \((\w+)\)", explorer.caption)
    assert [name for _, name in found] == ["linear", "cosine", "quadratic"]
    for t, name in found:
        assert peaks(alpha_bar(name, int(t) - 1)) == 2
        assert peaks(alpha_bar(name, int(t))) == 1
