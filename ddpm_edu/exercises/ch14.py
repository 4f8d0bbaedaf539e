"""Graders of Chapter 14: the memory of an average, the time dial, what a mismatch generates, and seven patients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion import EpsModel, GaussianDiffusion
from ..oracles import GaussianMixture
from ..samplers import ancestral
from ..schedules import NoiseSchedule
from . import Exercise

# 14.1: how long an average remembers its start.


def _steps(decay, share):
    return math.ceil(math.log(share) / math.log(decay))


grade_14_1 = Exercise(
    "14.1",
    inputs=[(0.9999, 0.001), (0.999, 0.01), (0.99, 0.5), (0.9, 0.2)],
    answer=_steps,
    slips={
        "1/(1-d) is the time after which about a third of the start is left": lambda d, s: 1 / (1 - d),
        "whole steps: the weight must have fallen to the share": lambda d, s: math.log(s) / math.log(d),
        "one step too few: rounded down, the weight is still above the share": lambda d, s: math.log(s) // math.log(d),
        "that takes base 10 above and e below": lambda d, s: math.ceil(math.log10(s) / math.log(d)),
        "the weight falls by the factor d a step, not by the amount 1-d": lambda d, s: math.ceil((1 - s) / (1 - d)),
        "that is the share that is left after 1/share steps": lambda d, s: d ** (1 / s),
    },
    praise="a decay of 0.9999 wants tens of thousands of steps",
)

# 14.2: the time dial.

_T = 12


def _ask(x_t: Tensor, t: Tensor) -> Tensor:
    """An eps_model that listens to t: the exact answer for N(0, 0.3) data at ᾱ_t = exp(-0.02 t²)."""
    alpha_bar_t = torch.exp(-0.02 * t.double() ** 2).reshape(-1, *(1,) * (x_t.ndim - 1))
    return (1 - alpha_bar_t).sqrt() / (0.3 * alpha_bar_t + 1 - alpha_bar_t) * x_t


def _dial(eps_model, x_t, eps, T, steps=None, error=lambda e: (e**2).mean()):
    told = range(1, T + 1) if steps is None else steps
    return torch.stack([error(eps - eps_model(x_t, torch.full((len(x_t),), tau))) for tau in told])


def _noised(t: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(t)
    x_0, eps = torch.randn(2, 200, 2, generator=generator, dtype=torch.float64)
    alpha_bar_t = math.exp(-0.02 * t**2)
    return math.sqrt(alpha_bar_t) * 0.3**0.5 * x_0 + math.sqrt(1 - alpha_bar_t) * eps, eps


grade_14_2 = Exercise(
    "14.2",
    inputs=[(_ask, *_noised(3), _T), (_ask, *_noised(9), _T), (_ask, *_noised(5), 7)],
    answer=_dial,
    slips={
        "tell the network 1..T, not 0..T-1": lambda f, x, e, T: _dial(f, x, e, T, range(T)),
        "T is a step too": lambda f, x, e, T: _dial(f, x, e, T, range(1, T)),
        "average over the coordinates as well; a sum grows with the dimension": (
            lambda f, x, e, T: _dial(f, x, e, T, error=lambda d: (d**2).sum(1).mean())
        ),
        "that is the absolute error; the loss is a square": lambda f, x, e, T: _dial(
            f, x, e, T, error=lambda d: d.abs().mean()
        ),
        "return the whole curve; its lowest place is read off afterwards": lambda f, x, e, T: _dial(f, x, e, T).argmin() + 1,
        "compare with the true noise, not with the answer at another step": (
            lambda f, x, e, T: _dial(f, x, f(x, torch.full((len(x),), T)), T)
        ),
    },
    praise="the lowest place is the step that the network takes the input for",
)

# 14.3: what comes out when training and sampling disagree.


def _mismatch(alpha_bars, a, b, s2, *, start=None, own=False, root=True, square=True, quiet=True, bar=False):
    bars = [1.0, *map(float, alpha_bars)]
    V = 1.0 if start is None else start(bars[-1])
    for t in range(len(bars) - 1, 0, -1):
        alpha = bars[t] / bars[t - 1]
        slope = b[t - 1] / (a[t - 1] ** 2 * s2 + b[t - 1] ** 2)
        if own:
            slope = math.sqrt(1 - bars[t]) / (bars[t] * s2 + 1 - bars[t])
        noise = 1 - bars[t]
        g = (1 - (1 - alpha) / (math.sqrt(noise) if root else noise) * slope) / math.sqrt(bars[t] if bar else alpha)
        V = (g**2 if square else g) * V + (0.0 if t == 1 and quiet else 1 - alpha)
    return V


_BARS = [0.9, 0.6, 0.3, 0.05]
_ROOTLESS = ([x**0.5 for x in _BARS], [1 - x for x in _BARS])
_SINGLE = ([0.95, 0.8, 0.7, 0.4], [0.3, 0.6, 0.7, 0.9])

grade_14_3 = Exercise(
    "14.3",
    inputs=[(_BARS, *_ROOTLESS, 0.25), (_BARS, *_SINGLE, 1.0), (_BARS[1:], _SINGLE[0][1:], _ROOTLESS[1][1:], 2.0)],
    answer=_mismatch,
    slips={
        "that is a healthy model: the slope is learned in the process (a, b)": lambda *args: _mismatch(*args, own=True),
        "the sampler starts from N(0, 1), whatever the training did": (
            lambda A, a, b, s2: _mismatch(A, a, b, s2, start=lambda bar: a[-1] ** 2 * s2 + b[-1] ** 2)
        ),
        "the noise is taken off with β_t/√(1-ᾱ_t); the root is missing": lambda *args: _mismatch(*args, root=False),
        "a slope multiplies a variance squared": lambda *args: _mismatch(*args, square=False),
        "the last step adds no noise": lambda *args: _mismatch(*args, quiet=False),
        "the prefactor undoes one step: 1/√α_t, without a bar": lambda *args: _mismatch(*args, bar=True),
        "that is a standard deviation; the variance of what comes out is wanted": lambda *args: math.sqrt(_mismatch(*args)),
    },
    praise="any training with any sampler, without a sample",
)

# 14.4: seven patients.

FAULTS = (
    "healthy",
    "data scaled wrongly",
    "no root",  # x_t = √ᾱ_t x_0 + (1-ᾱ_t) ε in training
    "α for ᾱ",  # x_t = √α_t x_0 + √β_t ε in training
    "another schedule",  # trained with one, sampled with another
    "shifted t",
    "noise at the last step",
)

_DATA = GaussianMixture([0.4, 0.6], [-0.7, 0.5], [0.01, 0.01])
_SCHEDULE = NoiseSchedule.linear(40, 2.5e-3, 0.4)


@dataclass(frozen=True)
class Patient:
    """A model that may be ill. Its owner believes in `diffusion` and in data on [-1, 1]; what it really does must be measured.

    data(n): clean data, as its training reads them. pair(n, t): (x_0, x_t, eps) as its training makes them.
    eps_model(x_t, t): its network. sample(n): its samples. All draw with fixed seeds, float64, shape (n,).
    """

    name: str
    diffusion: GaussianDiffusion
    data: Callable[[int], Tensor]
    pair: Callable[[int, int], tuple[Tensor, Tensor, Tensor]]
    eps_model: EpsModel
    sample: Callable[[int], Tensor]

    def __repr__(self) -> str:
        return f"Patient({self.name!r})"


def _admit(name: str, fault: str) -> Patient:
    believed = GaussianDiffusion(_SCHEDULE)
    law = GaussianMixture(_DATA.weights, 0.5 * _DATA.means + 0.5, 0.25 * _DATA.variances) if fault == FAULTS[1] else _DATA
    bars = NoiseSchedule.cosine(_SCHEDULE.T).alpha_bars if fault == FAULTS[4] else _SCHEDULE.alpha_bars
    a, b = bars.sqrt(), (1 - bars).sqrt()
    if fault == FAULTS[2]:
        b = 1 - bars
    if fault == FAULTS[3]:
        a, b = _SCHEDULE.alphas.sqrt(), _SCHEDULE.betas.sqrt()

    def data(n: int) -> Tensor:
        return law.sample(n, torch.Generator().manual_seed(n))

    def pair(n: int, t: int) -> tuple[Tensor, Tensor, Tensor]:
        x_0, eps = data(n), torch.randn(n, generator=torch.Generator().manual_seed(n + t), dtype=torch.float64)
        return x_0, a[t] * x_0 + b[t] * eps, eps

    def eps_model(x_t: Tensor, t: int | Tensor) -> Tensor:
        steps = torch.as_tensor(t).expand(len(x_t)) - int(fault == FAULTS[5])
        eps_hat = torch.empty_like(x_t)
        for k in steps.unique():  # E[ε | x_t] in the process it was trained in: -b times the score
            at = GaussianMixture(law.weights, a[k] * law.means, a[k] ** 2 * law.variances + b[k] ** 2)
            eps_hat[steps == k] = -b[k] * at.score(x_t[steps == k])
        return eps_hat

    def sample(n: int) -> Tensor:
        generator = torch.Generator().manual_seed(n)
        start = torch.randn(n, generator=generator, dtype=torch.float64)
        *_, last = ancestral(believed, eps_model, start, generator=generator)
        extra = float(_SCHEDULE.betas[1]) ** 0.5 if fault == FAULTS[6] else 0.0
        return last.x_t + extra * torch.randn(n, generator=generator, dtype=torch.float64)

    return Patient(name, believed, data, pair, eps_model, sample)


_CHART = dict(zip("ABCDEFG", (FAULTS[k] for k in (5, 2, 0, 4, 1, 6, 3))))
PATIENTS = [_admit(name, fault) for name, fault in _CHART.items()]


class Diagnosis(Exercise):
    """An exercise whose answers are names of faults; a slip is recognised by any one patient that it gets wrong."""

    def _close(self, got, want) -> bool:
        return isinstance(got, str) and got.strip() == want

    def _same(self, got: list, function: Callable[..., str]) -> bool:
        hits = [self._close(g, function(*args)) for g, args in zip(got, self.inputs)]
        if function is self.answer:
            return all(hits)
        return any(hit and function(*args) != self.answer(*args) for hit, args in zip(hits, self.inputs))


def _truth(patient: Patient) -> str:
    return _CHART[patient.name]


def _mistaken(fault: str, said: str) -> Callable[[Patient], str]:
    return lambda patient: said if _truth(patient) == fault else _truth(patient)


grade_14_4 = Diagnosis(
    "14.4",
    inputs=[(patient,) for patient in PATIENTS],
    answer=_truth,
    slips={
        "a patient whose training pairs are right has been told that its schedule is wrong: look at the pairs": (
            _mistaken("shifted t", "another schedule")
        ),
        "a patient was discharged although its network is asked one step off: turn the dial": _mistaken("shifted t", "healthy"),
        "a lacking root and another schedule both change x_t; only one keeps a_t² + b_t² = 1": (
            _mistaken("no root", "another schedule")
        ),
        "another schedule is no lacking root: is a_t² + b_t² = 1?": _mistaken("another schedule", "no root"),
        "a network trained under another schedule has its dial off as well; but by how much at each t?": (
            _mistaken("another schedule", "shifted t")
        ),
        "x_t has variance near 1 at every t with a forgotten bar too: how much of x_0 is in x_T?": (
            _mistaken("α for ᾱ", "another schedule")
        ),
        "a right network and right pairs do not make a right sampler: look closely at the samples": (
            _mistaken("noise at the last step", "healthy")
        ),
        "that patient's tables are right; are its data on [-1, 1]?": _mistaken("data scaled wrongly", "another schedule"),
        "samples on [0, 1] come from data on [0, 1]; the rest of that patient is sound": _mistaken(
            "data scaled wrongly", "healthy"
        ),
        "one patient is as healthy as can be: every reading has its own sampling error": _mistaken("healthy", "shifted t"),
    },
    praise="seven charts, each from a measurement",
)
