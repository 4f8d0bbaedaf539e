"""The interactive figures: one object with two faces.

In a running notebook an `Explorer` is a set of ipywidgets sliders over a picture that Python redraws. On the static
page it is a piece of HTML that needs no kernel and no network: the picture as inline SVG, what the sliders change as
precomputed JSON, and a small script that swaps it in. Both faces come from one renderer, and no formula is written in
JavaScript, so they cannot disagree with the package or with each other.

How to add one
--------------
1. Write a function `my_explorer() -> Explorer` below, with everything it needs inside, so that a chapter's cell is one
   line. Its `draw(*values)` takes one value from each slider and returns a `Frame`: panels and a read-out. Every number
   in it comes from a function of the package.
2. A `Panel` has fixed axes (nothing jumps while the slider moves) and a list of marks: `Line`, `Points`, `Bars`,
   `Band`, `Text`. `draw` returns the same marks in the same order at every position; only their data change.
3. Give each panel an `alt`: what one sees, and how it changes. The numbers themselves go into the read-out. Text may
   hold subscripts and superscripts: "x_t", "x_{t-1}", "10^{-3}".
4. The page holds all positions: keep their number (the product of the sliders' lengths) near 200. A curve that only
   moves sideways with one slider costs nothing with `Line(x - m, y, shift=m)`. Above `MAX_BYTES` it is refused.
5. Test it as the two below are tested: read the numbers back out of the HTML and get them by another route.
"""

from __future__ import annotations

import bisect
import html
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .diffusion import GaussianDiffusion
from .gaussian import Gaussian, discretised_log_prob, product
from .latent import LinearGaussianModel, effective_share
from .oracles import GaussianMixture, LinearGaussianChain, Oracle
from .plots import COLOURS
from .samplers import ancestral
from .schedules import NoiseSchedule

MAX_BYTES = 150_000
# What remains to be read where a notebook is not trusted, and SVG and styles are taken out of it.
_STRIPPED = "Run this cell, or trust the notebook, to see the picture and move the sliders."

# What an explorer is made of --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slider:
    """One control: `label`, the `values` it stops at, the index it starts at, and how a value is written."""

    label: str
    values: Sequence[Any]
    start: int = 0
    format: Callable[[Any], str] = str

    def __post_init__(self):
        if not len(self.values):
            raise ValueError(f"{type(self).__name__} {self.label!r} has no values; it needs at least one")
        if not self.label.strip():
            raise ValueError(f"{type(self).__name__} label is empty; a control must say what it controls")
        if not 0 <= self.start < len(self.values):
            raise ValueError(f"start = {self.start} of {self.label!r} is outside 0..{len(self.values) - 1}")


class Choice(Slider):
    """A control with few, named values, shown as radio buttons instead of a slider."""


@dataclass(frozen=True)
class Line:
    """A curve through (x + shift, y). `fill` shades the area below it, `dash` breaks it, `label` puts it in the legend."""

    x: Any
    y: Any
    colour: str = "blue"
    label: str = ""
    dash: bool = False
    fill: bool = False
    width: float = 2
    shift: float | None = None


@dataclass(frozen=True)
class Band:
    """The area between two curves over the same x."""

    x: Any
    low: Any
    high: Any
    colour: str = "blue"
    label: str = ""


@dataclass(frozen=True)
class Bars:
    """Vertical bars from 0, centred at x, each `width` wide in units of the x-axis."""

    x: Any
    height: Any
    colour: str = "blue"
    label: str = ""
    width: float = 0.8


@dataclass(frozen=True)
class Points:
    """Dots of `radius` at (x, y)."""

    x: Any
    y: Any
    colour: str = "blue"
    label: str = ""
    radius: float = 4


@dataclass(frozen=True)
class Text:
    """A few words at (x, y): "start", "middle" or "end" of them stands there."""

    x: float
    y: float
    text: str
    colour: str = "ink"
    anchor: str = "middle"


Mark = Line | Band | Bars | Points | Text


@dataclass(frozen=True)
class Panel:
    """One pair of axes with fixed ends `x` and `y`, and the marks in it.

    `alt` is what a reader who cannot see the picture is told. Ticks are numbers, or (number, "text") pairs; by default
    round numbers. `width` x `height` are SVG units, about a CSS pixel each; a phone shows 360 in a row.
    """

    title: str
    alt: str
    x: tuple[float, float]
    y: tuple[float, float]
    marks: Sequence[Mark]
    xlabel: str
    ylabel: str
    xticks: Sequence | None = None
    yticks: Sequence | None = None
    width: int = 430
    height: int = 270

    def __post_init__(self):
        for name in ("title", "alt", "xlabel", "ylabel"):
            if not getattr(self, name).strip():
                raise ValueError(f"Panel {self.title!r} needs {name}: a text that is not empty")
        for name, (low, high) in (("x", self.x), ("y", self.y)):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"{name} = ({low}, {high}) of panel {self.title!r} must be finite, the lower end first")
        if not self.marks:
            raise ValueError(f"Panel {self.title!r} has no marks; it needs at least one")


@dataclass(frozen=True)
class Frame:
    """What `draw` returns: the panels, and the read-out as (name, number as text) pairs."""

    panels: Sequence[Panel]
    readout: Sequence[tuple[str, str]]


def sig(value: float | Tensor, digits: int = 3) -> str:
    """A number for the read-out: `digits` significant digits, a true minus sign, powers of ten when small or large."""
    value = float(value)
    if not math.isfinite(value):
        return "undefined" if math.isnan(value) else "∞" if value > 0 else "−∞"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{mantissa} × 10^{{{int(exponent)}}}".replace("-", "−")
    return f"{value:.{max(digits - 1 - int(exponent), 0)}f}".replace("-", "−")


# The renderer: a Frame becomes a tree of elements -----------------------------------------------------------------


@dataclass
class _El:
    """An element: its attributes, and either children or ready inner HTML."""

    tag: str
    attrs: dict[str, Any] = field(default_factory=dict)
    inner: list[_El] | str = ""

    def walk(self) -> Iterator[_El]:
        yield self
        if not isinstance(self.inner, str):
            for child in self.inner:
                yield from child.walk()

    def html(self) -> str:
        attrs = "".join(f' {k}="{html.escape(str(v))}"' for k, v in self.attrs.items())
        if self.tag == "input":
            return f"<input{attrs}>"
        inner = self.inner if isinstance(self.inner, str) else "".join(child.html() for child in self.inner)
        return f"<{self.tag}{attrs}>{inner}</{self.tag}>"


_SCRIPTS = re.compile(r"([_^])(?:\{([^}]*)\}|(\w))")


def _plain(text: str) -> str:
    return html.escape(_SCRIPTS.sub(lambda m: m[1] + (m[2] or m[3]), text))


def _script(m: re.Match) -> str:
    return (m[2] or m[3]).replace("-", "−")


def _rich(text: str) -> str:
    """Escaped HTML in which x_t and 10^{-3} have a real subscript and superscript."""
    return _SCRIPTS.sub(lambda m: "<{0}>{1}</{0}>".format("sub" if m[1] == "_" else "sup", _script(m)), html.escape(text))


def _rich_svg(text: str) -> str:
    """The same for SVG, where a script is a smaller tspan moved down or up, and the text after it is moved back."""
    out, end = "", 0
    text = html.escape(text)
    back = ""
    for m in _SCRIPTS.finditer(text):
        out += _tspan(text[end : m.start()], back)
        down = 0.22 if m[1] == "_" else -0.4
        dy = down + (-float(back) if back and m.start() == end else 0)
        out += f'<tspan dy="{dy / 0.75:.2f}em" font-size="75%">{_script(m)}</tspan>'
        end, back = m.end(), f"{-down:.2f}"
    return out + _tspan(text[end:], back)


def _tspan(text: str, dy: str) -> str:
    return f'<tspan dy="{dy}em">{text}</tspan>' if text and dy else text


def _colour(name: str) -> str:
    if name != "ink" and name not in COLOURS:
        raise ValueError(f"colour = {name!r} is unknown; it must be 'ink' (the colour of the text) or one of {list(COLOURS)}")
    return "currentColor" if name == "ink" else COLOURS[name]


def _ticks(low: float, high: float) -> list[float]:
    """At most six round numbers inside [low, high]."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.10g}") for k in range(first, last + 1)]


def _int(values) -> np.ndarray:
    """Round half up; the nudge keeps exact halves from falling differently on another machine."""
    return np.floor(np.asarray(values, dtype=float) + 0.5 + 1e-6).astype(int)


def _thin(points: np.ndarray, tolerance: float = 1.0) -> np.ndarray:
    """Drop the points that lie within `tolerance` of the line through those that stay (Douglas and Peucker)."""
    keep = np.zeros(len(points), dtype=bool)
    keep[[0, -1]] = True
    spans = [(0, len(points) - 1)]
    while spans:
        a, b = spans.pop()
        if b - a < 2:
            continue
        along, inner = points[b] - points[a], points[a + 1 : b] - points[a]
        length = math.hypot(*along)
        far = abs(along[0] * inner[:, 1] - along[1] * inner[:, 0]) / length if length else np.hypot(*inner.T)
        if far.max() > tolerance:
            mid = a + 1 + int(far.argmax())
            keep[mid] = True
            spans += [(a, mid), (mid, b)]
    return points[keep]


def _path(points: np.ndarray) -> str:
    """Absolute start, then whole-number steps: the shortest way to write a curve."""
    steps = " ".join(f"{dx} {dy}" for dx, dy in np.diff(points, axis=0))
    return f"M{points[0, 0]} {points[0, 1]}" + (f"l{steps}" if steps else "").replace(" -", "-")


_FINE = 10  # curve coordinates are whole tenths of an SVG unit
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 20, 26, 44


class _Axes:
    """From data to SVG: the renderer of one panel."""

    def __init__(self, panel: Panel, uid: str):
        self.panel, self.uid = panel, uid
        self.w, self.h = panel.width - _LEFT - _RIGHT, panel.height - _TOP - _BOTTOM

    def sx(self, x, what: str = "x"):
        low, high = self.panel.x
        return (self._finite(x, what) - low) / (high - low) * self.w

    def sy(self, y, what: str = "y"):
        low, high = self.panel.y
        return (high - self._finite(y, what)) / (high - low) * self.h

    def _finite(self, values, what: str) -> np.ndarray:
        values = np.asarray(values, dtype=float)
        if not np.isfinite(values).all():
            raise ValueError(f"{what} in panel {self.panel.title!r} holds NaN or infinity; leave such points out")
        return values

    def _curve(self, x, y) -> np.ndarray:
        x, y = np.broadcast_arrays(self.sx(x), self.sy(y))
        if x.ndim != 1 or not len(x):
            raise ValueError(f"a curve in panel {self.panel.title!r} needs x and y of one length >= 1, got shape {x.shape}")
        return _thin(np.stack([_int(x * _FINE), _int(y * _FINE)], axis=1))

    def mark(self, m: Mark) -> list[_El]:
        colour = _colour(m.colour)
        if isinstance(m, Line):
            attrs = {"d": _path(self._curve(m.x, m.y)), "stroke": colour, "stroke-width": round(m.width * _FINE)}
            attrs["fill"] = colour if m.fill else "none"
            if m.fill:
                attrs["fill-opacity"] = 0.2
            if m.dash:
                attrs["stroke-dasharray"] = "60 45"
            if m.shift is not None:
                attrs["transform"] = f"translate({int(_int((self.sx(m.shift) - self.sx(0)) * _FINE))})"
            return [_El("path", attrs)]
        if isinstance(m, Band):
            edge = np.concatenate([self._curve(m.x, m.high), self._curve(m.x, m.low)[::-1]])
            return [_El("path", {"d": _path(edge) + "z", "fill": colour, "fill-opacity": 0.35, "stroke": "none"})]
        if isinstance(m, Text):
            if m.anchor not in ("start", "middle", "end"):
                raise ValueError(f"anchor = {m.anchor!r} must be 'start', 'middle' or 'end'")
            at = {"x": int(_int(self.sx(m.x) * _FINE)), "y": int(_int(self.sy(m.y) * _FINE))}
            return [_El("text", {**at, "fill": colour, "text-anchor": m.anchor, "font-size": 13 * _FINE}, _rich_svg(m.text))]
        top = m.height if isinstance(m, Bars) else m.y
        xs, ys = np.broadcast_arrays(np.atleast_1d(self.sx(m.x)), np.atleast_1d(self.sy(top)))
        if isinstance(m, Points):
            dots = zip(_int(xs * _FINE), _int(ys * _FINE))
            return [_El("circle", {"cx": x, "cy": y, "r": round(m.radius * _FINE), "fill": colour}) for x, y in dots]
        wide, zero = self.w * m.width / (self.panel.x[1] - self.panel.x[0]), float(self.sy(0.0))
        bars = zip(_int((xs - wide / 2) * _FINE), _int(np.minimum(ys, zero) * _FINE), _int(abs(zero - ys) * _FINE))
        size = int(_int(wide * _FINE))
        return [_El("rect", {"x": x, "y": y, "width": size, "height": h, "fill": colour}) for x, y, h in bars]

    def svg(self) -> _El:
        p, w, h = self.panel, self.w, self.h
        lines, texts = [], []
        for value, text in _labelled(p.xticks, p.x):
            at = _LEFT + float(self.sx(value))
            lines.append(f"M{at:.1f} {_TOP + h}v4")
            texts.append(_El("text", {"x": f"{at:.1f}", "y": _TOP + h + 18, "text-anchor": "middle"}, _rich_svg(text)))
        for value, text in _labelled(p.yticks, p.y):
            at = _TOP + float(self.sy(value))
            lines.append(f"M{_LEFT} {at:.1f}h-4")
            texts.append(_El("text", {"x": _LEFT - 7, "y": f"{at + 4.5:.1f}", "text-anchor": "end"}, _rich_svg(text)))
        texts.append(_El("text", {"x": _LEFT + w / 2, "y": p.height - 6, "text-anchor": "middle"}, _rich_svg(p.xlabel)))
        texts.append(_El("text", {"x": 2, "y": 14}, _rich_svg(p.ylabel)))
        axes = {"d": "".join(lines) + f"M{_LEFT} {_TOP}v{h}h{w}", "fill": "none", "stroke": "currentColor"}
        inside = {"x": _LEFT, "y": _TOP, "width": w, "height": h, "viewBox": f"0 0 {w * _FINE} {h * _FINE}"}
        label = {"role": "img", "aria-labelledby": f"{self.uid}-title {self.uid}-desc"}
        return _El(
            "svg",
            {"viewBox": f"0 0 {p.width} {p.height}", **label, "fill": "currentColor", "font-size": 13},
            [
                _El("title", {"id": f"{self.uid}-title"}, _plain(p.title)),
                _El("desc", {"id": f"{self.uid}-desc"}, _plain(p.alt)),
                _El("path", {**axes, "stroke-opacity": 0.55}),
                _El("g", {"aria-hidden": "true"}, texts),
                # The inner svg clips what leaves the axes.
                _El("svg", inside, [_El("g", {"stroke-linejoin": "round"}, [el for m in p.marks for el in self.mark(m)])]),
            ],
        )

    def legend(self) -> _El:
        items = [(m, m.label) for m in self.panel.marks if not isinstance(m, Text) and m.label]
        return _El("p", {"class": "ddpm-legend"}, [_El("span", {}, _swatch(m) + _rich(label)) for m, label in items])

    def html(self) -> _El:
        p = self.panel
        title = _El("p", {"class": "ddpm-title"}, _rich(p.title))
        return _El("div", {"class": "ddpm-panel", "style": f"--w:{p.width}"}, [title, self.legend(), self.svg()])


def _labelled(ticks: Sequence | None, ends: tuple[float, float]) -> list[tuple[float, str]]:
    ticks = _ticks(*ends) if ticks is None else ticks
    pairs = [t if isinstance(t, tuple) else (t, f"{t:g}".replace("-", "−")) for t in ticks]
    outside = [value for value, _ in pairs if not ends[0] <= value <= ends[1]]
    if outside:
        raise ValueError(f"tick {outside[0]} is outside the axis {ends}")
    return pairs


def _swatch(m: Mark) -> str:
    """The sign that stands for a mark in the legend."""
    colour = _colour(m.colour)
    if isinstance(m, Points):
        shape = f'<circle cx="12" cy="6" r="4" fill="{colour}"/>'
    elif isinstance(m, Line):
        dash = ' stroke-dasharray="6 4.5"' if m.dash else ""
        area = f'<path d="M0 6h24v6H0z" fill="{colour}" fill-opacity=".2"/>' if m.fill else ""
        shape = f'{area}<path d="M0 6h24" stroke="{colour}" stroke-width="{m.width:g}"{dash}/>'
    else:
        shape = f'<path d="M3 1h18v10H3z" fill="{colour}" fill-opacity="{0.35 if isinstance(m, Band) else 1}"/>'
    return f'<svg class="ddpm-key" viewBox="0 0 24 12" aria-hidden="true">{shape}</svg>'


_STYLE = """
.ddpm-explorer{box-sizing:border-box;max-width:56rem;margin:1rem auto;padding:.25rem 0;color:inherit;background:none;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-size:.95rem;line-height:1.45;text-align:left}
.ddpm-explorer *{box-sizing:border-box}
.ddpm-panels{display:flex;flex-wrap:wrap;justify-content:center;align-items:flex-end;gap:.75rem 1.25rem}
.ddpm-panel{flex:var(--w) 1 calc(var(--w)*.65px);min-width:0;max-width:calc(var(--w)*1.15px)}
@media(max-width:30rem){.ddpm-panel{max-width:calc(var(--w)*1px)}}
.ddpm-panel>svg{display:block;width:100%;height:auto;overflow:visible}
.ddpm-title{margin:0 0 .1rem;font-weight:600}
.ddpm-legend{display:flex;flex-wrap:wrap;gap:0 1rem;margin:0 0 .35rem;font-size:.9em}
.ddpm-legend span{white-space:nowrap}
.ddpm-key{width:24px;height:12px;margin-right:.4em;vertical-align:-1px}
.ddpm-controls{display:flex;flex-wrap:wrap;align-items:center;gap:.25rem 2rem;margin:.5rem 0}
.ddpm-slider{display:flex;flex:1 1 17rem;align-items:center;gap:.75rem;margin:0}
.ddpm-slider input{flex:1;min-width:0;height:2rem;margin:0;accent-color:#0072B2;cursor:pointer}
.ddpm-slider output{min-width:3.2em;padding:0;font-variant-numeric:tabular-nums;font-weight:600}
.ddpm-choice{display:flex;flex-wrap:wrap;align-items:center;gap:0 1rem;margin:0;padding:0;border:0;min-width:0}
.ddpm-choice legend{float:left;width:auto;margin:0 .25rem 0 0;padding:0;border:0;font-size:1em}
.ddpm-choice label{display:inline-flex;align-items:center;gap:.35rem;min-height:2rem;margin:0;cursor:pointer}
.ddpm-choice input{margin:0;accent-color:#0072B2}
.ddpm-readout{display:flex;flex-wrap:wrap;gap:.1rem 1.5rem;margin:.25rem 0 .5rem;padding:.4rem 0;
border-top:1px solid;border-bottom:1px solid;border-color:rgba(128,128,128,.45)}
.ddpm-readout span{white-space:nowrap}
.ddpm-readout b{font-weight:600;font-variant-numeric:tabular-nums}
.ddpm-caption{margin:0}
.ddpm-stripped{display:none}
.ddpm-explorer sub,.ddpm-explorer sup{font-size:75%;line-height:0}
.text_html:has(>.ddpm-explorer){background:none!important;color:inherit!important;padding:0}
@media print{.ddpm-explorer{break-inside:avoid}.ddpm-explorer .ddpm-controls{display:none}}
""".replace("\n", "")

# Reads the positions of the controls and writes, for each thing that changes, the value that belongs to them.
_SCRIPT = """
(function(){
var me=document.currentScript,root=me&&me.closest('.ddpm-explorer')||document.getElementById(ID);
var data=JSON.parse(root.querySelector('script[type="application/json"]').textContent),at=[];
var parts={};root.querySelectorAll('[data-k]').forEach(function(e){parts[e.getAttribute('data-k')]=e});
function draw(){data.slots.forEach(function(s){
var i=0;s.axes.forEach(function(a){i=i*data.shape[a]+at[a]});
if(s.attr)parts[s.k].setAttribute(s.attr,s.values[i]);else parts[s.k].innerHTML=s.values[i]})}
function read(e){if(e.type!=='radio'||e.checked)at[+e.getAttribute('data-axis')]=+e.value}
root.querySelectorAll('[data-axis]').forEach(read);draw();
root.addEventListener('input',function(e){if(e.target.hasAttribute('data-axis')){read(e.target);draw()}});
})();
""".replace("\n", "")


class Explorer:
    """An interactive figure: `sliders`, and `draw(*values) -> Frame`, called with one value of each.

    `name` (lower case, digits, hyphens) makes the ids of its elements, so it must be unique on a page; `title` names it;
    `caption` is the one thing to take away. Shown at the end of a cell it is live where a kernel runs and static HTML
    elsewhere. Raises ValueError for a bad name, no sliders, an empty text, frames that differ in more than their data,
    or a page of more than MAX_BYTES.
    """

    def __init__(self, name: str, sliders: Sequence[Slider], draw: Callable[..., Frame], *, title: str, caption: str):
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise ValueError(f"name = {name!r} must be lower-case letters, digits and hyphens, a letter first")
        if not sliders:
            raise ValueError(f"sliders of {name!r} is empty; an explorer needs at least one control")
        for what, text in (("title", title), ("caption", caption)):
            if not text.strip():
                raise ValueError(f"{what} of explorer {name!r} is empty")
        self.name, self.sliders, self.draw = name, list(sliders), draw
        self.title, self.caption = title, caption
        self._static: str | None = None

    def __repr__(self) -> str:
        controls = ", ".join(f"{s.label}: {len(s.values)} positions" for s in self.sliders)
        return f"Explorer({self.name!r}: {controls})"

    @property
    def start(self) -> tuple[int, ...]:
        """The position, one index per slider, that is shown first."""
        return tuple(slider.start for slider in self.sliders)

    def frame(self, *position: int) -> Frame:
        """What `draw` returns at a position: one index per slider."""
        return self.draw(*(slider.values[k] for slider, k in zip(self.sliders, position, strict=True)))

    # The static face ----------------------------------------------------------------------------------------------

    def to_html(self) -> str:
        """The static face: HTML that works without a kernel and without a network."""
        if self._static is None:
            self._static = self._build()
            if len(self._static.encode()) > MAX_BYTES:
                raise ValueError(
                    f"explorer {self.name!r} takes {len(self._static.encode())} bytes, more than {MAX_BYTES}: give its sliders "
                    "fewer positions, its curves fewer points, or move a curve with Line(..., shift=...)"
                )
        return self._static

    def _build(self) -> str:
        shape = [len(slider.values) for slider in self.sliders]
        positions = list(itertools.product(*map(range, shape)))
        trees = [list(self._page(position).walk()) for position in positions]
        tags = [el.tag for el in trees[0]]
        for position, tree in zip(positions, trees):
            if [el.tag for el in tree] != tags or any(a.attrs.keys() != b.attrs.keys() for a, b in zip(tree, trees[0])):
                raise ValueError(
                    f"draw of explorer {self.name!r} returns other marks at position {position} than at {positions[0]}; "
                    "the marks and their order must be the same at every position"
                )
        shown = trees[positions.index(self.start)]
        slots: list[dict] = []
        for k, el in enumerate(shown):
            for attr in [*el.attrs, ""] if isinstance(el.inner, str) else el.attrs:
                told = [str(tree[k].attrs[attr] if attr else tree[k].inner) for tree in trees]
                values: np.ndarray = np.array(told, dtype=object).reshape(shape)
                axes = []
                for axis in range(len(shape)):
                    # Along an axis that changes nothing one value is enough.
                    first = values.take([0], axis)
                    if (values == first).all():
                        values = first
                    else:
                        axes.append(axis)
                if axes:
                    slots.append({"k": k, "attr": attr, "axes": axes, "values": values.ravel().tolist()})
        for slot in slots:
            shown[slot["k"]].attrs["data-k"] = slot["k"]
        data = json.dumps({"shape": shape, "slots": slots}, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
        root = shown[0]
        assert not isinstance(root.inner, str)
        root.inner = [
            _El("style", {}, _STYLE),
            # A viewer that strips styles, pictures and scripts (an untrusted notebook) leaves this line standing.
            _El("p", {"class": "ddpm-stripped"}, _STRIPPED),
            *root.inner,
            _El("script", {"type": "application/json"}, data),
            _El("script", {}, _SCRIPT.replace("ID", json.dumps(root.attrs["id"]), 1)),
        ]
        return root.html()

    def _page(self, position: tuple[int, ...]) -> _El:
        panels, readout = self._picture(position)
        controls = _El("div", {"class": "ddpm-controls"}, [self._control(axis, k) for axis, k in enumerate(position)])
        about = {"class": "ddpm-explorer", "id": f"ddpm-{self.name}", "role": "group", "aria-label": _unescaped(self.title)}
        return _El("div", about, [panels, controls, readout, _El("p", {"class": "ddpm-caption"}, _rich(self.caption))])

    def _picture(self, position: tuple[int, ...]) -> tuple[_El, _El]:
        frame = self.frame(*position)
        panels = [_Axes(panel, f"ddpm-{self.name}-{k}").html() for k, panel in enumerate(frame.panels)]
        numbers = [
            _El("span", {}, [_El("span", {}, _rich(name) + " = "), _El("b", {}, _rich(value))]) for name, value in frame.readout
        ]
        live = {"class": "ddpm-readout", "role": "status", "aria-live": "polite", "aria-atomic": "true"}
        return _El("div", {"class": "ddpm-panels"}, panels), _El("p", live, numbers)

    def _control(self, axis: int, k: int) -> _El:
        slider = self.sliders[axis]
        texts, here = [slider.format(value) for value in slider.values], {"data-axis": axis, "autocomplete": "off"}
        if isinstance(slider, Choice):
            options = []
            for index, text in enumerate(texts):
                radio = {"type": "radio", "name": f"ddpm-{self.name}-{axis}", "value": index, **here}
                if index == slider.start:
                    radio["checked"] = ""
                options.append(_El("label", {}, [_El("input", radio), _El("span", {}, _rich(text))]))
            return _El("fieldset", {"class": "ddpm-choice"}, [_El("legend", {}, _rich(slider.label)), *options])
        track = {"type": "range", "min": 0, "max": len(texts) - 1, "step": 1, "value": slider.start, **here}
        said = {"aria-label": _unescaped(slider.label), "aria-valuetext": _unescaped(texts[k])}
        parts = [_El("span", {}, _rich(slider.label)), _El("input", {**track, **said}), _El("output", {}, _rich(texts[k]))]
        return _El("label", {"class": "ddpm-slider"}, parts)

    # The live face ------------------------------------------------------------------------------------------------

    def widget(self):
        """The live face: an ipywidgets box whose picture is redrawn by `draw` when a control moves."""
        import ipywidgets as widgets

        controls = []
        for slider in self.sliders:
            options = [(_unescaped(slider.format(value)), k) for k, value in enumerate(slider.values)]
            kind = widgets.ToggleButtons if isinstance(slider, Choice) else widgets.SelectionSlider
            controls.append(kind(options=options, value=slider.start, description=_unescaped(slider.label)))
            controls[-1].style.description_width = "initial"
            if not isinstance(slider, Choice):
                controls[-1].layout.width = "28rem"
                controls[-1].layout.max_width = "100%"
        picture = widgets.HTML()
        picture.layout.max_width = "100%"

        def redraw(_=None):
            inner = [*self._picture(tuple(c.value for c in controls)), _El("p", {"class": "ddpm-caption"}, _rich(self.caption))]
            about = {"class": "ddpm-explorer", "role": "group", "aria-label": _unescaped(self.title)}
            picture.value = _El("div", about, [_El("style", {}, _STYLE), *inner]).html()

        for control in controls:
            control.observe(redraw, "value")
        redraw()
        return widgets.VBox([*controls, picture])

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self.to_html()}
        try:
            from IPython.core.getipython import get_ipython

            if get_ipython() is not None:
                # Spelled out, because ipywidgets 7 (Colab's) has no _repr_mimebundle_ of its own.
                view = {"version_major": 2, "version_minor": 0, "model_id": self.widget().model_id}
                bundle["application/vnd.jupyter.widget-view+json"] = view
        except ImportError:
            pass  # no notebook here: the static face is the whole of it
        return bundle


def _unescaped(text: str) -> str:
    return html.unescape(_plain(text))


# Chapter 01: one page of diffusion ---------------------------------------------------------------------------------


def reverse_process_explorer() -> Explorer:
    """Slide t from T to 0: a cloud of noise becomes a galaxy of two arms, moved by the exact ε*, and the guess x̂_0 with it."""
    diffusion = GaussianDiffusion(NoiseSchedule.linear(T=100, beta_1=1e-3, beta_T=0.2))
    radius = torch.linspace(0.3, 1.8, 20, dtype=torch.float64)
    arm = torch.stack([radius * (2 * radius).cos(), radius * (2 * radius).sin()], 1)
    oracle = Oracle(GaussianMixture([1 / 40] * 40, torch.cat([arm, -arm]), [0.02] * 40), diffusion)
    generator = torch.Generator().manual_seed(1)
    x_T = torch.randn(130, 2, generator=generator, dtype=torch.float64)
    path = {step.t: step for step in ancestral(diffusion, oracle, x_T, generator=generator)}
    # The arm that each point ends in gives it its colour at every t.
    first = torch.cdist(path[0].x_t, arm).amin(1) < torch.cdist(path[0].x_t, -arm).amin(1)

    def square(title: str, alt: str, x: Tensor) -> Panel:
        dots = [
            Points(*x[first].T, "blue", "ends in one arm", radius=3.5),
            Points(*x[~first].T, "vermillion", "ends in the other", radius=3.5),
        ]
        return Panel(title, alt, (-3, 3), (-3, 3), dots, "first coordinate", "second", width=340, height=340)

    def draw(t: int) -> Frame:
        states = square(
            "Where the points are: x_t",
            "A cloud of dots in two colours. At t = 100 it is round and the colours are mixed. As t falls the colours part, "
            "and at t = 0 the dots lie on the two arms of a spiral.",
            path[t].x_t,
        )
        guesses = square(
            "Where they would end: the guess x̂_0",
            "The same dots, each where the best guess of its end lies. At t = 100 all are close to the centre; they spread "
            "into two curved bands, and reach the arms of the spiral well before the dots of the other panel do.",
            path[t].x_0_hat,
        )
        alpha_bar_t = diffusion.schedule.alpha_bars[t]
        readout = [
            ("t", str(t)),
            ("signal √ᾱ_t", f"{float(alpha_bar_t.sqrt()):.3f}"),
            ("noise √(1−ᾱ_t)", f"{float((1 - alpha_bar_t).sqrt()):.3f}"),
        ]
        return Frame([states, guesses], readout)

    return Explorer(
        "reverse-process",
        [Slider("step t", [100, 90, 80, 70, 60, 50, 45, 40, 35, 30, 26, 22, 18, 15, 12, 9, 6, 4, 2, 0])],
        draw,
        title="The reverse process: noise becomes a galaxy",
        caption="Far out in t the guess is the centre of all data, for nothing else is known; on the way down it becomes a "
        "place on an arm. The points follow their guesses, and the guesses change as the points move.",
    )


# Chapter 03: the bound and its gap --------------------------------------------------------------------------------


def elbo_explorer() -> Explorer:
    """Slide q's mean and width: the gap is its distance to the posterior; for z ~ N(0, 1), x = 2z + noise, x = 2.5."""
    zero, one, x = (torch.tensor(value, dtype=torch.float64) for value in (0.0, 1.0, 2.5))
    model = LinearGaussianModel(Gaussian(zero, one), slope=2.0, noise_var=1.0)
    posterior, log_p = model.posterior(x), float(model.log_prob(x))
    z = torch.linspace(-4, 4, 321, dtype=torch.float64)
    widths = {"¼": 1 / 16, "⅓": 1 / 9, "½": 1 / 4, "1/√2": 1 / 2, "0.8": 0.64, "1": 1, "1.5": 2.25, "2": 4, "√5": 5, "3": 9}

    def draw(mean: float, width: str) -> Frame:
        q = Gaussian(torch.tensor(mean, dtype=torch.float64), posterior.var * widths[width])
        elbo, gap, share = float(model.elbo(x, q)), float(model.gap(x, q)), float(effective_share(posterior, q))
        curves = Panel(
            "Where z may be",
            "Three bells over the latent z. The prior is wide, around 0; the posterior is narrow, around 1. The bell q moves "
            "with the first slider and widens with the second; it can be laid exactly on either of them.",
            (-2, 3),
            (0, 1.8),
            [
                Line(z, model.prior.log_prob(z).exp(), "grey", "prior p(z)"),
                Line(z, posterior.log_prob(z).exp(), "green", "posterior p(z | x)", dash=True, width=3),
                # Its shape depends on the width alone: the mean only moves it sideways.
                Line(z, Gaussian(zero, q.var).log_prob(z).exp(), "blue", "q(z)", fill=True, shift=mean),
            ],
            "z",
            "density",
        )
        bound = Panel(
            "Nats paid for x",
            "A bar of two parts. The lower part, minus log p(x), has the same height for every q; on top of it stands the "
            "gap, which vanishes when q is the posterior and grows when q is moved or its width changed.",
            (0, 1),
            (0, 8),
            [
                Bars([0.5], [-elbo], "vermillion", "gap", width=0.5),
                Bars([0.5], [-log_p], "grey", "−log p(x)", width=0.5),
            ],
            "x = 2.5",
            "−ELBO",
            xticks=[],
            width=170,
        )
        sampler = Panel(
            "q as a proposal",
            "One bar, the share of draws from q that count after weighting. It is full when q is the posterior, falls slowly "
            "as q widens, and falls to nothing when q is 1 over root 2 of the posterior's width or narrower.",
            (0, 1),
            (0, 100),
            [Bars([0.5], [100 * share], "blue", "effective share", width=0.5)],
            "draws that count",
            "ESS / n, %",
            xticks=[],
            width=170,
        )
        readout = [
            ("ELBO", f"{sig(elbo)} nats"),
            ("gap KL(q ‖ p(z | x))", f"{sig(gap) if gap > 1e-12 else '0'} nats"),
            ("their sum, log p(x)", f"{sig(elbo + gap)} nats"),
            ("ESS / n", f"{100 * share:.1f} %"),
        ]
        return Frame([curves, bound, sampler], readout)

    means = [k / 8 for k in range(17)]
    return Explorer(
        "elbo-gap",
        [
            Slider("mean of q", means, start=means.index(0.5), format=lambda m: f"{m:.3f}".replace("-", "−")),
            Slider("width of q (posterior: 1)", list(widths), start=list(widths).index("1.5")),
        ],
        draw,
        title="What the ELBO leaves out is the distance of q from the posterior",
        caption="Whatever q is, ELBO and gap add up to the same log p(x). At mean 1 and width 1 the gap is 0. Keep the mean at "
        "1: at width ½ the gap is smaller than at width √5, yet as a proposal q is worse, for its weights have no variance.",
    )


# Chapter 04: the forward process ----------------------------------------------------------------------------------


def forward_process_explorer() -> Explorer:
    """Slide t: the density of x_t leaves the data and becomes N(0, 1), at a pace that the schedule sets (T = 1000)."""
    data = GaussianMixture(weights=[0.3, 0.7], means=[-1.2, 0.8], variances=[0.05, 0.10])
    schedules = {"linear": NoiseSchedule.linear(), "cosine": NoiseSchedule.cosine(), "quadratic": NoiseSchedule.quadratic()}
    x = torch.linspace(-3, 3, 241, dtype=torch.float64)
    fine = torch.linspace(-8, 8, 3201, dtype=torch.float64)
    noise = Gaussian(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))

    def merged_at(schedule: NoiseSchedule) -> int:
        """The first t at which the density only rises, then only falls."""
        oracle = Oracle(data, GaussianDiffusion(schedule))

        def one_peak(t: int) -> bool:
            rises = oracle.log_q(fine, t).diff() > 0
            return not (rises[1:] & ~rises[:-1]).any()

        return bisect.bisect_left(range(schedule.T + 1), True, key=one_peak)

    merged = ", ".join(f"t\u00a0=\u00a0{merged_at(schedule)} ({name})" for name, schedule in schedules.items())

    def draw(t: int, name: str) -> Frame:
        schedule = schedules[name]
        oracle = Oracle(data, GaussianDiffusion(schedule))
        log_q = oracle.log_q(fine, t)
        kl = torch.trapezoid(log_q.exp() * (log_q - noise.log_prob(fine)), fine)
        signal, spread = schedule.alpha_bars.sqrt(), (1 - schedule.alpha_bars).sqrt()
        steps = torch.arange(0, schedule.T + 1, 10)
        density = Panel(
            "Where x_t is",
            "Curves over x_t. At t = 0 the density of x_t has a low narrow peak at -1.2 and a high one at 0.8. As t grows the "
            "peaks move towards 0, widen and merge, until the curve lies on the bell of the standard normal.",
            (-3, 3),
            (0, 1),
            [
                Line(x, data.log_prob(x).exp(), "grey", "data, q(x_0)", width=1.2),
                Line(x, noise.log_prob(x).exp(), "vermillion", "N(0, 1)", dash=True),
                Line(x, oracle.log_q(x, t).exp(), "blue", "q(x_t)", fill=True),
            ],
            "x_t",
            "density",
        )
        amplitudes = Panel(
            "Signal and noise",
            "Two curves over t. The signal's factor, the root of alpha bar, falls from 1 to almost 0; the noise's factor, the "
            "root of 1 minus alpha bar, rises from 0 to almost 1. Two dots mark the chosen t.",
            (0, schedule.T),
            (0, 1),
            [
                Line([t, t], [0, 1], "grey", width=1.2),
                Line(steps, signal[steps], "green", "√ᾱ_t"),
                Line(steps, spread[steps], "purple", "√(1−ᾱ_t)"),
                Points(t, signal[t], "green"),
                Points(t, spread[t], "purple"),
            ],
            "t",
            "factor",
            xticks=[0, 500, 1000],
            width=230,
        )
        readout = [
            ("t", str(t)),
            ("ᾱ_t", sig(schedule.alpha_bars[t])),
            ("SNR", sig(schedule.snr[t])),
            ("KL(q(x_t) ‖ N(0, 1))", f"{sig(kl)} nats"),
        ]
        return Frame([density, amplitudes], readout)

    return Explorer(
        "forward-process",
        [Slider("step t", range(0, 1001, 25), start=8), Choice("schedule", list(schedules))],
        draw,
        title="The forward process turns data with two modes into standard normal noise",
        caption="All three schedules end in nearly the same noise; they differ in where along the way the structure is lost. "
        f"The two peaks have become one at {merged}.",
    )


# Chapter 05: the posterior ----------------------------------------------------------------------------------------


def posterior_explorer() -> Explorer:
    """Slide t and x_t: prior times likelihood is the posterior q(x_{t-1} | x_t, x_0), for x_0 = 1 and T = 10 steps.

    t starts at 2: at t = 1 the prior and the posterior are both the point x_0 and have no density to draw.
    """
    diffusion = GaussianDiffusion(NoiseSchedule.linear(T=10, beta_1=0.1, beta_T=0.5))
    schedule = diffusion.schedule
    x_0, one, zero = (torch.tensor(value, dtype=torch.float64) for value in (1.0, 1.0, 0.0))
    x = torch.linspace(-8, 8, 481, dtype=torch.float64)
    steps = torch.arange(1, schedule.T + 1)

    def upright(at, height, label):
        # The line and its name; each has its own height, so that names never meet.
        return Line([0, 0], [0, height], "grey", width=1.2, shift=float(at)), Text(float(at), height + 0.03, label)

    def draw(t: int, x_t: float) -> Frame:
        seen = torch.tensor(x_t, dtype=torch.float64)
        prior, posterior = diffusion.q_marginal(x_0, t - 1), diffusion.q_posterior(x_0, seen, t)
        of_x_0, of_x_t = diffusion.q_posterior(one, zero, t).mean, diffusion.q_posterior(zero, one, t).mean
        # With x_t, the likelihood and the posterior only move sideways.
        centre, mean = seen / schedule.alphas[t].sqrt(), posterior.mean

        def likelihood(x_s):
            return diffusion.q_step(x_s, t).log_prob(seen).exp()

        def density(x_s):
            return posterior.log_prob(x_s).exp()

        curves = Panel(
            "Prior × likelihood = posterior, up to the area",
            "Three bells over the earlier state. The prior sits where x_0 sends it, the likelihood near x_t. The posterior "
            "stands between their centres and is narrower than both. A shaded bell below it, the product of the first two, "
            "has the same centre and width; it shrinks when x_t is far from where x_0 sends it.",
            (-4, 4),
            (0, 2),
            [
                Line(x, prior.log_prob(x).exp(), "blue", "prior q(x_{t-1} | x_0)"),
                Line(x, likelihood(x + centre), "vermillion", "likelihood q(x_t | x_{t-1})", shift=float(centre)),
                Band(x, 0, likelihood(x) * prior.log_prob(x).exp(), "green", "prior × likelihood"),
                Line(x, density(x + mean), "green", "posterior q(x_{t-1} | x_t, x_0)", shift=float(mean)),
                *upright(x_0, 1.86, "x_0"),
                *upright(seen, 1.71, "x_t"),
                Points(mean, density(mean), "green", "its mean μ̃_t"),
            ],
            "x_{t-1}",
            "density",
        )
        variances = Panel(
            "Variance",
            "Two curves over t: beta_t rises on a straight line from 0.1 to 0.5; beta tilde_t starts at 0 for t = 1 and comes "
            "up to it from below. Two dots mark the chosen t.",
            (0, schedule.T),
            (0, 0.6),
            [
                Line([t, t], [0, 0.6], "grey", width=1.2),
                Line(steps, schedule.betas[steps], "ink", "β_t", dash=True),
                Line(steps, schedule.beta_tildes[steps], "green", "β̃_t"),
                Points(t, schedule.betas[t], "ink"),
                Points(t, schedule.beta_tildes[t], "green"),
            ],
            "t",
            "variance",
            width=230,
        )
        readout = [
            ("t", str(t)),
            ("x_t", f"{x_t:.2f}".replace("-", "−")),
            ("mean μ̃_t", f"{sig(of_x_0)} · x_0 + {sig(of_x_t)} · x_t = {sig(mean)}"),
            ("variance β̃_t", sig(posterior.var)),
            ("β_t", sig(schedule.betas[t])),
            ("area of the product, q(x_t | x_0)", sig(diffusion.q_marginal(x_0, t).log_prob(seen).exp())),
        ]
        return Frame([curves, variances], readout)

    return Explorer(
        "posterior",
        [
            Slider("step t", range(2, schedule.T + 1), start=2),
            Slider("x_t", np.linspace(-2, 2, 17).tolist(), start=8, format=lambda x_t: f"{x_t:.2f}".replace("-", "−")),
        ],
        draw,
        title="The posterior of one step back is the product of a prior and a likelihood",
        caption="The posterior is the product, rescaled to area 1. Its mean stands between the two centres, nearer to the "
        "narrower curve. It is narrower than either, and its variance depends on t alone: whatever x_t is, it is β̃_t.",
    )


# Chapter 02: Gaussians --------------------------------------------------------------------------------------------


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


# Chapter 06: the diffusion ELBO -------------------------------------------------------------------------------------


def diffusion_elbo_explorer() -> Explorer:
    """Bend the reverse step away from the exact one, for N(0, 1) data and T = 10: what the bound and its gap do, step by step.

    The exact reversal has mean √α_t x_t and variance β_t; the sliders multiply the mean and the variance.
    """
    diffusion = GaussianDiffusion(NoiseSchedule.linear(T=10, beta_1=0.1, beta_T=0.5))
    schedule = diffusion.schedule
    # Every term is quadratic in x_0, so its mean over N(0, 1) is its mean over these two, which share the first two moments.
    pair = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    data = Gaussian(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    terms, steps = torch.arange(0, schedule.T + 1), torch.arange(1, schedule.T + 1)

    def model(stretch: float, ratio: float) -> LinearGaussianChain:
        return LinearGaussianChain(diffusion, stretch * schedule.alphas[1:].sqrt(), 0.0, ratio * schedule.betas[1:])

    exact = model(1.0, 1.0).bound_terms(pair).mean(0)

    def draw(ratio: float, stretch: float) -> Frame:
        chain = model(stretch, ratio)
        bound, gap = chain.bound_terms(pair).mean(0), chain.gap_terms(pair).mean(0)
        left = Panel(
            "The bound, term by term",
            "Eleven bars, L_0 to L_T, averaged over the data; wide grey bars behind them show the exact reversal. Away from "
            "it every bar rises above its grey one, except the last: L_T never moves.",
            (-0.7, schedule.T + 0.7),
            (0, 1.3),
            [
                Bars(terms, exact, "grey", "exact reversal", width=0.9),
                Bars(terms, bound, "blue", "L_0, L_1, …, L_T", width=0.55),
            ],
            "k of L_k",
            "nats",
            xticks=[0, 2, 4, 6, 8, 10],
        )
        right = Panel(
            "The gap, step by step",
            "Ten bars, one for each step from 1 to 10. All are zero at the exact reversal and grow away from it, the first "
            "steps most when the variance is too large.",
            (0.3, schedule.T + 0.7),
            (0, 0.5),
            [Bars(steps, gap, "vermillion", "E KL(q(x_t | x_{t-1}) ‖ p(x_t | x_{t-1}))", width=0.55)],
            "step t",
            "nats",
            xticks=[2, 4, 6, 8, 10],
        )
        readout = [
            ("bound L", f"{float(bound.sum()):.3f}"),
            ("entropy of the data", f"{float(data.entropy()):.3f}"),
            ("KL(data ‖ model)", f"{float(data.kl(chain.marginal(0))):.3f}"),
            ("gap", f"{abs(float(gap.sum())):.3f}"),
        ]
        return Frame([left, right], readout)

    return Explorer(
        "diffusion-elbo",
        [
            Slider("variance / β_t", [0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0], 3),
            Slider("mean / (√α_t x_t)", [0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2], 4),
        ],
        draw,
        title="The bound and its gap, step by step, as the reverse step leaves the exact one",
        caption="Bound = entropy of the data + KL(data ‖ model) + gap. Training can only lower the last two. Try the variance "
        "at 3 and the mean at 1: the model of the data is not far off, yet the gap is large, because the path back "
        "is noisier than the forward one.",
    )


# Chapter 07: predicting the noise ---------------------------------------------------------------------------------


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


# Chapter 08: the reverse variance -----------------------------------------------------------------------------------


def reverse_variance_explorer() -> Explorer:
    """Slide t and x_t, for data with two modes and T = 10: the true variance of a step back, beside β_t and β̃_t.

    t starts at 2: at t = 1, β̃ is 0 and has no density to draw.
    """
    diffusion = GaussianDiffusion(NoiseSchedule.linear(T=10, beta_1=0.1, beta_T=0.5))
    schedule = diffusion.schedule
    oracle = Oracle(GaussianMixture(weights=[0.3, 0.7], means=[-1.2, 0.8], variances=[0.05, 0.10]), diffusion)
    x = torch.linspace(-2.4, 2.4, 193, dtype=torch.float64)
    u = torch.linspace(-3.6, 3.6, 361, dtype=torch.float64)
    wide = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    steps = range(2, schedule.T + 1)
    curves = {t: (oracle.log_q(x, t).exp(), oracle.sigma2_optimal(x, t) / schedule.betas[t]) for t in steps}
    averages = {t: torch.trapezoid(oracle.log_q(wide, t).exp() * oracle.sigma2_optimal(wide, t), wide) for t in steps}

    def draw(t: int, x_t: float) -> Frame:
        seen = torch.tensor([x_t], dtype=torch.float64)
        mean, truth = (float(m) for m in oracle.q_s_moments(seen, t))
        beta_t, beta_tilde_t = schedule.betas[t], schedule.beta_tildes[t]
        density, ratio = curves[t]

        def bell(var: Tensor) -> Tensor:
            return Gaussian(torch.zeros_like(u), var).log_prob(u).exp()

        where = Panel(
            "The variance of a step back, in units of β_t",
            "A curve over x_t, the true variance, between two level lines, β tilde below and β at 1; a shaded density of x_t "
            "with two humps that merge as t grows. Between the modes the curve rises above β, most at small t; at the outside "
            "it comes near β tilde. For large t the three lie close together.",
            (-2.4, 2.4),
            (0, 2.4),
            [
                Band(x, 0, density, "grey", "density of x_t"),
                Line([-2.4, 2.4], [1, 1], "vermillion", "β_t", dash=True),
                Line([-2.4, 2.4], [beta_tilde_t / beta_t] * 2, "green", "β̃_t", dash=True),
                Line(x, ratio, "blue", "truth"),
                Points(x_t, truth / beta_t, "blue"),
            ],
            "x_t",
            "Var / β_t",
        )
        step = Panel(
            "One step back from this x_t",
            "The true density of the earlier state, shaded, and two bells with its mean: the one with variance β and the "
            "narrower one with β tilde. Far out the truth is a bell between the two; in the valley at small t it has two "
            "peaks, and both bells are too narrow.",
            (-2.4, 2.4),
            (0, 2),
            [
                Band(u, 0, oracle.q_s_log_prob(u, seen, t).exp(), "blue", "q(x_{t-1} | x_t)"),
                Line(u, bell(beta_t), "vermillion", "variance β_t", shift=mean),
                Line(u, bell(beta_tilde_t), "green", "variance β̃_t", shift=mean),
            ],
            "x_{t-1}",
            "density",
            width=330,
        )
        readout = [
            ("t", str(t)),
            ("x_t", f"{x_t:.2f}".replace("-", "−")),
            ("β̃_t", sig(beta_tilde_t)),
            ("truth", sig(truth)),
            ("its average over x_t", sig(averages[t])),
            ("β_t", sig(beta_t)),
        ]
        return Frame([where, step], readout)

    return Explorer(
        "reverse-variance",
        [
            Slider("step t", steps, start=1),
            Slider("x_t", np.linspace(-2, 2, 17).tolist(), start=7, format=lambda x_t: f"{x_t:.2f}".replace("-", "−")),
        ],
        draw,
        title="The true variance of one step back, beside the two that DDPM chooses from",
        caption="β_t bounds the average of the truth, for data of variance at most 1, but not the truth itself: between "
        "the modes x_0 could be on either side, and the step back is more uncertain than either choice says.",
    )


# Chapter 09: bits -------------------------------------------------------------------------------------------------


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
