"""Explorer of chapter 22: what replacing the known part of every state samples, beside the conditional."""

from __future__ import annotations

import torch

from ..gaussian import Gaussian
from ..steering import replacement_limit
from .base import Explorer, Frame, Line, Panel, Points, Slider, sig


def replacement_explorer() -> Explorer:
    """Two correlated numbers, one of them known: the law of the other by replacement, for any coupling."""
    generator = torch.Generator().manual_seed(0)
    k, z = torch.randn(2, 70, generator=generator, dtype=torch.float64).clamp(-2.8, 2.8)
    u = torch.linspace(-3, 3, 121, dtype=torch.float64)
    ends = torch.tensor([-3.0, 3.0], dtype=torch.float64)

    def law(mean: float, var: float) -> Gaussian:
        return Gaussian(torch.tensor(mean, dtype=torch.float64), torch.tensor(var, dtype=torch.float64))

    def draw(rho: float, U: int) -> Frame:
        slope, var = replacement_limit(rho, U)
        right, made = law(rho, 1 - rho**2), law(slope, var)
        pair = Panel(
            "The pair, and where the mean lies",
            "A cloud of dots, k across and u up, that is narrower the stronger the correlation. A line through the origin "
            "shows the mean of u for each k; a second, flatter line shows the mean that replacing generates.",
            (-3, 3),
            (-3, 3),
            [
                Points(k, (rho * k + (1 - rho**2) ** 0.5 * z).clamp(-3, 3), "grey", "data", radius=3),
                Line(ends, rho * ends, "blue", "right"),
                Line(ends, slope * ends, "vermillion", "by replacement", dash=True),
                Line(torch.ones(2), ends, "ink", width=1),
            ],
            "k, the known number",
            "u",
            width=330,
            height=300,
        )
        densities = Panel(
            "u, when k = 1 is known",
            "Two bell curves over u. The one that replacing generates stands nearer to 0 and is wider than the right one; with "
            "more repeats the two fall together.",
            (-3, 3),
            (0, 1.4),
            [
                Line(u, right.log_prob(u).exp(), "blue", "right", fill=True),
                Line(u, made.log_prob(u).exp(), "vermillion", "by replacement", dash=True),
            ],
            "u",
            "density",
            width=380,
        )
        readout = [
            ("mean, right", sig(rho)),
            ("mean, by replacement", sig(slope)),
            ("variance, right", sig(1 - rho**2)),
            ("variance, by replacement", sig(var)),
            ("KL from right to replacement, nats", sig(right.kl(made))),
        ]
        return Frame([pair, densities], readout)

    return Explorer(
        "replacement",
        [
            Slider("correlation ρ", [0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], 3, lambda v: f"{v:g}"),
            Slider("repeats U of each step", [1, 2, 3, 5, 10, 30], 0),
        ],
        draw,
        title="What inpainting by replacement samples",
        caption="The network is perfect, the steps are infinitely many, and the known number is kept exactly. Still the "
        "unknown one is pulled too weakly and spread too widely. Repeating each step closes the gap, like 1/(U + 1).",
    )
