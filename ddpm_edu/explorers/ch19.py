"""Explorers of chapter 19: drawing t where it matters."""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion import GaussianDiffusion
from ..schedules import NoiseSchedule
from .base import Choice, Explorer, Frame, Line, Panel, Points, Slider, sig


def importance_explorer() -> Explorer:
    """Slide the power a in p_t ∝ s_t^a, for the bound's gradient: how often t is drawn, and what that does to the variance."""
    T = 1000
    steps = torch.arange(1, T + 1)
    shown = sorted({round(10 ** (k / 40)) for k in range(121)})  # evenly on the logarithmic axis
    at, log_t = torch.tensor(shown) - 1, torch.tensor(shown).double().log10()
    diffusion = GaussianDiffusion(NoiseSchedule.linear(T))
    variances = {"β": diffusion.sigma2_beta, "β̃": diffusion.sigma2_beta_tilde_clipped}
    powers = [k / 10 for k in range(11)]
    fine = torch.linspace(0, 1, 41, dtype=torch.float64)

    def second_moments(name: str, network: str) -> Tensor:
        """s_t = E g², g the gradient of the bound's term by ε̂: 4 w_t² E (ε - ε̂)², for data N(0, 1)."""
        w = diffusion.loss_weights(torch.zeros(T, dtype=torch.float64), steps, variances[name]).eps
        return 4 * w**2 * (1 if network == "new" else diffusion.schedule.alpha_bars[1:])

    def loss(s: Tensor, a: float | Tensor) -> Tensor:
        """The second moment of the weighted gradient, in units of the smallest possible."""
        return (s**a).sum() * (s ** (1 - a)).sum() / s.sqrt().sum() ** 2

    tables = {(name, network): second_moments(name, network) for name in variances for network in ("new", "perfect")}

    top = 1.1 * max(float(loss(s, 0.0)) for s in tables.values())

    def draw(a: float, network: str, name: str) -> Frame:
        s = tables[name, network]
        p = s**a / (s**a).sum()
        curve = torch.stack([loss(s, x) for x in fine])
        here = loss(s, a)
        how_often = Panel(
            "How often each t is drawn",
            "Over t on a logarithmic axis, T times p of t, also logarithmic: a level line at 1 for a = 0. With larger a it "
            "rises at small t and falls in the middle; at a = one half it runs along the dashed curve of the gradients' "
            "lengths, beyond that it is steeper.",
            (0, 3),
            (-6, 3),
            [
                Line(log_t, (s.sqrt() / s.sqrt().mean()).log10()[at], "grey", "length of the gradient (mean 1)", dash=True),
                Line(log_t, (T * p).log10()[at], "blue", "T p_t"),
            ],
            "t",
            "log_{10}",
            xticks=[(0, "1"), (1, "10"), (2, "100"), (3, "1000")],
        )
        what_for = Panel(
            "What it does to the variance",
            "The second moment of the weighted gradient over the power a: a valley, the same on both sides, with its lowest "
            "point, 1, at a = one half; as high at a = 1 as at a = 0. A dot sits on it at the chosen a.",
            (0, 1),
            (0, top),
            [Line(fine, curve, "vermillion", "second moment / smallest"), Points(a, here, "blue")],
            "power a",
            "in units of the best",
            width=330,
        )
        readout = [
            ("power a", f"{a:.1f}"),
            ("second moment / smallest", sig(here)),
            ("share of the draws with t <= 10", sig(p[:10].sum())),
            ("largest weight 1 / (T p_t)", sig((1 / (T * p)).max())),
        ]
        return Frame([how_often, what_for], readout)

    return Explorer(
        "importance",
        [
            Slider("power a", powers, start=5, format=lambda a: f"{a:.1f}"),
            Choice("network", ["new", "perfect"]),
            Choice("reverse variance", ["β", "β̃"]),
        ],
        draw,
        title="Draw t in proportion to a power of the gradient's mean square",
        caption="a = 0 is uniform, a = ½ in proportion to the lengths. Every power gives the same gradient on average. "
        "The bound's term on the linear schedule, for data N(0, 1); the network is new (it predicts 0) or perfect.",
    )
