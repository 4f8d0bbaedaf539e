"""Graders of Chapter 5: the variance from two ᾱ's, the mean in ε form, the bridge, and what a sampler generates."""

from __future__ import annotations

import math

from . import Exercise

# 5.1: β̃ for any pair s < t from the two ᾱ alone.


def _beta_tilde(alpha_bar_s, alpha_bar_t):
    return (1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)


grade_5_1 = Exercise(
    "5.1",
    inputs=[(0.9, 0.5), (0.99, 0.98), (0.3, 0.1), (0.7, 0.01), (1.0, 0.4)],
    answer=_beta_tilde,
    slips={
        "that is the standard deviation; β̃ is a variance": lambda s, t: math.sqrt(_beta_tilde(s, t)),
        "that is β, the variance of the jump from s to t, which knows nothing of x_0": lambda s, t: 1 - t / s,
        "β of the jump is not 1 - ᾱ_t: that is the noise of all steps up to t": lambda s, t: 1 - s,
        "the β has slipped into the denominator": lambda s, t: (1 - s) / (1 - t * (1 - t / s)),
    },
    praise="β̃ needs only the two ᾱ, and it is 0 at s = 0",
)

# 5.2: the mean in ε form, for any pair.


def _mean_from_eps(x_t, eps, alpha_bar_s, alpha_bar_t):
    alpha = alpha_bar_t / alpha_bar_s
    return (x_t - (1 - alpha) / math.sqrt(1 - alpha_bar_t) * eps) / math.sqrt(alpha)


grade_5_2 = Exercise(
    "5.2",
    inputs=[(0.5, -1.0, 0.9, 0.5), (-1.3, 0.4, 0.99, 0.98), (2.0, 1.5, 1.0, 0.3), (0.0, 1.0, 0.4, 0.1)],
    answer=_mean_from_eps,
    slips={
        "right at s = 0 only: the prefactor has ᾱ_t where the α of the jump belongs": (
            lambda x, e, s, t: (x - (1 - t / s) / math.sqrt(1 - t) * e) / math.sqrt(t)
        ),
        "the coefficient of ε has a root over β": (
            lambda x, e, s, t: (x - math.sqrt(1 - t / s) / math.sqrt(1 - t) * e) / math.sqrt(t / s)
        ),
        "the noise of the jump is divided by its own root, not by that of x_t": (
            lambda x, e, s, t: (x - math.sqrt(1 - t / s) * e) / math.sqrt(t / s)
        ),
        "that is the estimate of x_0: it jumps the whole way": lambda x, e, s, t: (x - math.sqrt(1 - t) * e) / math.sqrt(t),
        "that is right for x_s as √ᾱ_s x_0 + √(1-ᾱ_s) ε, a point on the straight path, not the posterior's mean": (
            lambda x, e, s, t: math.sqrt(s / t) * (x - math.sqrt(1 - t) * e) + math.sqrt(1 - s) * e
        ),
    },
    praise="one line for every pair s < t; at s = 0 it is x̂_0",
)

# 5.3: the same posterior for a chain that only adds noise: x_t = x_0 + N(0, var_t), the Brownian bridge.


def _bridge(x_0, x_t, var_s, var_t):
    return x_0 + var_s / var_t * (x_t - x_0), var_s * (var_t - var_s) / var_t


grade_5_3 = Exercise(
    "5.3",
    inputs=[(0.0, 1.0, 1.0, 4.0), (-2.0, 3.0, 0.3, 0.5), (1.0, 1.0, 5.0, 6.0), (0.7, -0.2, 2.0, 9.0)],
    answer=_bridge,
    slips={
        "the weights are swapped: a small var_s means x_s is still close to x_0": (
            lambda x_0, x_t, s, t: (x_t + s / t * (x_0 - x_t), s * (t - s) / t)
        ),
        "the second number is the variance of the step from s to t; x_0 says something too": (
            lambda x_0, x_t, s, t: (x_0 + s / t * (x_t - x_0), t - s)
        ),
        "the second number is the variance of x_s before x_t is seen": lambda x_0, x_t, s, t: (x_0 + s / t * (x_t - x_0), s),
        "the second number is a standard deviation; the variance is wanted": (
            lambda x_0, x_t, s, t: (x_0 + s / t * (x_t - x_0), math.sqrt(s * (t - s) / t))
        ),
        "the mean weighs with standard deviations; precisions are inverse variances": (
            lambda x_0, x_t, s, t: (x_0 + math.sqrt(s / t) * (x_t - x_0), s * (t - s) / t)
        ),
    },
    praise="a straight line from x_0 to x_t, widest in the middle: the Brownian bridge",
)

# 5.4: what a sampler generates, by exact recursion: data N(0, data_var), perfect ε, reverse variance β̃.


def _generated(betas, data_var, *, root=False, every_step_noisy=False, var_T=None, upside_down=False, deviation=False):
    alpha_bars = [1.0]
    for beta in betas:
        alpha_bars.append(alpha_bars[-1] * (1 - beta))
    T = len(betas)
    var = 1.0 if var_T is None else var_T(alpha_bars[-1])
    steps = range(1, T + 1) if upside_down else range(T, 0, -1)
    for t in steps:
        beta, noise = betas[t - 1], 1 - alpha_bars[t]
        eps_slope = math.sqrt(noise) / (alpha_bars[t] * data_var + noise)  # E[ε | x_t] = slope · x_t
        slope = (1 - (math.sqrt(beta) if root else beta) / math.sqrt(noise) * eps_slope) / math.sqrt(1 - beta)
        beta_tilde = (1 - alpha_bars[t - 1]) / noise * beta
        added = beta if every_step_noisy else math.sqrt(beta_tilde) if deviation else beta_tilde
        var = slope**2 * var + added
    return var


_LINEAR = [0.02 + 0.38 * k / 9 for k in range(10)]

grade_5_4 = Exercise(
    "5.4",
    inputs=[(_LINEAR, 1.0), (_LINEAR, 0.1), (_LINEAR, 4.0), ([0.3, 0.2, 0.6], 0.5), ([0.5], 2.0)],
    answer=_generated,
    slips={
        "the coefficient of ε has a root over β": lambda b, v: _generated(b, v, root=True),
        "you add β_t, also in the last step; the exercise asks for β̃_t": lambda b, v: _generated(b, v, every_step_noisy=True),
        "your start has the variance of the data's own x_T; the sampler starts from N(0, 1)": (
            lambda b, v: _generated(b, v, var_T=lambda a: a * v + 1 - a)
        ),
        "you walk from t = 1 to T; a sampler walks from T to 1": lambda b, v: _generated(b, v, upside_down=True),
        "you add a standard deviation to a variance": lambda b, v: _generated(b, v, deviation=True),
        "that uses E[ε | x_t] of N(0, 1) data for every data variance": lambda b, v: _generated(b, 1.0),
    },
    praise="an exact sampler test with no sample drawn",
)
