"""Graders of Chapter 13: the Fréchet distance on a line, MMD from its tables, the coverage of real by real, nearness."""

from __future__ import annotations

import math

import torch

from . import Exercise

# 13.1: the Fréchet distance of two Gaussians with independent coordinates.


def _frechet(mean_x, var_x, mean_y, var_y):
    return ((mean_x - mean_y) ** 2 + (var_x.sqrt() - var_y.sqrt()) ** 2).sum()


def _t(*values):
    return torch.tensor(values, dtype=torch.float64)


grade_13_1 = Exercise(
    "13.1",
    inputs=[
        (_t(0.0, 1.0), _t(1.0, 4.0), _t(0.5, -1.0), _t(0.25, 1.0)),
        (_t(0.0), _t(2.0), _t(0.0), _t(2.0)),
        (_t(0.2, 0.1, 3.0), _t(0.0, 1.0, 9.0), _t(0.0, 0.1, 2.0), _t(1.0, 1.0, 0.01)),
    ],
    answer=_frechet,
    slips={
        "the arguments are variances; what the map stretches by are deviations": (
            lambda a, v, b, w: ((a - b) ** 2 + (v - w) ** 2).sum()
        ),
        "this adds the two variances, as for x and y drawn independently: the best coupling makes them go together": (
            lambda a, v, b, w: ((a - b) ** 2 + v + w).sum()
        ),
        "only the spreads are compared: two equal clouds in different places would have distance 0": lambda a, v, b, w: (
            (v.sqrt() - w.sqrt()) ** 2
        ).sum(),
        "the cross term is √(v w), counted twice": lambda a, v, b, w: ((a - b) ** 2 + v + w - (v * w).sqrt()).sum(),
        "the square root of what is asked for: here the squared distance is reported": (
            lambda a, v, b, w: _frechet(a, v, b, w).sqrt()
        ),
        "an average over the coordinates; squares of lengths add": lambda a, v, b, w: _frechet(a, v, b, w) / len(a),
    },
    praise="and for equal laws it is 0",
)

# 13.2: the unbiased MMD² from three tables of kernel values.


def _mmd2(xx, yy, xy):
    n, m = len(xx), len(yy)
    return (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * xy.mean()


def _tables(n, m, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 2, generator=generator).double(), 0.5 + torch.randn(m, 2, generator=generator).double()
    k = lambda a, b: torch.exp(-torch.cdist(a, b).square() / 2)  # noqa: E731
    return k(x, x) + torch.eye(n).double(), k(y, y), k(x, y)  # a diagonal that is not just 1


grade_13_2 = Exercise(
    "13.2",
    inputs=[_tables(4, 6, 0), _tables(7, 3, 1), _tables(2, 2, 2)],
    answer=_mmd2,
    slips={
        "biased: the diagonals are still in": lambda xx, yy, xy: xx.mean() + yy.mean() - 2 * xy.mean(),
        "the diagonals are out, but you still divide by n²: count the pairs that are left": (
            lambda xx, yy, xy: (xx.sum() - xx.trace()) / len(xx) ** 2 + (yy.sum() - yy.trace()) / len(yy) ** 2 - 2 * xy.mean()
        ),
        "the cross term stands twice in a square": lambda xx, yy, xy: _mmd2(xx, yy, xy) + xy.mean(),
        "an absolute value or a clamp makes it biased again: let it be negative": (
            lambda xx, yy, xy: max(float(_mmd2(xx, yy, xy)), 0.0)
        ),
        "that is twice too small: you count every pair i < j but divide by the number of ordered pairs": (
            lambda xx, yy, xy: (
                xx.triu(1).sum() / (len(xx) * (len(xx) - 1)) + yy.triu(1).sum() / (len(yy) * (len(yy) - 1)) - 2 * xy.mean()
            )
        ),
    },
    praise="unbiased, and negative when it has to be",
)

# 13.3: the coverage that real pictures have of real pictures.


def _coverage(n, m, k):
    return 1 - math.prod((n - 1 - j) / (n + m - 1 - j) for j in range(k))


grade_13_3 = Exercise(
    "13.3",
    inputs=[(10, 10, 1), (10, 10, 3), (20, 5, 2), (359, 359, 3)],
    answer=_coverage,
    slips={
        "right for large n = m only": lambda n, m, k: 1 - 0.5**k,
        "the centre of the ball is not its own neighbour: how many other real points are there?": (
            lambda n, m, k: 1 - math.prod((n - j) / (n + m - j) for j in range(k))
        ),
        "drawn with replacement: once the nearest is taken, one real point fewer is left": (
            lambda n, m, k: 1 - ((n - 1) / (n + m - 1)) ** k
        ),
        "that is the share of balls without a sample": lambda n, m, k: 1 - _coverage(n, m, k),
        "the roles are exchanged: the balls are around the n real points": lambda n, m, k: _coverage(m, n, k),
    },
    praise="whatever the law, whatever the dimension",
)

# 13.4: nearness to the training set, with its distance from ½ in standard errors.


def _share(samples, held_out):
    s, h = samples.unsqueeze(1), held_out
    return (s < h).double().mean() + 0.5 * (s == h).double().mean()


def _z(samples, held_out):
    n, m = len(samples), len(held_out)
    return (_share(samples, held_out) - 0.5) / math.sqrt((n + m + 1) / (12 * n * m))


def _wrong_error(samples, held_out):
    return (_share(samples, held_out) - 0.5) / math.sqrt(0.25 / (len(samples) * len(held_out)))


grade_13_4 = Exercise(
    "13.4",
    inputs=[
        (_t(1.0, 2.0, 2.5, 4.0), _t(1.5, 3.0, 5.0)),
        (_t(0.0, 0.0, 1.0, 2.0), _t(1.0, 3.0, 2.0, 2.0, 4.0)),
        (_t(5.0, 6.0), _t(1.0, 2.0, 3.0)),
    ],
    answer=_z,
    slips={
        "ties are not counted: give each of them half": (
            lambda s, h: (
                ((s.unsqueeze(1) < h).double().mean() - 0.5) / math.sqrt((len(s) + len(h) + 1) / (12 * len(s) * len(h)))
            )
        ),
        "the sign is wrong: copies should come out positive": lambda s, h: -_z(s, h),
        "that is A itself; how many standard errors is it from ½?": _share,
        "the pairs are not independent: they share pictures. Eq. (13.24) counts that": _wrong_error,
        "you divide by the variance": lambda s, h: _z(s, h) / math.sqrt((len(s) + len(h) + 1) / (12 * len(s) * len(h))),
    },
    praise="a test for copying in three lines",
)
