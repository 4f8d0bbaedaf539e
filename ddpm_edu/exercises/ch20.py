"""Graders of Chapter 20: the price of a step, a weight for v, the best spacing for a Gaussian, an entropy from errors."""

from __future__ import annotations

import math

import torch

from . import Exercise


def _snr(alpha_bar):
    return alpha_bar / (1 - alpha_bar)


# 20.1: the price of a step, from the error of the noise.

grade_20_1 = Exercise(
    "20.1",
    inputs=[(0.9, 0.8, 1.0), (0.5, 0.01, 0.3), (0.999, 0.3, 2.0)],
    answer=lambda s, t, e: 0.5 * (_snr(s) / _snr(t) - 1) * e,
    slips={
        "that weight belongs to the error of x_0": lambda s, t, e: 0.5 * (_snr(s) - _snr(t)) * e,
        "that is the limit for small steps; these are not small": lambda s, t, e: 0.5 * math.log(_snr(s) / _snr(t)) * e,
        "the ½ of the KL is missing": lambda s, t, e: (_snr(s) / _snr(t) - 1) * e,
        "the ratio is upside down: a price is positive": lambda s, t, e: 0.5 * (_snr(t) / _snr(s) - 1) * e,
        "a ratio of ᾱ is not a ratio of SNRs": lambda s, t, e: 0.5 * (s / t - 1) * e,
        "the error of the noise is known at t, not at s": lambda s, t, e: 0.5 * (1 - _snr(t) / _snr(s)) * e,
    },
    praise="exact, however long the step",
)

# 20.2: min-SNR's weight, for a network that predicts v.

grade_20_2 = Exercise(
    "20.2",
    inputs=[(0.99, 5.0), (0.5, 5.0), (0.01, 5.0), (0.8, 1.0)],
    answer=lambda a, g: min(_snr(a), g) / (_snr(a) + 1),
    slips={
        "that is the weight on the error of x_0": lambda a, g: min(_snr(a), g),
        "that is the weight on the error of the noise": lambda a, g: min(_snr(a), g) / _snr(a),
        "Eq. (20.28) the other way round: the error of v is the larger one": lambda a, g: min(_snr(a), g) * (_snr(a) + 1),
        "the cap is on the SNR; the + 1 comes after it": lambda a, g: min(_snr(a) + 1, g) / (_snr(a) + 1),
        "ᾱ is not the SNR": lambda a, g: min(a, g) / (a + 1),
    },
    praise="small at both ends, largest where SNR = γ",
)

# 20.3: the chain with the lowest bound for N(0, 1).


def _between(there, back):
    """T values evenly spaced in the coordinate there(ᾱ)."""
    return lambda T, first, last: back(torch.linspace(there(first), there(last), T, dtype=torch.float64))


grade_20_3 = Exercise(
    "20.3",
    inputs=[(3, 0.9, 0.1), (6, 0.9999, 4e-5), (10, 0.999, 0.01)],
    answer=_between(lambda a: math.log(1 - a), lambda y: 1 - y.exp()),
    slips={
        "ᾱ itself in equal steps makes the first interval, at the data's end, far too dear": _between(lambda a: a, lambda y: y),
        "you made ᾱ geometric; look at which quantity has the fixed product": _between(math.log, torch.exp),
        "you made S geometric; at small S that wastes steps": _between(lambda a: math.log(_snr(a)), torch.sigmoid),
        "the values are right, in the wrong order: step 1 is the data's end": _between(
            lambda a: math.log(1 - a), lambda y: (1 - y.exp()).flip(0)
        ),
        "equal steps of 1 + S: what has a fixed product wants something else than what has a fixed sum": _between(
            lambda a: 1 / (1 - a), lambda y: 1 - 1 / y
        ),
    },
    praise="every step brings the same information",
)

# 20.4: an entropy from denoising errors.


def _table(low, high, n, width):
    lam = torch.linspace(low, high, n, dtype=torch.float64)
    return lam, torch.sigmoid(lam) * torch.exp(-width * lam.exp())


def _area(y, x):
    return torch.trapezoid(y, x)


grade_20_4 = Exercise(
    "20.4",
    inputs=[_table(-12.0, 6.0, 200, 0.1), _table(-8.0, 5.0, 90, 1.0), _table(-15.0, 8.0, 400, 0.01)],
    answer=lambda lam, e: _area(e, lam) / (2 * math.log(2)),
    slips={
        "those are nats; bits are asked for": lambda lam, e: _area(e, lam) / 2,
        "the ½ of the KL is missing": lambda lam, e: _area(e, lam) / math.log(2),
        "the errors are the noise's: over S they would have to be divided by S": (
            lambda lam, e: _area(e, lam.exp()) / (2 * math.log(2))
        ),
        "the errors are the noise's already: no further factor S": (
            lambda lam, e: _area(e * lam.exp(), lam) / (2 * math.log(2))
        ),
        "a nat is more than a bit, so there are more bits than nats": lambda lam, e: _area(e, lam) * math.log(2) / 2,
    },
    praise="and the distances between the values do not matter",
)
