"""The book's schematic figures: the two chains, the bound's terms along them, and a U-Net read off its own modules.

Each is drawn from the thing it shows, so that it cannot say something else: the pictures of a chain, its number of steps, a
network. Sizes are in inches, so text keeps its size whatever the number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._args import count, real
from .plots import COLOURS
from .unet import Downsample, UNet, Upsample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Q, P = COLOURS["blue"], COLOURS["vermillion"]  # what is fixed, what is learned
INK, PALE = "#222222", "#F0F0F0"


def chain_diagram(pictures: Tensor) -> Figure:
    """The forward chain q and the reverse chain p_θ between x_0..x_T, given as pictures (T+1, 1, H, W) in [-1, 1].

    Blue arrows to the right are fixed, red ones to the left are the model's. Raises ValueError for another shape.
    """
    if real(pictures, "pictures").ndim != 4 or pictures.shape[1] != 1 or len(pictures) < 2:
        raise ValueError(f"pictures must have shape (T+1, 1, H, W) with T >= 1, got {tuple(pictures.shape)}")
    T, size, pitch = len(pictures) - 1, 0.62, 1.36
    figure, axes = _canvas(T * pitch + size + 0.5, 1.75)
    for t, picture in enumerate(pictures.detach().cpu()):
        left = 0.25 + t * pitch
        box = (left, left + size, 0.6, 0.6 + size)
        axes.imshow(picture[0].numpy(), cmap="gray", vmin=-1, vmax=1, extent=box, zorder=2)
        _frame(axes, left, 0.6, size, size)
        axes.text(left + size / 2, 0.5, f"$x_{{{t}}}$", ha="center", va="top", fontsize=12, color=INK)
        if t:
            back, middle = left - pitch + size, left - (pitch - size) / 2
            _arrow(axes, (back + 0.06, 1.03), (left - 0.06, 1.03), Q)
            _arrow(axes, (left - 0.06, 0.79), (back + 0.06, 0.79), P)
            axes.text(middle, 1.1, f"$q(x_{{{t}}}|x_{{{t - 1}}})$", ha="center", va="bottom", fontsize=9.5, color=Q)
            axes.text(middle, 0.71, f"$p_\\theta(x_{{{t - 1}}}|x_{{{t}}})$", ha="center", va="top", fontsize=9.5, color=P)
    axes.text(0.25, 1.65, "forward: adds noise, nothing to learn →", ha="left", va="top", fontsize=10, color=Q)
    axes.text(T * pitch + size + 0.25, 0.0, "← reverse: every arrow is learned", ha="right", va="bottom", fontsize=10, color=P)
    return figure


def elbo_diagram(T: int) -> Figure:
    """The T+1 terms of the bound beside the chain: what each compares, and the one call of the network that it needs.

    [Ho 2020, Eq. 5]; L_T asks nothing. Raises ValueError unless T >= 2.
    """
    pitch = 0.62
    height = (count(T, "T", low=2) + 1) * pitch + 0.45
    figure, axes = _canvas(4.9, height)
    columns = (0.95, 1.45, 3.9)
    for x, head in zip(columns, ("term", "compares", "asks for")):
        axes.text(x, height - 0.2, head, va="center", fontsize=10, color="#555555")
    for t in range(T, -1, -1):
        y = height - 0.75 - (T - t) * pitch
        axes.text(0.4, y, f"$x_{{{t}}}$", ha="center", va="center", fontsize=12, color=INK, zorder=3)
        _circle(axes, 0.4, y, 0.2)
        if t:
            _arrow(axes, (0.4, y - 0.21), (0.4, y - pitch + 0.21), P)
        row = y if t == T else y + pitch / 2  # L_T belongs to a state, the others to the step that ends in x_t
        if t == T:
            axes.plot([0.66, 0.92], [row, row], color="#999999", linewidth=0.8)
        for x, text, colour in zip(columns, _elbo_row(t, T), (INK, INK, INK if t == T else P)):
            axes.text(x, row, text, va="center", fontsize=10.5, color=colour)
    return figure


def _elbo_row(t: int, T: int) -> tuple[str, str, str]:
    """Name, densities and network call of L_t: the step back that ends in x_t, or the end of the chain for t = T."""
    if t == T:
        return f"$L_{{{T}}}$", f"$q(x_{{{T}}}|x_0)$  with  $p(x_{{{T}}})$", "nothing"
    call = f"$\\epsilon_\\theta(x_{{{t + 1}}},{t + 1})$"
    if t == 0:
        return "$L_0$", "$x_0$  with  $p_\\theta(x_0|x_1)$", call
    model, truth = f"p_\\theta(x_{{{t}}}|x_{{{t + 1}}})", f"q(x_{{{t}}}|x_{{{t + 1}}},x_0)"
    return f"$L_{{{t}}}$", f"${truth}$  with  ${model}$", call


# The U-Net -------------------------------------------------------------------------------------------------------


@dataclass
class Level:
    """One resolution of a U-Net: `down` and `up` are the channels that its blocks put out, `kept` what is handed across."""

    side: int
    kept: list[int]
    down: list[int]
    up: list[int]
    attends: bool


def unet_levels(network: UNet) -> list[Level]:
    """The levels of a network, finest first, read off its modules and not off its options."""
    levels = [Level(network.config["size"], [network.first.out_channels], [], [], False)]
    for block in network.down:
        if isinstance(block, Downsample):
            levels.append(Level(levels[-1].side // 2, [block.conv.out_channels], [], [], False))
            continue
        levels[-1].down.append(_width(block))
        levels[-1].kept.append(_width(block))
        levels[-1].attends = hasattr(block.attention, "qkv")
    k = len(levels) - 1
    for block in network.up:
        if isinstance(block, Upsample):
            k -= 1
        else:
            levels[k].up.append(_width(block))
    return levels


def _width(block: Any) -> int:
    """The channels that a block puts out."""
    return block.res.conv2.out_channels


def unet_diagram(network: UNet) -> Figure:
    """A U-Net's levels, widths and skips, and where the step t (and the class y, if it knows classes) enters."""
    levels, pitch, wide, tall = unet_levels(network), 1.0, 1.75, 0.62
    channels, known = network.config["channels"], network.classes is not None
    width, height = 6.2, (len(levels) + 1) * pitch + 0.85
    left, right, top = 0.75, width - 0.2 - wide, height - 1.35
    figure, axes = _canvas(width, height)
    for k, level in enumerate(levels):
        y, side = top - k * pitch, f"{level.side} × {level.side}"
        axes.text(left - 0.1, y + tall / 2, side, ha="right", va="center", fontsize=9, color="#555555")
        _box(axes, left, y, wide, tall, _blocks(level.down, level.attends), timed=True)
        _box(axes, right, y, wide, tall, _blocks(level.up, level.attends), timed=True)
        _arrow(axes, (left + wide + 0.08, y + tall / 2), (right - 0.12, y + tall / 2), COLOURS["grey"])
        handed = " + ".join(map(str, level.kept))
        axes.text((left + wide + right) / 2, y + tall / 2 + 0.06, handed, ha="center", va="bottom", fontsize=8.5, color=INK)
        if k:
            _arrow(axes, (left + wide / 2, y + pitch - 0.04), (left + wide / 2, y + tall + 0.04), INK, "half")
            _arrow(axes, (right + wide / 2, y + tall + 0.04), (right + wide / 2, y + pitch - 0.04), INK, "double")
    y, inner = top - len(levels) * pitch, (left + right + wide) / 2 - wide / 2
    middle = [_width(block) for block in network.middle]
    _box(axes, inner, y, wide, tall, _blocks(middle, True).replace("attention", "attention between"), timed=True)
    _arrow(axes, (left + wide / 2, y + pitch - 0.04), (inner - 0.12, y + tall / 2), INK, bend=True)
    _arrow(axes, (inner + wide + 0.06, y + tall / 2), (right + wide / 2, y + pitch - 0.04), INK, bend=True)
    for x, text, into in (
        (left, f"$x_t$: {channels} channel{'s' * (channels > 1)}", True),
        (right, f"{network.last[-1].out_channels}: $\\hat\\epsilon$" + " and $v$" * network.config["learned_variance"], False),
    ):
        ends = ((x + wide / 2, top + tall + 0.3), (x + wide / 2, top + tall + 0.04))
        _arrow(axes, *(ends if into else ends[::-1]), INK)
        axes.text(x + wide / 2, top + tall + 0.34, text, ha="center", va="bottom", fontsize=10, color=INK)
    vector = "$t$ as waves, two layers" + ("\n+ a vector for the class $y$" if known else "")
    axes.text((left + wide + right) / 2, height - 0.2, vector, ha="center", va="top", fontsize=9, color=INK)
    axes.plot([(left + wide + right) / 2], [height - 0.08], "o", color=COLOURS["purple"], markersize=7)
    axes.plot([0.1], [0.2], "o", color=COLOURS["purple"], markersize=7)
    note = f"that vector, {network.time[-1].out_features} numbers, enters every residual block"
    axes.text(0.22, 0.2, note, va="center", fontsize=9, color=INK)
    return figure


def _blocks(widths: list[int], attends: bool) -> str:
    return f"{len(widths)} block{'s' * (len(widths) > 1)}: " + ", ".join(map(str, widths)) + "\nattention" * attends


# Strokes ---------------------------------------------------------------------------------------------------------


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A white page of that many inches, on which a unit of length is an inch."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(width, height), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height), autoscale_on=False)
    axes.axis("off")
    return figure, axes


def _frame(axes: Axes, x: float, y: float, wide: float, tall: float, fill: str = "none") -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((x, y), wide, tall, facecolor=fill, edgecolor=INK, linewidth=0.9, zorder=3 if fill == "none" else 1)
    )


def _circle(axes: Axes, x: float, y: float, radius: float) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle((x, y), radius, facecolor=PALE, edgecolor=INK, linewidth=0.9, zorder=2))


def _box(axes: Axes, x: float, y: float, wide: float, tall: float, text: str, timed: bool) -> None:
    _frame(axes, x, y, wide, tall, PALE)
    axes.text(x + wide / 2, y + tall / 2, text, ha="center", va="center", fontsize=9, color=INK, linespacing=1.4)
    if timed:
        axes.plot([x], [y + tall / 2], "o", color=COLOURS["purple"], markersize=7, zorder=4)


def _arrow(axes: Axes, start: tuple, end: tuple, colour: str, text: str = "", bend: bool = False) -> None:
    style = "angle,angleA=-90,angleB=0" if start[1] > end[1] else "angle,angleA=0,angleB=90"
    line = dict(arrowstyle="-|>", color=colour, linewidth=1.3, shrinkA=0, shrinkB=0)
    axes.annotate("", end, start, arrowprops=line | ({"connectionstyle": style} if bend else {}), zorder=2)
    if text:
        axes.text(end[0] + 0.08, (start[1] + end[1]) / 2, text, va="center", fontsize=8.5, color="#555555")
