"""Graders of Chapter 15: a score without its normaliser, the plateau, the best linear score, a fit without Z."""

from __future__ import annotations

from . import Exercise

# 15.1: the score of a density known up to a factor.

grade_15_1 = Exercise(
    "15.1",
    inputs=[(0.0,), (0.5,), (-2.0,), (10.0,)],
    answer=lambda x: -2 * x / (1 + x**2),
    slips={
        "that points away from the data: the density falls where |x| grows": lambda x: 2 * x / (1 + x**2),
        "that is the slope of the density; the score is the slope of its logarithm": lambda x: -2 * x / (1 + x**2) ** 2,
        "that is the score of a Gaussian": lambda x: -x,
        "the logarithm is differentiated, but not what stands in it: the inner derivative is missing": lambda x: (
            -1 / (1 + x**2)
        ),
    },
    praise="and no π",
)

# 15.2: the constant between denoising and explicit score matching, for Gaussian data.


def _plateau(v, sigma, d):
    return d * v / (2 * sigma**2 * (v + sigma**2))


grade_15_2 = Exercise(
    "15.2",
    inputs=[(1.0, 0.5, 1), (0.0, 0.3, 4), (0.2, 1.5, 10), (9.0, 2.0, 3)],
    answer=_plateau,
    slips={
        "that is the size of the target; subtract what the score explains": lambda v, s, d: d / (2 * s**2),
        "the score that is learned is that of the noised data: variance v + σ²": (
            lambda v, s, d: d / (2 * s**2) - d / (2 * v) if v else float("-inf")
        ),
        "the objective carries a factor ½": lambda v, s, d: 2 * _plateau(v, s, d),
        "that is one coordinate; there are d": lambda v, s, d: _plateau(v, s, 1),
        "sigma is a standard deviation; its square is the variance": lambda v, s, d: _plateau(v, s**0.5, d),
    },
    praise="0 for a point, d/(2σ²) for data without end",
)

# 15.3: the best linear score under denoising.


def _best(s11, s22, s12, sigma2):
    a, c = s11 + sigma2, s22 + sigma2
    det = a * c - s12**2
    return [-c / det, s12 / det, s12 / det, -a / det]


grade_15_3 = Exercise(
    "15.3",
    inputs=[(1.0, 2.0, 0.5, 0.5), (0.3, 0.2, -0.1, 1.0), (2.0, 1.0, 0.9, 0.1)],
    answer=lambda a, c, b, s: _best(a, c, b, s**2),
    slips={
        "that is the best for the clean data; the noise adds to the variances": lambda a, c, b, s: _best(a, c, b, 0.0),
        "the score points back to the mean: there is a minus sign": lambda a, c, b, s: [-k for k in _best(a, c, b, s**2)],
        "invert the matrix, not its entries": lambda a, c, b, s: [-1 / (a + s**2), -1 / b, -1 / b, -1 / (c + s**2)],
        "the coordinates are correlated": lambda a, c, b, s: _best(a, c, 0.0, s**2),
        "the noise is independent in each coordinate: it adds to the variances only": (
            lambda a, c, b, s: _best(a, c, b + s**2, s**2)
        ),
        "sigma is a standard deviation; its square is the variance": lambda a, c, b, s: _best(a, c, b, s),
    },
    praise="finite even when the data lie on a line",
)

# 15.4: a fit without a normaliser.


def _quartic(m2, m4, m6, bend=12.0, half=1.0):
    # [4 m2, 8 m4; 8 m4, 16 m6] (a, b) = (2, bend m2) / half, by Cramer's rule.
    D = 64 * (m2 * m6 - m4**2) * half
    return [(32 * m6 - 8 * bend * m2 * m4) / D, (4 * bend * m2**2 - 16 * m4) / D]


grade_15_4 = Exercise(
    "15.4",
    inputs=[(1.0, 3.0, 15.0), (0.8, 0.9, 1.3), (0.5, 0.7, 1.6), (1.0, 1.2, 1.7)],
    answer=_quartic,
    slips={
        "right for a Gaussian only: did you minimise over b too?": lambda m2, m4, m6: [1 / (2 * m2), 0.0],
        "the derivative of x³ is 3x²": lambda m2, m4, m6: _quartic(m2, m4, m6, bend=4.0),
        "the square of s carries a factor ½": lambda m2, m4, m6: _quartic(m2, m4, m6, half=2.0),
        "both signs are turned: the score is minus the slope of the energy": lambda m2, m4, m6: [
            -k for k in _quartic(m2, m4, m6)
        ],
    },
    praise="two linear equations in place of an integral",
)
