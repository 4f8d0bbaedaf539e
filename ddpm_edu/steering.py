"""Steering a trained sampler, and noise that is not N(0, I): wrappers around samplers and networks that stay as they are.

ILVR and inpainting by replacement are one line, x_s ← x_s - φ(x_s) + φ(y_s), with a filter φ that says which part of the
state is known. PriorGrad is DDPM in other coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ._args import count, instance, number, real, start
from .diffusion import EpsModel, GaussianDiffusion, ReverseVariance
from .gaussian import FullGaussian, Gaussian
from .samplers import Step, ancestral

Filter = Callable[[Tensor], Tensor]
Steer = Callable[[Tensor, int], Tensor]
Sampler = Callable[..., Iterator[Step]]

# Which part of a state is known -----------------------------------------------------------------------------------


def average_filter(factor: int) -> Filter:
    """φ: every factor x factor block of images (B, C, H, W) becomes its mean. An orthogonal projection: φ² = φ, φᵀ = φ.

    φ raises ValueError for an image whose height or width is not a multiple of `factor`.
    """
    count(factor, "factor")

    def phi(x: Tensor) -> Tensor:
        return _pooled(x, factor).repeat_interleave(factor, -1).repeat_interleave(factor, -2)

    return phi


def bilinear_filter(factor: int) -> Filter:
    """φ: block means as in `average_filter`, then linear interpolation between them. Smoother, and no projection.

    Images are (B, C, H, W). Applied twice it blurs more than once: φ² ≠ φ.
    """
    count(factor, "factor")
    return lambda x: F.interpolate(_pooled(x, factor), scale_factor=factor, mode="bilinear", align_corners=False)


def mask_filter(mask: Tensor) -> Filter:
    """φ: x where `mask` is True, 0 elsewhere. An orthogonal projection. `mask`, bool, broadcasts to the image."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(
            f"mask must be a bool tensor, True where the image is known; got {getattr(mask, 'dtype', type(mask).__name__)}"
        )

    def phi(x: Tensor) -> Tensor:
        _broadcasts(mask, "mask", real(x, "x").shape)
        return torch.where(mask.to(x.device), x, torch.zeros_like(x))

    return phi


def _pooled(x: Tensor, factor: int) -> Tensor:
    """The block means (B, C, H / factor, W / factor)."""
    if real(x, "x").ndim != 4 or x.shape[-1] % factor or x.shape[-2] % factor:
        raise ValueError(f"factor = {factor} must divide height and width of images (B, C, H, W); got shape {tuple(x.shape)}")
    return F.avg_pool2d(x, factor)


# Replacing that part in every state of a sampler ------------------------------------------------------------------


def replacing(diffusion: GaussianDiffusion, y: Tensor, phi: Filter, generator: torch.Generator | None = None) -> Steer:
    """steer(x_s, s) = x_s - φ(x_s) + φ(y_s),   y_s = √ᾱ_s y + √(1-ᾱ_s) ε with fresh ε ~ N(0, I) [Choi 2021, Alg. 1].

    `y` is the clean reference; at s = 0 it is put in as it is. Raises ValueError where y does not broadcast to x_s.
    """
    if not callable(phi) or phi(real(y, "y")).shape != y.shape:  # a filter that does not fit is refused here
        raise ValueError(f"phi must be a filter that keeps the shape of an image, {tuple(y.shape)} for y; got {phi!r}")

    def steer(x_s: Tensor, s: int) -> Tensor:
        _broadcasts(y, "y", x_s.shape)
        y_s = diffusion.q_marginal(y.expand_as(x_s), s).sample(generator) if s > 0 else y
        return x_s - phi(x_s) + phi(y_s)

    return steer


def steered(
    diffusion: GaussianDiffusion,
    eps_model: EpsModel,
    x_T: Tensor,
    steer: Steer,
    steps: int | Sequence[int] | None = None,
    repeats: int = 1,
    sampler: Sampler = ancestral,
    generator: torch.Generator | None = None,
    **options,
) -> Iterator[Step]:
    """A sampler that has every new state x_s replaced by steer(x_s, s) before it goes on.

    `repeats` = U > 1 does each step down U times, noising x_s up to x_t again in between by q(x_t | x_s) [Lugmayr 2022,
    Alg. 1]; not the last step, to 0, which leaves nothing to mix. `sampler` is `ancestral`, `ddim`, or any with their
    arguments, and gets `options`; U · (moves - 1) + 1 calls of the network, more if it has learned its variance. Yields a
    Step at every visit, then x_0.
    """
    visited = diffusion.schedule.steps(steps)
    start(x_T, "x_T", eps_model=eps_model, steer=steer)
    count(repeats, "repeats")

    def move(x_t: Tensor, t: int, s: int) -> Iterator[Step]:
        # A sampler looks ahead at s when it arrives there. What it sees is thrown away, so the network is not asked.
        only_at_t = lambda x, k: torch.zeros_like(x) if len(k) and int(k[0]) != t else eps_model(x, k)  # noqa: E731
        return sampler(diffusion, only_at_t, x_t, [t, s, 0][: 2 + (s > 0)], generator=generator, **options)

    @torch.no_grad()
    def walk() -> Iterator[Step]:
        x_t = x_T
        for t, s in pairwise(visited):
            for again in reversed(range(repeats if s > 0 else 1)):
                moves = move(x_t, t, s)
                yield next(moves)
                x_s = steer(next(moves).x_t, s)
                x_t = diffusion.q_step(x_s, t, s).sample(generator) if again else x_s
        yield Step(0, x_t, x_t)

    return walk()


def ilvr(
    diffusion: GaussianDiffusion,
    eps_model: EpsModel,
    x_T: Tensor,
    y: Tensor,
    phi: Filter,
    generator: torch.Generator | None = None,
    **options,
) -> Iterator[Step]:
    """Samples with the low band of the reference y: φ(x_0) = φ(y) if φ is a projection [Choi 2021, Alg. 1].

    y and x_T are images (B, C, H, W), or y one image for all. `options` as in `steered`: steps, clip, sigma2, repeats, …
    """
    _broadcasts(real(y, "y"), "y", real(x_T, "x_T").shape)
    y = y.expand_as(x_T)
    return steered(diffusion, eps_model, x_T, replacing(diffusion, y, phi, generator), generator=generator, **options)


def inpaint(
    diffusion: GaussianDiffusion,
    eps_model: EpsModel,
    x_T: Tensor,
    x_0: Tensor,
    mask: Tensor,
    generator: torch.Generator | None = None,
    **options,
) -> Iterator[Step]:
    """Samples that agree with x_0 where `mask` is True: `ilvr` with the mask as the filter [Lugmayr 2022, Eq. 8].

    What x_0 holds where the mask is False is not used (it must be finite). Not a draw of p(unknown | known); more
    `repeats` bring it nearer. `options` as in `steered`.
    """
    return ilvr(diffusion, eps_model, x_T, x_0, mask_filter(mask), generator=generator, **options)


# What replacing generates, exactly, from Gaussian data ------------------------------------------------------------


def steered_moments(
    diffusion: GaussianDiffusion,
    data: FullGaussian,
    y: Tensor,
    P: Tensor,
    steps: int | Sequence[int] | None = None,
    repeats: int = 1,
    sigma2: ReverseVariance | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what `steered` generates with `replacing` and the perfect network of `data`: no samples drawn.

    One step down and the replacing, with G = √α Σ_s Σ_t⁻¹, Σ_t = ᾱ_t C + (1-ᾱ_t) I and m, C of the data:
    M ← (I-P) [√ᾱ_s m + G (M - √ᾱ_t m)] + P √ᾱ_s y,     V ← (I-P) [G V Gᵀ + σ² I] (I-P)ᵀ + (1-ᾱ_s) P Pᵀ.
    Shapes: data of n coordinates, y (n,) or (B, n), P (n, n) the filter's matrix (P = 0: no steering). The mean has y's shape.
    """
    n, like, bars = len(instance(data, "data", FullGaussian).mean), data.mean, diffusion.schedule.alpha_bars.to(data.mean)
    if real(P, "P").shape != (n, n) or real(y, "y").ndim not in (1, 2) or y.shape[-1] != n:
        raise ValueError(f"want y (n,) or (B, n) and P (n, n) with n = {n}; got y {tuple(y.shape)}, P {tuple(P.shape)}")
    visited = diffusion.schedule.steps(steps)
    count(repeats, "repeats")
    one = torch.eye(n, dtype=like.dtype, device=like.device)
    rest, M, V = one - P, torch.zeros_like(y), one
    for t, s in pairwise(visited):
        alpha, noise = bars[t] / bars[s], (sigma2 or diffusion.sigma2_beta)(like, t, s) if s > 0 else 0.0
        Sigma_t, Sigma_s = (bars[k] * data.cov + (1 - bars[k]) * one for k in (t, s))
        G = alpha.sqrt() * torch.linalg.solve(Sigma_t, Sigma_s).T
        for again in reversed(range(repeats if s > 0 else 1)):
            down = bars[s].sqrt() * like + (M - bars[t].sqrt() * like) @ G.T
            M = down @ rest.T + bars[s].sqrt() * y @ P.T
            V = rest @ (G @ V @ G.T + noise * one) @ rest.T + (1 - bars[s]) * P @ P.T
            if again:
                M, V = alpha.sqrt() * M, alpha * V + (1 - alpha) * one
    return M, V


def replacement_limit(rho: float, repeats: int = 1) -> tuple[float, float]:
    """(slope, variance) of what replacing makes of u given k = y, in the limit of many small steps: N(slope · y, variance).

    For two numbers of variance 1 and correlation rho, k known; right is (rho, 1 - rho²). With θ = artanh rho, U repeats:
    slope = U ∫_0^θ r^U dτ,   variance = (2U-1) (1-rho²)/rho ∫_0^θ r^(2U-2) dτ,   r = sinh τ / sinh θ.
    """
    rho, U = number(rho, "rho", -1, 1), count(repeats, "repeats")
    if rho == 0:
        return 0.0, 1.0
    theta = math.atanh(abs(rho))
    tau = torch.linspace(0, theta, 100_001, dtype=torch.float64)  # fine enough for U in the thousands
    log_r = torch.log(torch.sinh(tau) / math.sinh(theta))
    simpson = torch.tensor([1.0, *[4.0, 2.0] * 49_999, 4.0, 1.0], dtype=torch.float64) * theta / 300_000
    integral = lambda power: float(simpson @ torch.exp(power * log_r)) if power else theta  # noqa: E731
    slope, first = U * integral(U), integral(2 * U - 2)
    return math.copysign(slope, rho), (2 * U - 1) * (1 - rho**2) / abs(rho) * first


# A prior that is not N(0, I) --------------------------------------------------------------------------------------


def whiten(prior: Gaussian | FullGaussian, x: Tensor) -> Tensor:
    """L⁻¹ (x - μ) for the prior N(μ, Σ), Σ = L Lᵀ: N(0, I) if x is a draw of the prior. Inverse: prior.sample(eps=...)."""
    _has_spread(prior)
    if not _fits(real(x, "x").shape, prior.mean.shape):
        raise ValueError(f"x has shape {tuple(x.shape)}; the prior's mean, {tuple(prior.mean.shape)}, must broadcast to it")
    return _unscale(prior, x - prior.mean)


def whitened(eps_model: EpsModel, prior: Gaussian | FullGaussian) -> EpsModel:
    """The network seen in white coordinates: ε' = L⁻¹ ε_θ(μ + L x', t), where ε_θ predicts noise ~ N(0, Σ)."""
    _has_spread(prior)
    return lambda x, t: _unscale(prior, eps_model(prior.sample(eps=x), t))


def priorgrad(
    diffusion: GaussianDiffusion,
    eps_model: EpsModel,
    x_T: Tensor,
    prior: Gaussian | FullGaussian,
    sampler: Sampler = ancestral,
    **options,
) -> Iterator[Step]:
    """Sampling with start and step noise from the prior N(μ, Σ): `sampler` in white coordinates [Lee 2022, Alg. 2].

    `eps_model(x_t, t)` predicts noise ~ N(0, Σ). `x_T` is a draw of the prior. States are in the data's coordinates, with μ
    in them at every t (the paper takes μ away before and adds it at the end, which is the same). A `Gaussian` prior has
    independent coordinates and broadcasts; a `FullGaussian` is for vectors (B, n).
    """
    _has_spread(prior)
    walk = sampler(diffusion, whitened(eps_model, prior), whiten(prior, x_T), **options)
    return (Step(t, prior.sample(eps=x_t), prior.sample(eps=x_0_hat)) for t, x_t, x_0_hat in walk)


def prior_loss(
    diffusion: GaussianDiffusion, eps_model: EpsModel, x_0: Tensor, t: int | Tensor, eps: Tensor, prior: Gaussian | FullGaussian
) -> Tensor:
    """The mean of (ε - ε_θ)ᵀ Σ⁻¹ (ε - ε_θ) per coordinate: L_simple in white coordinates [Lee 2022, Sec. 3].

    `eps` ~ N(0, I) is white; the noise itself is ε = L eps, and x_t = μ + √ᾱ_t (x_0 - μ) + √(1-ᾱ_t) ε.
    """
    _has_spread(prior)
    return diffusion.simple_loss(whitened(eps_model, prior), whiten(prior, x_0), t, eps)


def _unscale(prior: Gaussian | FullGaussian, x: Tensor) -> Tensor:
    """L⁻¹ x."""
    if isinstance(prior, Gaussian):
        return x / prior.var.sqrt()
    return torch.linalg.solve_triangular(prior.root, x.unsqueeze(-1), upper=False).squeeze(-1)


def _has_spread(prior: Gaussian | FullGaussian) -> None:
    instance(prior, "prior", Gaussian, FullGaussian)
    if isinstance(prior, Gaussian) and (prior.var <= 0).any():
        raise ValueError(f"prior.var must be > 0 everywhere, got {float(prior.var.min())}: Σ must be positive definite")


def _broadcasts(x: Tensor, name: str, shape: torch.Size) -> None:
    if not _fits(shape, x.shape):
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it must broadcast to the images' shape {tuple(shape)}")


def _fits(shape: torch.Size, other: torch.Size) -> bool:
    """Whether the other shape broadcasts to `shape`."""
    try:
        return torch.broadcast_shapes(shape, other) == shape
    except RuntimeError:
        return False
