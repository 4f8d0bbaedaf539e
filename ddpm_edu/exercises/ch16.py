"""Graders of Chapter 16: a step for a given bias, the stability bound, a temperature, the acceptance that removes the bias."""

from __future__ import annotations

import math

from . import Exercise

# 16.1: the largest step for a given relative error of the variance.

grade_16_1 = Exercise(
    "16.1",
    inputs=[(1.0, 0.1), (0.5, 0.01), (4.0, 1.0), (0.02, 0.25)],
    answer=lambda v, e: 2 * v * e / (1 + e),
    slips={
        "right to first order in e; the bias is known exactly": lambda v, e: 2 * v * e,
        "that is the step for v = 1; variances are measured in units of v, and so are steps": lambda v, e: 2 * e / (1 + e),
        "that is the limit of stability, where the variance is infinite": lambda v, e: 2 * v,
        "time goes with the variance, not with the standard deviation": lambda v, e: 2 * math.sqrt(v) * e / (1 + e),
        "the ½ in Eq. (16.9) is lost": lambda v, e: v * e / (1 + e),
    },
    praise="and 2v for an error without end",
)

# 16.2: the stability bound of a correlated Gaussian.


def _eigenvalue(a, b, c, sign):
    return (a + c) / 2 + sign * math.hypot((a - c) / 2, b)


grade_16_2 = Exercise(
    "16.2",
    inputs=[(1.0, 0.0, 0.25), (1.0, 0.9, 1.0), (2.0, -0.5, 0.5), (0.3, 0.1, 0.2)],
    answer=lambda a, b, c: 2 * _eigenvalue(a, b, c, -1),
    slips={
        "the coordinates are correlated; the axes of the ellipse decide": lambda a, b, c: 2 * min(a, c),
        "the widest axis bears any step; the narrowest does not": lambda a, b, c: 2 * _eigenvalue(a, b, c, 1),
        "at this step the mean is reached in one move; it is stable up to twice that": lambda a, b, c: _eigenvalue(a, b, c, -1),
        "that is the curvature: its inverse is wanted": lambda a, b, c: 2 / _eigenvalue(a, b, c, -1),
        "not the average of the axes: one unstable axis is enough": lambda a, b, c: a + c,
    },
    praise="correlation alone can make it small",
)

# 16.3: the temperature of somebody's step.

grade_16_3 = Exercise(
    "16.3",
    inputs=[(0.1, math.sqrt(0.2)), (0.1, math.sqrt(0.1)), (0.05, 0.5), (0.3, 0.0)],
    answer=lambda a, c: c**2 / (2 * a),
    slips={
        "noise of variance 2a is temperature 1": lambda a, c: c**2 / a,
        "c multiplies z: its square is the variance": lambda a, c: c / (2 * a),
        "that is the inverse temperature": lambda a, c: 2 * a / c**2 if c else math.inf,
        "that is the ratio of the noises; the temperature is that of their variances": lambda a, c: c / math.sqrt(2 * a),
    },
    praise="½ for Algorithm 2",
)

# 16.4: the acceptance of a Langevin proposal.


def _bells(x, y, s_x, s_y, gamma):
    return ((y - x - gamma * s_x) ** 2 - (x - y - gamma * s_y) ** 2) / (4 * gamma)


grade_16_4 = Exercise(
    "16.4",
    inputs=[(-0.3, -0.5, -0.9, 0.5, 0.9, 0.2), (0.7, -1.5, -0.4, 1.5, 0.4, 0.5), (-2.0, 0.3, -1.8, -0.3, 1.8, 0.1)],
    answer=lambda r, s_x, s_y, x, y, g: r + _bells(x, y, s_x, s_y, g),
    slips={
        "the proposal is not symmetric: the two bells differ": lambda r, s_x, s_y, x, y, g: r,
        "the bells are the wrong way up: the way back stands on top": (
            lambda r, s_x, s_y, x, y, g: r - _bells(x, y, s_x, s_y, g)
        ),
        "the bells have variance 2γ, and the exponent a further ½": (
            lambda r, s_x, s_y, x, y, g: r + 2 * _bells(x, y, s_x, s_y, g)
        ),
        "the way back uses the score at y": lambda r, s_x, s_y, x, y, g: r + _bells(x, y, s_x, s_x, g),
        "that is the probability itself, not its logarithm": (
            lambda r, s_x, s_y, x, y, g: math.exp(r + _bells(x, y, s_x, s_y, g))
        ),
    },
    praise="no normaliser anywhere",
)
