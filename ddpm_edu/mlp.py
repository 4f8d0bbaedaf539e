"""A small network for points in the plane (or in any few dimensions): the U-Net's plan without the images."""

from __future__ import annotations

from torch import Tensor, nn

from ._args import count, floating, instance
from .unet import step_of_each, time_embedding, zero


class MLP(nn.Module):
    """ε_θ(x_t, t) for points (B, dim) and t an int64 tensor (B,): residual layers, the time added to each.

    It starts as ε̂ = 0, like the U-Net. `learned_variance` doubles the output to (B, 2·dim): ε̂, then v. Raises ValueError
    for an input of another shape.
    """

    def __init__(self, dim: int = 2, width: int = 128, layers: int = 3, learned_variance: bool = False):
        super().__init__()
        self.config = dict(dim=count(dim, "dim"), width=count(width, "width", low=4), layers=count(layers, "layers"))
        self.config["learned_variance"] = instance(learned_variance, "learned_variance", bool)
        if width % 2:
            raise ValueError(f"width = {width} must be even: half of the time embedding is sines, half cosines")
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU())
        self.first = nn.Linear(dim, width)
        layer = lambda: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))  # noqa: E731
        self.layers = nn.ModuleList(layer() for _ in range(layers))
        self.times = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), zero(nn.Linear(width, (1 + learned_variance) * dim)))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        if floating(x_t, "x_t").ndim != 2 or x_t.shape[1] != self.config["dim"]:
            raise ValueError(f"x_t has shape {tuple(x_t.shape)}; this network takes (B, {self.config['dim']})")
        step_of_each(t, x_t)
        time = self.time(time_embedding(t, self.config["width"]).to(self.first.weight.dtype))
        h = self.first(x_t)
        for layer, of_time in zip(self.layers, self.times):
            h = h + layer(h + of_time(time))
        return self.last(h)
