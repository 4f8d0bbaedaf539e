"""Explorers of chapter 4: the forward process."""

from __future__ import annotations

import bisect

import torch

from ..diffusion import GaussianDiffusion
from ..gaussian import Gaussian
from ..oracles import GaussianMixture, Oracle
from ..schedules import NoiseSchedule
from .base import Choice, Explorer, Frame, Line, Panel, Points, Slider, sig


def forward_process_explorer() -> Explorer:
    """Slide t: the density of x_t leaves the data and becomes N(0, 1), at a pace that the schedule sets (T = 1000)."""
    data = GaussianMixture(weights=[0.3, 0.7], means=[-1.2, 0.8], variances=[0.05, 0.10])
    schedules = {"linear": NoiseSchedule.linear(), "cosine": NoiseSchedule.cosine(), "quadratic": NoiseSchedule.quadratic()}
    x = torch.linspace(-3, 3, 241, dtype=torch.float64)
    fine = torch.linspace(-8, 8, 3201, dtype=torch.float64)
    noise = Gaussian(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))

    def merged_at(schedule: NoiseSchedule) -> int:
        """The first t at which the density only rises, then only falls."""
        oracle = Oracle(data, GaussianDiffusion(schedule))

        def one_peak(t: int) -> bool:
            rises = oracle.log_q(fine, t).diff() > 0
            return not (rises[1:] & ~rises[:-1]).any()

        return bisect.bisect_left(range(schedule.T + 1), True, key=one_peak)

    merged = ", ".join(f"t\u00a0=\u00a0{merged_at(schedule)} ({name})" for name, schedule in schedules.items())

    def draw(t: int, name: str) -> Frame:
        schedule = schedules[name]
        oracle = Oracle(data, GaussianDiffusion(schedule))
        log_q = oracle.log_q(fine, t)
        kl = torch.trapezoid(log_q.exp() * (log_q - noise.log_prob(fine)), fine)
        signal, spread = schedule.alpha_bars.sqrt(), (1 - schedule.alpha_bars).sqrt()
        steps = torch.arange(0, schedule.T + 1, 10)
        density = Panel(
            "Where x_t is",
            "Curves over x_t. At t = 0 the density of x_t has a low narrow peak at -1.2 and a high one at 0.8. As t grows the "
            "peaks move towards 0, widen and merge, until the curve lies on the bell of the standard normal.",
            (-3, 3),
            (0, 1),
            [
                Line(x, data.log_prob(x).exp(), "grey", "data, q(x_0)", width=1.2),
                Line(x, noise.log_prob(x).exp(), "vermillion", "N(0, 1)", dash=True),
                Line(x, oracle.log_q(x, t).exp(), "blue", "q(x_t)", fill=True),
            ],
            "x_t",
            "density",
        )
        amplitudes = Panel(
            "Signal and noise",
            "Two curves over t. The signal's factor, the root of alpha bar, falls from 1 to almost 0; the noise's factor, the "
            "root of 1 minus alpha bar, rises from 0 to almost 1. Two dots mark the chosen t.",
            (0, schedule.T),
            (0, 1),
            [
                Line([t, t], [0, 1], "grey", width=1.2),
                Line(steps, signal[steps], "green", "√ᾱ_t"),
                Line(steps, spread[steps], "purple", "√(1−ᾱ_t)"),
                Points(t, signal[t], "green"),
                Points(t, spread[t], "purple"),
            ],
            "t",
            "factor",
            xticks=[0, 500, 1000],
            width=230,
        )
        readout = [
            ("t", str(t)),
            ("ᾱ_t", sig(schedule.alpha_bars[t])),
            ("SNR", sig(schedule.snr[t])),
            ("KL(q(x_t) ‖ N(0, 1))", f"{sig(kl)} nats"),
        ]
        return Frame([density, amplitudes], readout)

    return Explorer(
        "forward-process",
        [Slider("step t", range(0, 1001, 25), start=8), Choice("schedule", list(schedules))],
        draw,
        title="The forward process turns data with two modes into standard normal noise",
        caption="All three schedules end in nearly the same noise; they differ in where along the way the structure is lost. "
        f"The two peaks have become one at {merged}.",
    )
