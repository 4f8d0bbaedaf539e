"""Chapter 9's explorer: bits, as areas under the bell."""

import numpy as np
import pytest
from explorer_pages import at_position, close, numbers
from scipy.stats import norm

from ddpm_edu.explorers import decoder_explorer


@pytest.fixture(scope="module")
def explorer():
    return decoder_explorer()


@pytest.mark.parametrize("mean, ratio", [(0.3, 0.78), (-1.2, 2.0), (1.05, 19.0)])
def test_decoder_bits_are_areas_under_the_bell(explorer, mean, ratio):
    means, ratios = (slider.values for slider in explorer.sliders)
    page = at_position(explorer.to_html(), (int(np.abs(np.array(means) - mean).argmin()), ratios.index(ratio)))
    values = numbers(page)
    x, sigma = np.linspace(-1, 1, 9), 0.25 / ratio
    cuts = np.array([-np.inf, *(x[:-1] + 0.125), np.inf])
    areas = np.diff(norm.cdf(cuts, mean, sigma))
    k = int(np.abs(x - mean).argmin())
    assert values["sum of the masses"] == "1.000"
    assert close(values["sum of density × width"], float((norm.pdf(x, mean, sigma) * 0.25).sum()))
    bits = next(text for name, text in values.items() if name.startswith("bits for the level"))
    assert float(bits) == pytest.approx(-np.log2(areas[k]), rel=0.06, abs=1e-9)
