"""Explorers of chapter 9: bits."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..gaussian import Gaussian, discretised_log_prob
from .base import Bars, Explorer, Frame, Line, Panel, Points, Slider, sig


def decoder_explorer() -> Explorer:
    """Move and widen the decoder's Gaussian over nine grey levels: the mass of each bin, and what density × width says."""
    levels = 9
    width = 2 / (levels - 1)
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    wide = torch.linspace(-6, 6, 241, dtype=torch.float64)

    def draw(mean: float, ratio: float) -> Frame:
        sigma = width / ratio
        g = Gaussian(torch.tensor(mean, dtype=torch.float64), torch.tensor(sigma**2, dtype=torch.float64))
        mass = discretised_log_prob(x, g, levels).exp()
        by_density = g.log_prob(x).exp() * width
        nearest = int((x - mean).abs().argmin())
        u = mean + sigma * wide
        inside = (u >= -1.5) & (u <= 1.5)
        curve = g.log_prob(u).exp() * width
        bars = Panel(
            "The probability of each grey level",
            "Nine bars over the grey levels from -1 to 1, and the decoder's bell times the bin width. With a wide bell the "
            "dots on it stand at the top of the bars, except at the two ends, where the bar also holds the tail. With a narrow "
            "bell one bar is near 1 while its dot rises far above 1 and leaves the picture.",
            (-1.5, 1.5),
            (0, 1.2),
            [
                Bars(x, mass, "blue", "mass of the bin", width=0.9 * width),
                Line(u[inside], curve[inside].clamp(max=1.3), "vermillion", "density × width"),
                Points(x, by_density.clamp(max=1.3), "vermillion", radius=3),
                Line([-1.5, 1.5], [1, 1], "grey", "1", dash=True, width=1),
            ],
            "grey level",
            "probability",
            xticks=[-1, -0.5, 0, 0.5, 1],
            width=520,
        )
        bits = discretised_log_prob(x, g, levels) / -math.log(2)
        readout = [
            ("σ", sig(sigma)),
            ("sum of the masses", f"{float(mass.sum()):.3f}"),
            ("sum of density × width", sig(by_density.sum())),
            (f"bits for the level {float(x[nearest]):.2f}".replace("-", "−"), sig(bits[nearest].clamp(min=0), 2)),
            ("by density × width", sig(-by_density[nearest].log2(), 2)),
        ]
        return Frame([bars], readout)

    return Explorer(
        "decoder",
        [
            Slider("mean μ", np.linspace(-1.2, 1.2, 17).tolist(), start=14, format=lambda m: f"{m:.2f}".replace("-", "−")),
            Slider("bin width / σ", [0.25, 0.35, 0.5, 0.7, 0.78, 1.0, 1.4, 2.0, 4.0, 8.0, 19.0], start=4, format="{:g}".format),
        ],
        draw,
        title="The discretised decoder on nine grey levels",
        caption="Whatever you do, the blue bars sum to 1. The density times the width does not: it misses the tails when "
        "the mean is near an end, and it is no probability at all when the bins are wider than the bell.",
    )
