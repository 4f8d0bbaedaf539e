"""What the interactive figures are made of: one object with two faces.

In a running notebook an `Explorer` is a set of ipywidgets sliders over a picture that Python redraws. On the static
page it is a piece of HTML that needs no kernel and no network: the picture as inline SVG, what the sliders change as
precomputed JSON, and a small script that swaps it in. Both faces come from one renderer, and no formula is written in
JavaScript, so they cannot disagree with the package or with each other.

How to add one
--------------
1. Write a function `my_explorer() -> Explorer` in the file of its chapter, `chNN.py`, with everything it needs inside, so
   that a chapter's cell is one line, and give the file its line in `__init__.py`. `draw(*values)` takes one value from
   each slider and returns a `Frame`: panels and a read-out. Every number in it comes from a function of the package.
2. A `Panel` has fixed axes (nothing jumps while the slider moves) and a list of marks: `Line`, `Points`, `Bars`,
   `Band`, `Text`. `draw` returns the same marks in the same order at every position; only their data change.
3. Give each panel an `alt`: what one sees, and how it changes. The numbers themselves go into the read-out. Text may
   hold subscripts and superscripts: "x_t", "x_{t-1}", "10^{-3}".
4. The page holds all positions: keep their number (the product of the sliders' lengths) near 200. A curve that only
   moves sideways with one slider costs nothing with `Line(x - m, y, shift=m)`. Above `MAX_BYTES` it is refused.
5. Test it in `tests/test_explorers_chNN.py` as the others are tested: read the numbers back out of the HTML
   (`tests/explorer_pages.py` does that) and get them by another route. What holds for every explorer (size, access, no
   request) `tests/test_explorers.py` asks of each `*_explorer` that `__init__.py` loads.
"""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ..plots import COLOURS

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
class _Series:
    """What marks at (x, y) share: the data, a colour of `plots.COLOURS` or "ink", and a name in the legend."""

    x: Any
    y: Any
    colour: str = "blue"
    label: str = ""


@dataclass(frozen=True)
class Line(_Series):
    """A curve through (x + shift, y). `fill` shades the area below it, `dash` breaks it, `label` puts it in the legend."""

    dash: bool = False
    fill: bool = False
    width: float = 2
    shift: float | None = None


@dataclass(frozen=True)
class Bars(_Series):
    """Vertical bars from 0 to y, centred at x, each `width` wide in units of the x-axis."""

    width: float = 0.8


@dataclass(frozen=True)
class Points(_Series):
    """Dots of `radius` at (x, y)."""

    radius: float = 4


@dataclass(frozen=True)
class Band:
    """The area between two curves over the same x."""

    x: Any
    low: Any
    high: Any
    colour: str = "blue"
    label: str = ""


@dataclass(frozen=True)
class Text:
    """A few words at (x, y): "start", "middle" or "end" of them stands there."""

    x: float
    y: float
    text: str
    colour: str = "ink"
    anchor: str = "middle"


Mark = Line | Bars | Points | Band | Text


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
        xs, ys = np.broadcast_arrays(np.atleast_1d(self.sx(m.x)), np.atleast_1d(self.sy(m.y)))
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
