"""Chapter 23's explorer: the bound and the samples of three repeating letters, from numpy sums over every path."""

import functools
import itertools

import numpy as np
import pytest
from explorer_pages import at_position, numbers

from ddpm_edu.explorers.ch23 import independence_explorer

STEPS, REPEATS = [1, 2, 4, 8, 16], [0.5, 0.7, 0.8, 0.9, 0.98]
WORDS = list(itertools.product([0, 1], repeat=3))


@functools.cache
def world(noise: str, T: int, r: float):
    """Bound, law of the samples: the joint of word and x_t at each step, and nothing of the package."""
    S = 3 if noise == "mask" else 2
    prior = np.array([0, 0, 1.0]) if noise == "mask" else np.full(2, 0.5)
    data = np.array([0.5 * np.prod([r if a == b else 1 - r for a, b in itertools.pairwise(w)]) for w in WORDS])
    states = list(itertools.product(range(S), repeat=3))

    def chain(a):
        one = a * np.eye(S) + (1 - a) * prior
        return np.array([[np.prod([one[i, j] for i, j in zip(x, y)]) for y in states] for x in states])

    rows = [states.index(w) for w in WORDS]
    law, price = np.array([np.prod(prior[list(x)]) for x in states]), 0.0
    for t in range(T, 0, -1):
        a_s, a_t = 1 - (t - 1) / T, 1 - t / T
        joint = (data @ chain(a_s)[rows])[:, None] * chain(a_t / a_s)  # q(x_s, x_t), the words summed out
        back = np.zeros((len(states), len(states)))
        for j in range(len(states)):
            if joint[:, j].sum() > 0:  # the product of the true marginals of x_s
                cube = joint[:, j].reshape(S, S, S) / joint[:, j].sum()
                back[j] = np.einsum("a,b,c->abc", cube.sum((1, 2)), cube.sum((0, 2)), cube.sum((0, 1))).ravel()
        used = joint > 0
        price += (joint * np.log(np.where(used, joint, 1) / np.where(used, (back * joint.sum(0)[:, None]).T, 1))).sum()
        law = law @ back
    return data, price, law[rows]


@pytest.fixture(scope="module")
def page():
    html = independence_explorer().to_html()
    return functools.cache(lambda *position: at_position(html, position))


@pytest.mark.parametrize("n, k, r", [(0, 0, 3), (0, 1, 4), (0, 2, 1), (1, 0, 0), (1, 1, 3), (1, 2, 4), (1, 4, 2), (0, 3, 0)])
def test_readout(page, n, k, r):
    shown = numbers(page(n, k, r))
    data, price, law = world(["mask", "uniform"][n], STEPS[k], REPEATS[r])
    entropy = -(data * np.log(data)).sum()
    value = lambda name: float(shown[name].split()[0])  # noqa: E731
    assert value("entropy of the words") == pytest.approx(entropy, abs=1e-6)
    assert value("bound") == pytest.approx(entropy + price, abs=2e-6)
    assert value("price") == pytest.approx(price, abs=1e-6)
    assert value("KL(words ‖ samples)") == pytest.approx((data * np.log(data / law)).sum(), abs=1e-6)
    assert value("samples 000 or 111") == pytest.approx(law[0] + law[7], rel=6e-3)


@pytest.mark.parametrize("n, k, r", [(0, 1, 3), (1, 2, 4)])
def test_bars_and_curve(page, n, k, r):
    left, right = page(n, k, r).select(".ddpm-panel > svg")
    inside = left.find("svg")
    bars = np.array([int(bar["height"]) for bar in inside.find_all("rect")]) / 10 / float(inside["height"]) * 0.5
    data, price, law = world(["mask", "uniform"][n], STEPS[k], REPEATS[r])
    assert bars[:8] == pytest.approx(data, abs=2e-3) and bars[8:] == pytest.approx(law, abs=2e-3)
    dot, inside = right.find("circle"), right.find("svg")
    assert 1.3 * (1 - int(dot["cy"]) / 10 / float(inside["height"])) == pytest.approx(price, abs=5e-3)
