"""The diffusion itself: the fixed process q, the learned process p, and the quantities that connect them.

It owns no network. A network is any callable `eps_model(x_t, t) -> eps_hat`, with t an int64 tensor of shape (B,).
Randomness is explicit: whoever calls draws `eps` and `t`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ._args import as_steps, common_shape, floating, instance, number, real
from .gaussian import Gaussian, discretised_log_prob
from .schedules import NoiseSchedule

EpsModel = Callable[[Tensor, Tensor], Tensor]
ReverseVariance = Callable[[Tensor, "int | Tensor", "int | Tensor | None"], Tensor]


class LossWeights(NamedTuple):
    """The weight of the squared error in each coordinate, shaped to multiply it; see `GaussianDiffusion.loss_weights`."""

    mean: Tensor
    eps: Tensor
    x_0: Tensor
    v: Tensor
    score: Tensor


class GaussianDiffusion:
    """Forward and reverse process over a `NoiseSchedule` [Ho 2020, Secs. 2-3].

    Everywhere: x_0, x_t, eps are floating tensors, batch first; t is an int or an int64 tensor of shape (B,), each
    entry in 1..T; s, where there is one, is the earlier step, 0 <= s < t, and defaults to t - 1. Coefficients are
    computed in float64 and cast to the data's dtype last.
    """

    def __init__(self, schedule: NoiseSchedule):
        self.schedule = instance(schedule, "schedule", NoiseSchedule)
        self.T = schedule.T

    def __repr__(self) -> str:
        return f"GaussianDiffusion({self.schedule!r})"

    # Reading the tables -------------------------------------------------------------------------------------------

    def alpha_bar(self, t: int | Tensor, shape: torch.Size, low: int = 1, name: str = "t") -> Tensor:
        """ᾱ_t in float64, shaped to multiply data of the given shape."""
        steps = as_steps(t, self.T, name=name, low=low)
        if steps.ndim and (not shape or len(steps) != shape[0]):
            raise ValueError(
                f"{name} has {len(steps)} entries, but the data have shape {tuple(shape)}: give one per batch entry"
            )
        return self.schedule.alpha_bars[steps].reshape(steps.shape + (1,) * (len(shape) - steps.ndim))

    def _pair(self, t: int | Tensor, s: int | Tensor | None, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """ᾱ_t, ᾱ_s, and the signal and noise of the jump from s to t: α = ᾱ_t/ᾱ_s (α_t for s = t-1) and β = 1 - α."""
        t = as_steps(t, self.T)
        s = t - 1 if s is None else as_steps(s, self.T, name="s", low=0)
        if bool((s >= t).any()):
            raise ValueError(f"s must be smaller than t; got s = {s.tolist()}, t = {t.tolist()}")
        alpha_bar_t = self.alpha_bar(t, shape)
        alpha_bar_s = self.alpha_bar(s, shape, low=0, name="s")
        alpha = alpha_bar_t / alpha_bar_s
        return alpha_bar_t, alpha_bar_s, alpha, 1 - alpha

    # The forward process q ----------------------------------------------------------------------------------------

    def q_marginal(self, x_0: Tensor, t: int | Tensor) -> Gaussian:
        """q(x_t | x_0) = N(√ᾱ_t x_0, (1 - ᾱ_t) I) [Ho 2020, Eq. 4]."""
        alpha_bar_t = self.alpha_bar(t, real(x_0, "x_0").shape)
        return Gaussian(_cast(alpha_bar_t.sqrt(), x_0) * x_0, _cast(1 - alpha_bar_t, x_0))

    def q_sample(self, x_0: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε, the noised data for a given ε ~ N(0, I) [Ho 2020, Eq. 4]."""
        alpha_bar_t = self.alpha_bar(t, common_shape(x_0=real(x_0, "x_0"), eps=real(eps, "eps")))
        return _cast(alpha_bar_t.sqrt(), x_0) * x_0 + _cast((1 - alpha_bar_t).sqrt(), x_0) * eps

    def q_step(self, x_s: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> Gaussian:
        """q(x_t | x_s) = N(√(ᾱ_t/ᾱ_s) x_s, (1 - ᾱ_t/ᾱ_s) I); for s = t-1 it is N(√α_t x_{t-1}, β_t I) [Ho 2020, Eq. 2]."""
        _, _, alpha, beta = self._pair(t, s, real(x_s, "x_s").shape)
        return Gaussian(_cast(alpha.sqrt(), x_s) * x_s, _cast(beta, x_s))

    def q_path(self, x_0: Tensor, eps: Tensor) -> Tensor:
        """The whole path x_0, x_1, …, x_T, shape (T + 1, *x_0.shape): x_t = √α_t x_{t-1} + √β_t ε_t [Ho 2020, Eq. 2].

        `eps` (T, *x_0.shape) holds one noise for every step: the same ε in two steps would give x_t a wrong variance.
        """
        if real(eps, "eps").shape != (self.T, *real(x_0, "x_0").shape):
            raise ValueError(f"eps must have shape {(self.T, *x_0.shape)}, one noise for each step; got {tuple(eps.shape)}")
        path = [x_0]
        for t in range(1, self.T + 1):
            path.append(self.q_step(path[-1], t).sample(eps=eps[t - 1]))
        return torch.stack(path)

    def q_posterior(self, x_0: Tensor, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> Gaussian:
        """q(x_s | x_t, x_0) = N(μ̃, β̃ I), for any 0 <= s < t [Ho 2020, Eqs. 6-7, where s = t-1].

        μ̃ = √ᾱ_s β / (1 - ᾱ_t) · x_0 + √α (1 - ᾱ_s) / (1 - ᾱ_t) · x_t,    β̃ = (1 - ᾱ_s) / (1 - ᾱ_t) · β,
        with α = ᾱ_t/ᾱ_s and β = 1 - α, which are α_t and β_t for s = t-1. At s = 0 it is the point x_0.
        """
        shape = common_shape(x_0=real(x_0, "x_0"), x_t=real(x_t, "x_t"))
        alpha_bar_t, alpha_bar_s, alpha, beta = self._pair(t, s, shape)
        of_x_0 = alpha_bar_s.sqrt() * beta / (1 - alpha_bar_t)
        of_x_t = alpha.sqrt() * (1 - alpha_bar_s) / (1 - alpha_bar_t)
        beta_tilde = (1 - alpha_bar_s) / (1 - alpha_bar_t) * beta
        return Gaussian(_cast(of_x_0, x_0) * x_0 + _cast(of_x_t, x_t) * x_t, _cast(beta_tilde, x_t))

    def q_ddim(self, x_0: Tensor, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None, eta: float = 0.0) -> Gaussian:
        """q_σ(x_s | x_t, x_0), which leaves every marginal q(x_t | x_0) as it is, for any σ² = η² β̃ [Song 2021, DDIM, Eq. 7].

        N(√ᾱ_s x_0 + √(1-ᾱ_s-σ²) · (x_t - √ᾱ_t x_0)/√(1-ᾱ_t), σ² I),   0 <= η <= 1.  η = 1 is `q_posterior`, η = 0 a point.
        """
        shape = common_shape(x_0=real(x_0, "x_0"), x_t=real(x_t, "x_t"))
        alpha_bar_t, alpha_bar_s, _, beta = self._pair(t, s, shape)
        sigma2 = number(eta, "eta", 0, 1, closed="low high") ** 2 * (1 - alpha_bar_s) / (1 - alpha_bar_t) * beta
        of_x_t = ((1 - alpha_bar_s - sigma2) / (1 - alpha_bar_t)).sqrt()
        of_x_0 = alpha_bar_s.sqrt() - alpha_bar_t.sqrt() * of_x_t
        return Gaussian(_cast(of_x_0, x_0) * x_0 + _cast(of_x_t, x_t) * x_t, _cast(sigma2, x_t))

    # The reverse process p ----------------------------------------------------------------------------------------

    def sigma2_beta(self, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> Tensor:
        """σ² = β = 1 - ᾱ_t/ᾱ_s, the larger of the paper's two reverse variances (β_t for s = t-1) [Ho 2020, Sec. 3.2]."""
        floating(x_t, "x_t")
        return _cast(self._pair(t, s, x_t.shape)[3], x_t)

    def sigma2_beta_tilde(self, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> Tensor:
        """σ² = β̃ = (1 - ᾱ_s)/(1 - ᾱ_t) · β, the smaller one; 0 at s = 0 [Ho 2020, Sec. 3.2]."""
        alpha_bar_t, alpha_bar_s, _, beta = self._pair(t, s, floating(x_t, "x_t").shape)
        return _cast((1 - alpha_bar_s) / (1 - alpha_bar_t) * beta, x_t)

    def sigma2_beta_tilde_clipped(self, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> Tensor:
        """β̃, with its 0 at s = 0 replaced by β̃_2 so that log σ² and L_0 stay finite [Nichol 2021, Sec. 3.1].

        With T = 1 there is no β̃_2; then β_1 is used.
        """
        tables = self.schedule
        sigma2 = self.sigma2_beta_tilde(x_t, t, s)
        floor = _cast(tables.beta_tildes[2] if self.T > 1 else tables.betas[1], x_t)
        return torch.where(sigma2 > 0, sigma2, floor)

    def sigma2_interpolated(self, v, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> Tensor:
        """σ² = exp(v log β + (1 - v) log β̃): β̃ at v = 0, β at v = 1, geometric in between [Nichol 2021, Eq. 15].

        `v` is a number or a tensor that broadcasts with x_t, a network's output for example; it may leave [0, 1]. β̃ is
        the clipped one: log 0 never appears. Fix v to get a reverse variance: lambda x_t, t, s: ...(v, x_t, t, s).
        """
        v = real(torch.as_tensor(v, dtype=x_t.dtype, device=x_t.device), "v")
        common_shape(v=v, x_t=x_t)
        upper, lower = self.sigma2_beta(x_t, t, s).log(), self.sigma2_beta_tilde_clipped(x_t, t, s).log()
        return torch.exp(v * upper + (1 - v) * lower)

    def sigma2_from_eps_error(self, eps_error, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> Tensor:
        """σ² = β̃ + β² / (α (1-ᾱ_t)) · eps_error, with α = ᾱ_t/ᾱ_s and β = 1 - α [Bao 2022, Thm. 1].

        `eps_error` >= 0 is a mean square error of the noise per coordinate, a number or a tensor that broadcasts with x_t.
        With E (ε - ε_θ)² at t it is the best variance for this ε_θ that depends on t alone; with Var(ε | x_t), the true
        variance of x_s given x_t. 0 gives β̃, 1 gives β/α. `likelihood.eps_errors` measures it.
        """
        eps_error = real(torch.as_tensor(eps_error, dtype=torch.float64, device="cpu"), "eps_error")
        if (eps_error < 0).any():
            raise ValueError(f"eps_error must be >= 0, a mean square; got {float(eps_error.min())}")
        common_shape(eps_error=eps_error, x_t=x_t)
        alpha_bar_t, alpha_bar_s, alpha, beta = self._pair(t, s, x_t.shape)
        beta_tilde = (1 - alpha_bar_s) / (1 - alpha_bar_t) * beta
        return _cast(beta_tilde + beta**2 / (alpha * (1 - alpha_bar_t)) * eps_error, x_t)

    def predict(self, eps_model: EpsModel, x_t: Tensor, t: int | Tensor) -> Tensor:
        """eps_hat = eps_model(x_t, t), with t as the (B,) tensor that networks expect, and its shape checked."""
        if real(x_t, "x_t").ndim < 1:
            raise ValueError("x_t must have a batch axis, got a 0-dim tensor")
        steps = as_steps(t, self.T)
        if steps.ndim and len(steps) != len(x_t):
            raise ValueError(f"t has {len(steps)} entries, but x_t has shape {tuple(x_t.shape)}: give one per batch entry")
        eps_hat = eps_model(x_t, steps.to(x_t.device).expand(len(x_t)))
        if instance(eps_hat, "eps_model(x_t, t)", Tensor).shape != x_t.shape:
            raise ValueError(f"eps_model returned shape {tuple(eps_hat.shape)}, x_t has {tuple(x_t.shape)}; they must be equal")
        return eps_hat

    def p_mean_variance(
        self,
        eps_model: EpsModel,
        x_t: Tensor,
        t: int | Tensor,
        s: int | Tensor | None = None,
        sigma2: ReverseVariance | None = None,
        clip: float | None = None,
    ) -> tuple[Gaussian, Tensor]:
        """p_θ(x_s | x_t) = N(μ_θ, σ² I) with μ_θ = μ̃(x̂_0, x_t); returns it and x̂_0 [Ho 2020, Eq. 11].

        `sigma2(x_t, t, s)` is the reverse variance: `sigma2_beta` (default), `sigma2_beta_tilde`, or your own callable.
        `clip` = c clamps x̂_0 to [-c, c] before it is used, as the paper's sampler does with c = 1 for images; without
        it μ_θ = (x_t - β_t/√(1-ᾱ_t) ε̂) / √α_t exactly.
        """
        x_0_hat = self.x0_from_eps(x_t, self.predict(eps_model, x_t, t), t)
        if clip is not None:
            x_0_hat = x_0_hat.clamp(-number(clip, "clip", 0, float("inf")), clip)
        mean = self.q_posterior(x_0_hat, x_t, t, s).mean
        return Gaussian(mean, (sigma2 or self.sigma2_beta)(x_t, t, s)), x_0_hat

    # One quantity in five coordinates: ε, x_0, v, score, μ --------------------------------------------------------

    def x0_from_eps(self, x_t: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """x_0 = (x_t - √(1-ᾱ_t) ε) / √ᾱ_t [Ho 2020, Eq. 15]."""
        signal, noise = self._amplitudes(t, x_t=x_t, eps=eps)
        return (x_t - noise * eps) / signal

    def eps_from_x0(self, x_t: Tensor, x_0: Tensor, t: int | Tensor) -> Tensor:
        """ε = (x_t - √ᾱ_t x_0) / √(1-ᾱ_t)."""
        signal, noise = self._amplitudes(t, x_t=x_t, x_0=x_0)
        return (x_t - signal * x_0) / noise

    def score_from_eps(self, eps: Tensor, t: int | Tensor) -> Tensor:
        """∇ log q(x_t) = -ε / √(1-ᾱ_t); the score of the marginal when ε is E[ε | x_t] [Song 2021, Sec. 2.2]."""
        _, noise = self._amplitudes(t, eps=eps)
        return -eps / noise

    def eps_from_score(self, score: Tensor, t: int | Tensor) -> Tensor:
        """ε = -√(1-ᾱ_t) ∇ log q(x_t)."""
        _, noise = self._amplitudes(t, score=score)
        return -noise * score

    def v_from_x0_eps(self, x_0: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """v = √ᾱ_t ε - √(1-ᾱ_t) x_0 [Salimans 2022, Sec. 4]."""
        signal, noise = self._amplitudes(t, x_0=x_0, eps=eps)
        return signal * eps - noise * x_0

    def x0_from_v(self, x_t: Tensor, v: Tensor, t: int | Tensor) -> Tensor:
        """x_0 = √ᾱ_t x_t - √(1-ᾱ_t) v."""
        signal, noise = self._amplitudes(t, x_t=x_t, v=v)
        return signal * x_t - noise * v

    def eps_from_v(self, x_t: Tensor, v: Tensor, t: int | Tensor) -> Tensor:
        """ε = √(1-ᾱ_t) x_t + √ᾱ_t v."""
        signal, noise = self._amplitudes(t, x_t=x_t, v=v)
        return noise * x_t + signal * v

    def mean_from_eps(self, x_t: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """μ = (x_t - β_t / √(1-ᾱ_t) · ε) / √α_t, the mean of one step back from t to t-1 [Ho 2020, Eq. 11]."""
        alpha_bar_t, _, alpha_t, beta_t = self._pair(t, None, common_shape(x_t=real(x_t, "x_t"), eps=real(eps, "eps")))
        return (x_t - _cast(beta_t / (1 - alpha_bar_t).sqrt(), x_t) * eps) / _cast(alpha_t.sqrt(), x_t)

    def eps_from_mean(self, x_t: Tensor, mean: Tensor, t: int | Tensor) -> Tensor:
        """ε = √(1-ᾱ_t) / β_t · (x_t - √α_t μ), the inverse of `mean_from_eps`."""
        alpha_bar_t, _, alpha_t, beta_t = self._pair(t, None, common_shape(x_t=real(x_t, "x_t"), mean=real(mean, "mean")))
        return _cast((1 - alpha_bar_t).sqrt() / beta_t, x_t) * (x_t - _cast(alpha_t.sqrt(), x_t) * mean)

    def _amplitudes(self, t: int | Tensor, **tensors: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1-ᾱ_t), shaped and cast for the named tensors."""
        for name, x in tensors.items():
            real(x, name)
        alpha_bar_t = self.alpha_bar(t, common_shape(**tensors))
        like = next(iter(tensors.values()))
        return _cast(alpha_bar_t.sqrt(), like), _cast((1 - alpha_bar_t).sqrt(), like)

    # Losses -------------------------------------------------------------------------------------------------------

    def simple_loss(self, eps_model: EpsModel, x_0: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
        """L_simple for the given t and ε: the mean over batch and coordinates of (ε - ε_θ(x_t, t))² [Ho 2020, Eq. 14].

        The paper's squared norm is this times the number of coordinates. Returns a 0-dim tensor to call backward on.
        """
        _own_noise(x_0, eps)
        eps_hat = self.predict(eps_model, self.q_sample(x_0, t, eps), t)
        return (eps - eps_hat).square().mean()

    def loss_weights(self, x_t: Tensor, t: int | Tensor, sigma2: ReverseVariance | None = None) -> LossWeights:
        """The bound's term at t is w · ‖error‖² + a constant; w for a prediction of μ̃, ε, x_0, v or the score, in nats.

        mean: 1 / (2σ²)                         eps: β_t² / (2σ² α_t (1-ᾱ_t))    score: β_t² / (2σ² α_t)
        x_0:  ᾱ_{t-1} β_t² / (2σ² (1-ᾱ_t)²)     v: ᾱ_{t-1} β_t² / (2σ² (1-ᾱ_t))
        [Ho 2020, Eqs. 8 and 12; the others by the converters above]. At t = 1 it is L_0 with the Gaussian density.
        `sigma2` is the reverse variance, `sigma2_beta` unless given; `x_t` gives shape, dtype and device. Raises
        ValueError where σ² is 0, as with β̃ at t = 1: no error is allowed there.
        """
        alpha_bar_t, alpha_bar_s, alpha_t, beta_t = self._pair(t, None, real(x_t, "x_t").shape)
        var = (sigma2 or self.sigma2_beta)(x_t, t, None)
        if var.device.type == "cpu" and (var <= 0).any():
            raise ValueError(f"sigma2 must be > 0 for a weight to be finite; it is {float(var.min())} at t = {t}")
        noise = 1 - alpha_bar_t
        of_eps, of_x_0 = beta_t**2 / (alpha_t * noise), alpha_bar_s * beta_t**2 / noise**2  # squared slopes of the mean
        slopes2 = torch.ones_like(noise), of_eps, of_x_0, of_x_0 * noise, of_eps * noise
        return LossWeights(*(_cast(slope2, x_t) / (2 * var) for slope2 in slopes2))

    def ddim_weight(self, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None, eta: float = 1.0) -> Tensor:
        """γ: the KL of q_σ(x_s | x_t, x_0) to the model's step is γ · (ε - ε̂)² per coordinate [Song 2021, DDIM, Thm. 1].

        γ = (√ᾱ_s √(1-ᾱ_t) - √ᾱ_t √(1-ᾱ_s-σ²))² / (2σ² ᾱ_t), in nats, for the model that puts x̂_0 in the place of x_0 and
        keeps σ² = η² β̃. η = 1 gives the `eps` weight of `loss_weights` with σ² = β̃. `x_t` gives shape, dtype and device.
        Raises ValueError where σ² is 0, at η = 0 and at s = 0 (the term L_0): no error is allowed there.
        """
        one = torch.ones_like(real(x_t, "x_t"))
        of_x_0, alpha_bar_t = self.q_ddim(one, torch.zeros_like(one), t, s, eta), self.alpha_bar(t, x_t.shape)
        if one.device.type == "cpu" and (of_x_0.var <= 0).any():
            raise ValueError(f"eta = {eta}, t = {t}, s = {s}: sigma2 = eta² beta_tilde is 0 there, and the weight infinite")
        return of_x_0.mean**2 * _cast((1 - alpha_bar_t) / alpha_bar_t, x_t) / (2 * of_x_0.var)

    def hybrid_term(
        self, network: EpsModel, x_0: Tensor, t: int | Tensor, eps: Tensor, vlb_weight: float = 0.001, levels: int | None = 256
    ) -> Tensor:
        """One term of L_hybrid = L_simple + λ L_vlb for the given t and ε, shape (B,), per coordinate [Nichol 2021, Eq. 16].

        mean of (ε - ε_θ)² + λ T · bound_term / D,    λ = `vlb_weight`, D coordinates, in nats; over t ~ U{1..T} its mean is
        L_hybrid. `network(x_t, t)` returns ε̂ and v as in `LearnedVariance`. In the bound's term the mean is held fixed (no
        gradient flows through ε̂): L_simple alone trains it, and the bound trains v.
        """
        number(vlb_weight, "vlb_weight", 0, float("inf"), closed="low")
        _own_noise(x_0, eps)
        x_t, learned = self.q_sample(x_0, t, eps), LearnedVariance(self, network)
        eps_hat = self.predict(learned.eps_model, x_t, t)
        p, _ = self.p_mean_variance(lambda x_t, t: eps_hat.detach(), x_t, t, sigma2=learned.sigma2)
        bound = self.bound_term(p, x_0, x_t, t, levels)
        return (per_sample((eps - eps_hat).square()) + vlb_weight * self.T * bound) / x_0[0].numel()

    def vlb_term(
        self,
        eps_model: EpsModel,
        x_0: Tensor,
        t: int | Tensor,
        eps: Tensor,
        sigma2: ReverseVariance | None = None,
        levels: int | None = 256,
    ) -> Tensor:
        """One term of the variational bound for the given t and ε, shape (B,), in nats per sample [Ho 2020, Eq. 5].

        The term of `bound_term`, with x_t = q_sample(x_0, t, eps) and p_θ from the network; gradients flow.
        """
        _own_noise(x_0, eps)
        x_t = self.q_sample(x_0, t, eps)
        p, _ = self.p_mean_variance(eps_model, x_t, t, sigma2=sigma2)
        return self.bound_term(p, x_0, x_t, t, levels)

    def bound_term(self, p: Gaussian, x_0: Tensor, x_t: Tensor, t: int | Tensor, levels: int | None = 256) -> Tensor:
        """The bound's term at t for a given reverse step p = p_θ(x_{t-1} | x_t), shape (B,), in nats [Ho 2020, Eq. 5].

        t >= 2: L_{t-1} = KL(q(x_{t-1} | x_t, x_0) ‖ p).
        t = 1:  L_0 = -log p(x_0), with the discretised decoder of `levels` grey values [Ho 2020, Eq. 13], or with the
        Gaussian density itself when `levels` is None (data that are not images).
        """
        _same_shape(x_0=x_0, x_t=x_t, p_mean=p.mean)
        steps = as_steps(t, self.T).expand(x_0.shape[0])
        mean, var = torch.broadcast_tensors(p.mean, p.var)
        first, rest = steps == 1, steps > 1
        term = torch.empty(x_0.shape[0], dtype=mean.dtype, device=mean.device)
        if rest.any():
            q = self.q_posterior(x_0[rest], x_t[rest], steps[rest])
            term[rest] = per_sample(q.kl(Gaussian(mean[rest], var[rest])))
        if first.any():
            decoder = Gaussian(mean[first], var[first])
            log_p = decoder.log_prob(x_0[first]) if levels is None else discretised_log_prob(x_0[first], decoder, levels)
            term[first] = -per_sample(log_p)
        return term


class LearnedVariance:
    """The halves of a network that has learned its variance: `eps_model` and `sigma2`, as samplers and bounds take them.

    `network(x_t, t)` gives (B, 2C, ...): ε̂, then v in σ² = exp(v log β + (1 - v) log β̃) [Nichol 2021, Eq. 15].
    Who takes a step asks for ε̂ first and for σ² next. So the v that came with ε̂ is kept until it is asked for, and a
    step costs one pass through the network; asked at any other (x_t, t), `sigma2` runs the network again.
    """

    def __init__(self, diffusion: GaussianDiffusion, network: EpsModel):
        self.diffusion, self.network = diffusion, network
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None

    def eps_model(self, x_t: Tensor, t: Tensor) -> Tensor:
        """ε̂; the v beside it is kept for `sigma2`."""
        eps_hat, v = self._halves(x_t, t)
        self._kept = x_t.detach().clone(), t, v
        return eps_hat

    def sigma2(self, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> Tensor:
        """σ² of the step from t to s (default t - 1), a `ReverseVariance`."""
        steps = as_steps(t, self.diffusion.T).to(x_t.device).expand(x_t.shape[0])
        (at, when, v), self._kept = self._kept or (x_t[:0], steps[:0], x_t[:0]), None
        if not (torch.equal(when, steps) and torch.equal(at.to(x_t.dtype), x_t)):
            v = self._halves(x_t, steps)[1]
        return self.diffusion.sigma2_interpolated(v, x_t, t, s)

    def _halves(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        out = self.network(x_t, t)
        if x_t.ndim < 2 or out.shape != (len(x_t), 2 * x_t.shape[1], *x_t.shape[2:]):
            raise ValueError(
                f"network returned shape {tuple(out.shape)} for x_t {tuple(x_t.shape)}; one with a learned variance returns "
                f"twice the channels, ε̂ and v"
            )
        eps_hat, v = out.to(x_t.dtype).chunk(2, dim=1)
        return eps_hat, v


def _cast(coefficient: Tensor, like: Tensor) -> Tensor:
    return coefficient.to(like.device, like.dtype)


def _own_noise(x_0: Tensor, eps: Tensor) -> None:
    """Refuse an eps that would be shared between coordinates."""
    if real(eps, "eps").shape != real(x_0, "x_0").shape:
        raise ValueError(f"eps has shape {tuple(eps.shape)}, x_0 has {tuple(x_0.shape)}; each coordinate needs its own noise")
    if not x_0.numel():
        raise ValueError(f"x_0 has shape {tuple(x_0.shape)}: an empty batch has no loss; give one sample at least")


def _same_shape(**tensors: Tensor) -> None:
    """Refuse tensors of which one would be broadcast to the others."""
    shapes = {name: tuple(floating(x, name).shape) for name, x in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{', '.join(shapes)} must have one shape, got {', '.join(map(str, shapes.values()))}")


def per_sample(x: Tensor) -> Tensor:
    """Sum over everything but the batch axis."""
    if instance(x, "x", Tensor).ndim < 1:
        raise ValueError("x must have a batch axis, got a 0-dim tensor")
    return x.reshape(len(x), math.prod(x.shape[1:])).sum(1)
