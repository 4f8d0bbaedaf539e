"""Explorers of chapter 17: continuous time."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from ..oracles import GaussianMixture, SDEOracle
from ..samplers import probability_flow, reverse_sde
from ..sde import VPSDE
from .base import Explorer, Frame, Line, Panel, Points, Slider, sig


def sde_or_ode_explorer() -> Explorer:
    """Slide time from noise to data, and the size of the score: a cloud under the reverse SDE beside the same under the ODE."""
    sde = VPSDE()
    data = GaussianMixture([0.3, 0.3, 0.4], [[-1.2, 0.8], [1.2, 0.8], [0.0, -1.0]], [0.03, 0.03, 0.06])
    oracle = SDEOracle(data, sde)
    generator = torch.Generator().manual_seed(17)
    x_1 = torch.randn(56, 2, generator=generator, dtype=torch.float64)
    # Steps between two positions of the slider: 20 for the SDE, 5 for the ODE, whose method is of second order.
    shown = [1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.06, 0.02, 0.0]

    def times(n: int) -> list[float]:
        return [a + (b - a) * k / n for a, b in pairwise(shown) for k in range(n)] + [0.0]

    sizes = [0.9, 0.95, 1.0, 1.05, 1.1]
    # At 2 standard deviations a mode's circle holds 86 % of its points.
    angle = torch.linspace(0, 2 * math.pi, 25, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], 1)

    def clouds(c: float) -> dict[str, dict[float, Tensor]]:
        def score(x: Tensor, t: float) -> Tensor:
            return c * oracle(x, t)

        noise = torch.Generator().manual_seed(1)
        walks = {
            "SDE": list(reverse_sde(sde, score, x_1, times(20), generator=noise))[::20],
            "ODE": list(probability_flow(sde, score, x_1, times(5)))[::5],
        }
        return {name: {t: step.x_t for t, step in zip(shown, walk)} for name, walk in walks.items()}

    paths = {c: clouds(c) for c in sizes}

    def square(title: str, alt: str, x: Tensor, t: float) -> Panel:
        law = oracle.q_t(t)
        rings = [
            Line(*(mean + 2 * var.sqrt() * circle).T, "grey", "two deviations of a mode of q_t" if k == 0 else "")
            for k, (mean, var) in enumerate(zip(law.means, law.variances))
        ]
        marks: list[Line | Points] = [
            *rings,
            Points(*x.T, "blue" if title.startswith("The reverse") else "vermillion", radius=3),
        ]
        return Panel(title, alt, (-3, 3), (-3, 3), marks, "first coordinate", "second", width=340, height=340)

    def draw(t: float, c: float) -> Frame:
        at = paths[c]
        left = square(
            "The reverse SDE",
            "Dots and three grey circles. At t = 1 circles and dots lie on one another round the centre; towards t = 0 "
            "the circles part and shrink. With the exact score the dots fill them; with a weak score they scatter a little "
            "further, with a strong one they huddle.",
            at["SDE"][t],
            t,
        )
        right = square(
            "The probability-flow ODE",
            "The same dots under the ODE. With the exact score they fill the circles like those on the left. With a weak score "
            "they scatter far more than on the left, and with a strong one they huddle far more.",
            at["ODE"][t],
            t,
        )
        truth = float(oracle.q_t(t).moments()[1].sum() + (oracle.q_t(t).moments()[0] ** 2).sum())
        readout = [("t", f"{t:g}"), ("score", f"{c:g} times the true one")]
        readout += [(f"mean square of the dots, {name}", sig(at[name][t].square().sum(1).mean())) for name in ("SDE", "ODE")]
        return Frame([left, right], [*readout, ("mean square under q_t", sig(truth))])

    return Explorer(
        "sde-or-ode",
        [
            Slider("time t", shown, format=lambda t: f"{t:g}"),
            Slider("size of the score", sizes, start=2, format=lambda c: f"{c:g}"),
        ],
        draw,
        title="One cloud, two ways back: with fresh noise and without",
        caption="Both clouds start from the same draws of noise. With the exact score both end as draws of the data. With "
        "a wrong one the ODE carries every moment's error to the end; the SDE forgets the early ones.",
    )
