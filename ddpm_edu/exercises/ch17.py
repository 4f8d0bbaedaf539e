"""Graders of Chapter 17: ᾱ of a straight β, the flow of an exploding process, a wrong start, the noise of random signs."""

from __future__ import annotations

import math

import torch

from . import Exercise

# 17.1: ᾱ(t) for β on a straight line.


def _integral(t, low, high):
    return low * t + 0.5 * (high - low) * t**2


grade_17_1 = Exercise(
    "17.1",
    inputs=[(0.5, 0.1, 20.0), (1.0, 0.1, 20.0), (0.3, 2.0, 2.0), (0.7, 3.0, 1.0)],
    answer=lambda t, low, high: math.exp(-_integral(t, low, high)),
    slips={
        "that is β(t) times t; the area under a line has a triangle in it": (
            lambda t, low, high: math.exp(-(low + (high - low) * t) * t)
        ),
        "that is √ᾱ(t), the factor of x_0; asked is ᾱ(t)": lambda t, low, high: math.exp(-0.5 * _integral(t, low, high)),
        "that is 1 - ᾱ(t), the variance of the noise": lambda t, low, high: 1 - math.exp(-_integral(t, low, high)),
        "ᾱ falls with t: look at the sign of the exponent": lambda t, low, high: math.exp(_integral(t, low, high)),
        "the exponent belongs to β all the way to 1, whatever t": lambda t, low, high: math.exp(-_integral(1.0, low, high)),
    },
    praise="a rectangle and a triangle",
)

# 17.2: the probability flow of x_t = x_0 + σ(t) ε.

grade_17_2 = Exercise(
    "17.2",
    inputs=[(0.7, 2.0, 3.0), (-1.2, 0.5, 0.1), (0.4, 10.0, -1.0)],
    answer=lambda score, sigma, rate: -sigma * rate * score,
    slips={
        "that is the drift of the reverse SDE; the ODE takes half of g²": lambda score, sigma, rate: -2 * sigma * rate * score,
        "the sign: as t grows, probability flows away from where it is dense": lambda score, sigma, rate: sigma * rate * score,
        "g² is the derivative of σ², not the square of the derivative of σ": lambda score, sigma, rate: -0.5 * rate**2 * score,
        "g² is how fast σ² grows, not σ² itself": lambda score, sigma, rate: -0.5 * sigma**2 * score,
        "g² is the derivative of σ², not of σ": lambda score, sigma, rate: -0.5 * rate * score,
    },
    praise="with σ(t) = t this is the ODE of Karras et al.",
)

# 17.3: a sampler of the family that starts from N(0, 1) instead of q_1.


def _wrong_start(v_0, alpha_bar, eta, power=2):
    v_1 = alpha_bar * v_0 + 1 - alpha_bar
    memory = (v_0 / v_1) ** (0.5 * (1 + eta**2)) * alpha_bar ** (0.5 * eta**2)
    return v_0 - memory**power * (v_1 - 1)


grade_17_3 = Exercise(
    "17.3",
    inputs=[(4.0, 0.2, 0.0), (4.0, 0.2, 1.0), (0.1, 0.5, 0.5), (30.0, 0.05, 2.0), (0.3, 0.4, 1.5)],
    answer=_wrong_start,
    slips={
        "that is right for a sampler that forgets its start altogether": lambda v, a, eta: v,
        "that is the ODE's answer, for every η": lambda v, a, eta: _wrong_start(v, a, 0.0),
        "that is the reverse SDE's answer, for every η": lambda v, a, eta: _wrong_start(v, a, 1.0),
        "the deviation of a variance is multiplied by the factor of x squared": lambda v, a, eta: _wrong_start(v, a, eta, 1),
        "the sign: with too small a start the end is too small": lambda v, a, eta: 2 * v - _wrong_start(v, a, eta),
    },
    praise="Eqs. (4.31) and (4.32), and everything between",
)

# 17.4: the variance of Hutchinson's estimate with normal probes.


def _normal_probes(J):
    return 0.5 * ((J + J.T) ** 2).sum()


def _pairs(J):
    return torch.triu(J + J.T, 1).square().sum()


grade_17_4 = Exercise(
    "17.4",
    inputs=[
        (torch.tensor([[1.0, 2.0], [0.5, -3.0]], dtype=torch.float64),),
        (torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, -1.0]], dtype=torch.float64),),
        (torch.arange(9, dtype=torch.float64).reshape(3, 3) - 2.5,),
    ],
    answer=_normal_probes,
    slips={
        "that is the variance with random signs; the squares of normal numbers are not always 1": _pairs,
        "the diagonal is counted, but each v_i² has variance 2": lambda J: _pairs(J) + J.diagonal().square().sum(),
        "J need not be symmetric: only its symmetric part counts": lambda J: 2 * J.square().sum(),
        "that is a standard deviation; the variance is wanted": lambda J: _normal_probes(J).sqrt(),
        "a factor 2: vᵀJv sees ½(J + Jᵀ), not J + Jᵀ": lambda J: 4 * _normal_probes(J),
    },
    praise="twice the squares of the symmetric part, so signs are never worse",
)
