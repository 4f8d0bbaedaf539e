"""Graders of Chapter 9: the bins of the decoder, densities turned into bits, Shannon's curve, and the price of a wrong σ."""

from __future__ import annotations

import math

from . import Exercise

# 9.1: the mass of one grey level.


def _ndtr(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _bin(k, mean, sigma, levels, *, half=None, open_ends=True):
    x, half = 2 * k / (levels - 1) - 1, 1 / (levels - 1) if half is None else half
    high = 1.0 if open_ends and k == levels - 1 else _ndtr((x + half - mean) / sigma)
    low = 0.0 if open_ends and k == 0 else _ndtr((x - half - mean) / sigma)
    return high - low


def _density(k, mean, sigma, levels):
    z = (2 * k / (levels - 1) - 1 - mean) / sigma
    return math.exp(-0.5 * z * z) / (sigma * math.sqrt(2 * math.pi)) * 2 / (levels - 1)


grade_9_1 = Exercise(
    "9.1",
    inputs=[(0, -0.9, 0.2, 17), (16, 0.7, 0.3, 17), (8, 0.1, 0.2, 17), (3, 0.2, 1.1, 5), (128, 0.0, 0.01, 256)],
    answer=_bin,
    slips={
        "negative: the limits of the integral are swapped": lambda *args: -_bin(*args),
        "right inside, wrong at the two ends: their bins have no outer edge": lambda *args: _bin(*args, open_ends=False),
        "your bins overlap: Eq. (9.3) goes half a spacing to each side": lambda *args: _bin(*args, half=2 / (args[3] - 1)),
        "that is the density times the bin width; Eq. (9.2) integrates": _density,
        "you treat sigma as a variance": lambda k, m, s, n: _bin(k, m, math.sqrt(s), n),
        "the spacing of n values from -1 to 1 is not 2/n: count the gaps": lambda k, m, s, n: _bin(k, m, s, n, half=1 / n),
    },
    praise="and over all k it sums to 1",
)

# 9.2: from the density of a dequantised model to bits/dim.


def _bits(nats, dims, spacing):
    return (nats / dims - math.log(spacing)) / math.log(2)


grade_9_2 = Exercise(
    "9.2",
    inputs=[(-4000.0, 3072, 2 / 255), (100.0, 64, 1 / 256), (-50.0, 64, 1.0), (0.0, 10, 0.125)],
    answer=_bits,
    slips={
        "the spacing is missing: these are the bits of a density, and they change with the scale": (
            lambda n, d, h: n / d / math.log(2)
        ),
        "a wider bin holds more probability, so it must cost fewer bits: look at the sign": (
            lambda n, d, h: (n / d + math.log(h)) / math.log(2)
        ),
        "that is in nats: the last division, from nats to bits, is missing": lambda n, d, h: n / d - math.log(h),
        "each of the coordinates has its own bin; you counted one for the whole picture": (
            lambda n, d, h: (n - math.log(h)) / d / math.log(2)
        ),
        "bits per picture; divide by the number of coordinates": lambda n, d, h: (n - d * math.log(h)) / math.log(2),
    },
    praise="now two papers with different scales can be compared",
)

# 9.3: the rate of x_t for Gaussian data.


def _rate(s2, alpha_bar):
    return 0.5 * math.log2(1 + s2 * alpha_bar / (1 - alpha_bar))


grade_9_3 = Exercise(
    "9.3",
    inputs=[(1.0, 0.5), (0.25, 0.9), (4.0, 0.1), (0.04, 0.999)],
    answer=_rate,
    slips={
        "right for s² = 1 only: the data have a variance of their own, and it is part of the signal": lambda s2, a: (
            -0.5 * math.log2(1 - a)
        ),
        "that is in nats: a bit has a logarithm of another base": lambda s2, a: _rate(s2, a) * math.log(2),
        "twice too large: the entropy of a Gaussian has a ½ before the log": lambda s2, a: 2 * _rate(s2, a),
        "the noise has variance 1 - ᾱ, not 1": lambda s2, a: 0.5 * math.log2(1 + s2 * a),
        "that is KL(q(x_t | x_0) ‖ N(0, 1)); the best prior for x_t has the variance ᾱs² + 1 - ᾱ": (
            lambda s2, a: 0.5 * (a * (s2 - 1) - math.log(1 - a)) / math.log(2) if s2 != 1.0 else _rate(s2, a)
        ),
    },
    praise="and it lies on Shannon's curve ½ log₂(s²/D²) for every ᾱ",
)

# 9.4: bits that a wrong decoder deviation costs.


def _excess(true, model):
    ratio = (true / model) ** 2
    return 0.5 * (ratio - 1 - math.log(ratio)) / math.log(2)


grade_9_4 = Exercise(
    "9.4",
    inputs=[(0.01, 0.02), (0.02, 0.01), (1.0, 1.0), (0.3, 0.1)],
    answer=_excess,
    slips={
        "the two are swapped: the average is over what really happens": lambda a, b: _excess(b, a),
        "that is in nats: a bit has a logarithm of another base": lambda a, b: _excess(a, b) * math.log(2),
        "only the normaliser: a wrong σ also changes the price of the error itself": lambda a, b: math.log2(b / a),
        "you compare deviations where the formula has variances": lambda a, b: _excess(math.sqrt(a), math.sqrt(b)),
        "twice too large: the KL of two Gaussians has a ½ before the bracket": lambda a, b: 2 * _excess(a, b),
    },
    praise="too narrow is dearer than too wide",
)
