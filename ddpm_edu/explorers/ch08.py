"""Explorers of chapter 8: the reverse variance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..diffusion import GaussianDiffusion
from ..gaussian import Gaussian
from ..oracles import GaussianMixture, Oracle
from ..schedules import NoiseSchedule
from .base import Band, Explorer, Frame, Line, Panel, Points, Slider, sig


def reverse_variance_explorer() -> Explorer:
    """Slide t and x_t, for data with two modes and T = 10: the true variance of a step back, beside β_t and β̃_t.

    t starts at 2: at t = 1, β̃ is 0 and has no density to draw.
    """
    diffusion = GaussianDiffusion(NoiseSchedule.linear(T=10, beta_1=0.1, beta_T=0.5))
    schedule = diffusion.schedule
    oracle = Oracle(GaussianMixture(weights=[0.3, 0.7], means=[-1.2, 0.8], variances=[0.05, 0.10]), diffusion)
    x = torch.linspace(-2.4, 2.4, 193, dtype=torch.float64)
    u = torch.linspace(-3.6, 3.6, 361, dtype=torch.float64)
    wide = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    steps = range(2, schedule.T + 1)
    curves = {t: (oracle.log_q(x, t).exp(), oracle.sigma2_optimal(x, t) / schedule.betas[t]) for t in steps}
    averages = {t: torch.trapezoid(oracle.log_q(wide, t).exp() * oracle.sigma2_optimal(wide, t), wide) for t in steps}

    def draw(t: int, x_t: float) -> Frame:
        seen = torch.tensor([x_t], dtype=torch.float64)
        mean, truth = (float(m) for m in oracle.q_s_moments(seen, t))
        beta_t, beta_tilde_t = schedule.betas[t], schedule.beta_tildes[t]
        density, ratio = curves[t]

        def bell(var: Tensor) -> Tensor:
            return Gaussian(torch.zeros_like(u), var).log_prob(u).exp()

        where = Panel(
            "The variance of a step back, in units of β_t",
            "A curve over x_t, the true variance, between two level lines, β tilde below and β at 1; a shaded density of x_t "
            "with two humps that merge as t grows. Between the modes the curve rises above β, most at small t; at the outside "
            "it comes near β tilde. For large t the three lie close together.",
            (-2.4, 2.4),
            (0, 2.4),
            [
                Band(x, 0, density, "grey", "density of x_t"),
                Line([-2.4, 2.4], [1, 1], "vermillion", "β_t", dash=True),
                Line([-2.4, 2.4], [beta_tilde_t / beta_t] * 2, "green", "β̃_t", dash=True),
                Line(x, ratio, "blue", "truth"),
                Points(x_t, truth / beta_t, "blue"),
            ],
            "x_t",
            "Var / β_t",
        )
        step = Panel(
            "One step back from this x_t",
            "The true density of the earlier state, shaded, and two bells with its mean: the one with variance β and the "
            "narrower one with β tilde. Far out the truth is a bell between the two; in the valley at small t it has two "
            "peaks, and both bells are too narrow.",
            (-2.4, 2.4),
            (0, 2),
            [
                Band(u, 0, oracle.q_s_log_prob(u, seen, t).exp(), "blue", "q(x_{t-1} | x_t)"),
                Line(u, bell(beta_t), "vermillion", "variance β_t", shift=mean),
                Line(u, bell(beta_tilde_t), "green", "variance β̃_t", shift=mean),
            ],
            "x_{t-1}",
            "density",
            width=330,
        )
        readout = [
            ("t", str(t)),
            ("x_t", f"{x_t:.2f}".replace("-", "−")),
            ("β̃_t", sig(beta_tilde_t)),
            ("truth", sig(truth)),
            ("its average over x_t", sig(averages[t])),
            ("β_t", sig(beta_t)),
        ]
        return Frame([where, step], readout)

    return Explorer(
        "reverse-variance",
        [
            Slider("step t", steps, start=1),
            Slider("x_t", np.linspace(-2, 2, 17).tolist(), start=7, format=lambda x_t: f"{x_t:.2f}".replace("-", "−")),
        ],
        draw,
        title="The true variance of one step back, beside the two that DDPM chooses from",
        caption="β_t bounds the average of the truth, for data of variance at most 1, but not the truth itself: between "
        "the modes x_0 could be on either side, and the step back is more uncertain than either choice says.",
    )
