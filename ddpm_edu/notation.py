"""One noise level, one model output, in the letters of each paper: converters, both ways.

The hub is ᾱ_t, as everywhere in the package. `*_from_alpha_bar` and `alpha_bar_from_*` take numbers or tensors of any
shape and return float64 tensors of that shape; ᾱ = 1, clean data, is allowed, so that a whole table of a schedule can
be converted. The functions at the end carry networks across.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._args import as_steps, common_shape, instance, number, real
from .diffusion import EpsModel, GaussianDiffusion
from .schedules import NoiseSchedule

Denoiser = Callable[[Tensor, Tensor], Tensor]  # D(x, sigma), sigma of shape (B,)
VDMModel = Callable[[Tensor, Tensor], Tensor]  # ε̂(z, gamma), gamma of shape (B,)

# One noise level --------------------------------------------------------------------------------------------------


class VDM(NamedTuple):
    """Kingma 2021: z_t = α_t x + σ_t ε. α_t and σ_t are amplitudes, α_t² = ᾱ_t and σ_t² = 1 - ᾱ_t; γ_t = -log SNR(t)."""

    alpha: Tensor
    sigma: Tensor
    gamma: Tensor


class EDM(NamedTuple):
    """Karras 2022: x = s (y + n) with n ~ N(0, σ² I). s is a scale; σ the noise's standard deviation, in units of the data."""

    scale: Tensor
    sigma: Tensor


def vdm_from_alpha_bar(alpha_bar: float | Tensor) -> VDM:
    """α = √ᾱ, σ = √(1-ᾱ), γ = log((1-ᾱ)/ᾱ) [Kingma 2021, Eqs. 1-4]; γ = -∞ at ᾱ = 1. Salimans 2022 has the same α and σ."""
    a = _values(alpha_bar, "alpha_bar", 0, 1, closed="high")
    return VDM(a.sqrt(), (1 - a).sqrt(), -torch.logit(a))


def alpha_bar_from_gamma(gamma: float | Tensor) -> Tensor:
    """ᾱ = sigmoid(-γ) = 1 / (1 + e^γ) [Kingma 2021, Eq. 4]. γ is large where there is much noise; -∞ is clean data."""
    return torch.sigmoid(-_values(gamma, "gamma", -math.inf, math.inf, closed="low"))


def edm_from_alpha_bar(alpha_bar: float | Tensor) -> EDM:
    """s = √ᾱ, σ = √((1-ᾱ)/ᾱ) = 1/√SNR, so that x_t = s (x_0 + σ ε) [Karras 2022, Sec. 2 and Tab. 1].

    The same σ belongs to a variance-exploding process [Song 2021, Eq. 9], and stands in diffusers' `sigmas`.
    """
    a = _values(alpha_bar, "alpha_bar", 0, 1, closed="high")
    return EDM(a.sqrt(), ((1 - a) / a).sqrt())


def alpha_bar_from_sigma(sigma: float | Tensor) -> Tensor:
    """ᾱ = 1 / (1 + σ²), for EDM's σ."""
    return 1 / (1 + _values(sigma, "sigma", 0, math.inf, closed="low") ** 2)


def log_snr_from_alpha_bar(alpha_bar: float | Tensor) -> Tensor:
    """λ = log(ᾱ/(1-ᾱ)) = log SNR, +∞ at ᾱ = 1: the λ of papers on guidance and distillation [Salimans 2022, Sec. 2].

    It is -γ of Kingma 2021, and not the λ of DPM-Solver, which is half of it. A schedule has it as a table, `log_snr`.
    """
    return torch.logit(_values(alpha_bar, "alpha_bar", 0, 1, closed="high"))


def alpha_bar_from_log_snr(log_snr: float | Tensor) -> Tensor:
    """ᾱ = sigmoid(λ) = 1 / (1 + e^{-λ}), for λ = log SNR. A schedule from a whole curve: `NoiseSchedule.from_log_snr`."""
    return torch.sigmoid(_values(log_snr, "log_snr", -math.inf, math.inf, closed="high"))


def half_log_snr_from_alpha_bar(alpha_bar: float | Tensor) -> Tensor:
    """λ = log(√ᾱ/√(1-ᾱ)) = ½ log SNR = -log σ of EDM: DPM-Solver's λ [Lu 2022, Sec. 3]."""
    return 0.5 * log_snr_from_alpha_bar(alpha_bar)


def alpha_bar_from_half_log_snr(half_log_snr: float | Tensor) -> Tensor:
    """ᾱ = sigmoid(2λ), for λ = ½ log SNR."""
    return torch.sigmoid(2 * _values(half_log_snr, "half_log_snr", -math.inf, math.inf, closed="high"))


# Steps ------------------------------------------------------------------------------------------------------------


def alphas_cumprod_from_schedule(schedule: NoiseSchedule) -> Tensor:
    """ᾱ_1..ᾱ_T, shape (T,): what diffusers calls `alphas_cumprod`, whose entry k belongs to step k + 1."""
    return instance(schedule, "schedule", NoiseSchedule).alpha_bars[1:].clone()


def schedule_from_alphas_cumprod(alphas_cumprod: Sequence[float] | Tensor) -> NoiseSchedule:
    """The schedule whose ᾱ_{k+1} is entry k of diffusers' `alphas_cumprod`; ᾱ_0 = 1, which that table lacks, is added.

    Theirs is a float32 table: 1 - ᾱ_1 of the result is off by about 1e-4, relatively. Pass `betas` to
    `NoiseSchedule.from_betas` where that matters.
    """
    return NoiseSchedule.from_alpha_bars(alphas_cumprod)


def timestep_from_t(t: int | Tensor, T: int) -> Tensor:
    """diffusers' `timestep` k = t - 1, in 0..T-1, for our step t in 1..T."""
    return as_steps(t, T) - 1


def t_from_timestep(timestep: int | Tensor, T: int) -> Tensor:
    """Our step t = k + 1, in 1..T, for diffusers' `timestep` k in 0..T-1. Its scheduler's end, k = -1, is our step 0."""
    return as_steps(timestep, T - 1, name="timestep", low=0) + 1


def t_from_sigma(sigma: float | Tensor, schedule: NoiseSchedule) -> Tensor:
    """The step t in 1..T whose noise level, in EDM's units, is σ. Raises ValueError where the schedule has no such level.

    A network of T steps knows T levels; take others from `edm_from_alpha_bar(schedule.alpha_bars)`, or round them first.
    0.1 % is allowed, as much as diffusers' float32 tables are off.
    """
    return _step_of(2 * _values(sigma, "sigma", 0, math.inf).log(), schedule, "sigma", lambda gamma: math.exp(gamma / 2))


def t_from_gamma(gamma: float | Tensor, schedule: NoiseSchedule) -> Tensor:
    """The step t in 1..T whose noise level is VDM's γ, as `t_from_sigma`: γ = 2 log σ."""
    return _step_of(_values(gamma, "gamma", -math.inf, math.inf), schedule, "gamma", lambda gamma: gamma)


def _step_of(wanted: Tensor, schedule: NoiseSchedule, name: str, said: Callable[[float], float]) -> Tensor:
    gammas = -schedule.log_snr[1:]
    off, k = (wanted.unsqueeze(-1) - gammas).abs().min(-1)
    if bool((off > 2e-3).any()):
        i = int(off.argmax())
        bad, near = said(float(wanted.flatten()[i])), int(k.flatten()[i])
        level = said(float(gammas[near]))
        raise ValueError(f"{name} = {bad:.6g} is no level of this schedule; the nearest is {level:.6g}, at t = {near + 1}")
    return k + 1


# Model outputs ----------------------------------------------------------------------------------------------------


class Preconditioning(NamedTuple):
    """EDM's coefficients: D(x; σ) = c_skip x + c_out F(c_in x, c_noise) [Karras 2022, Eq. 7]."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def edm_preconditioning(sigma: float | Tensor, sigma_data: float = 0.5) -> Preconditioning:
    """c_skip = σ_d²/(σ²+σ_d²), c_out = σ σ_d/√(σ²+σ_d²), c_in = 1/√(σ²+σ_d²), c_noise = ¼ log σ [Karras 2022, Tab. 1].

    σ_d is the data's standard deviation. With σ_d = 1 they are ᾱ, √(1-ᾱ), √ᾱ and ¼ log σ, and F is -v.
    """
    sigma = _values(sigma, "sigma", 0, math.inf)
    d = number(sigma_data, "sigma_data", 0, math.inf)
    both = sigma**2 + d**2
    return Preconditioning(d**2 / both, sigma * d / both.sqrt(), 1 / both.sqrt(), 0.25 * sigma.log())


def denoiser_from_network(network: Callable[[Tensor, Tensor], Tensor], sigma_data: float = 0.5) -> Denoiser:
    """D(x, sigma) from EDM's bare network F(x, c_noise), c_noise of shape (B,) [Karras 2022, Eq. 7]."""

    def denoiser(x: Tensor, sigma: float | Tensor) -> Tensor:
        levels = _of_batch(sigma, "sigma", x)
        c_skip, c_out, c_in, c_noise = (c.to(x) for c in edm_preconditioning(levels, sigma_data))
        raw = network(_shaped(c_in, x) * x, c_noise)
        common_shape(x=x, network=raw)
        return _shaped(c_skip, x) * x + _shaped(c_out, x) * raw

    return denoiser


def denoiser_from_eps_model(diffusion: GaussianDiffusion, eps_model: EpsModel) -> Denoiser:
    """EDM's D(x, sigma) = x - σ ε_θ(√ᾱ_t x, t) for x = x_0 + σ ε, an estimate of E[x_0 | x] [Karras 2022, Tab. 1].

    `sigma`, a number or (B,), must be a level of the schedule: see `t_from_sigma`.
    """
    table = edm_from_alpha_bar(diffusion.schedule.alpha_bars)

    def denoiser(x: Tensor, sigma: float | Tensor) -> Tensor:
        t = t_from_sigma(_of_batch(sigma, "sigma", x), diffusion.schedule)
        scale, level = (_shaped(values[t].to(x), x) for values in table)
        return x - level * diffusion.predict(eps_model, scale * x, t)

    return denoiser


def eps_model_from_denoiser(diffusion: GaussianDiffusion, denoiser: Denoiser) -> EpsModel:
    """ε_θ(x_t, t) = (x - D(x, σ_t)) / σ_t at x = x_t/√ᾱ_t, for any sampler and bound of the package; the inverse of
    `denoiser_from_eps_model`."""
    table = edm_from_alpha_bar(diffusion.schedule.alpha_bars)

    def eps_model(x_t: Tensor, t: Tensor) -> Tensor:
        t = as_steps(t, diffusion.T)
        scale, level = (_shaped(values[t].to(x_t), x_t) for values in table)
        x = x_t / scale
        return (x - _answer(denoiser(x, table.sigma[t].to(x_t).expand(len(x_t))), "denoiser", x_t)) / level

    return eps_model


def vdm_model_from_eps_model(diffusion: GaussianDiffusion, eps_model: EpsModel) -> VDMModel:
    """VDM's ε̂(z_t; γ_t) from ε_θ(x_t, t): the same state, z_t = x_t, and the same output; only t is said otherwise.

    `gamma`, a number or (B,), must be a level of the schedule: see `t_from_gamma`.
    """
    return lambda z, gamma: diffusion.predict(eps_model, z, t_from_gamma(_of_batch(gamma, "gamma", z), diffusion.schedule))


def eps_model_from_vdm_model(diffusion: GaussianDiffusion, vdm_model: VDMModel) -> EpsModel:
    """ε_θ(x_t, t) from VDM's ε̂(z_t; γ_t), with γ_t = -log SNR(t) of our schedule."""
    gammas = -diffusion.schedule.log_snr
    of = lambda x_t, t: vdm_model(x_t, gammas[as_steps(t, diffusion.T)].to(x_t).expand(len(x_t)))  # noqa: E731
    return lambda x_t, t: _answer(of(x_t, t), "vdm_model", x_t)


def eps_model_from_diffusers(model: Callable[..., Any]) -> EpsModel:
    """ε_θ(x_t, t) from a diffusers model `model(x, timestep)`, which counts from 0 and wraps its answer in `.sample`.

    For a model with `prediction_type="epsilon"`. Of one that predicts v take `GaussianDiffusion.eps_from_v` of its answer.
    `weights.from_diffusers` imports the network itself.
    """

    def eps_model(x_t: Tensor, t: Tensor) -> Tensor:
        if int(torch.as_tensor(t).min()) < 1:
            raise ValueError(f"t = {t} is below 1; diffusers' timestep is t - 1")
        answer = model(x_t, t - 1)
        return _answer(getattr(answer, "sample", answer), "model", x_t)

    return eps_model


def diffusers_model_from_eps_model(eps_model: EpsModel) -> Callable[[Tensor, int | Tensor], Tensor]:
    """`model(x, timestep)`, whose tensor goes into a diffusers scheduler's `step`, from ε_θ(x_t, t): t = timestep + 1.

    Raises ValueError for a timestep between two integers, as some spacings of theirs have: no step was trained there.
    """

    def model(x: Tensor, timestep: int | Tensor) -> Tensor:
        k = torch.as_tensor(timestep, device=x.device)
        if k.is_floating_point() and bool((k != k.round()).any()):
            raise ValueError(f"timestep = {k.tolist()} is no integer; the network knows whole steps only")
        if bool((k < 0).any()):
            raise ValueError(f"timestep = {k.tolist()} is below 0; the network knows the steps from 0")
        return eps_model(x, (k.long() + 1).expand(len(x)))

    return model


def _values(x: float | Tensor, name: str, low: float, high: float, closed: str = "") -> Tensor:
    """x in float64 on the CPU, each value inside (low, high), or [low, high) and so on as in `_args.number`."""
    if isinstance(x, bool) or not isinstance(x, (int, float, Tensor)):
        raise TypeError(f"{name} must be a number or a tensor, got {type(x).__name__}: {x!r}")
    values = torch.as_tensor(x, dtype=torch.float64, device="cpu").detach()  # never through float32
    above = values >= low if "low" in closed else values > low
    below = values <= high if "high" in closed else values < high
    if not bool((above & below).all()):  # NaN fails too
        bad = float(values[~(above & below)].flatten()[0])
        left, right = "[" if "low" in closed else "(", "]" if "high" in closed else ")"
        raise ValueError(f"{name} = {bad} is outside {left}{low}, {high}{right}")
    return values


def _answer(answer: Tensor, name: str, x: Tensor) -> Tensor:
    if instance(answer, f"the answer of {name}", Tensor).shape != x.shape:
        raise ValueError(f"{name} returned shape {tuple(answer.shape)}, x has {tuple(x.shape)}; they must be equal")
    return answer


def _of_batch(level: float | Tensor, name: str, x: Tensor) -> Tensor:
    """A noise level as float64 (B,), one for each entry of x."""
    if real(x, "x").ndim < 1:
        raise ValueError("x must have a batch axis, got a 0-dim tensor")
    values = _values(level, name, -math.inf, math.inf)
    if values.ndim > 1 or (values.ndim and len(values) != len(x)):
        raise ValueError(f"{name} must be a number or have shape ({len(x)},), one for each entry; got {tuple(values.shape)}")
    return values.expand(len(x))


def _shaped(values: Tensor, x: Tensor) -> Tensor:
    """One value per batch entry (or one for all), shaped to multiply x."""
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))
