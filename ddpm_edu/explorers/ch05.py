"""Explorers of chapter 5: the posterior."""

from __future__ import annotations

import numpy as np
import torch

from ..diffusion import GaussianDiffusion
from ..schedules import NoiseSchedule
from .base import Band, Explorer, Frame, Line, Panel, Points, Slider, Text, sig


def posterior_explorer() -> Explorer:
    """Slide t and x_t: prior times likelihood is the posterior q(x_{t-1} | x_t, x_0), for x_0 = 1 and T = 10 steps.

    t starts at 2: at t = 1 the prior and the posterior are both the point x_0 and have no density to draw.
    """
    diffusion = GaussianDiffusion(NoiseSchedule.linear(T=10, beta_1=0.1, beta_T=0.5))
    schedule = diffusion.schedule
    x_0, one, zero = (torch.tensor(value, dtype=torch.float64) for value in (1.0, 1.0, 0.0))
    x = torch.linspace(-8, 8, 481, dtype=torch.float64)
    steps = torch.arange(1, schedule.T + 1)

    def upright(at, height, label):
        # The line and its name; each has its own height, so that names never meet.
        return Line([0, 0], [0, height], "grey", width=1.2, shift=float(at)), Text(float(at), height + 0.03, label)

    def draw(t: int, x_t: float) -> Frame:
        seen = torch.tensor(x_t, dtype=torch.float64)
        prior, posterior = diffusion.q_marginal(x_0, t - 1), diffusion.q_posterior(x_0, seen, t)
        of_x_0, of_x_t = diffusion.q_posterior(one, zero, t).mean, diffusion.q_posterior(zero, one, t).mean
        # With x_t, the likelihood and the posterior only move sideways.
        centre, mean = seen / schedule.alphas[t].sqrt(), posterior.mean

        def likelihood(x_s):
            return diffusion.q_step(x_s, t).log_prob(seen).exp()

        def density(x_s):
            return posterior.log_prob(x_s).exp()

        curves = Panel(
            "Prior × likelihood = posterior, up to the area",
            "Three bells over the earlier state. The prior sits where x_0 sends it, the likelihood near x_t. The posterior "
            "stands between their centres and is narrower than both. A shaded bell below it, the product of the first two, "
            "has the same centre and width; it shrinks when x_t is far from where x_0 sends it.",
            (-4, 4),
            (0, 2),
            [
                Line(x, prior.log_prob(x).exp(), "blue", "prior q(x_{t-1} | x_0)"),
                Line(x, likelihood(x + centre), "vermillion", "likelihood q(x_t | x_{t-1})", shift=float(centre)),
                Band(x, 0, likelihood(x) * prior.log_prob(x).exp(), "green", "prior × likelihood"),
                Line(x, density(x + mean), "green", "posterior q(x_{t-1} | x_t, x_0)", shift=float(mean)),
                *upright(x_0, 1.86, "x_0"),
                *upright(seen, 1.71, "x_t"),
                Points(mean, density(mean), "green", "its mean μ̃_t"),
            ],
            "x_{t-1}",
            "density",
        )
        variances = Panel(
            "Variance",
            "Two curves over t: beta_t rises on a straight line from 0.1 to 0.5; beta tilde_t starts at 0 for t = 1 and comes "
            "up to it from below. Two dots mark the chosen t.",
            (0, schedule.T),
            (0, 0.6),
            [
                Line([t, t], [0, 0.6], "grey", width=1.2),
                Line(steps, schedule.betas[steps], "ink", "β_t", dash=True),
                Line(steps, schedule.beta_tildes[steps], "green", "β̃_t"),
                Points(t, schedule.betas[t], "ink"),
                Points(t, schedule.beta_tildes[t], "green"),
            ],
            "t",
            "variance",
            width=230,
        )
        readout = [
            ("t", str(t)),
            ("x_t", f"{x_t:.2f}".replace("-", "−")),
            ("mean μ̃_t", f"{sig(of_x_0)} · x_0 + {sig(of_x_t)} · x_t = {sig(mean)}"),
            ("variance β̃_t", sig(posterior.var)),
            ("β_t", sig(schedule.betas[t])),
            ("area of the product, q(x_t | x_0)", sig(diffusion.q_marginal(x_0, t).log_prob(seen).exp())),
        ]
        return Frame([curves, variances], readout)

    return Explorer(
        "posterior",
        [
            Slider("step t", range(2, schedule.T + 1), start=2),
            Slider("x_t", np.linspace(-2, 2, 17).tolist(), start=8, format=lambda x_t: f"{x_t:.2f}".replace("-", "−")),
        ],
        draw,
        title="The posterior of one step back is the product of a prior and a likelihood",
        caption="The posterior is the product, rescaled to area 1. Its mean stands between the two centres, nearer to the "
        "narrower curve. It is narrower than either, and its variance depends on t alone: whatever x_t is, it is β̃_t.",
    )
