"""How much noise each step adds: the tables β, α, ᾱ and β̃.

Index convention, everywhere in the package: steps are t = 1..T as in the paper, tables have length T + 1, and entry 0
is clean data: `betas[0] == 0`, `alphas[0] == 1`, `alpha_bars[0] == 1`. So Eqs. (2)-(15) of the paper are typed as they
are printed, and "step t - 1" at t = 1 is a stored fact, not a special case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ._args import count, instance, number, numbers, whole_numbers


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The tables of one forward process [Ho 2020, Sec. 2].

    α_t = 1 - β_t,    ᾱ_t = α_1 α_2 … α_t,    β̃_t = (1 - ᾱ_{t-1}) / (1 - ᾱ_t) · β_t

    Build it with `linear`, `cosine`, `quadratic`, `constant`, `from_betas` or `from_alpha_bars`. All four tables are
    float64, shape (T + 1,), on the CPU: coefficients are formed in float64 and cast last.
    """

    alpha_bars: Tensor
    betas: Tensor
    alphas: Tensor = field(init=False)
    beta_tildes: Tensor = field(init=False)

    def __post_init__(self):
        alpha_bars, betas = (instance(x, name, Tensor) for name, x in (("alpha_bars", self.alpha_bars), ("betas", self.betas)))
        if betas.shape != alpha_bars.shape or betas.ndim != 1 or len(betas) < 2 or betas[0] != 0 or alpha_bars[0] != 1:
            raise ValueError(
                "alpha_bars and betas must both have shape (T + 1,) and start with 1 and 0, as `from_betas` makes them; "
                f"got shapes {tuple(alpha_bars.shape)} and {tuple(betas.shape)}"
            )
        if alpha_bars.dtype != torch.float64 or betas.dtype != torch.float64:
            raise TypeError(f"alpha_bars and betas must be float64, got {alpha_bars.dtype} and {betas.dtype}")
        beta_tildes = torch.zeros_like(betas)
        beta_tildes[1:] = (1 - alpha_bars[:-1]) / (1 - alpha_bars[1:]) * betas[1:]
        object.__setattr__(self, "alphas", 1 - betas)
        object.__setattr__(self, "beta_tildes", beta_tildes)

    def __repr__(self) -> str:
        return f"NoiseSchedule(T={self.T}, alpha_bar_T={float(self.alpha_bars[-1]):.3g})"

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.betas) - 1

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio SNR(t) = ᾱ_t / (1 - ᾱ_t), shape (T + 1,); infinite at t = 0 [Kingma 2021, Eq. 2]."""
        return self.alpha_bars / (1 - self.alpha_bars)

    @property
    def log_snr(self) -> Tensor:
        """λ_t = log SNR(t), the natural logarithm, shape (T + 1,); ᾱ_t = sigmoid(λ_t), and +∞ at t = 0."""
        return torch.logit(self.alpha_bars)

    # Where schedules come from ------------------------------------------------------------------------------------

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Tensor) -> NoiseSchedule:
        """The schedule with the given step variances β_1..β_T, each in (0, 1).

        A leading 0 (the stored β_0 of a full table) is accepted, so `from_betas(schedule.betas)` is the same schedule.
        Raises ValueError when a β lies outside (0, 1), when 1 - β rounds to 1, or when ᾱ_T underflows to 0.
        """
        steps = _table(betas, "betas")
        if len(steps) and steps[0] == 0:
            steps = steps[1:]
        _inside_0_1(steps, "betas", first=1)
        if bool((1 - steps == 1).any()):
            raise ValueError(f"betas has {float(steps.min()):.3g}: below 1e-16 it is lost when 1 - beta is rounded")
        betas = torch.cat([torch.zeros(1, dtype=torch.float64), steps])
        alpha_bars = torch.cumprod(1 - betas, 0)
        if alpha_bars[-1] == 0:
            raise ValueError(f"alpha_bar_T underflows to 0 after T = {len(steps)} steps: use smaller betas or fewer steps")
        return cls(alpha_bars, betas)

    @classmethod
    def from_alpha_bars(cls, alpha_bars: Sequence[float] | Tensor) -> NoiseSchedule:
        """The schedule with the given ᾱ_1..ᾱ_T, strictly decreasing inside (0, 1): β_t = 1 - ᾱ_t / ᾱ_{t-1}.

        A leading 1 (the stored ᾱ_0) is accepted. Raises ValueError when the values do not fall at every step, or when one
        falls so far that β_t rounds to 1.
        """
        steps = _table(alpha_bars, "alpha_bars")
        if len(steps) and steps[0] == 1:
            steps = steps[1:]
        _inside_0_1(steps, "alpha_bars", first=1)
        alpha_bars = torch.cat([torch.ones(1, dtype=torch.float64), steps])
        rises = torch.nonzero(alpha_bars[1:] >= alpha_bars[:-1])
        if len(rises):
            t = int(rises[0]) + 1
            raise ValueError(
                f"alpha_bars must fall at every step, but alpha_bars[{t}] = {float(alpha_bars[t])} "
                f"is not below alpha_bars[{t - 1}] = {float(alpha_bars[t - 1])}"
            )
        betas = torch.zeros_like(alpha_bars)
        betas[1:] = 1 - alpha_bars[1:] / alpha_bars[:-1]
        ends = torch.nonzero(betas == 1)
        if len(ends):
            t = int(ends[0])
            raise ValueError(
                f"alpha_bars[{t}] = {float(alpha_bars[t])} is so far below alpha_bars[{t - 1}] that beta_{t} rounds to 1, "
                f"where 1/√alpha_{t} is infinite; clip it, as `cosine` does"
            )
        return cls(alpha_bars, betas)

    @classmethod
    def linear(cls, T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> NoiseSchedule:
        """β_t on a straight line from β_1 to β_T [Ho 2020, Sec. 4].

        The paper's ends belong to T = 1000. With a much smaller T they leave signal in x_T: see `alpha_bars[-1]`.
        """
        return cls.from_betas(torch.linspace(*_ends(beta_1, beta_T), count(T, "T"), dtype=torch.float64))

    @classmethod
    def quadratic(cls, T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> NoiseSchedule:
        """√β_t on a straight line from √β_1 to √β_T."""
        beta_1, beta_T = _ends(beta_1, beta_T)
        return cls.from_betas(torch.linspace(math.sqrt(beta_1), math.sqrt(beta_T), count(T, "T"), dtype=torch.float64) ** 2)

    @classmethod
    def constant(cls, T: int, beta: float) -> NoiseSchedule:
        """The same β at every step: ᾱ_t = (1 - β)^t."""
        return cls.from_betas(torch.full((count(T, "T"),), number(beta, "beta", 0, 1), dtype=torch.float64))

    @classmethod
    def cosine(cls, T: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
        """ᾱ_t = f(t) / f(0) with f(t) = cos²(π/2 · (t/T + offset) / (1 + offset)) [Nichol 2021, Eq. 17].

        β_t is clipped at `max_beta`: f(T) = 0 would make β_T = 1 and 1/√α_T infinite.
        """
        offset = number(offset, "offset", 0, math.inf, closed="low")
        u = torch.arange(count(T, "T") + 1, dtype=torch.float64) / T
        f = torch.cos(math.pi / 2 * (u + offset) / (1 + offset)) ** 2
        return cls.from_betas((1 - f[1:] / f[:-1]).clamp(max=number(max_beta, "max_beta", 0, 1)))

    @classmethod
    def from_log_snr(cls, log_snr: Callable[[Tensor], Tensor], T: int) -> NoiseSchedule:
        """T steps read evenly off a curve λ(u) = log SNR on [0, 1]: step 1 at u = 0, step T at u = 1 [Kingma 2021, Sec. 4].

        ᾱ_t = sigmoid(λ((t - 1) / (T - 1))), T >= 2. Curves are in `ddpm_edu.snr`. Raises ValueError when the curve does
        not fall at every step, or leaves what float64 can hold.
        """
        u = torch.arange(count(T, "T", low=2), dtype=torch.float64) / (T - 1)
        lam = torch.as_tensor(log_snr(u))
        if lam.shape != u.shape or not bool(torch.isfinite(lam).all()):
            raise ValueError(
                f"log_snr must return {T} finite numbers for {T} times, got shape {tuple(lam.shape)}: {lam.tolist()[:4]}"
            )
        return cls.from_alpha_bars(torch.sigmoid(lam.double()))

    # Fewer steps of the same process ------------------------------------------------------------------------------

    def steps(self, n: int | Sequence[int] | None = None, spacing: float = 1.0) -> list[int]:
        """A strictly decreasing list of steps that ends in 0: what a sampler visits.

        `None` gives T, T-1, …, 0. An int n gives n moves from T to 0, t_k ≈ T (k/n)^spacing for k = n, …, 0: evenly spaced
        at 1, closer together at small t above it; 2 is the quadratic list of [Song 2021, DDIM, App. D.2]. No t_k is below k,
        so none comes twice. A list is checked and returned.
        Raises ValueError for n outside 1..T, a list that does not fall at every place, or one that does not end in 0, and
        for a spacing below 1, or other than 1 with a list.
        """
        number(spacing, "spacing", 1, math.inf, closed="low")
        if n is None:
            n = self.T
        if isinstance(n, (int, float)):
            if count(n, "steps") > self.T:
                raise ValueError(f"steps = {n} is more than the schedule's T = {self.T}")
            # The curve is convex from 0 on: once it is above k it climbs by more than 1 a move, and no step comes twice.
            # A half goes up, also one that the power has rounded down by 1e-13.
            return [max(k, math.floor(self.T * (k / n) ** spacing + 0.5 + 1e-9)) for k in range(n, -1, -1)]
        if spacing != 1:
            raise ValueError(f"spacing = {spacing} is for a number of steps; a list says itself where they are")
        visited = whole_numbers(n, "steps")
        if len(visited) < 2 or visited[-1] != 0 or visited[0] > self.T:
            raise ValueError(f"steps must start at most at T = {self.T} and end in 0, got {_short(visited)}")
        if any(s >= t for t, s in pairwise(visited)):
            raise ValueError(f"steps must be strictly decreasing, got {_short(visited)}")
        return visited

    def respaced(self, steps: int | Sequence[int]) -> NoiseSchedule:
        """The schedule that visits only some of the steps: ᾱ is read off at them, β follows [Nichol 2021, Sec. 4].

        `steps` as in `steps()`. Entry k of the new tables belongs to the k-th smallest step kept; a network trained on
        the full schedule must still be given the original t.
        """
        kept = self.steps(steps)[::-1]
        return NoiseSchedule.from_alpha_bars(self.alpha_bars[kept])


def _table(values, name: str) -> Tensor:
    table = numbers(values, name).detach().to("cpu").clone()
    if table.ndim != 1:
        raise ValueError(f"{name} must be a list of numbers, got shape {tuple(table.shape)}")
    return table


def _inside_0_1(steps: Tensor, name: str, first: int) -> None:
    if not len(steps):
        raise ValueError(f"{name} is empty; a schedule has at least one step")
    outside = torch.nonzero(~((steps > 0) & (steps < 1)))
    if len(outside):
        k = int(outside[0])
        raise ValueError(f"{name}[{k + first}] = {float(steps[k])} is outside (0, 1)")


def _ends(beta_1: float, beta_T: float) -> tuple[float, float]:
    return number(beta_1, "beta_1", 0, 1), number(beta_T, "beta_T", 0, 1)


def _short(values: list[int]) -> str:
    return str(values) if len(values) <= 8 else f"[{values[0]}, {values[1]}, …, {values[-2]}, {values[-1]}]"
