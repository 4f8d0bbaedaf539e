"""Explorers of chapter 2: Gaussians."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..gaussian import Gaussian, product
from .base import Band, Bars, Explorer, Frame, Line, Panel, Slider, Text, sig


def kl_explorer() -> Explorer:
    """Move the mean and variance of p: the KL from q = N(0, 1) to it is an area, and not the one from p to q."""
    q = Gaussian(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    x = torch.linspace(-4.5, 4.5, 361, dtype=torch.float64)

    def draw(mean: float, var: float) -> Frame:
        p = Gaussian(torch.tensor(mean, dtype=torch.float64), torch.tensor(var, dtype=torch.float64))
        spread_only = Gaussian(q.mean, p.var)
        integrand = q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x))
        densities = Panel(
            "Two densities",
            "Two bells over x. q is the standard normal and stays. p moves sideways with its mean and gets wider and lower as "
            "its variance grows.",
            (-4.5, 4.5),
            (0, 0.85),
            [
                Line(x, q.log_prob(x).exp(), "blue", "q = N(0, 1)"),
                Line(x + mean, p.log_prob(x + mean).exp(), "vermillion", "p = N(mean, variance)"),
            ],
            "x",
            "density",
            height=220,
        )
        area = Panel(
            "KL(q ‖ p) is this area: blue minus orange",
            "The curve q times log of q over p. It lies above 0 where q is larger than p and below 0 where p is larger. The "
            "area above is never smaller than the area below; both vanish when p is q.",
            (-4.5, 4.5),
            (-0.5, 3),
            [
                Band(x, 0, integrand.clamp(min=0), "blue", "q is larger"),
                Band(x, integrand.clamp(max=0), 0, "orange", "p is larger"),
                Line([-4.5, 4.5], [0, 0], "ink", width=0.8),
            ],
            "x",
            "q log(q/p)",
            height=220,
        )
        readout = [
            ("mean", f"{mean:.2f}".replace("-", "−")),
            ("variance", f"{var:.2f}"),
            ("KL(q ‖ p)", sig(q.kl(p))),
            ("its part from the variances", sig(q.kl(spread_only))),
            ("from the means", sig(q.kl(p) - q.kl(spread_only))),
            ("KL(p ‖ q)", sig(p.kl(q))),
        ]
        return Frame([densities, area], readout)

    return Explorer(
        "kl",
        [
            Slider("mean of p", np.linspace(-1.5, 1.5, 13).tolist(), start=10, format=lambda m: f"{m:.2f}".replace("-", "−")),
            Slider("variance of p", [0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0], start=2, format=lambda v: f"{v:.2f}"),
        ],
        draw,
        title="The KL divergence from a standard normal to a Gaussian that you move",
        caption="Blue minus orange is never negative. A p that is too narrow costs more than one that is too wide, because q "
        "puts mass where p has almost none; in the other direction, KL(p ‖ q), it is the wide p that costs more.",
    )


def product_explorer() -> Explorer:
    """Move one of two densities: in their product the precisions add, and the narrower of the two pulls harder."""
    g = Gaussian(torch.tensor(-1.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    x = torch.linspace(-7, 7, 421, dtype=torch.float64)

    def draw(mean: float, var: float) -> Frame:
        h = Gaussian(torch.tensor(mean, dtype=torch.float64), torch.tensor(var, dtype=torch.float64))
        both, log_Z = product(g, h)
        precisions = [1 / g.var, 1 / h.var, 1 / both.var]

        def centred(law: Gaussian) -> Tensor:
            return law.log_prob(x + law.mean).exp()

        densities = Panel(
            "g × h, rescaled to area 1, is again a Gaussian",
            "Three bells over x. g stays at -1; h moves with its mean and widens with its variance. Their rescaled product "
            "stands between them, nearer to the narrower one, and is narrower than both.",
            (-4, 4),
            (0, 1.05),
            [
                Line(x, g.log_prob(x).exp(), "blue", "g = N(−1, 1)"),
                Line(x, centred(h), "vermillion", "h = N(mean, variance)", shift=mean),
                Line(x, centred(both), "green", "product, rescaled", shift=float(both.mean), fill=True),
            ],
            "x",
            "density",
        )
        bars = Panel(
            "Precisions add",
            "Three bars: the precision of g, that of h, and that of the product, which is as high as the other two together.",
            (-0.6, 2.6),
            (0, 6.5),
            [Bars(k, float(p), c) for k, (p, c) in enumerate(zip(precisions, ("blue", "vermillion", "green")))]
            + [Text(k, float(p) + 0.15, sig(p)) for k, p in enumerate(precisions)],
            "density",
            "1/variance",
            xticks=[(0, "g"), (1, "h"), (2, "g × h")],
            width=230,
        )
        weight = float(both.var / g.var)
        readout = [
            ("mean", f"{sig(weight)} · (−1) + {sig(1 - weight)} · ({f'{mean:.1f}'.replace('-', '−')}) = {sig(both.mean)}"),
            ("variance", sig(both.var)),
            ("area Z of g × h", sig(log_Z.exp())),
        ]
        return Frame([densities, bars], readout)

    return Explorer(
        "product",
        [
            Slider("mean of h", np.linspace(-3, 3, 13).tolist(), start=10, format=lambda m: f"{m:.1f}".replace("-", "−")),
            Slider("variance of h", [0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.0], start=2, format=lambda v: f"{v:.1f}"),
        ],
        draw,
        title="The product of two Gaussian densities",
        caption="Each density pulls with its precision, so the mean is a weighted average. The width of the product does not "
        "depend on where the two stand: two densities that contradict each other give the same narrow bell, and only "
        "the area Z, which the rescaling hides, becomes tiny.",
    )
