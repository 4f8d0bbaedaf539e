"""Graders of Chapter 6: L_0 and L_{t-1} in closed form, the gap of one step, and which t to draw."""

from __future__ import annotations

import math

from . import Exercise

_LOG_2PI = math.log(2 * math.pi)

# 6.1: L_0 of a Gaussian decoder for a vector.


def _L_0(x_0, mean, var):
    return sum(0.5 * ((x - m) ** 2 / var + _LOG_2PI + math.log(var)) for x, m in zip(x_0, mean))


grade_6_1 = Exercise(
    "6.1",
    inputs=[([0.5, -1.0], [0.4, -0.7], 0.1), ([1.0], [0.0], 2.0), ([0.2, 0.3, 0.4], [0.0, 0.0, 1.0], 0.01)],
    answer=_L_0,
    slips={
        "that is log p(x_0 | x_1): L_0 is a loss, look at the sign": lambda x, m, v: -_L_0(x, m, v),
        "only the square is there: its constant contains var, so it counts as soon as var is learned": (
            lambda x, m, v: sum((a - b) ** 2 / (2 * v) for a, b in zip(x, m))
        ),
        "you averaged over the coordinates; independent log-densities add up": lambda x, m, v: _L_0(x, m, v) / len(x),
        "the normaliser is counted once; each coordinate has its own": (
            lambda x, m, v: sum((a - b) ** 2 / (2 * v) for a, b in zip(x, m)) + 0.5 * (_LOG_2PI + math.log(v))
        ),
        "you treat var as a standard deviation": lambda x, m, v: _L_0(x, m, v**2),
    },
    praise="the first term of the sum, with everything that can be learned in it",
)

# 6.2: the expected L_{t-1} of a linear reverse step, for one number.


def _L_t(x_0, alpha_bar_s, alpha_bar_t, g, h, r, *, spread=1.0, of_beta=False, start=None):
    alpha = alpha_bar_t / alpha_bar_s
    beta, noise = 1 - alpha, 1 - alpha_bar_t
    a = math.sqrt(alpha_bar_s) * beta / noise
    b = math.sqrt(alpha) * (1 - alpha_bar_s) / noise
    var = beta if of_beta else (1 - alpha_bar_s) / noise * beta
    mean_t = math.sqrt(alpha_bar_t) * x_0 if start is None else start
    square = (a * x_0 + (b - g) * mean_t - h) ** 2 + spread * (b - g) ** 2 * noise
    return 0.5 * (var / r - 1 - math.log(var / r) + square / r)


grade_6_2 = Exercise(
    "6.2",
    inputs=[
        (0.7, 0.9, 0.72, 0.8, 0.0, 0.3),
        (-1.2, 0.5, 0.3, 0.6, -0.1, 0.5),
        (0.0, 0.99, 0.98, 1.0, 0.05, 0.02),
        (1.0, 0.8, 0.1, 0.2, 0.3, 0.9),
    ],
    answer=_L_t,
    slips={
        "the KL is taken at the mean of x_t only; its square also has the spread of x_t in it": (
            lambda *args: _L_t(*args, spread=0.0)
        ),
        "the forward posterior has the variance β̃, not β: x_0 is known": lambda *args: _L_t(*args, of_beta=True),
        "x_t has mean √ᾱ_t x_0; you took x_0 itself": lambda *args: _L_t(*args, start=args[0]),
        "the means are compared, but not the variances": (
            lambda *args: _L_t(*args) - _L_t(args[0], args[1], args[2], *_same_mean(*args), args[5])
        ),
        "twice too large: the ½ stands before the whole bracket": lambda *args: 2 * _L_t(*args),
    },
    praise="a whole term of the bound without a single draw",
)


def _same_mean(x_0, alpha_bar_s, alpha_bar_t, *_):
    """The slope and offset that match μ̃ exactly."""
    beta, noise = 1 - alpha_bar_t / alpha_bar_s, 1 - alpha_bar_t
    slope = math.sqrt(alpha_bar_t / alpha_bar_s) * (1 - alpha_bar_s) / noise
    return slope, math.sqrt(alpha_bar_s) * beta / noise * x_0


# 6.3: the gap of a model with one step: KL(q(x_1 | x_0) ‖ p(x_1 | x_0)).


def _kl(m, v, n, w):
    return 0.5 * (v / w - 1 - math.log(v / w) + (m - n) ** 2 / w)


def _posterior(x_0, g, h, r):
    return g * (x_0 - h) / (g**2 + r), r / (g**2 + r)


def _gap(x_0, beta, g, h, r):
    return _kl(math.sqrt(1 - beta) * x_0, beta, *_posterior(x_0, g, h, r))


grade_6_3 = Exercise(
    "6.3",
    inputs=[(0.7, 0.1, 0.9, 0.0, 0.2), (-1.5, 0.5, 0.7, 0.2, 0.5), (0.0, 0.9, 0.3, -0.4, 0.8), (1.0, 0.36, 0.8, 0.0, 0.36)],
    answer=_gap,
    slips={
        "the two sides of the KL are swapped: the expectation is over q": (
            lambda x, b, g, h, r: _kl(*_posterior(x, g, h, r), math.sqrt(1 - b) * x, b)
        ),
        "that is L_T: you compare with the prior p(x_1), the gap compares with the posterior p(x_1 | x_0)": (
            lambda x, b, g, h, r: _kl(math.sqrt(1 - b) * x, b, 0.0, 1.0)
        ),
        "those are densities of different variables: p(x_0 | x_1) has to be turned round first": (
            lambda x, b, g, h, r: _kl(math.sqrt(1 - b) * x, b, g * x + h, r)
        ),
        "that is the bound L, which is the gap minus log p(x_0)": (
            lambda x, b, g, h, r: _gap(x, b, g, h, r) - _log_p(x, g, h, r)
        ),
        "the offset h is lost: x_0 - h is what x_1 is inferred from": lambda x, b, g, h, r: _gap_no_offset(x, b, g, r),
    },
    praise="zero exactly when the encoder is the model's posterior",
)


def _gap_no_offset(x_0, beta, g, r):
    return _kl(math.sqrt(1 - beta) * x_0, beta, *_posterior(x_0, g, 0.0, r))


def _log_p(x_0, g, h, r):
    return -0.5 * ((x_0 - h) ** 2 / (g**2 + r) + _LOG_2PI + math.log(g**2 + r))


# 6.4: which term to draw how often: probabilities that minimise the variance of term_k / p_k.


def _best(means, variances):
    weights = [math.sqrt(m**2 + v) for m, v in zip(means, variances)]
    return [w / sum(weights) for w in weights]


def _share(weights):
    return [w / sum(weights) for w in weights]


grade_6_4 = Exercise(
    "6.4",
    inputs=[
        ([1.0, 0.5, 0.1], [0.2, 0.3, 0.4]),
        ([3.0, 0.0, 0.0, 1.0], [0.0, 1.0, 4.0, 0.0]),
        ([-2.0, 0.3], [0.5, 0.1]),
    ],
    answer=_best,
    slips={
        "those weigh the variances only: a term that never varies still has to be drawn, for its mean": (
            lambda m, v: _share([x**0.5 for x in v])
        ),
        "those weigh the means only; a term of mean 0 would never be drawn, however much it varies": (
            lambda m, v: _share([abs(x) for x in m])
        ),
        "you stopped at the second moment: minimise Σ s_k / p_k, and a root appears": (
            lambda m, v: _share([x**2 + y for x, y in zip(m, v)])
        ),
        "those do not sum to 1": lambda m, v: [math.sqrt(x**2 + y) for x, y in zip(m, v)],
        "that is uniform sampling, the thing to beat": lambda m, v: [1 / len(m)] * len(m),
    },
    praise="Nichol and Dhariwal estimate these second moments during training",
)
