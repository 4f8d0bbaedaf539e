"""Graders of Chapter 22: the line that steers, one noise for two bands, how many repeats, a start that is not the prior."""

from __future__ import annotations

import math

import torch

from . import Exercise


def _t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# 22.1: one steered state, with the filter as a matrix.

_MEAN = torch.full((2, 2), 0.5, dtype=torch.float64)
_MASK = torch.diag(_t(1.0, 0.0, 1.0))
_BLUR = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)


def _steered(x, y, P, a, e):
    return x - P @ x + P @ (math.sqrt(a) * y + math.sqrt(1 - a) * e)


grade_22_1 = Exercise(
    "22.1",
    inputs=[
        (_t(0.3, -1.0), _t(1.0, 0.5), _MEAN, 0.6, _t(0.2, 1.1)),
        (_t(0.3, -1.0, 2.0), _t(1.0, 0.5, -0.7), _MASK, 0.2, _t(-0.4, 0.9, 0.1)),
        (_t(-0.8, 0.1), _t(0.4, -0.5), _BLUR, 0.9, _t(1.0, -1.2)),
    ],
    answer=_steered,
    slips={
        "the reference is put in clean; a state at this level is noisy": lambda x, y, P, a, e: x - P @ x + P @ y,
        "the noise is missing": lambda x, y, P, a, e: x - P @ x + P @ (math.sqrt(a) * y),
        "that keeps the proposal's low band and takes the reference's high band": lambda x, y, P, a, e: _steered(
            math.sqrt(a) * y + math.sqrt(1 - a) * e, (x - math.sqrt(1 - a) * e) / math.sqrt(a), P, a, e
        ),
        "1 - ᾱ is a variance; ε is multiplied by its root": lambda x, y, P, a, e: (
            x - P @ x + P @ (math.sqrt(a) * y + (1 - a) * e)
        ),
        "the noised reference is put in whole; only its low band is known": (
            lambda x, y, P, a, e: x - P @ x + math.sqrt(a) * y + math.sqrt(1 - a) * e
        ),
    },
    praise="one line for ILVR and for inpainting",
)

# 22.2: the noise level of a half-passed band when one noise serves both.

grade_22_2 = Exercise(
    "22.2",
    inputs=[(0.5, 0.4, 0.1), (0.75, 0.9, 0.3), (0.2, 0.05, 0.2), (1.0, 0.5, 0.1)],
    answer=lambda lam, v, s: (1 - lam) ** 2 * v + lam**2 * v + 2 * lam * (1 - lam) * s * math.sqrt(v),
    slips={
        "that is the level with fresh noise: the shared one adds a cross term": lambda lam, v, s: ((1 - lam) ** 2 + lam**2) * v,
        "a cross term counts twice: (p + q)² = p² + 2pq + q²": (
            lambda lam, v, s: (1 - lam) ** 2 * v + lam**2 * v + lam * (1 - lam) * s * math.sqrt(v)
        ),
        "not all of the proposal's noise is the step's own: only σ of it is shared": lambda lam, v, s: v,
        "the shared parts have deviations σ and √v: their covariance is the product of these": (
            lambda lam, v, s: (1 - lam) ** 2 * v + lam**2 * v + 2 * lam * (1 - lam) * s**2
        ),
    },
    praise="nearer to the right level than with fresh noise, and still wrong: the bands are now correlated",
)

# 22.3: repeats for a wanted share of a weak coupling.

grade_22_3 = Exercise(
    "22.3",
    inputs=[(0.45,), (0.55,), (0.72,), (0.93,), (0.985,)],
    answer=lambda share: math.ceil(share / (1 - share) - 1e-9),
    slips={
        "one too many: solve U/(U + 1) for U once more": lambda share: math.ceil(1 / (1 - share)),
        "rounded to the nearest: then the share may be missed": lambda share: max(1, round(share / (1 - share))),
        "rounded down: then the share is missed": lambda share: max(1, math.floor(share / (1 - share))),
        "a repeat does not halve what is missing; the gap closes more slowly than that": lambda share: max(
            1, math.ceil(-math.log2(1 - share))
        ),
        "a number of repeats is whole": lambda share: share / (1 - share),
    },
    praise="the last per cent cost the most",
)

# 22.4: PriorGrad from a start that is not the prior.


def _generated(s2, start, betas, noise=None, last=False):
    V = start
    for t in range(len(betas), 0, -1):
        b = betas[t - 1]
        V = (1 - b) * V + (b * (s2 if noise is None else noise) if t > 1 or last else 0.0)
    return V


grade_22_4 = Exercise(
    "22.4",
    inputs=[
        (0.25, 1.0, [0.1, 0.2, 0.4]),
        (4.0, 1.0, [0.05, 0.1, 0.3, 0.5]),
        (0.01, 0.0, [0.2, 0.3]),
        (2.0, 3.0, [0.5]),
    ],
    answer=_generated,
    slips={
        "the noise of the steps comes from the prior too, not from N(0, 1)": lambda s2, start, betas: _generated(
            s2, start, betas, noise=1.0
        ),
        "the last step adds no noise": lambda s2, start, betas: _generated(s2, start, betas, last=True),
        "the start is not forgotten in so few steps": lambda s2, start, betas: _generated(s2, s2, betas),
        "a variance is multiplied by the square of √α": lambda s2, start, betas: math.sqrt(_generated(s2, start, betas)),
        "that is in units of the prior's variance": lambda s2, start, betas: _generated(s2, start, betas) / s2,
    },
    praise="the start is multiplied by ᾱ_T, the noise is not",
)
