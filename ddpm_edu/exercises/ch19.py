"""Graders of Chapter 19: a clipped step, a weight without the stopped gradient, the gain of the best draw, unequal costs."""

from __future__ import annotations

import math

from . import Exercise

# 19.1: β_t of the cosine schedule.


def _cosine(t, T, r, power=2, shift=0):
    f = lambda k: math.cos(math.pi / 2 * (k / T + r) / (1 + r)) ** power  # noqa: E731
    return 1 - f(t + shift) / f(t - 1 + shift)


grade_19_1 = Exercise(
    "19.1",
    inputs=[(1, 1000, 0.008), (500, 1000, 0.008), (10, 10, 0.008), (4, 10, 0.02), (1000, 1000, 0.008)],
    answer=lambda t, T, r: min(_cosine(t, T, r), 0.999),
    slips={
        "at the last step this is 1: a sampler would divide by 0 there": lambda t, T, r: _cosine(t, T, r),
        "f is a squared cosine": lambda t, T, r: min(_cosine(t, T, r, power=1), 0.999),
        "that is ᾱ_t/ᾱ_{t-1}, which is α_t": lambda t, T, r: 1 - min(_cosine(t, T, r), 0.999),
        "that is 1 - ᾱ_t, the noise of all steps up to t": (
            lambda t, T, r: min(
                1 - (math.cos(math.pi / 2 * (t / T + r) / (1 + r)) / math.cos(math.pi / 2 * r / (1 + r))) ** 2, 0.999
            )
        ),
        "the offset must be divided out again, or the angle passes a right angle": (
            lambda t, T, r: min(
                1 - (math.cos(math.pi / 2 * (t / T + r)) / math.cos(math.pi / 2 * ((t - 1) / T + r))) ** 2, 0.999
            )
        ),
    },
    praise="and only the last step ever meets the clip at T = 1000",
)

# 19.2: the weight of the noise error when the gradient is not stopped.


def _weight(alpha_bar_s, alpha_bar_t, sigma2, scale, half=2, bar=False):
    alpha = alpha_bar_t / alpha_bar_s
    return 1 + scale * (1 - alpha) ** 2 / (half * sigma2 * (alpha_bar_t if bar else alpha) * (1 - alpha_bar_t))


grade_19_2 = Exercise(
    "19.2",
    inputs=[(1.0, 0.9999, 1e-4, 1e-3, 1000), (0.6, 0.5, 0.2, 0.01, 50), (0.1, 0.05, 0.4, 1e-3, 10)],
    answer=lambda s, t, sigma2, lam, T: _weight(s, t, sigma2, lam * T),
    slips={
        "the bound is a sum over T steps; a mean over t must be multiplied by T": lambda s, t, v, lam, T: _weight(s, t, v, lam),
        "that is the bound's share alone; the simple loss has a weight too": lambda s, t, v, lam, T: (
            _weight(s, t, v, lam * T) - 1
        ),
        "the ½ of the Gaussian exponent is lost": lambda s, t, v, lam, T: _weight(s, t, v, lam * T, half=1),
        "α_t under the fraction, without a bar": lambda s, t, v, lam, T: _weight(s, t, v, lam * T, bar=True),
        "a variance stands there, not a standard deviation": lambda s, t, v, lam, T: _weight(s, t, math.sqrt(v), lam * T),
    },
    praise="half a weight more at t = 1, next to nothing in the middle",
)

# 19.3: how much the best draw of t gains.


def _mean(x):
    return sum(x) / len(x)


grade_19_3 = Exercise(
    "19.3",
    inputs=[([4.0, 1.0, 1.0, 1.0],), ([9.0, 0.25],), ([2.0, 2.0, 2.0],), ([100.0, 1.0, 0.01, 1.0, 4.0],)],
    answer=lambda s: _mean(s) / _mean([math.sqrt(x) for x in s]) ** 2,
    slips={
        "upside down: uniform draws have the larger second moment": (
            lambda s: _mean([math.sqrt(x) for x in s]) ** 2 / _mean(s)
        ),
        "drawing in proportion to s itself gains nothing at all": lambda s: 1.0,
        "the s are squares already": lambda s: _mean([x**2 for x in s]) / _mean(s) ** 2,
        "that is the ratio of the roots; variances were asked for": (
            lambda s: math.sqrt(_mean(s)) / _mean([math.sqrt(x) for x in s])
        ),
        "a mean of the T terms and a sum of them have been mixed": lambda s: sum(s) / sum(math.sqrt(x) for x in s) ** 2,
    },
    praise="1 plus the relative variance of the lengths",
)

# 19.4: draws that cost different amounts.


def _normed(x):
    return [value / sum(x) for value in x]


grade_19_4 = Exercise(
    "19.4",
    inputs=[([4.0, 1.0, 1.0], [1.0, 1.0, 4.0]), ([1.0, 1.0], [1.0, 9.0]), ([9.0, 4.0, 1.0, 0.25], [2.0, 1.0, 0.5, 8.0])],
    answer=lambda s, c: _normed([math.sqrt(x / cost) for x, cost in zip(s, c)]),
    slips={
        "the cost is left out: a cheap draw should be made more often": lambda s, c: _normed([math.sqrt(x) for x in s]),
        "the root belongs over the cost as well": lambda s, c: _normed([math.sqrt(x) / cost for x, cost in zip(s, c)]),
        "the wrong way round: these would favour what is dear": lambda s, c: _normed(
            [math.sqrt(x * cost) for x, cost in zip(s, c)]
        ),
        "the root is missing": lambda s, c: _normed([x / cost for x, cost in zip(s, c)]),
        "probabilities must sum to 1": lambda s, c: [math.sqrt(x / cost) for x, cost in zip(s, c)],
    },
    praise="lengths per root of the cost",
)
