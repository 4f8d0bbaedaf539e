"""Graders of Chapter 21: the other letter for the scale, a classifier's score, two conditions at once, where the ODE ends."""

from __future__ import annotations

import math

import torch

from . import Exercise

# 21.1: the estimate in Ho and Salimans' w.

grade_21_1 = Exercise(
    "21.1",
    inputs=[(0.7, 0.2, 0.0), (0.7, 0.2, 3.0), (-1.1, 0.4, 0.5)],
    answer=lambda eps_y, eps_0, w: (1 + w) * eps_y - w * eps_0,
    slips={
        "at w = 0 this ignores the class; there it should be the conditional network": (
            lambda eps_y, eps_0, w: eps_0 + w * (eps_y - eps_0)
        ),
        "the two estimates have changed places": lambda eps_y, eps_0, w: (1 + w) * eps_0 - w * eps_y,
        "the weights sum to 1 + 2w; what is added to one must be taken from the other": (
            lambda eps_y, eps_0, w: (1 + w) * eps_y + w * eps_0
        ),
        "the difference is added to the wrong end": lambda eps_y, eps_0, w: eps_0 + (2 + w) * (eps_y - eps_0),
    },
    praise="the weights sum to 1 for every w",
)

# 21.2: the score of a classifier of two bells.


def _bells(x, m, v, alpha_bar, root=True, noised=True, surprise=True, twice=True):
    V = alpha_bar * v + 1 - alpha_bar if noised else v
    slope = (2 if twice else 1) * m * (math.sqrt(alpha_bar) if root else 1) / V
    odds = 2 * m * (math.sqrt(alpha_bar) if root else 1) / V
    return slope * (1 / (1 + math.exp(odds * x)) if surprise else 1)


grade_21_2 = Exercise(
    "21.2",
    inputs=[(0.3, 1.0, 0.2, 0.5), (-0.8, 1.0, 0.2, 0.9), (0.1, 0.5, 1.0, 0.05), (2.0, 0.7, 0.1, 0.3)],
    answer=_bells,
    slips={
        "the means of the noised bells are not ±m any more": lambda x, m, v, a: _bells(x, m, v, a, root=False),
        "that variance is of clean data; the classifier sees noised ones": lambda x, m, v, a: _bells(x, m, v, a, noised=False),
        "that is the slope of the log-odds; where the classifier is sure already, it should hardly pull": (
            lambda x, m, v, a: _bells(x, m, v, a, surprise=False)
        ),
        "half the pull: both bells move the odds": lambda x, m, v, a: _bells(x, m, v, a, twice=False),
        "that is the score of the other class": lambda x, m, v, a: -_bells(-x, m, v, a),
    },
    praise="a classifier that is sure does not pull",
)

# 21.3: two conditions at once.

grade_21_3 = Exercise(
    "21.3",
    inputs=[(0.1, 0.7, -0.4, 1.0, 1.0), (0.1, 0.7, -0.4, 3.0, -1.0), (-0.5, 0.2, 0.9, 2.0, 0.0), (1.0, 1.0, 0.3, 0.5, 4.0)],
    answer=lambda eps_0, eps_a, eps_b, g_a, g_b: eps_0 + g_a * (eps_a - eps_0) + g_b * (eps_b - eps_0),
    slips={
        "the weights do not sum to 1: with both scales 1, and two networks that say the same, this is twice what they say": (
            lambda eps_0, eps_a, eps_b, g_a, g_b: g_a * eps_a + g_b * eps_b
        ),
        "only one of the two differences may be halved by taking the mean, and none should be": (
            lambda eps_0, eps_a, eps_b, g_a, g_b: eps_0 + (g_a * (eps_a - eps_0) + g_b * (eps_b - eps_0)) / 2
        ),
        "the second pull starts from the untold network too, not from the first condition": (
            lambda eps_0, eps_a, eps_b, g_a, g_b: eps_0 + g_a * (eps_a - eps_0) + g_b * (eps_b - eps_a)
        ),
        "p(x_t) stands in front once; here it is taken off only once, for two conditions": (
            lambda eps_0, eps_a, eps_b, g_a, g_b: g_a * eps_a + g_b * eps_b - eps_0
        ),
    },
    praise="and a negative scale steers away",
)

# 21.4: where the ODE's mean ends.


def _mean(y, r, gamma, power=0.5, shift=1.0):
    """γ y r^{γ power} ∫_0^1 (1 + r - u²)^{-γ power - shift} du, by Gauss's rule."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(200)
    u = torch.as_tensor((nodes + 1) / 2)
    values = (1 + r - u**2) ** (-gamma * power - shift)
    return float(gamma * y * r ** (gamma * power) * (torch.as_tensor(weights) / 2 * values).sum())


grade_21_4 = Exercise(
    "21.4",
    inputs=[(1.0, 0.5, 3.0), (1.0, 0.5, 1.0), (-2.0, 1.0, 2.0), (0.7, 0.2, 5.0)],
    answer=_mean,
    slips={
        "that is where the SDE's mean ends; the ODE has half the pull": lambda y, r, gamma: y * (1 - (r / (1 + r)) ** gamma),
        "that is the tilted law's mean": lambda y, r, gamma: gamma * y / (gamma + r),
        "that is the posterior mean: γ is missing": lambda y, r, gamma: y / (1 + r),
        "the SDE's mean with half of γ is not it: the pull has y/√a in it, the SDE's √a has gone into n = √a m": (
            lambda y, r, gamma: y * (1 - (r / (1 + r)) ** (gamma / 2))
        ),
        "the pull itself has a factor 1/c; its power is lost": lambda y, r, gamma: _mean(y, r, gamma, shift=0.0),
    },
    praise="y/(1 + r) at γ = 1, as it must be",
    rtol=1e-4,
)
