"""Graders of Chapter 8: the learned v, the true variance for Gaussian and for two-point data, the best one for a network."""

from __future__ import annotations

import math

from . import Exercise

# 8.1: the v that interpolates to a wanted variance.


def _v(sigma2, beta, beta_tilde):
    return math.log(sigma2 / beta_tilde) / math.log(beta / beta_tilde)


grade_8_1 = Exercise(
    "8.1",
    inputs=[(0.15, 0.2, 0.1), (0.011, 0.012, 0.01), (0.3, 0.2, 0.15), (0.05, 0.4, 0.1)],
    answer=_v,
    slips={
        "that is linear in the variance; the interpolation is linear in its logarithm": lambda s, b, c: (s - c) / (b - c),
        "the ends are swapped: v = 1 is β": lambda s, b, c: 1 - _v(s, b, c),
        "v is not confined to [0, 1]": lambda s, b, c: min(max(_v(s, b, c), 0.0), 1.0),
        "β and β̃ are variances already: no squares, no roots": lambda s, b, c: 2 * _v(s, b, c),
    },
    praise="below 0 is narrower than β̃, above 1 wider than β",
)

# 8.2: the true variance of a jump for data N(0, s²).


def _var_for(s2, alpha_bar_s, alpha_bar_t):
    noise = 1 - alpha_bar_t
    return _total(alpha_bar_s, alpha_bar_t, s2 * noise / (alpha_bar_t * s2 + noise))


def _total(alpha_bar_s, alpha_bar_t, var_0, power=2):
    noise, beta = 1 - alpha_bar_t, 1 - alpha_bar_t / alpha_bar_s
    slope = math.sqrt(alpha_bar_s) * beta / noise
    return (1 - alpha_bar_s) / noise * beta + slope**power * var_0


grade_8_2 = Exercise(
    "8.2",
    inputs=[(1.0, 0.9, 0.8), (0.1, 0.9, 0.5), (4.0, 0.99, 0.95), (0.5, 1.0, 0.7), (0.0, 0.4, 0.1)],
    answer=_var_for,
    slips={
        "that is β̃: you know x_t, but not x_0": lambda v, s, t: _total(s, t, 0.0),
        "that is β: Var(x_0 | x_t) is 1 - ᾱ_t for data variance 1 only": lambda v, s, t: 1 - t / s,
        "x_t says something about x_0: Var(x_0 | x_t) is smaller than Var(x_0)": lambda v, s, t: _total(s, t, v),
        "the slope of the mean in x_0 enters squared": (lambda v, s, t: _total(s, t, v * (1 - t) / (t * v + 1 - t), power=1)),
        "that is a standard deviation; Eq. (8.3) is a variance": lambda v, s, t: math.sqrt(_var_for(v, s, t)),
    },
    praise="β times the variance of x_s over that of x_t",
)

# 8.3: the same for data at +1 and -1.


def _two_points(x_t, alpha_bar_s, alpha_bar_t, guess=lambda a: math.tanh(a) ** 2, width=lambda noise: noise):
    a = math.sqrt(alpha_bar_t) * x_t / width(1 - alpha_bar_t)
    return _total(alpha_bar_s, alpha_bar_t, 1 - guess(a))


grade_8_3 = Exercise(
    "8.3",
    inputs=[(0.0, 0.9, 0.5), (0.3, 0.9, 0.8), (-0.7, 0.6, 0.3), (1.5, 1.0, 0.4), (0.2, 0.99, 0.97)],
    answer=_two_points,
    slips={
        "that is β̃: the sign of x_0 is not known": lambda x, s, t: _total(s, t, 0.0),
        "that is β, which is right for N(0, 1) data": lambda x, s, t: 1 - t / s,
        "before x_t is seen Var(x_0) is 1; x_t tells something about the sign": lambda x, s, t: _total(s, t, 1.0),
        "the mean E[x_0 | x_t] = tanh a enters squared: Var = E[x_0²] - (E x_0)²": (
            lambda x, s, t: _two_points(x, s, t, guess=lambda a: abs(math.tanh(a)))
        ),
        "the odds are exp(2a) with a = √ᾱ_t x_t / (1-ᾱ_t): no root on the noise variance": (
            lambda x, s, t: _two_points(x, s, t, width=math.sqrt)
        ),
        "tanh of half the log-odds: the log-odds are 2a": lambda x, s, t: _two_points(2 * x, s, t),
    },
    praise="largest at x_t = 0, where it exceeds β for every jump",
)

# 8.4: the best variance for a network, from its errors.


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def _mean_square(eps, eps_hat):
    return _mean((a - b) ** 2 for a, b in zip(eps, eps_hat))


def _best(eps, eps_hat, alpha_bar_s, alpha_bar_t, error=_mean_square, no_root=True):
    noise, alpha = 1 - alpha_bar_t, alpha_bar_t / alpha_bar_s
    weight = (1 - alpha) ** 2 / (alpha * noise) if no_root else (1 - alpha) / math.sqrt(alpha * noise)
    return (1 - alpha_bar_s) / noise * (1 - alpha) + weight * error(eps, eps_hat)


def _spread(eps, eps_hat):
    offset = _mean(a - b for a, b in zip(eps, eps_hat))
    return _mean((a - b - offset) ** 2 for a, b in zip(eps, eps_hat))


grade_8_4 = Exercise(
    "8.4",
    inputs=[
        ([0.3, -1.2, 0.7], [0.1, -0.9, 0.2], 0.9, 0.8),
        ([1.0, -1.0], [0.0, 0.0], 0.5, 0.2),
        ([0.4, 0.1, -2.0, 1.1], [0.5, 0.3, -1.0, 0.2], 1.0, 0.6),
    ],
    answer=_best,
    slips={
        "that is β̃: the network's own error is missing": lambda e, h, s, t: _best(e, h, s, t, lambda e, h: 0.0),
        "1 - mean of eps_hat² is the error of an ideal network only": (
            lambda e, h, s, t: _best(e, h, s, t, lambda e, h: 1 - _mean(b**2 for b in h))
        ),
        "the variance of the errors leaves out their mean, which is an error too": (
            lambda e, h, s, t: _best(e, h, s, t, _spread)
        ),
        "sum over the batch instead of the mean": (
            lambda e, h, s, t: _best(e, h, s, t, lambda e, h: sum((a - b) ** 2 for a, b in zip(e, h)))
        ),
        "the coefficient of ε in the mean enters squared": lambda e, h, s, t: _best(e, h, s, t, no_root=False),
        "that is the squared error itself: it is in units of ε, not of x_s": (lambda e, h, s, t: _mean_square(e, h)),
    },
    praise="β̃ plus the mean's own squared error",
)
