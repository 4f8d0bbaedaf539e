"""Samplers, as generators: each yields every state it visits, so plots, logs and tests need no callbacks.

*_, last = ancestral(diffusion, eps_model, x_T)      # last.x_t is the sample
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ._args import count, finite, number, real, start, whole_numbers
from .diffusion import EpsModel, GaussianDiffusion, ReverseVariance
from .schedules import NoiseSchedule
from .scores import ScoreModel, evaluate
from .sde import VPSDE, Score


class Step(NamedTuple):
    """A visited state: x_t at step t (of an SDE: at time t), and the estimate x̂_0 made from it; at t = 0 x_0 itself."""

    t: float
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
    an int so many evenly spaced moves, a list exactly those (`schedule.steps(n, spacing)` gives unevenly spaced ones).
    `sigma2` and `clip` as in `p_mean_variance`.
    Yields a Step for every state, the start and x_0 included. Bad arguments raise here, not at the first step.
    """
    visited = diffusion.schedule.steps(steps)
    start(x_T, "x_T", eps_model=eps_model, sigma2=sigma2)
    if clip is not None:
        number(clip, "clip", 0, math.inf)

    @torch.no_grad()
    def walk() -> Iterator[Step]:
        x_t = x_T
        for t, s in pairwise(visited):
            p, x_0_hat = diffusion.p_mean_variance(eps_model, x_t, t, s, sigma2, clip)
            yield Step(t, x_t, x_0_hat)
            x_t = p.sample(generator) if s > 0 else p.mean
        yield Step(0, x_t, x_t)

    return walk()


def autocast(network: Callable[..., Tensor], dtype: torch.dtype = torch.bfloat16) -> Callable[..., Tensor]:
    """The same network with its convolutions and matrix products in `dtype` (torch.autocast); ε̂ comes back in x_t's dtype.

    Faster where the hardware multiplies in bfloat16 (GPUs since Ampere, CPUs with AMX). Good for samples, not for a bound:
    x_t is rounded to 8 bits, so at small t, where √(1-ᾱ_t) is no larger than that rounding, the noise is not seen any
    more, and ε̂ is off by tens of per cent; at large t by less than one. Takes and passes on (x_t, t) or (x_t, t, y).
    """
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"dtype = {dtype} must be torch.bfloat16 or torch.float16")

    def eps_model(x_t: Tensor, *rest: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, dtype):
            return network(x_t, *rest).to(x_t.dtype)

    eps_model.config = getattr(network, "config", {})  # type: ignore[attr-defined]
    return eps_model


def ddim(
    diffusion: GaussianDiffusion,
    eps_model: EpsModel,
    x_T: Tensor,
    steps: int | Sequence[int] | None = None,
    eta: float = 0.0,
    clip: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """Generalised sampling with the same network: less noise, down to none at η = 0 [Song 2021, DDIM, Eqs. 12 and 16].

    x_s = √ᾱ_s x̂_0 + √(1-ᾱ_s-σ²) ε̂ + σ z,   σ² = η² β̃ with β̃ = (1-ᾱ_s)/(1-ᾱ_t) · (1-ᾱ_t/ᾱ_s),   z ~ N(0, I).
    η = 1 is `ancestral` with σ² = β̃. With `clip`, x̂_0 is clamped and ε̂ is the noise that belongs to the clamped x̂_0.
    Arguments and what is yielded as in `ancestral`; `eta` is in [0, 1], and at 0 nothing is drawn.
    """
    visited = diffusion.schedule.steps(steps)
    start(x_T, "x_T", eps_model=eps_model)
    if clip is not None:
        number(clip, "clip", 0, math.inf)
    number(eta, "eta", 0, 1, closed="low high")

    @torch.no_grad()
    def walk() -> Iterator[Step]:
        x_t = x_T
        for t, s in pairwise(visited):
            _, x_0_hat = diffusion.p_mean_variance(eps_model, x_t, t, s, clip=clip)
            p = diffusion.q_ddim(x_0_hat, x_t, t, s, eta)
            yield Step(t, x_t, x_0_hat)
            x_t = p.sample(generator) if eta > 0 and s > 0 else p.mean
        yield Step(0, x_t, x_t)

    return walk()


def ddim_invert(
    diffusion: GaussianDiffusion,
    eps_model: EpsModel,
    x_0: Tensor,
    steps: int | Sequence[int] | None = None,
    rounds: int = 1,
) -> Iterator[Step]:
    """The noise that `ddim` with η = 0 turns into x_0: its moves solved for x_t, from the data up [Song 2021, DDIM, Sec. 5.4].

    x_t = √ᾱ_t x̂_0 + √(1-ᾱ_t) ε̂,   x̂_0 = (x_s - √(1-ᾱ_s) ε̂) / √ᾱ_s,   ε̂ = ε_θ(x_t, t): x_t stands on both sides.
    The first round puts x_s for x_t into the network, each further one the x_t found so far. One round is the usual
    inversion, off by O(step); more make it exact where they converge. `steps` as in `ddim`, upwards: a list starts at 0 and
    rises; where it ends, `ddim` can start. Yields a Step for every state, x_0 included. Bad arguments raise here.
    """
    visited = _rising(diffusion.schedule, steps)
    start(x_0, "x_0", eps_model=eps_model)
    count(rounds, "rounds")

    @torch.no_grad()
    def walk() -> Iterator[Step]:
        x_t = x_0_hat = x_0
        yield Step(0, x_t, x_0_hat)
        for s, t in pairwise(visited):
            x_s = x_t
            for _ in range(rounds):
                eps_hat = diffusion.predict(eps_model, x_t, t)
                x_0_hat = diffusion.x0_from_eps(x_s, eps_hat, s) if s > 0 else x_s
                x_t = diffusion.q_sample(x_0_hat, t, eps_hat)
            yield Step(t, x_t, x_0_hat)

    return walk()


def _rising(schedule: NoiseSchedule, steps: int | Sequence[int] | None) -> list[int]:
    if steps is None or isinstance(steps, int):
        return schedule.steps(steps)[::-1]
    visited = whole_numbers(steps, "steps")
    if len(visited) < 2 or visited[0] != 0 or visited[-1] > schedule.T or any(s >= t for s, t in pairwise(visited)):
        raise ValueError(f"steps must start at 0 and be strictly increasing, up to at most T = {schedule.T}; got {visited}")
    return visited


def slerp(x: Tensor, y: Tensor, share: float | Tensor) -> Tensor:
    """From x (share 0) to y (share 1) along a great circle, sample by sample [Song 2021, DDIM, App. D].

    (sin((1 - share) θ) x + sin(share θ) y) / sin θ, with θ the angle between x and y, both (B, ...); `share` is a number
    in [0, 1], or (B,). Equal lengths are kept, which a mean would shorten. Where θ is 0 it is the plain mixture. Raises
    ValueError where x or y is 0, or the two point in opposite directions: then the way is not defined.
    """
    if real(x, "x").shape != real(y, "y").shape or x.ndim < 2:
        raise ValueError(f"x and y must both have shape (B, ...), got {tuple(x.shape)} and {tuple(y.shape)}")
    share = finite(share, "share", x)
    if share.ndim > 1 or (share.ndim and len(share) != len(x)) or not bool(((share >= 0) & (share <= 1)).all()):
        raise ValueError(f"share must be a number in [0, 1] or one for each of the {len(x)} samples, got {share.tolist()}")
    a, b = x.flatten(1), y.flatten(1)
    lengths = a.norm(dim=1) * b.norm(dim=1)
    if bool((lengths == 0).any()):
        raise ValueError("x and y must not be 0: a zero vector has no direction")
    theta = torch.acos(((a * b).sum(1) / lengths).clamp(-1, 1))
    if bool((theta > math.pi - 1e-3).any()):
        raise ValueError("x and y must not point in opposite directions: no great circle is the shortest")
    straight = theta < 1e-4
    safe = torch.where(straight, 1.0, theta)
    of_x = torch.where(straight, 1 - share, torch.sin((1 - share) * safe) / torch.sin(safe))
    of_y = torch.where(straight, share, torch.sin(share * safe) / torch.sin(safe))
    return (of_x.unsqueeze(1) * a + of_y.unsqueeze(1) * b).reshape(x.shape)


class LangevinStep(NamedTuple):
    """A visited state: x after k moves, at the noise level sigma (0 is the target itself)."""

    k: int
    sigma: float
    x: Tensor


def langevin(
    score: ScoreModel,
    x: Tensor,
    gamma: float,
    steps: int,
    curvature: float | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[LangevinStep]:
    """Langevin dynamics by Euler-Maruyama: x ← x + γ ∇log p(x) + √(2γτ) z, z ~ N(0, I) [Song 2019, Eq. 4, with ε = 2γ].

    At temperature τ = 1 the law of x tends to p, up to a bias of order γ: for N(m, v) the variance v / (1 - γ/(2v)). τ = 0 is
    gradient ascent. `x` (B, ...) is the start. `curvature`, if known, is the largest eigenvalue of -∇∇ᵀlog p, such as
    `GaussianMixture.curvature`: γ >= 2 / curvature, where the moves can overshoot and grow, is refused. A state that is no
    longer finite is refused too (on the CPU). Yields the start and the state after each of `steps` moves.
    """
    gamma = number(gamma, "gamma", 0, math.inf)
    if curvature is not None:
        curvature = number(curvature, "curvature", 0, math.inf, closed="high")
        if gamma >= 2 / curvature:
            raise ValueError(f"gamma = {gamma} is not below the stability bound 2 / curvature = {2 / curvature}")
    temperature = number(temperature, "temperature", 0, math.inf, closed="low")
    count(steps, "steps", low=0)
    start(x, "x", score=score)

    @torch.no_grad()
    def walk(x: Tensor) -> Iterator[LangevinStep]:
        yield LangevinStep(0, 0.0, x)
        for k in range(1, steps + 1):
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            x = x + gamma * evaluate(score, x) + math.sqrt(2 * gamma * temperature) * z
            if x.device.type == "cpu" and not torch.isfinite(x).all():
                raise ValueError(f"gamma = {gamma} is too large for this score: after {k} moves x is not finite any more")
            yield LangevinStep(k, 0.0, x)

    return walk(x)


def annealed_langevin(
    score: Callable[[Tensor, float], Tensor],
    x: Tensor,
    sigmas: Sequence[float],
    ratio: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> Iterator[LangevinStep]:
    """Langevin dynamics on data noised with σ_1 > … > σ_L > 0 in turn [Song 2019, Alg. 1].

    `score(x, sigma)` is ∇log of the density of x_0 + σ ε. At each level `steps` moves of γ = ratio · σ². No data noised with
    σ is curved more than 1/σ², so every ratio in (0, 2) is stable for all data; others are refused. `x` (B, ...) is the
    start, drawn by the caller from N(0, σ_1² I) or wider. Yields the start and the state after each move; k counts them all.
    """
    levels = [number(float(sigma), f"sigmas[{i}]", 0, math.inf) for i, sigma in enumerate(sigmas)]
    if not levels or any(a <= b for a, b in pairwise(levels)):
        raise ValueError(f"sigmas must be a list of levels that fall at every place, got {levels}")
    number(ratio, "ratio", 0, 2)
    count(steps, "steps")
    start(x, "x", score=score)

    def walk(state: Tensor) -> Iterator[LangevinStep]:
        yield LangevinStep(0, levels[0], state)
        for i, sigma in enumerate(levels):
            at_level = lambda u, sigma=sigma: score(u, sigma)  # noqa: E731
            moves = langevin(at_level, state, ratio * sigma**2, steps, curvature=sigma**-2, generator=generator)
            next(moves)  # the start, which the level before has yielded
            for k, _, state in moves:
                yield LangevinStep(i * steps + k, sigma, state)

    return walk(x)


# In continuous time -----------------------------------------------------------------------------------------------


def reverse_sde(
    sde: VPSDE,
    score: Score,
    x_1: Tensor,
    steps: int | Sequence[float] = 1000,
    eta: float = 1.0,
    corrections: int = 0,
    ratio: float = 0.1,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """Euler-Maruyama steps of the reverse SDE, with Langevin corrections if wanted [Song 2021, Eq. 6 and Alg. 1].

    Predictor, from t to s:   x ← x - (t - s) [f - ½ (1 + η²) β(t) score(x, t)] + η √(β(t) (t - s)) z
    Corrector, at s:          `corrections` moves of `langevin` with γ = ratio · (1 - ᾱ(s))
    η = 1 is the reverse SDE, η = 0 Euler's method for the probability-flow ODE. `x_1` (B, ...) is drawn from N(0, I) by
    the caller; `steps` as in `VPSDE.times`, downwards: an int runs from 1 to 0. No q_s is curved more than 1/(1 - ᾱ(s)),
    so every ratio in (0, 2) is stable for all data; others are refused. Yields a Step for every state, the start included.
    """
    times = sde.times(steps)
    if times[0] < times[-1]:
        raise ValueError(f"steps must go down, from noise to data; got times from {times[0]} to {times[-1]}")
    real(x_1, "x_1")
    number(eta, "eta", 0, math.inf, closed="low")
    count(corrections, "corrections", low=0)
    number(ratio, "ratio", 0, 2)

    @torch.no_grad()
    def walk() -> Iterator[Step]:
        x = x_1
        for t, s in pairwise(times):
            slope = sde.predict(score, x, t)
            moved = x - (t - s) * sde.reverse_drift(x, slope, t, eta)
            yield Step(t, x, sde.x0_from_score(x, slope, t))
            x = moved
            if eta > 0:
                z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
                x = x + eta * math.sqrt(float(sde.beta(t)) * (t - s)) * z
            if corrections and s > 0:
                gamma, at_s = ratio * (1 - float(sde.alpha_bar(s))), lambda u, s=s: score(u, s)
                *_, (_, _, x) = langevin(at_s, x, gamma, corrections, generator=generator)
        yield _end(sde, score, x, times[-1])

    return walk()


def probability_flow(sde: VPSDE, score: Score, x: Tensor, steps: int | Sequence[float] = 50) -> Iterator[Step]:
    """The probability-flow ODE dx/dt = -½ β(t) (x + score(x, t)), by Heun's method [Song 2021, Eq. 13].

    Two scores a step, error O(1/steps²), and no randomness: x decides everything. `steps` as in `VPSDE.times`: an int
    runs from noise at 1 down to data at 0; a list of rising times encodes data instead. Yields a Step for every state.
    """
    times = sde.times(steps)
    start(x, "x", score=score)

    @torch.no_grad()
    def walk() -> Iterator[Step]:
        x_t = x
        for t, s in pairwise(times):
            slope = sde.predict(score, x_t, t)
            flow = sde.reverse_drift(x_t, slope, t, eta=0)
            guess = x_t + (s - t) * flow
            moved = x_t + (s - t) * 0.5 * (flow + sde.reverse_drift(guess, sde.predict(score, guess, s), s, eta=0))
            yield Step(t, x_t, sde.x0_from_score(x_t, slope, t))
            x_t = moved
        yield _end(sde, score, x_t, times[-1])

    return walk()


def _end(sde: VPSDE, score: Score, x: Tensor, t: float) -> Step:
    return Step(t, x, x if t == 0 else sde.x0_from_score(x, sde.predict(score, x, t), t))
