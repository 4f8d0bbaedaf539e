"""The machinery of the interactive figures, and what holds for each of them; test_explorers_chNN.py hold the chapters' own."""

import functools
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from explorer_pages import at_position, live_picture, picture

import ddpm_edu.explorers as package
from ddpm_edu.explorers import MAX_BYTES, Band, Bars, Choice, Explorer, Frame, Line, Panel, Points, Slider, Text, sig

BUILDERS = {name.removesuffix("_explorer"): build for name, build in vars(package).items() if name.endswith("_explorer")}


@functools.cache
def built(name: str) -> Explorer:
    return BUILDERS[name]()


def small(draw=None, sliders=None, **kwargs):
    """An explorer of 3 x 2 positions that uses every kind of mark."""

    def every_mark(a, b):
        x = np.linspace(0, 1, 5)
        marks = [
            Line(x, a * x / 4, "blue", "line", dash=True, fill=True),
            Line([0, 0], [0, 1], "grey", shift=a / 4),
            Band(x, 0.1, 0.2 + a * x / 8, "green", "band"),
            Bars([0.25, 0.75], [a / 4, 0.5], "purple", "bars", width=0.2),
            Points([0.5], [a / 4], "ink", "dot"),
            Text(0.5, 0.9, "x_{t-1} < " + b),
        ]
        return Frame([Panel("All of x_t", "A test.", (0, 1), (0, 1), marks, "x_t", "y")], [("x_t", sig(a)), ("b", b)])

    sliders = [Slider("x_t", [0, 1, 2], start=1), Choice("kind", ["p", "q"])] if sliders is None else sliders
    texts = {"title": "Every mark", "caption": "A & B < C.", **kwargs}
    return Explorer(texts.pop("name", "small"), sliders, draw or every_mark, **texts)


# The package -----------------------------------------------------------------------------------------------------


def test_every_chapter_is_loaded_and_tested():
    files = sorted(Path(package.__file__).parent.glob("ch*.py"))
    written = [name for path in files for name in re.findall(r"^def (\w+)_explorer\(", path.read_text(encoding="utf-8"), re.M)]
    assert sorted(written) == sorted(BUILDERS)
    for path in files:
        assert Path(__file__).with_name(f"test_explorers_{path.name}").exists(), path.name


def test_names_are_unique():
    assert len({built(name).name for name in BUILDERS}) == len(BUILDERS)


# Both faces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
def test_static_html_is_deterministic_small_and_asks_for_nothing(name):
    text = built(name).to_html()
    assert BUILDERS[name]().to_html() == text
    assert len(text.encode()) < MAX_BYTES
    for request in ("http", "//cdn", "src=", "href=", "@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert request not in text


@pytest.mark.parametrize("name", BUILDERS)
def test_static_html_is_accessible(name):
    page = BeautifulSoup(built(name).to_html(), "html.parser")
    root = page.find(class_="ddpm-explorer")
    assert root["id"] == f"ddpm-{built(name).name}" and root["aria-label"]
    ids = [el["id"] for el in page.find_all(id=True)]
    assert len(ids) == len(set(ids)) and all(i.startswith(root["id"]) for i in ids)
    panels = page.select(".ddpm-panel > svg")
    assert panels
    for svg in panels:
        assert svg["role"] == "img"
        assert [page.find(id=i).text != "" for i in svg["aria-labelledby"].split()] == [True, True]
    assert page.find(class_="ddpm-readout")["aria-live"] == "polite"
    for control in page.find_all("input"):
        assert control["type"] in ("range", "radio")
        assert control.get("aria-label") or control.parent.name == "label"


@pytest.mark.parametrize("position", list(itertools.product(range(3), range(2))))
def test_both_faces_agree_at_every_position_of_a_small_explorer(position):
    explorer = small()
    assert picture(at_position(explorer.to_html(), position)) == live_picture(explorer, position)


@pytest.mark.parametrize("name, position", [("forward_process", (0, 2)), ("forward_process", (33, 1)), ("posterior", (8, 16))])
def test_both_faces_agree(name, position):
    assert picture(at_position(built(name).to_html(), position)) == live_picture(built(name), position)


def test_live_face_redraws_when_a_control_moves():
    slider, choice, view = small().widget().children
    seen = {view.value}
    slider.value = 2
    seen.add(view.value)
    choice.value = 1
    seen.add(view.value)
    assert len(seen) == 3 and "script" not in view.value


def test_mime_bundle_has_the_widget_only_where_a_kernel_runs(monkeypatch):
    explorer = small()
    assert set(explorer._repr_mimebundle_()) == {"text/plain", "text/html"}
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: object())
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    assert bundle["text/html"] == explorer.to_html()
    assert bundle["text/plain"] == "Explorer('small': x_t: 3 positions, kind: 2 positions)"


def test_text_is_escaped_and_scripts_are_set():
    text = small().to_html()
    assert "A &amp; B &lt; C." in text and "x<sub>t</sub>" in text and "All of x_t</title>" in text
    assert '<tspan dy="0.29em" font-size="75%">t−1</tspan><tspan dy="-0.22em"> &lt; p</tspan>' in text


def test_constant_parts_are_stored_once():
    page = BeautifulSoup(small().to_html(), "html.parser")
    data = json.loads(page.find("script", type="application/json").string)
    assert data["shape"] == [3, 2]
    assert {tuple(slot["axes"]) for slot in data["slots"]} == {(0,), (1,)}
    assert all(len(slot["values"]) == data["shape"][slot["axes"][0]] for slot in data["slots"])


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0.00"),
        (1.2345, "1.23"),
        (-0.04567, "−0.0457"),
        (1234, "1234"),
        (9.999, "10.0"),
        (0.00012345, "1.23 × 10^{−4}"),
        (2.5e7, "2.50 × 10^{7}"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
        (float("nan"), "undefined"),
    ],
)
def test_sig(value, text):
    assert sig(value) == text


# What is refused -------------------------------------------------------------------------------------------------


def panel(**changes):
    plain = {"title": "P", "alt": "A.", "x": (0, 1), "y": (0, 1), "marks": [Line([0, 1], [0, 1])], "xlabel": "x", "ylabel": "y"}
    return Panel(**{**plain, **changes})


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: small(sliders=[]), "sliders of 'small' is empty"),
        (lambda: Slider("t", []), "'t' has no values"),
        (lambda: Choice("t", []), "'t' has no values"),
        (lambda: Slider(" ", [1]), "label is empty"),
        (lambda: Slider("t", [1, 2], start=2), r"start = 2 of 't' is outside 0\.\.1"),
        (lambda: small(name="Two Words"), "name = 'Two Words'"),
        (lambda: small(caption=" "), "caption of explorer 'small' is empty"),
        (lambda: small(title=""), "title of explorer 'small' is empty"),
        (lambda: panel(alt=""), "needs alt"),
        (lambda: panel(xlabel=""), "needs xlabel"),
        (lambda: panel(x=(1, 0)), r"x = \(1, 0\)"),
        (lambda: panel(y=(0, float("inf"))), "must be finite"),
        (lambda: panel(marks=[]), "no marks"),
    ],
)
def test_refuses_what_cannot_be_shown(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"marks": [Line([0, 1], [0, float("nan")])]}, "NaN or infinity"),
        ({"marks": [Line([0, 1], [0, 1], "pink")]}, "colour = 'pink' is unknown"),
        ({"marks": [Line([], [])]}, "length >= 1"),
        ({"marks": [Text(0, 0, "a", anchor="left")]}, "anchor = 'left'"),
        ({"xticks": [2]}, "tick 2 is outside"),
    ],
)
def test_refuses_marks_that_cannot_be_drawn(changes, message):
    with pytest.raises(ValueError, match=message):
        small(lambda a, b: Frame([panel(**changes)], [])).to_html()


def test_refuses_frames_with_different_marks():
    def draw(a, b):
        return Frame([panel(marks=[Line([0, 1], [0, 1])] * (a + 1))], [])

    with pytest.raises(ValueError, match=r"other marks at position \(1, 0\) than at \(0, 0\)"):
        small(draw).to_html()


def test_refuses_a_page_that_is_too_large():
    noise = np.random.default_rng(0).random((40, 2000))

    def draw(k):
        return Frame([panel(marks=[Line(np.linspace(0, 1, 2000), noise[k])])], [])

    with pytest.raises(ValueError, match=f"more than {MAX_BYTES}"):
        small(draw, [Slider("k", range(40))]).to_html()


# In a browser ----------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_the_keyboard_moves_the_picture_without_any_request(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    html = "".join(built(name).to_html() for name in BUILDERS)
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8><body>{html}", encoding="utf-8")
    requests, errors = [], []
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=flags)
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: errors.append(error))
        tab.goto((tmp_path / "page.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        for name, moves in (("forward_process", (3, 1)), ("posterior", (2, 4))):
            explorer = built(name)
            for axis, move in enumerate(moves):
                tab.locator(f"#ddpm-{explorer.name} [data-axis='{axis}']").nth(0).focus()
                for _ in range(move):
                    tab.keyboard.press("ArrowRight")
            position = [start + move for start, move in zip(explorer.start, moves)]
            shown = BeautifulSoup(tab.locator(f"#ddpm-{explorer.name}").evaluate("e => e.outerHTML"), "html.parser")
            want = BeautifulSoup(explorer._page(tuple(position)).html(), "html.parser")
            assert [el["d"] for el in shown.select("svg path")] == [el["d"] for el in want.select("svg path")]
            assert shown.find(class_="ddpm-readout").text == want.find(class_="ddpm-readout").text
            assert [el.text for el in shown.find_all("output")] == [el.text for el in want.find_all("output")]
            assert [el.get("aria-valuetext") for el in shown.find_all("input")] == [
                el.get("aria-valuetext") for el in want.find_all("input")
            ]
        browser.close()
    assert not errors
    assert all(url.startswith("file:") for url in requests)
