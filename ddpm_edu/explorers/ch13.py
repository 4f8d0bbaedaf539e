"""Explorers of chapter 13: measuring a generator."""

from __future__ import annotations

from itertools import combinations

import torch

from ..metrics import frechet_distance, precision_recall
from .base import Bars, Explorer, Frame, Panel, Points, Slider, sig

_LIMITS = (-2.6, 2.6)


def precision_recall_explorer() -> Explorer:
    """Drop modes of a generator, and widen or narrow those that are left: who lies among whom, and what Fréchet says."""
    n, generator = 40, torch.Generator().manual_seed(13)
    noise = 0.1 * torch.randn(12, n, 2, generator=generator, dtype=torch.float64)
    # Equally many points in each mode: 40 can be divided by 8, 4, 2 and 1.
    angle = lambda modes: torch.arange(n) % modes * (torch.pi / 4)  # noqa: E731
    ring = lambda modes: 1.5 * torch.stack([angle(modes).cos(), angle(modes).sin()], 1).double()  # noqa: E731
    real, *more = ring(8) + noise[[0, *range(2, 12)]]
    usual = [precision_recall(real, other, 3) for other in more]
    null = torch.tensor([frechet_distance(a, b) for a, b in combinations([real, *more], 2)])

    def draw(modes: int, spread: float, k: int) -> Frame:
        samples = ring(modes) + spread * noise[1]
        score = precision_recall(real, samples, k)
        # One sample at a time beside all the real points, and the other way round: the same balls, asked point by point.
        radius = torch.cdist(real, real).kthvalue(k + 1, dim=1).values
        reach = torch.cdist(samples, samples).kthvalue(k + 1, dim=1).values
        far = torch.cdist(real, samples)
        inside, reached = (far <= radius.unsqueeze(1)).any(0), (far <= reach).any(1)
        where = Panel(
            "Who lies among whom",
            "Forty real points in eight clusters on a circle, and forty samples. Samples that lie in a ball of some real "
            "point are green, the others vermillion; real points in a ball of some sample are blue, the others grey. With "
            "fewer modes whole clusters turn grey. With a large spread samples stray from the clusters and turn vermillion.",
            _LIMITS,
            _LIMITS,
            [
                Points(*real[~reached].T, "grey", "real, missed", radius=3.5),
                Points(*real[reached].T, "blue", "real, reached", radius=3.5),
                Points(*samples[inside].T, "green", "sample, inside", radius=2.5),
                Points(*samples[~inside].T, "vermillion", "sample, outside", radius=2.5),
            ],
            "first coordinate",
            "second",
            width=330,
            height=300,
        )
        bars = Panel(
            "Three shares",
            "Three bars, precision, recall and coverage, each between 0 and 1, and for each a dot where real points against "
            "real points stand with k = 3. Dropped modes lower recall and coverage, a large spread lowers precision; with "
            "the spread at 0, precision is 1 and recall near 0.",
            (0.4, 3.6),
            (0, 1.05),
            [
                Bars([1], [score.precision], "green", width=0.6),
                Bars([2], [score.recall], "blue", width=0.6),
                Bars([3], [score.coverage], "sky", width=0.6),
                Points(
                    [1, 2, 3],
                    [sum(getattr(u, name) for u in usual) / len(usual) for name in ("precision", "recall", "coverage")],
                    "grey",
                    "real against real, k = 3",
                ),
            ],
            "measure",
            "share",
            xticks=[(1, "precision"), (2, "recall"), (3, "coverage")],
            width=330,
            height=300,
        )
        readout = [
            ("precision", f"{score.precision:.2f}"),
            ("recall", f"{score.recall:.2f}"),
            ("coverage", f"{score.coverage:.2f}"),
            ("density", sig(score.density, 2)),
            ("Fréchet distance", sig(frechet_distance(samples, real), 2)),
            ("real against real, 95 % below", sig(null.quantile(0.95), 2)),
        ]
        return Frame([where, bars], readout)

    return Explorer(
        "precision-recall",
        [
            Slider("modes kept", [1, 2, 4, 8], start=2),
            Slider("spread of a mode", [0.0, 0.5, 1.0, 2.0, 4.0], start=2, format="{:g}".format),
            Slider("k", [1, 3, 5], start=1),
        ],
        draw,
        title="Precision and recall: two ways to fail, two numbers",
        caption="Samples should lie among the real points, and the real points among the samples. Dropping modes hurts the "
        "second only, straying the first. Grow k: the balls grow, and both numbers flatter.",
    )
