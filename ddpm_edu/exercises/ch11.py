"""Graders of Chapter 11: what an average keeps of the start, Adam, the loss of a batch in pieces, the floor of the loss."""

from __future__ import annotations

import math

from . import Exercise

# 11.1: the share of the initial weights in the average.

grade_11_1 = Exercise(
    "11.1",
    inputs=[(0.9999, 2800), (0.999, 1000), (0.5, 3), (0.9, 1), (0.99, 0)],
    answer=lambda d, n: d**n,
    slips={
        "that is the weight of one gradient step of age n; the start was put in whole, not with 1 - d": (
            lambda d, n: (1 - d) * d**n
        ),
        "that is the share of everything but the start": lambda d, n: 1 - d**n,
        "the coefficients are exchanged: the old average keeps d, the new weights get 1 - d": lambda d, n: (1 - d) ** n,
        "after one step the start has been multiplied by d once": lambda d, n: d ** (n - 1),
        "shares shrink by a factor at each step, they do not fall on a straight line": lambda d, n: 1 - n * (1 - d),
    },
    praise="76 % after 2,800 steps at the paper's decay, hence the start-up",
)

# 11.2: Adam.


def _adam(gradients, lr, correct=True, first=1, inside=False, square=True, root=True, sign=-1):
    m = v = place = 0.0
    for n, g in enumerate(gradients, start=first):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * (g * g if square else abs(g))
        m_hat, v_hat = (m / (1 - 0.9**n), v / (1 - 0.999**n)) if correct else (m, v)
        below = math.sqrt(v_hat + 1e-8) if inside else (math.sqrt(v_hat) if root else v_hat) + 1e-8
        place += sign * lr * m_hat / below
    return place


grade_11_2 = Exercise(
    "11.2",
    inputs=[([1.0], 0.1), ([3e-4, -1e-4], 0.1), ([1.0, -2.0, 0.5, 4.0], 0.01), ([-5.0, 5.0, 0.1], 1.0)],
    answer=_adam,
    slips={
        "the averages started at zero and are too small: where is the correction?": lambda g, lr: _adam(g, lr, correct=False),
        "at the first step n is 1, not 2": lambda g, lr: _adam(g, lr, first=2),
        "ε stands outside the root": lambda g, lr: _adam(g, lr, inside=True),
        "v averages the squares of the gradients": lambda g, lr: _adam(g, lr, square=False),
        "divide by the root of v, which has the unit of a gradient": lambda g, lr: _adam(g, lr, root=False),
        "you climb: a step goes against the gradient": lambda g, lr: _adam(g, lr, sign=1),
        "that is plain gradient descent": lambda g, lr: -lr * sum(g),
    },
    praise="the size of the gradients cancels, their order does not",
)

# 11.3: the loss of a batch in pieces.


def _joint(means, sizes):
    return sum(m * n for m, n in zip(means, sizes)) / sum(sizes)


grade_11_3 = Exercise(
    "11.3",
    inputs=[([1.0, 2.0], [3, 1]), ([0.5, 0.25, 4.0], [10, 10, 1]), ([0.7], [5]), ([1.0, 3.0, 2.0, 2.0], [2, 2, 3, 1])],
    answer=_joint,
    slips={
        "a mean of means is right only if the pieces have one size": lambda m, n: sum(m) / len(m),
        "the pieces' losses are added but not divided": lambda m, n: sum(m),
        "that is the sum over all images; the loss is a mean": lambda m, n: sum(a * b for a, b in zip(m, n)),
        "divide by the number of images, not of pieces": lambda m, n: sum(a * b for a, b in zip(m, n)) / len(m),
        "larger pieces count more, not less": lambda m, n: sum(a / b for a, b in zip(m, n)) / sum(1 / b for b in n),
    },
    praise="the same for gradients, and for processes",
)

# 11.4: the floor of the loss.


def _floor(s2, alpha_bars, start=1, known=lambda a, s2: a * s2 / (a * s2 + 1 - a)):
    values = [known(float(a), s2) for a in alpha_bars[start:]]
    return sum(values) / len(values)


grade_11_4 = Exercise(
    "11.4",
    inputs=[
        (1.0, [1.0, 0.9, 0.5, 0.1]),
        (0.25, [1.0, 0.99, 0.7, 0.3, 0.02]),
        (4.0, [1.0, 0.8, 0.4]),
        (0.01, [1.0, 0.999, 0.98, 0.9, 0.6, 0.2]),
    ],
    answer=_floor,
    slips={
        "entry 0 of the table is no step: t runs from 1 to T": lambda s, a: _floor(s, a, start=0),
        "that is Var(x_0 | x_t); the network predicts ε": (
            lambda s, a: _floor(s, a, known=lambda a, s: s * (1 - a) / (a * s + 1 - a))
        ),
        "that is E[ε*²], the part that can be known; the floor is the rest": (
            lambda s, a: _floor(s, a, known=lambda a, s: (1 - a) / (a * s + 1 - a))
        ),
        "ᾱ_t is the floor for data of variance 1 only": lambda s, a: _floor(s, a, known=lambda a, s: a),
        "a sum over t; the loss is a mean over t": lambda s, a: _floor(s, a) * (len(a) - 1),
        "s² is a variance already": lambda s, a: _floor(s * s, a),
    },
    praise="what the curve flattens at, before anything has been trained",
)
