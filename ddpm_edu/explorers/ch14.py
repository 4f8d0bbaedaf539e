"""Explorers of chapter 14: the clinic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..schedules import NoiseSchedule
from .base import Choice, Explorer, Frame, Line, Panel, sig

S2 = 0.25  # the data are N(0, S2)
PATIENTS = [
    "healthy",
    "told t−1",
    "√ forgotten",
    "bar forgotten",
    "other schedule",
    "data × ½",
    "noise at t = 1",
    "answers 0",
]


def clinic_explorer() -> Explorer:
    """Choose a fault: the variance of the sampler's state beside that of the forward process, and the loss at each t.

    Gaussian data of variance 1/4, perfectly trained networks, σ_t² = β_t: everything is exact [Eqs. 14.7, 14.8 and 14.12].
    """
    schedules = {10: NoiseSchedule.linear(10, 0.02, 0.75), 1000: NoiseSchedule.linear()}

    def trained(patient: str, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
        """The slopes of the network's answer at t = 0..T, and the loss that its own training reports."""
        bars, other = schedule.alpha_bars, NoiseSchedule.cosine(schedule.T).alpha_bars
        a2, b2 = {
            "√ forgotten": (bars, (1 - bars) ** 2),
            "bar forgotten": (schedule.alphas, schedule.betas),
            "other schedule": (other, 1 - other),
            "data × ½": (bars / 4, 1 - bars),
        }.get(patient, (bars, 1 - bars))
        slopes, own = b2.sqrt() / (a2 * S2 + b2), a2 * S2 / (a2 * S2 + b2)
        if patient == "answers 0":
            return torch.zeros_like(slopes), torch.ones_like(own)
        return (slopes.roll(1) if patient == "told t−1" else slopes), own

    def walked(patient: str, schedule: NoiseSchedule, slopes: Tensor) -> Tensor:
        """The variance of the sampler's state at t = 0..T."""
        V = torch.ones(schedule.T + 1, dtype=torch.float64)
        for t in range(schedule.T, 0, -1):
            beta_t, noise = schedule.betas[t], (1 - schedule.alpha_bars[t]).sqrt()
            g = (1 - beta_t / noise * slopes[t]) / schedule.alphas[t].sqrt()
            V[t - 1] = g**2 * V[t] + (beta_t if t > 1 or patient == "noise at t = 1" else 0)
        return V

    def draw(patient: str, T: int) -> Frame:
        schedule = schedules[T]
        bars, u = schedule.alpha_bars, torch.arange(T + 1) / T
        v = bars * S2 + 1 - bars
        slopes, own = trained(patient, schedule)
        floor = bars * S2 / v
        handshake = floor + v * (slopes - (1 - bars).sqrt() / v) ** 2
        V = walked(patient, schedule, slopes)
        variance = Panel(
            "Variance along the walk",
            "Two curves over t, on a log scale. A dashed one, for the forward process, rises from a quarter at t = 0 to "
            "1 at t = T. The walk starts at 1 on the right. For the healthy model it stays near the dashed one; for a network "
            "that answers 0 it climbs by several powers of ten; for the others it leaves the dashed curve by less.",
            (0, 1),
            (-2, 5),
            [
                Line(u, v.log10(), "grey", "forward process", dash=True),
                Line(u, V.log10().clamp(-2, 5), "vermillion", "the walk, from right to left"),
            ],
            "t / T",
            "log_{10} of the variance",
            width=330,
        )
        losses = Panel(
            "Loss at each t",
            "Curves over t between 0 and 1.5. The floor falls from 1 at t = 0 to 0 at t = T. For a healthy model the other two "
            "lie on it. For a mismatch the loss that training reports may lie even below it, and the handshake lies above.",
            (0, 1),
            (0, 1.5),
            [
                Line(u[1:], floor[1:], "grey", "floor", dash=True),
                Line(u[1:], own[1:].clamp(max=1.5), "blue", "as training reports it"),
                Line(u[1:], handshake[1:].clamp(max=1.5), "vermillion", "handshake"),
            ],
            "t / T",
            "loss",
            width=330,
        )
        readout = [
            ("loss, as training reports it", sig(own[1:].mean())),
            ("handshake", sig(handshake[1:].mean())),
            ("floor", sig(floor[1:].mean())),
            ("generated variance", sig(V[0])),
            ("data's variance", sig(S2)),
            ("√ᾱ_T", sig(math.sqrt(float(bars[-1])))),
        ]
        return Frame([variance, losses], readout)

    return Explorer(
        "clinic",
        [Choice("patient", PATIENTS), Choice("T", [10, 1000])],
        draw,
        title="Follow the walk, and shake hands: what each fault does to Gaussian data",
        caption="The loss that training reports is blind to most faults. The handshake is the loss on the sampler's inputs. "
        "Most faults do not heal with more steps; the shift by one does.",
    )
