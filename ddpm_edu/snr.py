"""The signal-to-noise ratio as clock: schedules as curves λ(t) = log SNR(t), and the bound as a loss in them [Kingma 2021].

A log-SNR schedule is any callable `log_snr(t) -> λ(t)` that takes a tensor of times in [0, 1], value by value, and falls
all the way; t = 0 is the data's end. Then ᾱ = sigmoid(λ), 1 - ᾱ = sigmoid(-λ) (the papers' γ is -λ), and
`NoiseSchedule.from_log_snr` reads a chain of any length off it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._args import common_shape, count, number, real
from .diffusion import EpsModel, GaussianDiffusion, per_sample

LogSNR = Callable[[Tensor], Tensor]


# Curves from λ(0) = high down to λ(1) = low -----------------------------------------------------------------------


@dataclass(frozen=True)
class LinearLogSNR:
    """λ(t) = high + (low - high) t: every step changes the SNR by the same factor."""

    high: float = 10.0
    low: float = -10.0

    def __post_init__(self):
        _ends(self.high, self.low)

    def __call__(self, t: Tensor) -> Tensor:
        return self.high + (self.low - self.high) * _times(t)


@dataclass(frozen=True)
class CosineLogSNR:
    """λ = -2 log tan φ with the angle φ on a straight line, cut to the given ends; √ᾱ = cos φ, √(1-ᾱ) = sin φ.

    Uncut, φ runs from 0 to π/2, and λ from +∞ to -∞: the cosine schedule without its offset and its clip
    [Nichol 2021, Sec. 3.2].
    """

    high: float = 10.0
    low: float = -10.0

    def __post_init__(self):
        _ends(self.high, self.low)

    def __call__(self, t: Tensor) -> Tensor:
        first, last = (math.atan(math.exp(-end / 2)) for end in (self.high, self.low))
        return -2 * torch.tan(first + (last - first) * _times(t)).log()


@dataclass(frozen=True)
class LinearBetaLogSNR:
    """λ of `VPSDE`, whose β(u) is a straight line, on the stretch of its time u where λ falls from high to low.

    -log ᾱ = β_min u + ½ (β_max - β_min) u² =: B,   λ = -log(e^B - 1),   u on a straight line between the ends' own u.
    """

    high: float = 10.0
    low: float = -10.0
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        _ends(self.high, self.low)
        number(self.beta_max, "beta_max", number(self.beta_min, "beta_min", 0, math.inf), math.inf)

    def __call__(self, t: Tensor) -> Tensor:
        half = 0.5 * (self.beta_max - self.beta_min)
        # The root of the quadratic that does not cancel at small B.
        reach = [math.log1p(math.exp(-end)) for end in (self.high, self.low)]
        first, last = (2 * B / (self.beta_min + math.sqrt(self.beta_min**2 + 4 * half * B)) for B in reach)
        u = first + (last - first) * _times(t)
        return -torch.expm1(self.beta_min * u + half * u**2).log()


class LearnedLogSNR(nn.Module):
    """A curve that training can bend, falling for any parameters: λ(t) = high - (high - low) (f(t) - f(0)) / (f(1) - f(0)).

    f(t) = a t + Σ_k h_k sigmoid(w_k (t - c_k)) with `bends` terms; a, h_k, w_k > 0 are exponentials of the parameters. The
    ends are exact, and stay where they are unless `learn_ends`. It starts close to a straight line; float64.
    """

    def __init__(self, high: float = 10.0, low: float = -10.0, bends: int = 12, learn_ends: bool = False):
        super().__init__()
        high, low = _ends(high, low)
        k = count(bends, "bends")
        self.low = nn.Parameter(torch.tensor(low, dtype=torch.float64), requires_grad=learn_ends)
        self.span = nn.Parameter(torch.tensor(high - low, dtype=torch.float64).log(), requires_grad=learn_ends)
        self.a = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.h = nn.Parameter(torch.full((k,), 0.5 / k, dtype=torch.float64).log())
        self.w = nn.Parameter(torch.full((k,), 2.0 * k, dtype=torch.float64).log())
        self.c = nn.Parameter((torch.arange(k, dtype=torch.float64) + 0.5) / k)

    def forward(self, t: Tensor) -> Tensor:
        ends = self._rise(torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.c.device))
        return self.low + self.span.exp() * (ends[1] - self._rise(_times(t))) / (ends[1] - ends[0])

    def _rise(self, t: Tensor) -> Tensor:
        bends = torch.sigmoid(self.w.exp() * (t.unsqueeze(-1) - self.c))
        return self.a.exp() * t + (self.h.exp() * bends).sum(-1)


# The bound in it --------------------------------------------------------------------------------------------------


def snr_term(
    diffusion: GaussianDiffusion, eps_model: EpsModel, x_0: Tensor, t: int | Tensor, eps: Tensor, s: int | Tensor | None = None
) -> Tensor:
    """½ (SNR(s) - SNR(t)) ‖x_0 - x̂_0(x_t)‖², shape (B,), in nats per sample [Kingma 2021, Sec. 4].

    It is KL(q(x_s | x_t, x_0) ‖ p_θ(x_s | x_t)) exactly, for any 1 <= s < t (s defaults to t - 1), when the reverse
    variance is β̃. Gradients flow. Raises ValueError for s = 0: its SNR is infinite, the bound has L_0 there.
    """
    shape = common_shape(x_0=real(x_0, "x_0"), eps=real(eps, "eps"))
    if x_0.shape != eps.shape or not x_0.ndim:
        raise ValueError(f"x_0 has shape {tuple(x_0.shape)}, eps {tuple(eps.shape)}; both must be the same (B, ...)")
    s = torch.as_tensor(t) - 1 if s is None else s
    alpha_bar_t, alpha_bar_s = diffusion.alpha_bar(t, shape), diffusion.alpha_bar(s, shape, low=1, name="s")
    if bool((alpha_bar_s <= alpha_bar_t).any()):
        raise ValueError(f"s must be smaller than t; got s = {s}, t = {t}")
    drop = (alpha_bar_s - alpha_bar_t) / ((1 - alpha_bar_s) * (1 - alpha_bar_t))  # a difference of SNRs, without cancellation
    x_t = diffusion.q_sample(x_0, t, eps)
    x_0_hat = diffusion.x0_from_eps(x_t, diffusion.predict(eps_model, x_t, t), t)
    return per_sample(0.5 * drop.to(x_0.device, x_0.dtype) * (x_0 - x_0_hat) ** 2)


def continuous_loss(
    log_snr: LogSNR, eps_model: Callable[[Tensor, Tensor], Tensor], x_0: Tensor, t: Tensor, eps: Tensor
) -> Tensor:
    """-½ λ'(t) ‖ε - ε_θ(x_λ, λ)‖², shape (B,), in nats per sample [Kingma 2021, Sec. 5].

    Its mean over t ~ U(0, 1), x_0 and ε is the limit T → ∞ of the bound between the two ends of `log_snr`. The network is
    told λ (B,), not t, and sees x_λ = √sigmoid(λ) x_0 + √sigmoid(-λ) ε; t (B,) holds times in [0, 1]. Gradients flow
    into the network and, through λ and λ', into a learned schedule. Raises ValueError where λ does not fall.
    """
    if real(x_0, "x_0").shape != real(eps, "eps").shape or not x_0.ndim:
        raise ValueError(f"x_0 has shape {tuple(x_0.shape)}, eps {tuple(eps.shape)}; both must be the same (B, ...)")
    if _times(t).shape != x_0.shape[:1]:
        raise ValueError(f"t has shape {tuple(t.shape)}; wanted one time for each of the {len(x_0)} samples")
    training = torch.is_grad_enabled()
    with torch.enable_grad():
        times = t.detach().requires_grad_()
        lam = log_snr(times)
        (slope,) = torch.autograd.grad(lam.sum(), times, create_graph=training)
    if not bool((slope < 0).all()):
        raise ValueError(
            f"log_snr must fall at every t, but its slope is {float(slope.max()):.3g} at some; time 0 is the data's end"
        )
    lam, slope = (lam, slope) if training else (lam.detach(), slope.detach())
    lam = lam.to(x_0.device, x_0.dtype)
    wide = lam.reshape(lam.shape + (1,) * (x_0.ndim - 1))
    x_t = torch.sigmoid(wide).sqrt() * x_0 + torch.sigmoid(-wide).sqrt() * eps
    eps_hat = _same_shape(eps_model(x_t, lam), x_t, "eps_model")
    return -0.5 * slope.to(lam) * per_sample((eps - eps_hat) ** 2)


# Networks that answer in another coordinate -----------------------------------------------------------------------


def eps_model_from_v(diffusion: GaussianDiffusion, v_model: EpsModel) -> EpsModel:
    """The ε-model of a network v_model(x_t, t) that predicts v = √ᾱ_t ε - √(1-ᾱ_t) x_0, for any sampler or bound."""

    def eps_model(x_t: Tensor, t: Tensor) -> Tensor:
        return diffusion.eps_from_v(x_t, _same_shape(v_model(x_t, t), x_t, "v_model"), t)

    return eps_model


def eps_model_from_x0(diffusion: GaussianDiffusion, x0_model: EpsModel) -> EpsModel:
    """The ε-model of a network x0_model(x_t, t) that predicts x_0. An error of x_0 counts √SNR(t) times in ε."""

    def eps_model(x_t: Tensor, t: Tensor) -> Tensor:
        return diffusion.eps_from_x0(x_t, _same_shape(x0_model(x_t, t), x_t, "x0_model"), t)

    return eps_model


def _same_shape(answer: Tensor, x_t: Tensor, name: str) -> Tensor:
    if answer.shape != x_t.shape:
        raise ValueError(f"{name} returned shape {tuple(answer.shape)}, x_t has {tuple(x_t.shape)}; they must be equal")
    return answer


def _ends(high: float, low: float) -> tuple[float, float]:
    """Both within ±30: beyond that 1 - ᾱ, or ᾱ, is lost in the rounding of float64."""
    low = number(low, "low", -30, 30, closed="low")
    return number(high, "high", low, 30, closed="high"), low


def _times(t: Tensor) -> Tensor:
    """Times in [0, 1], in float64: near the ends a curve is steep. Gradients pass."""
    if not isinstance(t, Tensor) or not t.is_floating_point():
        raise TypeError(f"t must be a floating tensor of times in [0, 1], got {getattr(t, 'dtype', type(t).__name__)}")
    if not bool(((t >= 0) & (t <= 1)).all()):  # NaN fails too
        raise ValueError(f"t holds values from {float(t.min()):g} to {float(t.max()):g}; times lie in [0, 1]")
    return t.double()
