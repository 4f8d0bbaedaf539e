"""Exercises of chapter 04, the forward process."""

from __future__ import annotations

import math

import torch

from . import Exercise


def _number(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


_IMAGE = torch.tensor([-1.0, -0.25, 0.5, 1.0], dtype=torch.float64)
_NOISE = torch.tensor([0.3, -1.1, 2.0, 0.0], dtype=torch.float64)

grade_4_1 = Exercise(
    "4.1",
    [(_IMAGE, _number(0.81), _NOISE), (_IMAGE, _number(0.2), -_NOISE)],
    lambda x_0, alpha_bar_t, eps: alpha_bar_t**0.5 * x_0 + (1 - alpha_bar_t) ** 0.5 * eps,
    {
        "the noise has variance (1 - ᾱ_t)²: 1 - ᾱ_t is a variance, and eps is multiplied by a standard deviation": (
            lambda x_0, alpha_bar_t, eps: alpha_bar_t**0.5 * x_0 + (1 - alpha_bar_t) * eps
        ),
        "the signal fades too fast: look at the factor of x_0 in Eq. (4.10) again": (
            lambda x_0, alpha_bar_t, eps: alpha_bar_t * x_0 + (1 - alpha_bar_t) ** 0.5 * eps
        ),
        "both factors are variances: in Eq. (4.10) they stand under roots": lambda x_0, alpha_bar_t, eps: (
            alpha_bar_t * x_0 + (1 - alpha_bar_t) * eps
        ),
        "signal and noise have changed places: near t = 0 you return almost pure noise": (
            lambda x_0, alpha_bar_t, eps: (1 - alpha_bar_t) ** 0.5 * x_0 + alpha_bar_t**0.5 * eps
        ),
        "the noise came without its factor: at t near 0 x_t must be near x_0": (
            lambda x_0, alpha_bar_t, eps: alpha_bar_t**0.5 * x_0 + eps
        ),
    },
    praise="and T steps became one line",
)

grade_4_2 = Exercise(
    "4.2",
    [(_number(0.9), _number(0.5)), (_number(1.0), _number(0.3)), (_number(0.4), _number(0.1))],
    lambda alpha_bar_s, alpha_bar_t: torch.stack([(alpha_bar_t / alpha_bar_s) ** 0.5, 1 - alpha_bar_t / alpha_bar_s]),
    {
        "that is q(x_t | x_0): right from s = 0, but from a later start less noise has to be added": (
            lambda alpha_bar_s, alpha_bar_t: torch.stack([alpha_bar_t**0.5, 1 - alpha_bar_t])
        ),
        "the factor is right; the variance is not: noise that was there at s has shrunk on the way, so don't subtract": (
            lambda alpha_bar_s, alpha_bar_t: torch.stack([(alpha_bar_t / alpha_bar_s) ** 0.5, alpha_bar_s - alpha_bar_t])
        ),
        "the first number is the mean's factor squared: variances are multiplied by squares, means are not": (
            lambda alpha_bar_s, alpha_bar_t: torch.stack([alpha_bar_t / alpha_bar_s, 1 - alpha_bar_t / alpha_bar_s])
        ),
        "your second number is a standard deviation; a variance is asked": (
            lambda alpha_bar_s, alpha_bar_t: torch.stack(
                [(alpha_bar_t / alpha_bar_s) ** 0.5, (1 - alpha_bar_t / alpha_bar_s) ** 0.5]
            )
        ),
    },
    praise="the one-step and the one-shot kernel are both special cases of it",
)

grade_4_3 = Exercise(
    "4.3",
    [(_number(0.9), _number(0.5)), (_number(0.6), _number(0.2)), (_number(0.99), _number(0.98))],
    lambda alpha_bar_s, alpha_bar_t: (alpha_bar_t / alpha_bar_s * (1 - alpha_bar_s) / (1 - alpha_bar_t)) ** 0.5,
    {
        "that is the covariance of Eq. (4.12); divide by both standard deviations": (
            lambda alpha_bar_s, alpha_bar_t: (alpha_bar_t / alpha_bar_s) ** 0.5 * (1 - alpha_bar_s)
        ),
        "0 is what two separate one-shot draws have; the states of one path share the noise of steps 1..s": (
            lambda alpha_bar_s, alpha_bar_t: _number(0.0)
        ),
        "1 is what two one-shot draws with the same eps have; after s the path gets fresh noise": (
            lambda alpha_bar_s, alpha_bar_t: _number(1.0)
        ),
        "you divided by the variance at s alone; x_t has a standard deviation of its own": (
            lambda alpha_bar_s, alpha_bar_t: (alpha_bar_t / alpha_bar_s) ** 0.5
        ),
        "that is the square of the correlation": (
            lambda alpha_bar_s, alpha_bar_t: alpha_bar_t / alpha_bar_s * (1 - alpha_bar_s) / (1 - alpha_bar_t)
        ),
    },
    praise="it is √(SNR(t) / SNR(s))",
)

grade_4_4 = Exercise(
    "4.4",
    [(1000, 4e-5), (10, 4e-5), (50, 0.01)],
    lambda T, alpha_bar_T: 1 - alpha_bar_T ** (1 / T),
    {
        "that is the answer to first order; it misses by more the fewer steps there are": (
            lambda T, alpha_bar_T: -math.log(alpha_bar_T) / T
        ),
        "that is α, the share that a step keeps; β is what it replaces": lambda T, alpha_bar_T: alpha_bar_T ** (1 / T),
        "the losses do not add up, they multiply: ᾱ_T is a product": lambda T, alpha_bar_T: (1 - alpha_bar_T) / T,
        "that treats ᾱ_T as a standard deviation: √ᾱ_T is the factor of x_0, ᾱ_T the product of the α": (
            lambda T, alpha_bar_T: 1 - alpha_bar_T ** (2 / T)
        ),
    },
    praise="the same end with any number of steps",
)


def _alpha_bars(T, log_snr_1, log_snr_T):
    return torch.sigmoid(torch.linspace(float(log_snr_1), float(log_snr_T), T, dtype=torch.float64))


def _log_snr_betas(T, log_snr_1, log_snr_T):
    alpha_bars = torch.cat([torch.ones(1, dtype=torch.float64), _alpha_bars(T, log_snr_1, log_snr_T)])
    return 1 - alpha_bars[1:] / alpha_bars[:-1]


def _straight_snr(T, log_snr_1, log_snr_T):
    snr = torch.linspace(math.exp(log_snr_1), math.exp(log_snr_T), T, dtype=torch.float64)
    alpha_bars = torch.cat([torch.ones(1, dtype=torch.float64), snr / (1 + snr)])
    return 1 - alpha_bars[1:] / alpha_bars[:-1]


grade_4_5 = Exercise(
    "4.5",
    [(10, 5.0, -5.0), (25, 9.0, -10.0)],
    _log_snr_betas,
    {
        "these are the ᾱ_t; the steps' own β_t are asked": _alpha_bars,
        "these are 1 - ᾱ_t, the noise from the start; β_t is the noise of one step": (
            lambda T, log_snr_1, log_snr_T: 1 - _alpha_bars(T, log_snr_1, log_snr_T)
        ),
        "the SNR itself lies on a line; its logarithm should": _straight_snr,
        "the first step is missing: it starts from ᾱ_0 = 1": (
            lambda T, log_snr_1, log_snr_T: _log_snr_betas(T, log_snr_1, log_snr_T)[1:]
        ),
        "the steps run backwards: the SNR must fall with t": (
            lambda T, log_snr_1, log_snr_T: _log_snr_betas(T, log_snr_1, log_snr_T).flip(0)
        ),
    },
    praise="a schedule by its SNR, the way continuous-time models choose theirs",
)
