"""Chapter 11's explorer: what the average of the weights remembers, by carrying the average of a marked step along."""

import numpy as np
import pytest
from explorer_pages import at_position, close, curve, numbers

from ddpm_edu.explorers.ch11 import average_explorer


@pytest.fixture(scope="module")
def explorer():
    return average_explorer()


def averages(d, n, start_up):
    """Each step's weight in the average after n steps, by doing the n updates on n + 1 unit vectors at once."""
    share = np.zeros(n + 1)
    share[0] = 1.0
    for k in range(1, n + 1):
        keep = min(d, (1 + k) / (10 + k)) if start_up else d
        share[: k + 1] *= keep
        share[k] += 1 - keep
    return share


@pytest.mark.parametrize("d, n", [(0.9, 10), (0.99, 200), (0.999, 2000), (0.9999, 2000), (0.9999, 500)])
def test_shares_and_ages_are_those_of_the_recursion(explorer, d, n):
    which = [slider.values.index(value) for slider, value in zip(explorer.sliders, (d, n))]
    page = at_position(explorer.to_html(), tuple(which))
    shown, ages = numbers(page), n - np.arange(n + 1)
    for k, (start_up, name) in enumerate(((False, "constant d"), (True, "start-up"))):
        share = averages(d, n, start_up)
        x, y = curve(page, 0, k)
        want = np.interp(np.linspace(0, 1, 101), np.arange(n + 1) / n, np.cumsum(share))
        np.testing.assert_allclose(np.interp(np.linspace(0, 1, 101), x, y), want, atol=0.01)
        assert close(shown[f"start left, {name}"], share[0])
        assert close(shown[f"mean age, {name}"], share @ ages)
    assert close(shown["worth fresh steps, start-up"], 1 / (share @ share))


def test_the_start_up_keeps_a_tenth_of_the_run(explorer):
    n = 10_000
    page = at_position(explorer.to_html(), (3, explorer.sliders[1].values.index(n)))
    age = averages(0.9999, n, True) @ (n - np.arange(n + 1))
    assert close(numbers(page)["mean age, start-up"], age) and age == pytest.approx((n + 1) / 10)
