"""Graders of Chapter 18: a step without noise, the noise that is kept, the best spacing, a round trip."""

from __future__ import annotations

import math

from . import Exercise

# 18.1: one deterministic step.


def _step(x, eps, a_t, a_s, shrink=math.sqrt, back=None):
    guess = (x - math.sqrt(1 - a_t) * eps) / math.sqrt(a_t)
    return shrink(a_s) * guess + math.sqrt(1 - (a_s if back is None else back)) * eps


def _posterior_mean(x, eps, a_t, a_s):
    guess, alpha = (x - math.sqrt(1 - a_t) * eps) / math.sqrt(a_t), a_t / a_s
    return (math.sqrt(a_s) * (1 - alpha) * guess + math.sqrt(alpha) * (1 - a_s) * x) / (1 - a_t)


grade_18_1 = Exercise(
    "18.1",
    inputs=[(0.4, -0.7, 0.3, 0.6), (-1.2, 0.5, 0.05, 0.9), (2.0, 1.5, 0.6, 1.0)],
    answer=_step,
    slips={
        "that is the mean of the noisy step: the noise is left out, but the predicted noise was weakened to make room for it": (
            _posterior_mean
        ),
        "the noise is put back with the amplitude of t, not of s": lambda x, e, a, s: _step(x, e, a, s, back=a),
        "a signal is scaled by a root": lambda x, e, a, s: _step(x, e, a, s, shrink=lambda u: u),
        "that is the estimate of the clean picture; the noise has to be put back": lambda x, e, a, s: _step(x, e, a, 1.0),
    },
    praise="and at s = 0 it returns the estimate",
)

# 18.2: the correlation of the noises in two neighbouring states.


def _noisier(a_t, a_s, eta):
    """σ² / (1 - ᾱ_s), with σ² = η² β̃."""
    return eta**2 * (1 - a_t / a_s) / (1 - a_t)


grade_18_2 = Exercise(
    "18.2",
    inputs=[(0.3, 0.6, 1.0), (0.3, 0.6, 0.5), (0.05, 0.9, 0.2), (0.5, 0.55, 0.0)],
    answer=lambda a_t, a_s, eta: math.sqrt(1 - _noisier(a_t, a_s, eta)),
    slips={
        "that is its square: a correlation compares deviations": lambda a_t, a_s, eta: 1 - _noisier(a_t, a_s, eta),
        "η multiplies a deviation; under the root stand variances": (
            lambda a_t, a_s, eta: math.sqrt(1 - (_noisier(a_t, a_s, eta**0.5)))
        ),
        "that is the share of the fresh noise": lambda a_t, a_s, eta: math.sqrt(_noisier(a_t, a_s, eta)),
        "σ² has to be measured against all the noise that is in x_s": (
            lambda a_t, a_s, eta: math.sqrt(1 - _noisier(a_t, a_s, eta) * (1 - a_s))
        ),
    },
    praise="1 for η = 0: one noise for the whole path",
)

# 18.3: the best that n deterministic steps can do on N(0, 1).

grade_18_3 = Exercise(
    "18.3",
    inputs=[(1,), (2,), (10,), (50,)],
    answer=lambda n: math.cos(math.pi / 2 / n) ** (2 * n),
    slips={
        "each step multiplies the deviation by a cosine; the variance gets its square": (
            lambda n: math.cos(math.pi / 2 / n) ** n
        ),
        "that is one step; there are n of them": lambda n: math.cos(math.pi / 2 / n) ** 2,
        "right for many steps; n = 1 can be said exactly": lambda n: 1 - math.pi**2 / (4 * n),
        "from data to noise it is a quarter of a turn": lambda n: math.cos(math.pi / n) ** (2 * n),
    },
    praise="one step makes a point, fifty keep 95 per cent",
)

# 18.4: up with one round, then down again.


def _pieces(a_t, a_s, v_0):
    r = math.sqrt(a_t / a_s)
    c = math.sqrt(1 - a_t) - r * math.sqrt(1 - a_s)
    return r, c, math.sqrt(1 - a_t) / (a_t * v_0 + 1 - a_t)


def _trip(v_0, a_t, a_s, up=lambda r, c, k: r + c * k, down=lambda r, c, k: (1 - c * k) / r):
    pieces = _pieces(a_t, a_s, v_0)
    return up(*pieces) * down(*pieces)


def _asked_at_s(v_0, a_t, a_s):
    r, c, _ = _pieces(a_t, a_s, v_0)
    return _trip(v_0, a_t, a_s, up=lambda *_: r + c * math.sqrt(1 - a_s) / (a_s * v_0 + 1 - a_s))


grade_18_4 = Exercise(
    "18.4",
    inputs=[(1.0, 0.3, 0.6), (0.25, 0.5, 0.55), (4.0, 0.05, 0.9)],
    answer=_trip,
    slips={
        "that is the exact inverse, which one round is not": lambda v, a_t, a_s: 1.0,
        "that is only the way up": lambda v, a_t, a_s: _trip(v, a_t, a_s, down=lambda *_: 1.0),
        "that is only the way down": lambda v, a_t, a_s: _trip(v, a_t, a_s, up=lambda *_: 1.0),
        "the network is told t on the way up too: at s = 0 it could not be asked": _asked_at_s,
    },
    praise="off by the square of a small number, once for each step",
)
