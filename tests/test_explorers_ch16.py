"""Chapter 16's explorer: the read-out against laws that are known without walking."""

import numpy as np
import pytest
from explorer_pages import at_position, numbers
from scipy.stats import norm

from ddpm_edu.explorers import langevin_explorer


@pytest.fixture(scope="module")
def explorer():
    return langevin_explorer()


@pytest.fixture(scope="module")
def page(explorer):
    return explorer.to_html()


def read(explorer, page, level, ratio, k):
    levels, ratios, moves = (control.values for control in explorer.sliders)
    values = numbers(at_position(page, (levels.index(level), ratios.index(ratio), moves.index(k))))
    return [float(text) for text in values.values()]


@pytest.mark.parametrize("level, sigma", [("none", 0.0), ("0.7", 0.7), ("2", 2.0)])
def test_level_and_step(explorer, page, level, sigma):
    found = read(explorer, page, level, 0.5, 10)
    assert found[0] == sigma and found[1] == pytest.approx(0.5 * (0.1 + sigma**2), rel=5e-3)


def test_annealing_ends_at_the_weights_of_the_data_and_plain_walking_does_not(explorer, page):
    noise = 5 * np.sqrt(0.25 / 2000)
    assert abs(read(explorer, page, "none", 0.2, 200)[2] - 0.5) < noise  # half of the start is on each side
    assert abs(read(explorer, page, "annealed", 0.2, 200)[2] - 0.3) < 0.1
    sigma = np.sqrt(0.1 + 4)  # converged: the noised law's own share
    want = 0.3 * norm.cdf(0, -2, sigma) + 0.7 * norm.cdf(0, 2, sigma)
    assert abs(read(explorer, page, "2", 0.2, 200)[2] - want) < noise
    assert [read(explorer, page, "annealed", 0.2, k)[0] for k in (0, 200)] == [3.98, 0.1]


def test_beyond_the_bound_the_points_leave(explorer):
    frames = [explorer.draw("none", ratio, 200).panels[1].marks[0].y.sum() for ratio in (0.2, 2.1)]
    assert float(frames[1]) < 0.2 * float(frames[0])
