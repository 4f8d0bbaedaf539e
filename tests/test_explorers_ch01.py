"""Chapter 1's explorer: the arms and the guess, by sampling the data."""

import numpy as np
import pytest
from bs4 import BeautifulSoup
from explorer_pages import at_position, close, numbers

from ddpm_edu.explorers import reverse_process_explorer


@pytest.fixture(scope="module")
def explorer():
    return reverse_process_explorer()


def dots(page: BeautifulSoup, panel: int) -> tuple[np.ndarray, list[str]]:
    """The dots of a panel whose axes both run from -3 to 3, and their colours."""
    inside = page.select(".ddpm-panel > svg")[panel].find("svg")
    size = np.array([float(inside["width"]), float(inside["height"])])
    circles = inside.find_all("circle")
    at = np.array([[int(c["cx"]), int(c["cy"])] for c in circles]) / 10 / size
    return np.stack([6 * at[:, 0] - 3, 3 - 6 * at[:, 1]], 1), [c["fill"] for c in circles]


def test_reverse_process_ends_on_the_arms_of_its_colour(explorer):
    html = explorer.to_html()
    radius = np.linspace(0.3, 1.8, 200)
    arm = np.stack([radius * np.cos(2 * radius), radius * np.sin(2 * radius)], 1)
    off = lambda x, sign: np.sqrt(((x[:, None] - sign * arm) ** 2).sum(2)).min(1)  # noqa: E731
    x, colours = dots(at_position(html, (19,)), 0)
    near, far = (np.where(np.array(colours) == colours[0], off(x, s), off(x, -s)) for s in (1, -1))
    assert len(set(colours)) == 2 and (near < far).all() and np.quantile(near, 0.95) < 3 * 0.02**0.5
    start, _ = dots(at_position(html, (0,)), 0)
    assert abs(start.var() - 1) < 0.3 and abs(start.mean()) < 0.3  # some of the noise lies outside the axes, but not much


def test_reverse_process_guess_is_the_mean_of_x_0_by_sampling_the_data(explorer):
    """E[x_0 | x_t] by importance weights on many draws of the data; nothing of the package."""
    rng, t, k = np.random.default_rng(0), 60, 4
    radius = np.linspace(0.3, 1.8, 20)
    arm = np.stack([radius * np.cos(2 * radius), radius * np.sin(2 * radius)], 1)
    x_0 = np.concatenate([arm, -arm])[rng.integers(40, size=100_000)] + 0.02**0.5 * rng.normal(size=(100_000, 2))
    page = at_position(explorer.to_html(), (k,))
    a = np.prod(1 - np.linspace(1e-3, 0.2, 100)[:t])
    assert numbers(page)["t"] == str(t) and close(numbers(page)["signal √ᾱt"], a**0.5)
    (x_t, _), (guess, _) = dots(page, 0), dots(page, 1)
    for x, want in zip(x_t[:20], guess[:20]):
        w = np.exp(-((x - a**0.5 * x_0) ** 2).sum(1) / (2 * (1 - a)))
        assert np.allclose(w @ x_0 / w.sum(), want, atol=0.03)
