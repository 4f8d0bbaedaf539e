"""Graders of Chapter 3: log p(x) from log-weights, the ELBO in closed form, gap against ESS, the bound of K draws."""

from __future__ import annotations

import itertools
import math

from . import Exercise

# 3.1: the estimate of log p(x) from a list of log-weights, without underflow.


def _log_evidence(log_w):
    top = max(log_w)
    return top + math.log(sum(math.exp(v - top) for v in log_w) / len(log_w))


def _by_exp(log_w):
    mean = sum(math.exp(v) for v in log_w) / len(log_w)
    return math.log(mean) if mean > 0 else -math.inf


grade_3_1 = Exercise(
    "3.1",
    inputs=[([-1.0, -2.0, -0.5],), ([0.3, 0.3],), ([-1000.0, -1001.0, -1003.0],), ([-5.0],)],
    answer=_log_evidence,
    slips={
        "that is the mean of the logarithms, an estimate of the ELBO; here the logarithm comes last": (
            lambda log_w: sum(log_w) / len(log_w)
        ),
        "the sum of the weights is not yet their mean": lambda log_w: _log_evidence(log_w) + math.log(len(log_w)),
        "right for weights near 1, but exp(-1000) is 0 in floating point: take the largest log-weight out first": _by_exp,
        "that is the largest weight alone; the others count too": max,
    },
    praise="the log of the mean, safe for an image with thousands of nats",
)

# 3.2: the ELBO of z ~ N(0, 1), x = a z + N(0, s²), for q = N(m, v).


def _elbo(x, a, s2, m, v, *, spread=True, sign=-1, reverse=False, root=False):
    fit = -0.5 * (math.log(2 * math.pi * s2) + (x - a * m) ** 2 / s2 + (a**2 * v / s2 if spread else 0))
    v = math.sqrt(v) if root else v
    kl = 0.5 * (1 / v - 1 + math.log(v) + m**2 / v) if reverse else 0.5 * (v - 1 - math.log(v) + m**2)
    return fit + sign * kl


grade_3_2 = Exercise(
    "3.2",
    inputs=[(2.5, 2.0, 1.0, 0.5, 0.5), (-1.0, 0.7, 0.3, 0.2, 1.4), (0.3, -1.5, 2.0, -0.4, 0.1), (1.0, 1.0, 1.0, 0.0, 1.0)],
    answer=_elbo,
    slips={
        "that decodes only q's mean: q's variance costs something in the reconstruction too": (
            lambda x, a, s2, m, v: _elbo(x, a, s2, m, v, spread=False)
        ),
        "the KL is added; it is a price": lambda x, a, s2, m, v: _elbo(x, a, s2, m, v, sign=1),
        "the KL is KL(p(z) ‖ q), the other way round": lambda x, a, s2, m, v: _elbo(x, a, s2, m, v, reverse=True),
        "v is a variance; the KL looks as if it had been given a standard deviation": (
            lambda x, a, s2, m, v: _elbo(x, a, s2, m, v, root=True)
        ),
        "that is -ELBO, the loss": lambda x, a, s2, m, v: -_elbo(x, a, s2, m, v),
        "that is log p(x) itself, whatever q is; the ELBO knows q": (
            lambda x, a, s2, m, v: -0.5 * (math.log(2 * math.pi * (a**2 + s2)) + x**2 / (a**2 + s2))
        ),
    },
    praise="a whole VAE loss in two lines, with nothing sampled",
)

# 3.3: the gap and the effective share of d independent latents, each with a q of r times the posterior's variance.


def _gap_and_share(r, d):
    return d * 0.5 * (r - 1 - math.log(r)), (math.sqrt(2 * r - 1) / r) ** d if r > 0.5 else 0.0


def _share_added(r, d):
    gap, share = _gap_and_share(r, d)[0], _gap_and_share(r, 1)[1]
    return gap, share / d


grade_3_3 = Exercise(
    "3.3",
    inputs=[(2.0, 1), (0.7, 10), (0.25, 3), (1.0, 50), (1.2, 100)],
    answer=_gap_and_share,
    slips={
        "right for one latent; d of them share one weight, the product of theirs": lambda r, d: _gap_and_share(r, 1),
        "the gap is right. The share: means of independent factors multiply": _share_added,
        "the gap of d latents adds up; you multiplied it": lambda r, d: (_gap_and_share(r, 1)[0] ** d, _gap_and_share(r, d)[1]),
        "for r <= 1/2 the weights have no variance: what does that make of the share?": (
            lambda r, d: (_gap_and_share(r, d)[0], (math.sqrt(abs(2 * r - 1)) / r) ** d)
        ),
        "that gap is KL(p(z | x) ‖ q), the other way round": (
            lambda r, d: (d * 0.5 * (1 / r - 1 + math.log(r)), _gap_and_share(r, d)[1])
        ),
    },
    praise="gaps add, shares multiply: importance sampling dies of dimension first",
)

# 3.4: the bound of K draws, by enumeration over a discrete latent.


def _bound_of_k(joint, q, K, combine=None):
    w = [p / c for p, c in zip(joint, q)]
    combine = combine or (lambda ws: math.log(sum(ws) / len(ws)))
    draws = itertools.product(range(len(q)), repeat=K)
    return sum(math.prod(q[k] for k in ks) * combine([w[k] for k in ks]) for ks in draws)


def _without_repeats(joint, q, K):
    w, total, mass = [p / c for p, c in zip(joint, q)], 0.0, 0.0
    for ks in itertools.combinations_with_replacement(range(len(q)), K):
        p = math.prod(q[k] for k in ks)
        total, mass = total + p * math.log(sum(w[k] for k in ks) / K), mass + p
    return total / mass


grade_3_4 = Exercise(
    "3.4",
    inputs=[
        ([0.1, 0.25, 0.05], [0.5, 0.3, 0.2], 1),
        ([0.1, 0.25, 0.05], [0.5, 0.3, 0.2], 2),
        ([0.02, 0.01, 0.3, 0.1], [0.25, 0.25, 0.25, 0.25], 3),
        ([0.4, 0.1], [0.9, 0.1], 5),
    ],
    answer=_bound_of_k,
    slips={
        "that is the ELBO for every K: take the mean of the K weights before the logarithm": (
            lambda joint, q, K: _bound_of_k(joint, q, 1)
        ),
        "the K weights are summed, not averaged: the result can exceed log p(x)": (
            lambda joint, q, K: _bound_of_k(joint, q, K, lambda ws: math.log(sum(ws)))
        ),
        "the logarithm comes after the expectation, so that is log p(x) itself for every K": (
            lambda joint, q, K: math.log(sum(joint))
        ),
        "draws are ordered: (a, b) and (b, a) both count": _without_repeats,
        "every tuple counts alike; they have probabilities, from q": (
            lambda joint, q, K: (
                sum(math.log(sum(joint[k] / q[k] for k in ks) / K) for ks in itertools.product(range(len(q)), repeat=K))
                / len(q) ** K
            )
        ),
    },
    praise="the bound rises with K, from the ELBO towards log p(x)",
)
