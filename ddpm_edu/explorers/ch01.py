"""Explorers of chapter 1: one page of diffusion."""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion import GaussianDiffusion
from ..oracles import GaussianMixture, Oracle
from ..samplers import ancestral
from ..schedules import NoiseSchedule
from .base import Explorer, Frame, Panel, Points, Slider


def reverse_process_explorer() -> Explorer:
    """Slide t from T to 0: a cloud of noise becomes a galaxy of two arms, moved by the exact ε*, and the guess x̂_0 with it."""
    diffusion = GaussianDiffusion(NoiseSchedule.linear(T=100, beta_1=1e-3, beta_T=0.2))
    radius = torch.linspace(0.3, 1.8, 20, dtype=torch.float64)
    arm = torch.stack([radius * (2 * radius).cos(), radius * (2 * radius).sin()], 1)
    oracle = Oracle(GaussianMixture([1 / 40] * 40, torch.cat([arm, -arm]), [0.02] * 40), diffusion)
    generator = torch.Generator().manual_seed(1)
    x_T = torch.randn(130, 2, generator=generator, dtype=torch.float64)
    path = {step.t: step for step in ancestral(diffusion, oracle, x_T, generator=generator)}
    # The arm that each point ends in gives it its colour at every t.
    first = torch.cdist(path[0].x_t, arm).amin(1) < torch.cdist(path[0].x_t, -arm).amin(1)

    def square(title: str, alt: str, x: Tensor) -> Panel:
        dots = [
            Points(*x[first].T, "blue", "ends in one arm", radius=3.5),
            Points(*x[~first].T, "vermillion", "ends in the other", radius=3.5),
        ]
        return Panel(title, alt, (-3, 3), (-3, 3), dots, "first coordinate", "second", width=340, height=340)

    def draw(t: int) -> Frame:
        states = square(
            "Where the points are: x_t",
            "A cloud of dots in two colours. At t = 100 it is round and the colours are mixed. As t falls the colours part, "
            "and at t = 0 the dots lie on the two arms of a spiral.",
            path[t].x_t,
        )
        guesses = square(
            "Where they would end: the guess x̂_0",
            "The same dots, each where the best guess of its end lies. At t = 100 all are close to the centre; they spread "
            "into two curved bands, and reach the arms of the spiral well before the dots of the other panel do.",
            path[t].x_0_hat,
        )
        alpha_bar_t = diffusion.schedule.alpha_bars[t]
        readout = [
            ("t", str(t)),
            ("signal √ᾱ_t", f"{float(alpha_bar_t.sqrt()):.3f}"),
            ("noise √(1−ᾱ_t)", f"{float((1 - alpha_bar_t).sqrt()):.3f}"),
        ]
        return Frame([states, guesses], readout)

    return Explorer(
        "reverse-process",
        [Slider("step t", [100, 90, 80, 70, 60, 50, 45, 40, 35, 30, 26, 22, 18, 15, 12, 9, 6, 4, 2, 0])],
        draw,
        title="The reverse process: noise becomes a galaxy",
        caption="Far out in t the guess is the centre of all data, for nothing else is known; on the way down it becomes a "
        "place on an arm. The points follow their guesses, and the guesses change as the points move.",
    )
