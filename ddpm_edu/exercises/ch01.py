"""Exercises of chapter 01, one page of diffusion."""

from __future__ import annotations

import torch

from . import Exercise


def _tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


_X, _EPS = _tensor(-1.2, 0.3, 2.0), _tensor(0.4, -0.9, 1.5)

grade_1_1 = Exercise(
    "1.1",
    [(_X, _EPS, _tensor(0.9)), (_X, -_EPS, _tensor(0.2)), (_EPS, _X, _tensor(0.5))],
    lambda x_t, eps_hat, alpha_bar_t: (x_t - (1 - alpha_bar_t) ** 0.5 * eps_hat) / alpha_bar_t**0.5,
    {
        "the noise is gone, but the signal is still shrunk": (
            lambda x_t, eps_hat, alpha_bar_t: x_t - (1 - alpha_bar_t) ** 0.5 * eps_hat
        ),
        "both roots are missing: Eq. (1.1) multiplies by standard deviations, not by variances": (
            lambda x_t, eps_hat, alpha_bar_t: (x_t - (1 - alpha_bar_t) * eps_hat) / alpha_bar_t
        ),
        "the divisor has lost its root: look at what multiplies x_0 in Eq. (1.1)": (
            lambda x_t, eps_hat, alpha_bar_t: (x_t - (1 - alpha_bar_t) ** 0.5 * eps_hat) / alpha_bar_t
        ),
        "that takes a variance for the noise's factor; in Eq. (1.1) ε is multiplied by a standard deviation": (
            lambda x_t, eps_hat, alpha_bar_t: (x_t - (1 - alpha_bar_t) * eps_hat) / alpha_bar_t**0.5
        ),
        "that adds the noise a second time: Eq. (1.1) has to be turned round": (
            lambda x_t, eps_hat, alpha_bar_t: alpha_bar_t**0.5 * x_t + (1 - alpha_bar_t) ** 0.5 * eps_hat
        ),
    },
    praise="a guess of the noise is a guess of the data",
)


def _two_points(x_t, alpha_bar_t, slope):
    return (x_t - alpha_bar_t**0.5 * torch.tanh(slope * x_t)) / (1 - alpha_bar_t) ** 0.5


grade_1_2 = Exercise(
    "1.2",
    [(_X, _tensor(0.6)), (_EPS, _tensor(0.3)), (0.2 * _X, _tensor(0.8))],
    lambda x_t, alpha_bar_t: _two_points(x_t, alpha_bar_t, alpha_bar_t**0.5 / (1 - alpha_bar_t)),
    {
        "that is sure of the nearer point; between the two the best guess hesitates": (
            lambda x_t, alpha_bar_t: (x_t - alpha_bar_t**0.5 * torch.sign(x_t)) / (1 - alpha_bar_t) ** 0.5
        ),
        "that guesses x_0 = 0, the mean of the data, whatever it sees": lambda x_t, alpha_bar_t: x_t / (1 - alpha_bar_t) ** 0.5,
        "that is E[x_0 | x_t]; one more line turns it into the noise": (
            lambda x_t, alpha_bar_t: torch.tanh(alpha_bar_t**0.5 * x_t / (1 - alpha_bar_t))
        ),
        "in the exponent of a Gaussian stands its variance, not its standard deviation": (
            lambda x_t, alpha_bar_t: _two_points(x_t, alpha_bar_t, (alpha_bar_t / (1 - alpha_bar_t)) ** 0.5)
        ),
        "look at the cross term of the square again: it is the same for both points but for its sign, and it has a 2": (
            lambda x_t, alpha_bar_t: _two_points(x_t, alpha_bar_t, 2 * alpha_bar_t**0.5 / (1 - alpha_bar_t))
        ),
    },
    praise="a perfect network for this data is one line long",
)


def _sampler(
    eps_model,
    betas,
    x_T,
    z,
    *,
    last: bool = False,
    bar: bool = False,
    root: bool = False,
    variance: bool = False,
    upwards: bool = False,
    shift: int = 0,
):
    """Algorithm 2 for numbers with given noises, and what becomes of it by each slip."""
    betas = torch.as_tensor(betas, dtype=torch.float64)
    alphas, alpha_bars, x_t = 1 - betas, torch.cumprod(1 - betas, 0), x_T
    for k in range(len(betas)) if upwards else range(len(betas) - 1, -1, -1):
        beta = betas[k].sqrt() if root else betas[k]
        mean = x_t - beta / (1 - alpha_bars[k]).sqrt() * eps_model(x_t, k + 1 - shift)
        mean = mean / (alpha_bars if bar else alphas)[k].sqrt()
        noise = (betas[k] if variance else betas[k].sqrt()) * z[k]
        x_t = mean + noise if k > 0 or last else mean
    return x_t


def _slip(**kwargs):
    return lambda eps_model, betas, x_T, z: _sampler(eps_model, betas, x_T, z, **kwargs)


def _model(x_t, t):
    return torch.tanh(x_t) + 0.1 * t


grade_1_3 = Exercise(
    "1.3",
    [
        (_model, [0.1, 0.2, 0.4], _X, _tensor(0.5, -1.0, 0.7)),
        (_model, [0.05, 0.3], _EPS, _tensor(1.3, 0.2)),
        (lambda x_t, t: x_t / (1 + t), [0.3, 0.1, 0.2, 0.5], -_X, _tensor(-0.4, 1.1, 0.3, 0.9)),
    ],
    _sampler,
    {
        "the last step, to x_0, adds no noise": _slip(last=True),
        "the prefactor undoes one step, not all of them: look for a bar too many": _slip(bar=True),
        "in the mean β_t has no root": _slip(root=True),
        "the noise has variance β_t, and what multiplies z is a standard deviation": _slip(variance=True),
        "the walk goes from T down to 1": _slip(upwards=True),
        "the network counts its steps from 1, as the paper does: it was called with t - 1": _slip(shift=1),
    },
    praise="Algorithm 2, from memory",
)
