"""One look for every figure of the book, and the package's own source shown in a notebook.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. Matplotlib is imported only when a figure is
made: importing the package stays quick.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._args import count, instance, number, real

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The first four and grey have a contrast of 3:1 or more on white and on the book's dark background alike: use them for lines.
COLOURS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "grey": "#808080",
    "black": "#000000",
}

STYLE: dict[str, Any] = {
    "figure.figsize": (6.0, 3.4),
    "figure.dpi": 144,
    "savefig.dpi": 144,
    # A white page of its own: legible in print and, as a card, in dark mode.
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.8,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
}


def use_style() -> None:
    """Give every matplotlib figure made from here on the book's look: sizes, palette, white background, light grid."""
    import matplotlib
    from cycler import cycler

    matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]
    matplotlib.rcParams["axes.prop_cycle"] = cycler(color=list(COLOURS.values()))


def tile(images: Tensor, columns: int | None = None, gap: int = 1) -> Tensor:
    """Lay images (N, C, H, W) with values in [-1, 1] out as one picture (H', W', C) in [0, 1], row by row.

    C is 1 (grey) or 3 (RGB). `columns` defaults to about √N; `gap` is the white space between images, in pixels.
    Values outside [-1, 1], which a sampler may produce, are clamped. Raises ValueError for other shapes.
    """
    if real(images, "images").ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"images must have shape (N, 1, H, W) or (N, 3, H, W) with N >= 1, got {tuple(images.shape)}")
    n, channels, height, width = images.shape
    columns = min(n, math.ceil(math.sqrt(n)) if columns is None else count(columns, "columns"))
    gap = count(gap, "gap", low=0)
    rows = math.ceil(n / columns)
    picture = images.new_ones(rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    for k, image in enumerate(images.detach()):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        picture[top : top + height, left : left + width] = (image.clamp(-1, 1).permute(1, 2, 0) + 1) / 2
    return picture.cpu()


def image_grid(
    images: Tensor,
    columns: int | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    size: float = 0.6,
) -> Figure:
    """A figure of images (N, C, H, W) in [-1, 1], each `size` inches wide; labels name whole rows and columns.

    Raises ValueError when there are not as many labels as rows or columns.
    """
    import matplotlib.pyplot as plt

    number(size, "size", 0, math.inf)
    picture = tile(images, columns, gap=(gap := max(1, images.shape[-1] // 14)))
    across, down = images.shape[-1] + gap, images.shape[-2] + gap
    columns, rows = (picture.shape[1] + gap) // across, (picture.shape[0] + gap) // down
    for name, labels, n in (("row_labels", row_labels, rows), ("column_labels", column_labels, columns)):
        if labels is not None and len(labels) != n:
            raise ValueError(f"{name} has {len(labels)} entries; the grid has {n}")
    room = (0.9 if row_labels else 0.1, 0.4 if column_labels else 0.1)
    figure, axes = plt.subplots(figsize=(columns * size + room[0], rows * size * images.shape[-2] / images.shape[-1] + room[1]))
    axes.imshow(picture.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    for place, labels, n, pitch in (
        (axes.set_xticks, column_labels, columns, across),
        (axes.set_yticks, row_labels, rows, down),
    ):
        place([k * pitch + (pitch - gap - 1) / 2 for k in range(n)] if labels else [], labels or [])
    return figure


class Source:
    """Source text that a notebook shows highlighted and a terminal shows plain; made by `show_source`."""

    def __init__(self, text: str):
        self.text = instance(text, "text", str)

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        fence = "```"
        while fence in self.text:
            fence += "`"
        return f"{fence}python\n{self.text}\n{fence}"


def show_source(*objects, doc: bool = True) -> Source:
    """The source of functions, methods, properties or classes of the package, as the last value of a notebook cell.

    Each starts with a comment that says where it lives. `doc=False` leaves the docstrings of functions out, where the
    text has just said the same. Raises TypeError for what has no Python source.
    """
    if not objects:
        raise TypeError("show_source needs at least one function, method or class")
    return Source("\n\n".join(_source(obj, doc) for obj in objects))


def _source(obj, doc: bool) -> str:
    function = obj.fget if isinstance(obj, property) else inspect.unwrap(getattr(obj, "__func__", obj))
    if not (inspect.isfunction(function) or inspect.isclass(function)):
        raise TypeError(f"show_source takes functions, methods, properties and classes, got {type(obj).__name__}: {obj!r}")
    try:
        text = textwrap.dedent(inspect.getsource(function)).rstrip()
    except (OSError, TypeError):
        raise TypeError(f"show_source found no Python source for {obj!r}") from None
    if not doc and inspect.isfunction(function) and function.__doc__:
        # The docstring is the first statement: cut its lines out, as the parser counts them.
        import ast

        first, lines = ast.parse(text).body[0].body[0], text.splitlines()  # type: ignore[attr-defined]
        text = "\n".join(lines[: first.lineno - 1] + lines[first.end_lineno :])
    return f"# {function.__qualname__}, in {function.__module__.replace('.', '/')}.py\n{text}"
