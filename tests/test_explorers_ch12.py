"""Chapter 12's explorer: what is decided at a state of a walk, by Bayes' rule on a grid; its decodings as draws of that law."""

import numpy as np
import pytest
from explorer_pages import at_position, curve, curve_top, mixture, numbers
from scipy.stats import kstest, norm

from ddpm_edu.explorers import branching_explorer

BARS = np.cumprod(np.append(1, 1 - np.linspace(1e-3, 0.2, 100)))
GRID = np.linspace(-4, 4, 4001)
STOPS = [100, 80, 70, 60, 50, 40, 30, 20, 10, 5]


@pytest.fixture(scope="module")
def explorer():
    return branching_explorer()


def by_bayes(x_t, t):
    """The density of x_0 on GRID given x_t, its mean and its standard deviation."""
    weight = mixture(GRID, 1.0) * norm.pdf(x_t, BARS[t] ** 0.5 * GRID, (1 - BARS[t]) ** 0.5)
    density = weight / np.trapezoid(weight, GRID)
    mean = np.trapezoid(density * GRID, GRID)
    return density, mean, np.trapezoid(density * (GRID - mean) ** 2, GRID) ** 0.5


def state(explorer, walk, t):
    """x_t and the 16 ends, as drawn."""
    marks = explorer.frame(walk - 1, STOPS.index(t)).panels[0].marks
    return float(marks[-1].y), np.asarray(marks[-2].y)


@pytest.mark.parametrize("walk, t", [(1, 100), (2, 50), (3, 40), (1, 20), (2, 5)])
def test_the_law_is_that_of_bayes_rule(explorer, walk, t):
    page = at_position(explorer.to_html(), (walk - 1, STOPS.index(t)))
    x_t, _ = state(explorer, walk, t)
    density, mean, deviation = by_bayes(x_t, t)
    shown = {name: float(value) for name, value in numbers(page).items()}
    assert shown["t"] == t and shown["xt"] == pytest.approx(x_t, abs=5e-3)
    assert shown["x̂0"] == pytest.approx(mean, abs=6e-3)
    assert shown["standard deviation of x0 given xt"] == pytest.approx(deviation, rel=0.06)
    places = np.linspace(-6, 6, 601)
    means = np.array([by_bayes(place, t)[1] for place in places])
    prior = mixture(GRID, 1.0)
    centre = np.trapezoid(prior * GRID, GRID)
    share = np.trapezoid(mixture(places, BARS[t]) * (means - centre) ** 2, places) / np.trapezoid(
        prior * (GRID - centre) ** 2, GRID
    )
    assert shown["decided share ρt"] == pytest.approx(share, rel=0.06)
    seen = np.linspace(-2, 2, 41)
    np.testing.assert_allclose(np.interp(seen, *curve_top(page, 1, 0)), np.interp(seen, GRID, density), atol=4e-2)
    np.testing.assert_allclose(np.interp(seen, *curve(page, 1, 1)), mixture(seen, 1.0), atol=2e-2)


def test_the_decodings_are_draws_of_that_law(explorer):
    """Where a decoding falls in its law is uniform; the walk's own noise and a hundred steps leave that as it is."""
    levels = []
    for walk in (1, 2, 3):
        for t in STOPS[2:]:
            x_t, ends = state(explorer, walk, t)
            cdf = np.cumsum(by_bayes(x_t, t)[0]) * (GRID[1] - GRID[0])
            levels += np.interp(ends, GRID, cdf).tolist()
    assert kstest(levels, "uniform").pvalue > 1e-3
    wrong = 1 - np.asarray(levels) ** 1.3  # the test would notice
    assert kstest(wrong, "uniform").pvalue < 1e-3


def test_a_walk_goes_on_where_it_was_stopped(explorer):
    for walk in (1, 3):
        whole = explorer.frame(walk - 1, len(STOPS) - 1).panels[0].marks[16]
        visited = dict(zip(whole.x, whole.y))
        for k, t in enumerate(STOPS):
            *ways, trunk, ends, stop = explorer.frame(walk - 1, k).panels[0].marks
            assert len(ways) == 16 and len({float(way.y[0]) for way in ways}) == 16
            assert stop.x == t and stop.y == pytest.approx(visited[t])
            assert trunk.x[0] == t and trunk.y[0] == pytest.approx(stop.y)
            for way, end in zip(ways, ends.y):
                assert (way.x[0], way.x[-1]) == (0, t)
                assert float(way.y[-1]) == pytest.approx(stop.y) and float(way.y[0]) == pytest.approx(float(end))
