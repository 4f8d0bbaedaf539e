"""Explorers of chapter 7: predicting the noise."""

from __future__ import annotations

import numpy as np
import torch

from ..diffusion import GaussianDiffusion
from ..oracles import GaussianMixture, Oracle
from ..schedules import NoiseSchedule
from .base import Explorer, Frame, Line, Panel, Points, Slider, sig


def coordinates_explorer() -> Explorer:
    """Slide t and x_t: the line of all (x_0, ε) that make x_t, the perfect prediction on it, and three imperfect ones.

    T = 1000, data with two modes. Each imperfect prediction is 0.3 too large in its own coordinate: ε, x_0 or v.
    """
    diffusion = GaussianDiffusion(NoiseSchedule.linear())
    oracle = Oracle(GaussianMixture([0.3, 0.7], [-1.2, 0.8], [0.05, 0.10]), diffusion)
    slip = torch.tensor(0.3, dtype=torch.float64)
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    shown = torch.tensor([1, *range(10, 1001, 10)])
    ones, zeros = torch.ones(len(shown), dtype=torch.float64), torch.zeros(len(shown), dtype=torch.float64)
    # The size of the error of x̂_0 that one unit of error in a prediction makes, for fixed x_t.
    by_eps = diffusion.x0_from_eps(zeros, ones, shown).abs()
    by_v = diffusion.x0_from_v(zeros, ones, shown).abs()

    def draw(t: int, x_t: float) -> Frame:
        seen = torch.tensor([x_t], dtype=torch.float64)
        x_0 = oracle.x_0_moments(seen, t)[0]
        eps = diffusion.eps_from_x0(seen, x_0, t)
        v = diffusion.v_from_x0_eps(x_0, eps, t)
        # The line √ᾱ x_0 + √(1-ᾱ) ε = x_t, walked along v, far beyond the panel's ends.
        along = torch.tensor([-8.0, 8.0], dtype=torch.float64)
        line = diffusion.x0_from_v(seen, along, t), diffusion.eps_from_v(seen, along, t)
        wrong_eps = diffusion.x0_from_eps(seen, eps + slip, t), eps + slip
        wrong_x_0 = x_0 + slip, diffusion.eps_from_x0(seen, x_0 + slip, t)
        wrong_v = diffusion.x0_from_v(seen, v + slip, t), diffusion.eps_from_v(seen, v + slip, t)
        plane = Panel(
            "All pairs (x_0, ε) that make this x_t",
            "A straight line in the plane of x_0 and epsilon, as far from the origin as x_t is from 0. It is nearly upright "
            "for small t and nearly level for large t. Four dots lie on it: the perfect prediction, and three that are 0.3 off "
            "in epsilon, x_0 or v. The one in v always stays 0.3 away; the one in x_0 leaves the picture for small t, the one "
            "in epsilon for large t.",
            (-3, 3),
            (-3, 3),
            [
                Line(*line, "grey", "√ᾱ_t x_0 + √(1-ᾱ_t) ε = x_t", width=1.5),
                Points(*wrong_eps, "vermillion", "ε̂ off by 0.3"),
                Points(*wrong_x_0, "green", "x̂_0 off by 0.3"),
                Points(*wrong_v, "purple", "v̂ off by 0.3"),
                Points(x_0, eps, "blue", "the perfect prediction", radius=5),
            ],
            "x_0",
            "ε",
            width=360,
            height=340,
        )
        factors = Panel(
            "Error of x̂_0 per error of the prediction",
            "Three curves over t on a logarithmic scale. For x_0 it is 1 throughout. For epsilon it rises from 0.01 to 157 and "
            "crosses 1 near t = 260. For v it rises from 0.01 to 1 and stays there. Dots mark the chosen t.",
            (0, diffusion.T),
            (-2.2, 2.4),
            [
                Line([t, t], [-2.2, 2.4], "grey", width=1.2),
                Line(shown, by_eps.log10(), "vermillion", "ε̂"),
                Line(shown, zeros, "green", "x̂_0"),
                Line(shown, by_v.log10(), "purple", "v̂", dash=True),
                Points(t, diffusion.x0_from_eps(zero, one, t).abs().log10(), "vermillion"),
                Points(t, zero, "green"),
                Points(t, diffusion.x0_from_v(zero, one, t).abs().log10(), "purple"),
            ],
            "t",
            "factor",
            yticks=[(-2, "0.01"), (-1, "0.1"), (0, "1"), (1, "10"), (2, "100")],
            width=300,
            height=340,
        )
        readout = [
            ("t", str(t)),
            ("x_t", f"{x_t:.2f}".replace("-", "−")),
            ("x̂_0", sig(x_0)),
            ("ε̂", sig(eps)),
            ("v̂", sig(v)),
            ("score", sig(diffusion.score_from_eps(eps, t))),
            ("mean of the step, μ", sig(diffusion.mean_from_eps(seen, eps, t))),
            ("factor of ε̂", sig(diffusion.x0_from_eps(zero, one, t).abs())),
        ]
        return Frame([plane, factors], readout)

    return Explorer(
        "coordinates",
        [
            Slider("step t", [1, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000], 4),
            Slider("x_t", np.linspace(-1.5, 1.5, 13).tolist(), 8, format=lambda x_t: f"{x_t:.2f}".replace("-", "−")),
        ],
        draw,
        title="One line, five coordinates: a prediction of the noise is a prediction of the data",
        caption="The network sees x_t, so it knows the line; it has to name the point. ε, x_0 and v are three ways to say "
        "where on the line it is. They differ in what a small mistake does: v is the place along the line, so its mistake "
        "never grows.",
    )
