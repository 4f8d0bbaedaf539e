"""Graders of Chapter 23: a letter that stays, a flip turned round, the weight of the blanks, the price of independence."""

from __future__ import annotations

import math

from . import Exercise

# 23.1: the probability that uniform noise leaves a category as it is.

grade_23_1 = Exercise(
    "23.1",
    inputs=[(0.5, 2), (0.1, 27), (1.0, 4), (0.0, 10), (0.9, 3)],
    answer=lambda a, K: a + (1 - a) / K,
    slips={
        "that counts the untouched ones only; a new draw can bring the old category back": lambda a, K: a,
        "the new draw is from all categories, the old one included": lambda a, K: a + (1 - a) / (K - 1),
        "that is the probability of one other category": lambda a, K: (1 - a) / K,
        "that is the probability of a change": lambda a, K: (1 - a) * (K - 1) / K,
        "a root belongs to the Gaussian chain; here a share survives": lambda a, K: math.sqrt(a) + (1 - math.sqrt(a)) / K,
    },
    praise="1/K when nothing is left of the data",
)

# 23.2: two categories; x_t differs from x_0, was x_s still right?


def _jump(a, same):
    return (1 + a) / 2 if same else (1 - a) / 2


grade_23_2 = Exercise(
    "23.2",
    inputs=[(0.9, 0.5), (0.6, 0.1), (0.99, 0.98), (1.0, 0.3)],
    answer=lambda s, t: _jump(s, True) * _jump(t / s, False) / _jump(t, False),
    slips={
        "that is the joint probability: it is not divided by that of what we see": (
            lambda s, t: _jump(s, True) * _jump(t / s, False)
        ),
        "from s to t the survival is ᾱ_t/ᾱ_s, not ᾱ_t": lambda s, t: _jump(s, True) * _jump(t, False) / _jump(t, False),
        "that is the masked chain's posterior; a mask cannot be anything else": lambda s, t: (s - t) / (1 - t),
        "the other way round: that is the probability that it had already changed": (
            lambda s, t: _jump(s, False) * _jump(t / s, True) / _jump(t, False)
        ),
        "divide by the probability that x_t differs from x_0": (
            lambda s, t: _jump(s, True) * _jump(t / s, False) / _jump(t, True)
        ),
    },
    praise="certain at s = 0",
)

# 23.3: the weight of the cross-entropy for a cosine schedule.

_C, _S = (lambda t: math.cos(math.pi * t / 2)), (lambda t: math.sin(math.pi * t / 2))

grade_23_3 = Exercise(
    "23.3",
    inputs=[(0.1,), (0.5,), (0.9,), (0.33,)],
    answer=lambda t: math.pi * _C(t) / _S(t),
    slips={
        "that is the straight line's weight": lambda t: 1 / t,
        "that is how fast letters are hidden; divide by how many are": lambda t: math.pi * _C(t) * _S(t),
        "below stands the share that is hidden, not the one that is left": lambda t: math.pi * _S(t) / _C(t),
        "ᾱ falls: look at the sign": lambda t: -math.pi * _C(t) / _S(t),
        "the derivative of cos² has a factor 2 from the square": lambda t: math.pi / 2 * _C(t) / _S(t),
    },
    praise="a clock that stops at t = 1",
)

# 23.4: the price of independence for D equal coins.


def _shown(D, T):
    return D * sum((j / T) ** (D - 1) for j in range(1, T + 1)) / T


grade_23_4 = Exercise(
    "23.4",
    inputs=[(2, 1), (2, 7), (3, 4), (5, 10), (1, 3)],
    answer=lambda D, T: (_shown(D, T) - 1) * math.log(2),
    slips={
        "the first coin of the step has to be tossed anyway; only the others cost": lambda D, T: _shown(D, T) * math.log(2),
        "that charges every pair that meets in one step; once a coin is shown, the others are known": (
            lambda D, T: D * (D - 1) / 2 / T * math.log(2)
        ),
        "right for two coins; count how many share the first step that shows any": lambda D, T: (D - 1) / T * math.log(2),
        "that is in bits": lambda D, T: _shown(D, T) - 1,
        "that is the limit of large T": lambda D, T: (D / 2 / T) * math.log(2),
    },
    praise="twice the length needs twice the steps",
)
