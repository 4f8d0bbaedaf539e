"""Samplers, as generators: each yields every state it visits, so plots, logs and tests need no callbacks.

*_, last = ancestral(diffusion, eps_model, x_T)      # last.x_t is the sample
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ._args import real
from .diffusion import EpsModel, GaussianDiffusion, ReverseVariance


class Step(NamedTuple):
    """A visited state: x_t at step t, and the estimate x̂_0 made from it (at t = 0 that is x_0 itself)."""

    t: int
    x_t: Tensor
    x_0_hat: Tensor


def ancestral(
    diffusion: GaussianDiffusion,
    eps_model: EpsModel,
    x_T: Tensor,
    steps: int | Sequence[int] | None = None,
    sigma2: ReverseVariance | None = None,
    clip: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """Ancestral sampling: x_s ~ p_θ(x_s | x_t) from x_T down to x_0 [Ho 2020, Alg. 2].

    x_s = μ_θ(x_t, t) + √σ² z,   z ~ N(0, I), and z = 0 in the last move, to s = 0.
    `x_T` (B, ...) is the start, drawn from N(0, I) by the caller. `steps` as in `NoiseSchedule.steps`: None visits all,
    an int so many evenly spaced moves, a list exactly those. `sigma2` and `clip` as in `p_mean_variance`.
    Yields a Step for every state, the start and x_0 included. Bad arguments raise here, not at the first step.
    """
    visited = diffusion.schedule.steps(steps)
    real(x_T, "x_T")

    @torch.no_grad()
    def walk() -> Iterator[Step]:
        x_t = x_T
        for t, s in pairwise(visited):
            p, x_0_hat = diffusion.p_mean_variance(eps_model, x_t, t, s, sigma2, clip)
            yield Step(t, x_t, x_0_hat)
            x_t = p.sample(generator) if s > 0 else p.mean
        yield Step(0, x_t, x_t)

    return walk()
