"""Graders of Chapter 2: merging noises, fusing measurements, a KL, the best variance, and a line by natural parameters."""

from __future__ import annotations

import math

import torch

from . import Exercise

# 2.1: a ε_1 + b ε_2 = c ε in law.

grade_2_1 = Exercise(
    "2.1",
    inputs=[(3.0, 4.0), (0.6, 0.8), (0.1, 2.0), (1.0, -1.0)],
    answer=lambda a, b: math.sqrt(a**2 + b**2),
    slips={
        "that uses one ε twice: the two draws are different, and partly cancel": lambda a, b: abs(a + b),
        "that is the variance of the sum; ε is multiplied by a standard deviation": lambda a, b: a**2 + b**2,
        "a and b are factors of ε, standard deviations; you treat them as variances": lambda a, b: math.sqrt(abs(a) + abs(b)),
        "that is what precisions do when densities are multiplied; here variables are added": (
            lambda a, b: math.sqrt(1 / (1 / a**2 + 1 / b**2))
        ),
    },
    praise="Pythagoras: independent noises are at right angles",
)

# 2.2: the product of several densities of one quantity.


def _fuse(means, variances):
    precision = sum(1 / v for v in variances)
    return sum(m / v for m, v in zip(means, variances)) / precision, 1 / precision


def _weighted(means, weights, variance):
    return sum(m * w for m, w in zip(means, weights)) / sum(weights), variance


grade_2_2 = Exercise(
    "2.2",
    inputs=[([1.0, 3.0], [1.0, 4.0]), ([0.0, 0.5, -2.0], [0.1, 0.3, 2.0]), ([1.2], [0.5]), ([5.0, -5.0], [2.0, 1.0])],
    answer=_fuse,
    slips={
        "the plain average trusts all instruments alike": lambda m, v: (sum(m) / len(m), _fuse(m, v)[1]),
        "the weights are upside down: a large variance should count for little": lambda m, v: _weighted(m, v, _fuse(m, v)[1]),
        "the mean weighs with standard deviations; precisions are inverse variances": (
            lambda m, v: _weighted(m, [x**-0.5 for x in v], _fuse(m, v)[1])
        ),
        "the mean is right; the second number is the precision": lambda m, v: (_fuse(m, v)[0], 1 / _fuse(m, v)[1]),
        "the mean is right; the second number is a standard deviation": lambda m, v: (_fuse(m, v)[0], _fuse(m, v)[1] ** 0.5),
        "the mean is right; the variance is that of a sum, and more instruments should make you more certain": (
            lambda m, v: (_fuse(m, v)[0], sum(v))
        ),
    },
    praise="each instrument counts by its precision",
)

# 2.3: KL(N(m, v I) ‖ N(m_p, v_p I)) in k dimensions.


def _kl(m, v, m_p, v_p, k):
    return k / 2 * (v / v_p - 1 - math.log(v / v_p) + (m - m_p) ** 2 / v_p)


grade_2_3 = Exercise(
    "2.3",
    inputs=[(0.3, 0.5, -1.0, 2.0, 4), (0.0, 1.0, 1.0, 1.0, 3), (2.0, 0.1, 2.0, 0.3, 784), (0.0, 3.0, 0.5, 0.2, 2)],
    answer=_kl,
    slips={
        "that is the KL in the other direction: the averages are taken under the first Gaussian": (
            lambda m, v, m_p, v_p, k: _kl(m_p, v_p, m, v, k)
        ),
        "that is the KL of one coordinate": lambda m, v, m_p, v_p, k: _kl(m, v, m_p, v_p, 1),
        "twice too large: both the square and the logarithm in a Gaussian's log-density carry a ½": lambda m, v, m_p, v_p, k: (
            2 * _kl(m, v, m_p, v_p, k)
        ),
        "only the means are compared: that is enough when the variances are equal": (
            lambda m, v, m_p, v_p, k: k / 2 * (m - m_p) ** 2 / v_p
        ),
        "the logarithm of the determinants' ratio lacks its factor k: det(vI) is a product of k factors": (
            lambda m, v, m_p, v_p, k: k / 2 * (v / v_p - 1 + (m - m_p) ** 2 / v_p) - 0.5 * math.log(v / v_p)
        ),
        "the squared distance is divided by the square of a variance": (
            lambda m, v, m_p, v_p, k: k / 2 * (v / v_p - 1 - math.log(v / v_p) + (m - m_p) ** 2 / v_p**2)
        ),
        "that is in bits; the exercise asks for nats": lambda m, v, m_p, v_p, k: _kl(m, v, m_p, v_p, k) / math.log(2),
    },
    praise="widths and places, compared separately",
)

# 2.4: the variance that makes KL(N(m, v) ‖ N(m + d, v')) smallest.

grade_2_4 = Exercise(
    "2.4",
    inputs=[(1.0, 0.5), (0.2, 2.0), (3.0, -1.0), (0.5, 0.0)],
    answer=lambda v, d: v + d**2,
    slips={
        "that is right for d = 0, or for the KL in the other direction; here a wrong mean must be paid for": lambda v, d: v,
        "that is a standard deviation, in the unit of x; a variance has the unit of x²": lambda v, d: math.sqrt(v + d**2),
        "a variance cannot depend on the sign of d: look at its units": lambda v, d: v + d,
        "|d| has the unit of x, a variance that of x²": lambda v, d: v + abs(d),
        "that covers the wrong mean and forgets q's own width": lambda v, d: d**2,
        "the sign: a wrong mean calls for a wider p": lambda v, d: v - d**2,
    },
    praise="who is wrong about the mean should admit it in the variance",
)

# 2.5: Bayesian line fitting by adding natural parameters.


def _fit_line(x, y, w, s, *, prior=True, deviation=False, half=True, unscaled=False, precision=False):
    noise = math.sqrt(w) if deviation else w
    phi = torch.stack([torch.ones_like(x), x], 1)
    Lambda = phi.T @ phi / noise + (torch.eye(2, dtype=x.dtype) / s if prior else 0)
    cov = torch.linalg.inv(Lambda if half else Lambda / 2)
    mean = cov @ (phi.T @ y) / (1 if unscaled else noise)
    return torch.cat([mean[None], Lambda if precision else cov])


_X = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64)
_Y = torch.tensor([1.1, 1.4, 2.2, 2.9], dtype=torch.float64)

grade_2_5 = Exercise(
    "2.5",
    inputs=[(_X, _Y, 0.25, 2.0), (_X[:2], -_Y[:2], 0.1, 1.0), (_X - 2, _Y * 3, 2.0, 10.0)],
    answer=_fit_line,
    slips={
        "the prior is missing: that is the least-squares line": lambda x, y, w, s: _fit_line(x, y, w, s, prior=False),
        "the noise enters with its standard deviation; w is a variance": lambda x, y, w, s: _fit_line(
            x, y, w, s, deviation=True
        ),
        "mean and covariance are twice too large: the way back from η_2 has a factor 2": (
            lambda x, y, w, s: _fit_line(x, y, w, s, half=False)
        ),
        "the covariance is right; the mean is not: η_1 of an observation is divided by the noise too": (
            lambda x, y, w, s: _fit_line(x, y, w, s, unscaled=True)
        ),
        "the mean is right; below it stands the precision, not the covariance": (
            lambda x, y, w, s: _fit_line(x, y, w, s, precision=True)
        ),
    },
    praise="a regression is a sum of natural parameters",
)
