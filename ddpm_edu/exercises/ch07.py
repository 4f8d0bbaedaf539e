"""Graders of Chapter 7: x_0 from a score, what x̂_0 does to a given x_0, a sixth coordinate, and one number for all t."""

from __future__ import annotations

import math

from . import Exercise

# 7.1: the estimate of x_0 from the score of x_t.


def _x_0(x_t, score, alpha_bar_t):
    return (x_t + (1 - alpha_bar_t) * score) / math.sqrt(alpha_bar_t)


grade_7_1 = Exercise(
    "7.1",
    inputs=[(0.5, -1.0, 0.9), (-1.3, 0.4, 0.5), (2.0, -3.0, 0.02), (0.0, 1.0, 0.99)],
    answer=_x_0,
    slips={
        "a sign: the score points towards likely states, the noise away from them": (
            lambda x, s, a: (x - (1 - a) * s) / math.sqrt(a)
        ),
        "you took the score for a noise of variance 1; it is larger by one more root": (
            lambda x, s, a: (x + math.sqrt(1 - a) * s) / math.sqrt(a)
        ),
        "that is √ᾱ_t x_0: the signal still has to be scaled up": lambda x, s, a: x + (1 - a) * s,
        "the signal is √ᾱ_t times x_0, not ᾱ_t times": lambda x, s, a: (x + (1 - a) * s) / a,
        "that treats the score as if it were ε itself": lambda x, s, a: (x - math.sqrt(1 - a) * s) / math.sqrt(a),
    },
    praise="with the marginal score in it, this is Tweedie's formula",
)

# 7.2: bias and variance of x̂_0 for a given x_0, data N(0, data_var), perfect network.


def _bias_variance(x_0, data_var, alpha_bar_t):
    V = alpha_bar_t * data_var + 1 - alpha_bar_t
    gain = math.sqrt(alpha_bar_t) * data_var / V
    return gain * math.sqrt(alpha_bar_t) * x_0 - x_0, gain**2 * (1 - alpha_bar_t)


grade_7_2 = Exercise(
    "7.2",
    inputs=[(1.0, 1.0, 0.9), (-0.7, 0.25, 0.5), (2.0, 4.0, 0.05), (0.3, 0.5, 0.999)],
    answer=_bias_variance,
    slips={
        "that is E[x̂_0 | x_0]; the bias is what it lacks to x_0": lambda x, v, a: (
            _bias_variance(x, v, a)[0] + x,
            _bias_variance(x, v, a)[1],
        ),
        "your second number is Var(x_0 | x_t), what the network does not know; asked is how much its answer varies": (
            lambda x, v, a: (_bias_variance(x, v, a)[0], v * (1 - a) / (a * v + 1 - a))
        ),
        "right for data of variance 1 only": lambda x, v, a: _bias_variance(x, 1.0, a),
        "your second number is the variance over all x_0; here x_0 is given, and only the noise varies": (
            lambda x, v, a: (_bias_variance(x, v, a)[0], a * v**2 / (a * v + 1 - a))
        ),
        "your second number is a standard deviation; the variance is wanted": lambda x, v, a: (
            _bias_variance(x, v, a)[0],
            math.sqrt(_bias_variance(x, v, a)[1]),
        ),
        "x_t / √ᾱ_t has no bias, but it is not what a perfect network says": lambda x, v, a: (0.0, (1 - a) / a),
    },
    praise="pulled to the mean, and quieter for it",
)

# 7.3: a sixth coordinate, u = x_0 - ε: the weight of its squared error.


def _velocity_weight(alpha_bar_s, alpha_bar_t, sigma2, *, half=True, slope=None):
    beta = 1 - alpha_bar_t / alpha_bar_s
    signal, noise = math.sqrt(alpha_bar_t), math.sqrt(1 - alpha_bar_t)
    of_eps = beta / (math.sqrt(1 - beta) * noise)
    of_u = signal / (signal + noise) if slope is None else slope(signal, noise)
    return (of_eps * of_u) ** 2 / (2 * sigma2 if half else sigma2)


grade_7_3 = Exercise(
    "7.3",
    inputs=[(1.0, 0.9999, 1e-4), (0.9, 0.8, 0.1), (0.5, 0.45, 0.08), (0.02, 0.01, 0.5)],
    answer=_velocity_weight,
    slips={
        "that is the weight of ε: an error in u is shared between x_0 and ε": (
            lambda s, t, v: _velocity_weight(s, t, v, slope=lambda a, b: 1.0)
        ),
        "a sign: at fixed x_t an error in x_0 and one in ε have opposite signs, so in u they add up": (
            lambda s, t, v: _velocity_weight(s, t, v, slope=lambda a, b: a / (a - b))
        ),
        "that is the weight of v, which is orthogonal to x_t; u is not": (
            lambda s, t, v: _velocity_weight(s, t, v, slope=lambda a, b: a)
        ),
        "the weight multiplies a square; square the slope": (
            lambda s, t, v: _velocity_weight(s, t, v) * (math.sqrt(t) + math.sqrt(1 - t)) / math.sqrt(t)
        ),
        "twice too large: the KL has a ½": lambda s, t, v: _velocity_weight(s, t, v, half=False),
    },
    praise="any other coordinate goes the same way",
)

# 7.4: one number for all steps: the κ that minimises Σ w_t E(ε - κ x_t)² for data of variance data_var and mean 0.


def _kappa(weights, alpha_bars, data_var):
    top = sum(w * math.sqrt(1 - a) for w, a in zip(weights, alpha_bars))
    return top / sum(w * (a * data_var + 1 - a) for w, a in zip(weights, alpha_bars))


grade_7_4 = Exercise(
    "7.4",
    inputs=[
        ([1.0, 1.0, 1.0], [0.9, 0.5, 0.1], 1.0),
        ([0.5, 0.1, 0.2], [0.9, 0.5, 0.1], 0.25),
        ([3.0, 1.0], [0.7, 0.02], 2.0),
    ],
    answer=_kappa,
    slips={
        "that is the κ for equal weights: yours are not used": lambda w, a, v: _kappa([1.0] * len(w), a, v),
        "that is right for data of variance 1 only: E x_t² is the denominator's other factor": lambda w, a, v: _kappa(
            w, a, 1.0
        ),
        "you averaged the best κ of each step; a sum of squares is minimised at once, not step by step": (
            lambda w, a, v: sum(x * math.sqrt(1 - b) / (b * v + 1 - b) for x, b in zip(w, a)) / sum(w)
        ),
        "E[ε x_t] is √(1-ᾱ_t), not 1-ᾱ_t": (
            lambda w, a, v: sum(x * (1 - b) for x, b in zip(w, a)) / sum(x * (b * v + 1 - b) for x, b in zip(w, a))
        ),
        "the weights stand above, but not below": (
            lambda w, a, v: sum(x * math.sqrt(1 - b) for x, b in zip(w, a)) / sum(b * v + 1 - b for b in a)
        ),
    },
    praise="with one number for all steps, the weights decide whom it serves",
)
