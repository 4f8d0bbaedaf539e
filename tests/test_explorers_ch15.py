"""Chapter 15's explorer: the objectives and KL on its read-out, against scipy's integrals of plain formulas."""

import numpy as np
import pytest
from explorer_pages import at_position, close, numbers
from scipy.integrate import quad
from scipy.stats import norm

from ddpm_edu.explorers import score_matching_explorer


@pytest.fixture(scope="module")
def explorer():
    return score_matching_explorer()


def law(weight, sigma):
    """Density and score of two bells at ±2, variance 0.1 + σ², in plain numpy."""
    width = np.sqrt(0.1 + sigma**2)

    def parts(x):
        return weight * norm.pdf(x, -2, width), (1 - weight) * norm.pdf(x, 2, width)

    def score(x):
        left, right = parts(x)
        return (left * (-2 - x) + right * (2 - x)) / width**2 / (left + right)

    return (lambda x: sum(parts(x))), score


@pytest.mark.parametrize("sigma, weight", [(0.4, 0.7), (1.0, 0.05), (3.0, 0.5)])
def test_objectives_and_kl(explorer, sigma, weight):
    sigmas, weights = (slider.values for slider in explorer.sliders)
    values = numbers(at_position(explorer.to_html(), (sigmas.index(sigma), weights.index(weight))))
    (q, true), (p, score) = law(0.3, sigma), law(weight, sigma)
    end = 2 + 12 * np.sqrt(0.1 + sigma**2)
    over = lambda f: quad(lambda x: q(x) * f(x), -end, end, points=[-2, 0, 2], limit=400)[0]  # noqa: E731
    explicit = over(lambda x: (score(x) - true(x)) ** 2) / 2
    h = 1e-5
    implicit = over(lambda x: (score(x + h) - score(x - h)) / (2 * h) + score(x) ** 2 / 2)
    denoising = explicit + 0.5 / sigma**2 - over(lambda x: true(x) ** 2) / 2
    found = {name.split()[0]: text for name, text in values.items()}
    assert close(found["KL,"], over(lambda x: np.log(q(x) / p(x))))
    assert close(found["explicit"], explicit) and close(found["implicit"], implicit)
    assert close(found["denoising"], denoising) and close(found["excess"], 2 * sigma**2 * explicit)


def test_at_little_noise_the_wrong_weight_is_hardly_seen_and_at_much_it_is(explorer):
    sigmas, weights = (slider.values for slider in explorer.sliders)
    places = [(k, weights.index(0.7)) for k in (0, sigmas.index(1.5))]
    little, much = (list(numbers(at_position(explorer.to_html(), place)).values()) for place in places)
    assert float(little[0]) == pytest.approx(0.4 * np.log(7 / 3), abs=2e-3)  # KL of 0.3 against 0.7
    assert float(little[4]) < 1e-6 and float(much[4]) > 0.1
