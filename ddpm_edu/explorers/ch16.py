"""Explorers of chapter 16: Langevin dynamics and annealing."""

from __future__ import annotations

import torch
from torch import Tensor

from ..oracles import GaussianMixture
from ..samplers import langevin
from .base import Bars, Choice, Explorer, Frame, Panel, Points, Slider


def langevin_explorer() -> Explorer:
    """A cloud under Langevin dynamics on a mixture's exact field: step size, noise level and number of moves to choose."""
    data = GaussianMixture([0.3, 0.7], [[-2.0, -0.5], [2.0, 0.5]], [0.1, 0.1])
    moves = [0, 1, 3, 10, 30, 60, 100, 200]
    fixed = {"none": 0.0, "0.7": 0.7, "2": 2.0}
    falling = torch.logspace(0.6, -1, 20, dtype=torch.float64).tolist()  # annealing: 20 levels, 10 moves each
    edges = torch.linspace(-4.5, 4.5, 16, dtype=torch.float64)
    middles, width = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])

    def walk(level: str, ratio: float) -> dict[int, tuple[float, Tensor]]:
        """The noise level and 2000 points after each number of moves; the step is ratio / curvature."""
        generator = torch.Generator().manual_seed(4)
        x = 2.5 * torch.randn(2000, 2, generator=generator, dtype=torch.float64)
        levels, per_level = (falling, 10) if level == "annealed" else ([fixed[level]], moves[-1])
        visited, k = {0: (levels[0], x)}, 0
        for sigma in levels:
            law = data.noised(sigma)
            for step in langevin(law.score, x, ratio / law.curvature, per_level, generator=generator):
                x = step.x
                visited[k + step.k] = (sigma, x)
            k += per_level
        return {n: visited[n] for n in moves}

    runs: dict[tuple[str, float], dict[int, tuple[float, Tensor]]] = {}

    def draw(level: str, ratio: float, k: int) -> Frame:
        if (level, ratio) not in runs:
            runs[level, ratio] = walk(level, ratio)
        sigma, x = runs[level, ratio][k]
        law = data.noised(sigma)
        below = torch.special.ndtr((edges[:, None] - law.means[:, 0]) / law.variances[:, 0].sqrt()) @ law.weights
        counts = torch.histogram(x[:, 0].contiguous(), edges)[0] / (len(x) * width)
        dots = x[:26].clamp(-40, 40)
        cloud = Panel(
            "26 of the points",
            "Dots in the plane, with a larger dot at each of the two modes of the data. They start as a wide round cloud. "
            "With small steps they gather at the modes or, with noise, in a cloud around both. With a step near the limit "
            "they scatter widely.",
            (-4.5, 4.5),
            (-4.5, 4.5),
            [Points(*dots.T, "blue", "points", radius=3.5), Points(*data.means.T, "vermillion", "modes of the data", radius=5)],
            "first coordinate",
            "second",
            width=330,
            height=330,
        )
        shares = Panel(
            "All 2000, along the first coordinate",
            "Bars, the share of the points in each interval, and a dot on each, where the bar would end if the points had "
            "the density that is sampled. The bars meet the dots when the walk has converged; with too large a step they "
            "stay wide.",
            (-4.5, 4.5),
            (0, 1),
            [
                Bars(middles, counts.clamp(max=1.2), "sky", "points", width=0.92 * width),
                Points(middles, below.diff() / width, "vermillion", "the density that is sampled, per bar", radius=3.5),
            ],
            "first coordinate",
            "density",
            width=380,
        )
        readout = [
            ("noise level σ now", f"{sigma:.2f}"),
            ("step γ", f"{ratio / law.curvature:.3g}"),
            ("share on the left (data: 0.30)", f"{float((x[:, 0] < 0).double().mean()):.2f}"),
        ]
        return Frame([cloud, shares], readout)

    return Explorer(
        "langevin",
        [
            Choice("noise added to the data", ["none", "0.7", "2", "annealed"]),
            Slider("step γ / narrowest variance", [0.05, 0.2, 0.5, 1.0, 1.8, 2.1], 1, lambda v: f"{v:g}"),
            Slider("moves", moves, 4),
        ],
        draw,
        title="Langevin dynamics: climb and stumble",
        caption="Without noise the walk takes the shape of each mode quickly, and never learns their weights. With much noise "
        "it converges, to the density of noised data. Annealed, the noise falls from 4 to 0.1 over the 200 moves. Beyond a "
        "step of 2 nothing holds the points together.",
    )
