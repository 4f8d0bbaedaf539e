"""The diffusion in continuous time: one stochastic differential equation instead of T steps.

Time t is a float in [0, 1]: 0 is clean data, 1 is (nearly) noise. A score is any callable `score(x, t) -> ∇ log q_t(x)`
that keeps the shape of x (B, ...); t is a Python float, the same for the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ._args import common_shape, count, finite, instance, number, real
from .gaussian import Gaussian
from .schedules import NoiseSchedule

Score = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class VPSDE:
    """dx = -½ β(t) x dt + √β(t) dw, with β on a straight line from beta_min to beta_max [Song 2021, Eqs. 11 and 32].

    `schedule(N)` is the chain of N steps that approaches it; the defaults are the limit of Ho et al.'s schedule, whose
    1e-4 and 0.02 are 0.1/N and 20/N at N = 1000. Both ends must be > 0, and the integral of β below 700.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        low = number(self.beta_min, "beta_min", 0, math.inf)
        high = number(self.beta_max, "beta_max", 0, math.inf)
        if 0.5 * (low + high) >= 700:
            raise ValueError(
                f"the integral of beta is {0.5 * (low + high):g}, from beta_min = {low:g} and beta_max = {high:g}; "
                "it must be below 700, or alpha_bar(1) is 0"
            )

    # The forward process q ----------------------------------------------------------------------------------------

    def beta(self, t: float | Tensor) -> Tensor:
        """β(t) = β_min + t (β_max - β_min), float64, for t in [0, 1]: a number, or a tensor of shape (B,)."""
        return self.beta_min + _times(t) * (self.beta_max - self.beta_min)

    def alpha_bar(self, t: float | Tensor) -> Tensor:
        """ᾱ(t) = exp(-∫_0^t β), here exp(-β_min t - ½ (β_max - β_min) t²), float64 [Song 2021, Eq. 33]."""
        return torch.exp(-self._integral(_times(t)))

    def q_step(self, x_s: Tensor, t: float | Tensor, s: float | Tensor) -> Gaussian:
        """q(x_t | x_s) = N(√(ᾱ(t)/ᾱ(s)) x_s, (1 - ᾱ(t)/ᾱ(s)) I), exactly, for any 0 <= s <= t <= 1.

        Raises ValueError when a t lies before its s, or when t and s don't fit the batch of x_s.
        """
        late, early = (_of_batch(_times(u, name), real(x_s, "x_s"), name) for u, name in ((t, "t"), (s, "s")))
        if bool((early > late).any()):
            raise ValueError(f"s must not be later than t; got s = {s}, t = {t}")
        between = self._integral(late) - self._integral(early)
        return Gaussian(_cast(torch.exp(-0.5 * between), x_s) * x_s, _cast(-torch.expm1(-between), x_s))

    def q_marginal(self, x_0: Tensor, t: float | Tensor) -> Gaussian:
        """q(x_t | x_0) = N(√ᾱ(t) x_0, (1 - ᾱ(t)) I) [Song 2021, Eq. 29]."""
        return self.q_step(real(x_0, "x_0"), t, 0.0)

    def q_sample(self, x_0: Tensor, t: float | Tensor, eps: Tensor) -> Tensor:
        """x_t = √ᾱ(t) x_0 + √(1 - ᾱ(t)) ε for a given ε ~ N(0, I); t may differ from sample to sample."""
        return self.q_marginal(x_0, t).sample(eps=eps)

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2

    # Chains -------------------------------------------------------------------------------------------------------

    def schedule(self, N: int, exact: bool = False) -> NoiseSchedule:
        """A chain of N steps on the times k/N.

        By default β_k runs from β_min/N to β_max/N on a straight line, as in DDPM: it approaches the SDE as N grows, with
        an error of O(1/N). `exact=True` gives β_k = 1 - ᾱ(k/N)/ᾱ((k-1)/N): the SDE itself, seen at N times, without error.
        Raises ValueError when a step would have β >= 1.
        """
        N = count(N, "N")
        if exact:
            return NoiseSchedule.from_alpha_bars(self.alpha_bar(torch.arange(1, N + 1, dtype=torch.float64) / N))
        if max(self.beta_min, self.beta_max) >= N:
            raise ValueError(
                f"N = {N} is too few steps: N must be above {max(self.beta_min, self.beta_max):g} for beta_k below 1"
            )
        return NoiseSchedule.from_betas(torch.linspace(self.beta_min, self.beta_max, N, dtype=torch.float64) / N)

    @staticmethod
    def times(steps: int | Sequence[float]) -> list[float]:
        """The times a solver visits: for an int n, n equal steps from 1 down to 0; a list of times is checked.

        A list must go strictly down or strictly up inside [0, 1], and hold two times or more.
        """
        if isinstance(steps, (int, float)):
            n = count(steps, "steps")
            return [k / n for k in range(n, -1, -1)]
        times = finite(list(steps), "steps").tolist()
        if len(times) < 2 or not (all(t > s for t, s in pairwise(times)) or all(t < s for t, s in pairwise(times))):
            raise ValueError(f"steps must be two times or more that go strictly down, or strictly up; got {_short(times)}")
        _times(torch.tensor([times[0], times[-1]], dtype=torch.float64), "steps")
        return times

    # What drives a state ------------------------------------------------------------------------------------------

    def predict(self, score: Score, x: Tensor, t: float) -> Tensor:
        """score(x, t), with its shape checked."""
        if real(x, "x").ndim < 1:
            raise ValueError("x must have a batch axis, got a 0-dim tensor")
        _times(t)
        slope = score(x, float(t))
        if instance(slope, "score(x, t)", Tensor).shape != x.shape:
            raise ValueError(f"score returned shape {tuple(slope.shape)}, x has {tuple(x.shape)}; they must be equal")
        return slope

    def drift(self, x: Tensor, t: float | Tensor) -> Tensor:
        """f(x, t) = -½ β(t) x, the forward drift [Song 2021, Eq. 11]."""
        return -0.5 * _cast(_of_batch(self.beta(t), real(x, "x")), x) * x

    def reverse_drift(self, x: Tensor, slope: Tensor, t: float | Tensor, eta: float = 1.0) -> Tensor:
        """f(x, t) - ½ (1 + η²) β(t) ∇log q_t(x), for a given score `slope` at x and t.

        With noise of variance η² β(t) per unit of time it leads from q_1 back to q_0 through every q_t, for any η >= 0:
        η = 1 is the reverse SDE [Song 2021, Eq. 6], η = 0 the probability-flow ODE [Song 2021, Eq. 13].
        """
        common_shape(x=real(x, "x"), slope=real(slope, "slope"))
        eta = number(eta, "eta", 0, math.inf, closed="low")
        return -0.5 * _cast(_of_batch(self.beta(t), x), x) * (x + (1 + eta**2) * slope)

    def x0_from_score(self, x: Tensor, slope: Tensor, t: float | Tensor) -> Tensor:
        """E[x_0 | x_t] = (x + (1 - ᾱ(t)) ∇log q_t(x)) / √ᾱ(t) [Efron 2011], called Tweedie's formula."""
        common_shape(x=real(x, "x"), slope=real(slope, "slope"))
        unit = self.q_step(torch.ones_like(x), t, 0.0)
        return (x + unit.var * slope) / unit.mean


def _times(t: float | Tensor, name: str = "t") -> Tensor:
    """Times as float64 on the CPU (0-dim, or (B,) for a batch), each in [0, 1]."""
    if isinstance(t, bool) or not isinstance(t, (int, float, Tensor)):
        raise TypeError(f"{name} must be a number or a tensor of times in [0, 1], got {type(t).__name__}: {t!r}")
    times = torch.as_tensor(t, dtype=torch.float64, device="cpu").detach()  # never through float32
    if times.ndim > 1:
        raise ValueError(f"{name} must be one time or one per batch entry, shape (B,); got shape {tuple(times.shape)}")
    if not bool(((times >= 0) & (times <= 1)).all()):  # NaN fails too
        seen = float(times) if times.ndim == 0 else f"values from {float(times.min())} to {float(times.max())}"
        raise ValueError(f"{name} = {seen} is outside [0, 1]; an SDE's time is not a step number")
    return times


def _of_batch(values: Tensor, x: Tensor, name: str = "t") -> Tensor:
    """One value, or one per batch entry, shaped to multiply x."""
    if values.ndim and (not x.ndim or len(values) != len(x)):
        raise ValueError(f"{name} has {len(values)} entries, the data have shape {tuple(x.shape)}: give one per batch entry")
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def _cast(coefficient: Tensor, like: Tensor) -> Tensor:
    return coefficient.to(like.device, like.dtype)


def _short(values: list[float]) -> str:
    return str(values) if len(values) <= 8 else f"[{values[0]}, {values[1]}, …, {values[-2]}, {values[-1]}]"
