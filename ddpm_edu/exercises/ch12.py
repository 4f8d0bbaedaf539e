"""Graders of Chapter 12: the noise of a blend, the clipped step, the generated moments, the memory of a walk."""

from __future__ import annotations

import math

import torch

from . import Exercise


def _tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# 12.1: the noise of a blend.

grade_12_1 = Exercise(
    "12.1",
    inputs=[(0.7, 0.3, 0.0), (0.5, 0.5, 1.0), (0.8, 0.6, 0.5), (0.2, 0.8, -0.4), (0.9, 0.4, 0.0)],
    answer=lambda a, b, r: math.sqrt(a**2 + b**2 + 2 * a * b * r),
    slips={
        "that is the variance; ν is a deviation": lambda a, b, r: a**2 + b**2 + 2 * a * b * r,
        "that is for independent noises; the correlation is missing": lambda a, b, r: math.hypot(a, b),
        "deviations add only when the two noises are the same": lambda a, b, r: a + b,
        "the cross term of the square comes twice": lambda a, b, r: math.sqrt(a**2 + b**2 + a * b * r),
        "the correlation goes with both weights, a·b, not alone": lambda a, b, r: math.sqrt(a**2 + b**2 + 2 * abs(r)),
        "that takes the weights to be 1-λ and λ": lambda a, b, r: math.sqrt(abs(1 - 2 * a * b * (1 - r))),
    },
    praise="1 for one noise with weights that sum to 1, and for two with squares that do",
)

# 12.2: the mean of a step with the estimate clipped.


def _clipped_mean(x_t, eps_hat, alpha_bar_s, alpha_bar_t, *, clip="x_0", root=True, single=False):
    noise, alpha = 1 - alpha_bar_t, alpha_bar_t / alpha_bar_s
    if clip == "eps":
        eps_hat = eps_hat.clamp(-1, 1)
    x_0_hat = (x_t - (noise**0.5 if root else noise) * eps_hat) / alpha_bar_t**0.5
    if clip == "x_0":
        x_0_hat = x_0_hat.clamp(-1, 1)
    if clip == "range":  # rescaled into the box as a whole instead of pixel by pixel
        x_0_hat = x_0_hat / x_0_hat.abs().max().clamp(min=1)
    of_x_0 = alpha_bar_s**0.5 * (1 - alpha) / noise
    of_x_t = (alpha_bar_t if single else alpha) ** 0.5 * (1 - alpha_bar_s) / noise
    mean = of_x_0 * x_0_hat + of_x_t * x_t
    return mean.clamp(-1, 1) if clip == "mean" else mean


_X, _EPS = _tensor(-2.3, -0.4, 0.3, 1.6), _tensor(-0.2, 1.3, -1.8, 0.4)

grade_12_2 = Exercise(
    "12.2",
    inputs=[
        (_X, _EPS, _tensor(0.9), _tensor(0.5)),
        (_EPS, _X, _tensor(0.6), _tensor(0.1)),
        (_X, -_EPS, _tensor(1.0), _tensor(0.3)),
    ],
    answer=_clipped_mean,
    slips={
        "nothing is clipped": lambda x, e, s, t: _clipped_mean(x, e, s, t, clip=""),
        "that clips the mean of the step: a state x_s is a noised picture and may well leave the box": (
            lambda x, e, s, t: _clipped_mean(x, e, s, t, clip="mean")
        ),
        "that clips the noise, which is no pixel": lambda x, e, s, t: _clipped_mean(x, e, s, t, clip="eps"),
        "that shrinks the whole picture; clipping acts on each pixel by itself": (
            lambda x, e, s, t: _clipped_mean(x, e, s, t, clip="range")
        ),
        "1-ᾱ_t is a variance: in the estimate it needs its root": lambda x, e, s, t: _clipped_mean(x, e, s, t, root=False),
        "the factor of x_t has the α of the step, ᾱ_t/ᾱ_s, not ᾱ_t": lambda x, e, s, t: _clipped_mean(x, e, s, t, single=True),
    },
    praise="at s = 0 it is the clipped estimate itself",
)

# 12.3: what Algorithm 2 generates.


def _generated(betas, m, s2, *, loud=False, tilde=False, told=0, start=True, square=True, spread=None):
    bars = [1.0]
    for beta in betas:
        bars.append(bars[-1] * (1 - beta))
    v = [bar * s2 + 1 - bar for bar in bars]
    M, V = (0.0, 1.0) if start else (math.sqrt(bars[-1]) * m, v[-1])
    for t in range(len(betas), 0, -1):
        beta = betas[t - 1]
        k = t - told
        slope = math.sqrt(1 - bars[k]) / v[k]
        g = (1 - beta / math.sqrt(1 - bars[t]) * slope) / math.sqrt(1 - beta)
        h = beta / math.sqrt(1 - bars[t]) * slope * math.sqrt(bars[k]) * m / math.sqrt(1 - beta)
        sigma2 = beta * (1 - bars[t - 1]) / (1 - bars[t]) if tilde else beta
        M, V = g * M + h, (g**2 if square else g) * V + (sigma2 if t > 1 or loud else 0.0)
    return _tensor(M, V)


def _slip(**kwargs):
    return lambda betas, m, s2: _generated(betas, m, s2, **kwargs)


grade_12_3 = Exercise(
    "12.3",
    inputs=[([0.1, 0.2, 0.4], 0.6, 0.25), ([0.05, 0.3], -1.0, 2.0), ([0.1, 0.15, 0.2, 0.3, 0.5], 0.3, 1.0)],
    answer=_generated,
    slips={
        "the last step, to x_0, adds no noise": _slip(loud=True),
        "that is the generated variance for β̃_t; β_t was asked for": _slip(tilde=True),
        "the network is asked with t, not with t - 1": _slip(told=1),
        "the sampler starts from N(0, 1), not from the true law of x_T": _slip(start=False),
        "a slope multiplies a variance squared": _slip(square=False),
        "the second number is a variance, not a deviation": (lambda betas, m, s2: _generated(betas, m, s2) ** _tensor(1, 0.5)),
        "that is the data's own mean and variance; the sampler misses them a little": lambda betas, m, s2: _tensor(m, s2),
    },
    praise="the whole sampler, without a sample",
)

# 12.4: the weights of the estimates.


def _snr(alpha_bars, power=1.0):
    bars = torch.as_tensor(alpha_bars, dtype=torch.float64)
    return (bars / (1 - bars)) ** power


def _memory(snr, last=None):
    return (snr[1:] - snr[:-1]) / (snr[-1] if last is None else last)


grade_12_4 = Exercise(
    "12.4",
    inputs=[([0.02, 0.1, 0.3, 0.6],), ([0.1, 0.8],), ([0.001, 0.2, 0.5, 0.9, 0.99],)],
    answer=lambda bars: _memory(_snr(bars)),
    slips={
        "that makes them sum to 1; the start c_T = 0 has a weight too": (
            lambda bars: _memory(_snr(bars)) / _memory(_snr(bars)).sum()
        ),
        "divide by the SNR of the state you look at, the last one": lambda bars: _memory(_snr(bars), last=1.0),
        "differences of the SNR, not of ᾱ": lambda bars: _memory(torch.as_tensor(bars, dtype=torch.float64)),
        "the SNR is a ratio of variances; that is its root": lambda bars: _memory(_snr(bars, 0.5)),
        "the weights of one step each; later steps shrink them further": (lambda bars: 1 - _snr(bars)[:-1] / _snr(bars)[1:]),
        "that is the wrong way round in time: the walk goes towards larger ᾱ": lambda bars: _memory(_snr(bars)).flip(0),
    },
    praise="late estimates outvote the early ones",
)
