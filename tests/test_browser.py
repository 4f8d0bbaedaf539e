"""The built book in a real browser, with every request to another server blocked: what a reader on a train would see."""

import functools
import http.server
import threading
from pathlib import Path

import pytest
import stages

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGES = sorted(
    path.relative_to(HTML).as_posix() for folder in ("book", "notebooks") for path in HTML.glob(f"{folder}/*.html")
) or ["nothing"]
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]

pytestmark = [
    pytest.mark.skipif(not stages.PAGE.is_file(), reason="the book is not built: make book"),
    pytest.mark.skipif(stages.chromium() is None, reason="no Chromium or Chrome found; CHROMIUM can name one"),
]

CONTRAST = """
(selector) => {
  const rgba = (c) => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgba(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0.5) return light(c);
    }
    return 1;
  };
  return [...document.querySelectorAll(selector)].map((e) => {
    const [a, b] = [light(rgba(getComputedStyle(e).color)), ground(e)].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.textContent.trim().slice(0, 40)];
  });
}
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site():
    handler = functools.partial(Quiet, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=stages.chromium(), headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, site):
    """Open a page of the book; at the end of the test nothing may have gone wrong on it."""
    wrong, contexts = [], []

    def open_(path: str, width: int = 1200, dark: bool = False):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        contexts.append(context)
        page = context.new_page()

        def gate(route):
            url = route.request.url
            if url.startswith(site):
                return route.continue_()
            wrong.append(f"a request to another server: {url}")
            return route.abort()

        page.route("**/*", gate)
        page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda e: wrong.append(f"script error: {e}"))
        page.on("requestfailed", lambda r: wrong.append(f"failed request: {r.url}"))
        page.on("response", lambda r: wrong.append(f"status {r.status}: {r.url}") if r.status >= 400 else None)
        page.goto(site + path, wait_until="load")
        if page.locator(".math").count():
            page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
            page.evaluate("MathJax.startup.promise")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", PAGES)
def test_page_is_whole(open_page, path):
    """No error, no failed or foreign request (see `open_page`); all math is typeset."""
    page = open_page(path)
    assert page.locator("article h1").count() == 1
    sources, typeset = page.locator("article .math").count(), page.locator("article .math > mjx-container").count()
    assert sources == typeset
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    text = page.locator("article").inner_text()
    assert not [raw for raw in (r"\tag", r"\frac", r"\begin", "$$", "[!") if raw in text]
    assert page.locator("article img:not([alt]), article img[alt='']").count() == 0


@pytest.mark.parametrize("path", CHAPTERS)
def test_chapter_has_math_and_its_links_lead_somewhere(open_page, path):
    page = open_page(path)
    assert page.locator("article mjx-container").count() > 0
    links = page.locator("article a.reference.internal[href*='#eq-']")
    assert links.count() > 0
    dead = """[...document.querySelectorAll("article a[href^='#']")].map(a => decodeURIComponent(a.hash.slice(1)))
              .filter(id => id && !document.getElementById(id))"""
    assert page.evaluate(dead) == []


@pytest.mark.parametrize("path", PAGES)
def test_phone_does_not_scroll_sideways(open_page, path):
    page = open_page(path, width=390)
    wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1], f"the page is {wide[0]} px wide on a screen of {wide[1]}"
    # What sticks out of the text column must scroll inside its own box, not be cut off.
    cut = page.evaluate(
        """[...document.querySelectorAll('article div.math, article pre, article table')].filter(e => {
             if (e.getBoundingClientRect().width === 0) return false;
             for (let b = e; b && b.tagName !== 'ARTICLE'; b = b.parentElement)
               if (['auto', 'scroll'].includes(getComputedStyle(b).overflowX)) return false;
             return [...e.querySelectorAll('mjx-container'), e].every(b =>
               b.scrollWidth > b.clientWidth + 1 && !['auto', 'scroll'].includes(getComputedStyle(b).overflowX));
           }).map(e => e.textContent.slice(0, 60))"""
    )
    assert not cut


@pytest.mark.parametrize("path", CHAPTERS)
@pytest.mark.parametrize("width", [390, 1200])
def test_explorer_moves(open_page, path, width):
    """Every control changes the picture and the read-out, with the keyboard, as a reader without a mouse would."""
    page = open_page(path, width=width)
    explorers = page.locator(".ddpm-explorer")
    assert explorers.count() > 0
    for k in range(explorers.count()):
        explorer = explorers.nth(k)
        readout = explorer.locator("[aria-live]")
        assert readout.count() > 0
        sliders = explorer.locator("input[type=range]")
        assert sliders.count() > 0
        for j in range(sliders.count()):
            slider = sliders.nth(j)
            before = (_picture(explorer), readout.first.inner_text(), slider.input_value())
            at_end = slider.input_value() == slider.get_attribute("max")
            slider.focus()
            for _ in range(3):
                slider.press("ArrowLeft" if at_end else "ArrowRight")
            after = (_picture(explorer), readout.first.inner_text(), slider.input_value())
            assert all(a != b for a, b in zip(before, after)), f"slider {j} of explorer {k} changes nothing"
            for svg in explorer.locator("svg[role=img]").all():
                assert svg.bounding_box()["width"] > 100
        assert "NaN" not in explorer.inner_html()


def _picture(explorer) -> str:
    return "".join(svg.inner_html() for svg in explorer.locator("svg").all())


@pytest.mark.parametrize("path", CHAPTERS)
@pytest.mark.parametrize("dark", [False, True])
def test_outputs_are_readable_in_both_modes(open_page, path, dark):
    """Text of outputs and explorers stands out from what is behind it (WCAG AA: 4.5 to 1)."""
    page = open_page(path, dark=dark)
    assert page.evaluate("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    selector = ".cell_output pre, .ddpm-explorer figcaption, .ddpm-explorer label, .ddpm-explorer [aria-live]"
    seen = page.evaluate(CONTRAST, selector)
    assert seen
    faint = [(round(ratio, 1), text) for ratio, text in seen if ratio < 4.5]
    assert not faint


@pytest.mark.parametrize("path", CHAPTERS)
def test_solutions_open(open_page, path):
    """Solutions are folded until asked for, and their math is typeset inside."""
    page = open_page(path)
    folded = page.locator("article details:has(summary)")
    for k in range(folded.count()):
        box = folded.nth(k)
        assert box.get_attribute("open") is None
        box.locator("summary").first.click()
        assert box.locator("summary ~ *").first.is_visible()
