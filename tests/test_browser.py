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
CHAPTERS = sorted(f"notebooks/{path.name}" for path in HTML.glob("notebooks/[0-9]*.html"))
OTHERS = [*HTML.glob("notebooks/[a-z]*.html"), *HTML.glob("book/*.html")]  # the back matter, some of it notebooks
PAGES = CHAPTERS + sorted(f"{path.parent.name}/{path.name}" for path in OTHERS) or ["nothing"]
# Every page is looked at twice: on a desk by day, and on a phone by night.
LOOKS = {"desk": {"width": 1200, "dark": False}, "phone": {"width": 390, "dark": True}}
PATIENCE = 120_000  # ms; a busy machine is no reason to fail
HEAVIEST = 1_500_000  # bytes of a page and all it loads, apart from fonts and MathJax, which are loaded once for all pages
SLOWEST = 2.0  # seconds of the processor's time until a page has loaded

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


AS_OPENED = """
document.querySelectorAll('.ddpm-explorer input').forEach((control) => {
  [control.value, control.checked] = [control.defaultValue, control.defaultChecked];
  ['input', 'change'].forEach((what) => control.dispatchEvent(new Event(what, { bubbles: true })));
})
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


def looks(paths: list[str]) -> list[tuple[str, str]]:
    return [(path, look) for path in paths for look in LOOKS]


class Page:
    """A page of the book that notes what goes wrong on it, and what it loads."""

    def __init__(self, browser, site: str, path: str, look: str):
        self.path, self.site, self.wrong, self.weights = path, site, [], {}  # address -> bytes
        self.context = browser.new_context(**self.as_seen(look))
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.page.route("**/*", self._gate)
        self.page.on("console", lambda m: self.wrong.append(f"console: {m.text}") if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.wrong.append(f"script error: {e}"))
        self.page.on("requestfailed", lambda r: self.wrong.append(f"failed request: {r.url}"))
        self.page.on("response", self._answer)

    @staticmethod
    def as_seen(look: str) -> dict:
        dark, width = LOOKS[look]["dark"], LOOKS[look]["width"]
        return {"viewport": {"width": width, "height": 900}, "color_scheme": "dark" if dark else "light"}

    def _gate(self, route):
        if route.request.url.startswith(self.site):
            return route.continue_()
        self.wrong.append(f"a request to another server: {route.request.url}")
        return route.abort()

    def _answer(self, response):
        self.weights[response.url] = int(response.headers.get("content-length", 0))
        if response.status >= 400:
            self.wrong.append(f"status {response.status}: {response.url}")

    def load(self) -> None:
        self.page.goto(self.site + self.path, wait_until="load")

    def typeset(self) -> None:
        """All equations, not only those that are in view: what is tested is the whole page."""
        if self.page.locator(".math").count():
            self.page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
            self.page.evaluate("MathJax.startup.promise.then(() => MathJax.startup.document.lazyTypesetAll())")
            self.page.wait_for_function("!document.querySelector('mjx-lazy')")

    def look(self, look: str) -> None:
        """As when a reader makes the window narrow and night falls."""
        seen = self.as_seen(look)
        self.page.set_viewport_size(seen["viewport"])
        self.page.emulate_media(color_scheme=seen["color_scheme"])
        self.page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=seen["color_scheme"])
        self.page.evaluate(AS_OPENED)


@pytest.fixture(scope="module")
def shelf():
    """The page that is open at the moment, kept from one look to the next."""
    kept: list[Page] = []
    yield kept
    for page in kept:
        page.context.close()


@pytest.fixture(scope="module", params=looks(PAGES), ids="-".join)
def opened(request, browser, site, shelf):
    """(page, path, look, what went wrong on it so far); opened once for all the tests below."""
    path, look = request.param
    if not shelf or shelf[0].path != path:
        for page in shelf:
            page.context.close()
        shelf[:] = [Page(browser, site, path, look)]
        shelf[0].load()
        shelf[0].typeset()
    shelf[0].look(look)
    return shelf[0].page, path, look, shelf[0].wrong


@pytest.mark.alone
@pytest.mark.parametrize("path", PAGES)
def test_page_is_light_and_quick(path, browser, site):
    """On a phone; seconds are of the page's own thread, however busy the machine is."""
    page = Page(browser, site, path, "phone")
    meter = page.context.new_cdp_session(page.page)
    meter.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.load()
    seconds = {m["name"]: m["value"] for m in meter.send("Performance.getMetrics")["metrics"]}["TaskDuration"]
    page.context.close()
    weights = {url: n for url, n in page.weights.items() if "/mathjax/" not in url and not url.endswith((".woff", ".woff2"))}
    assert weights.get(site + path), "the page itself must be among what was weighed"
    heaviest = sorted(weights.items(), key=lambda item: -item[1])[:4]
    told = ", ".join(f"{url.rsplit('/', 1)[-1]} {n / 1000:.0f} kB" for url, n in heaviest)
    assert sum(weights.values()) <= HEAVIEST, f"{path} weighs {sum(weights.values()) / 1e6:.2f} MB: {told}"
    assert 0 < seconds <= SLOWEST, f"{path} takes {seconds:.1f} s to load"
    assert not page.wrong, "\n".join(page.wrong)


of_chapters = pytest.mark.parametrize("opened", looks(CHAPTERS), ids="-".join, indirect=True)


def test_page_is_whole(opened):
    page, *_ = opened
    assert page.locator("article h1").count() == 1
    sources, typeset = page.locator("article .math").count(), page.locator("article .math > mjx-container").count()
    assert sources == typeset
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    text = page.evaluate(
        """() => { const a = document.querySelector('article').cloneNode(true);
                   a.querySelectorAll('pre, code, script, style, mjx-container').forEach(e => e.remove());
                   return a.textContent; }"""
    )
    assert not [raw for raw in ("\\tag", "\\frac", "\\begin", "$", "[!") if raw in text]
    assert page.locator("article img:not([alt]), article img[alt='']").count() == 0


def test_links_inside_a_page_lead_somewhere(opened):
    dead = """[...document.querySelectorAll("article a[href^='#']")].map(a => decodeURIComponent(a.hash.slice(1)))
              .filter(id => id && !document.getElementById(id))"""
    assert opened[0].evaluate(dead) == []


def test_nothing_sticks_out(opened):
    """The page does not scroll sideways; what is wider than the text column scrolls inside its own box."""
    page, *_ = opened
    wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1], f"the page is {wide[0]} px wide on a screen of {wide[1]}"
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


def test_text_is_readable(opened):
    """Outputs, boxes and explorers stand out from what is behind them, by day and by night (WCAG AA: 4.5 to 1)."""
    page, _, look, _ = opened
    assert page.evaluate("document.documentElement.dataset.theme") == ("dark" if LOOKS[look]["dark"] else "light")
    parts = (
        ".cell_output pre",
        ".admonition p",
        ".ddpm-explorer figcaption",
        ".ddpm-explorer label",
        "[aria-live]",
        "article > * p",
    )
    faint = [(round(ratio, 1), text) for ratio, text in page.evaluate(CONTRAST, ", ".join(parts)) if ratio < 4.5]
    assert not faint


@of_chapters
def test_a_chapter_has_numbered_equations_and_links_to_them(opened):
    chapter, *_ = opened
    assert chapter.locator("article div.math[id^=eq-] mjx-container").count() > 0
    assert chapter.locator("article a.reference.internal[href*='#eq-']").count() > 0


@of_chapters
def test_explorers_move(opened):
    """Every control changes the picture and the read-out, with the keyboard, as a reader without a mouse would."""
    chapter, *_ = opened
    explorers = chapter.locator(".ddpm-explorer")
    assert explorers.count() > 0
    for k in range(explorers.count()):
        explorer = explorers.nth(k)
        sliders = explorer.locator("input[type=range]")
        choices = explorer.locator("input[type=radio]")
        assert sliders.count() + choices.count() > 0 and explorer.locator("[aria-live]").count() > 0
        if not sliders.count():  # radio buttons only
            for j in range(choices.count()):
                chosen, before = choices.nth(j).is_checked(), _seen(explorer, choices.nth(j))[:2]
                choices.nth(j).check()
                assert chosen or _seen(explorer, choices.nth(j))[:2] != before, f"choice {j} of explorer {k} changes nothing"
        for j in range(sliders.count()):
            slider = sliders.nth(j)
            before = _seen(explorer, slider)
            back = slider.input_value() == slider.get_attribute("max")
            slider.focus()
            for _ in range(3):
                slider.press("ArrowLeft" if back else "ArrowRight")
            same = [
                what for what, old, new in zip(("picture", "read-out", "value"), before, _seen(explorer, slider)) if old == new
            ]
            assert not same, f"slider {j} of explorer {k} leaves its {' and '.join(same)} as it was"
        for svg in explorer.locator("svg[role=img]").all():
            assert svg.bounding_box()["width"] > 100
        assert "NaN" not in explorer.inner_html()


def _seen(explorer, slider) -> tuple[str, str, str]:
    picture = explorer.evaluate("e => [...e.querySelectorAll('svg')].map(s => s.innerHTML).join()")
    return picture, explorer.locator("[aria-live]").first.inner_text(), slider.input_value()


@of_chapters
def test_solutions_are_folded_and_open(opened):
    chapter, *_ = opened
    boxes = chapter.locator("article details:has(summary)")
    for k in range(boxes.count()):
        summary = boxes.nth(k).locator("summary").first
        assert boxes.nth(k).get_attribute("open") is None
        summary.click()
        assert boxes.nth(k).locator("summary ~ *").first.is_visible()
        summary.click()
        assert boxes.nth(k).get_attribute("open") is None


def test_nothing_went_wrong(opened):
    """No script error, no failed request, none to another server, during all of the above."""
    assert not opened[3], "\n".join(opened[3])


def _alone(browser, width: int = 1280, height: int = 800):
    """A page that can reach nothing but files."""
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
    context.set_default_timeout(PATIENCE)
    return context.new_page()


def test_the_first_screen_says_what_why_and_where_to_start(browser):
    page = _alone(browser)
    page.goto((HTML / "book" / "intro.html").as_uri())
    for words in (
        "A diffusion model learns to undo noise",
        "Why trust it?",
        "checked by a cell that can fail",
        "Where to start.",
    ):
        box = page.locator("article").get_by_text(words).first.bounding_box()
        assert box and 0 <= box["y"] and box["y"] + box["height"] <= 800, f"below the first screen: {words}"
    start = page.locator("article a", has_text="one page of diffusion").first
    assert start.bounding_box()["y"] < 780
    start.click()
    assert page.url.endswith("01_one_page.html")
    page.context.close()


@pytest.mark.parametrize(
    "query, page_found", [("posterior", "05_posterior"), ("langevin", "16_langevin"), ("U-Net", "10_the_unet")]
)
def test_search_works_from_files_without_a_network(browser, query, page_found):
    """From the first page, by the keyboard, as on a train: the results are links, and the chapter is among them."""
    page = _alone(browser)
    page.goto((HTML / "book" / "intro.html").as_uri())
    page.keyboard.press("Control+k")
    page.locator("#pst-search-dialog input[type=search]").fill(query)
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    links = [a.get_attribute("href") or "" for a in page.locator("#search-results li a").all()]
    assert any(page_found in link for link in links)
    page.context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_link_to_an_equation_lands_on_it(browser, width):
    """Equations above it are not yet typeset when the page opens, and must not push it out of sight when they are."""
    page = _alone(browser, width)
    page.goto((HTML / "notebooks" / "05_posterior.html").as_uri() + "#eq-5-24")
    page.wait_for_function("!document.querySelector('#eq-5-24 mjx-lazy') && document.querySelector('#eq-5-24 mjx-container')")
    page.wait_for_timeout(500)
    box = page.locator("#eq-5-24").bounding_box()
    assert 0 <= box["y"] and box["y"] + box["height"] <= 800
    page.context.close()


STYLES = """() => [...document.querySelectorAll('*')].map((e) => {
  const s = getComputedStyle(e);
  return [e.tagName, ...["color", "backgroundColor", "fontSize", "fontWeight", "fontFamily", "display", "position", "margin",
    "padding", "width", "height", "borderTopWidth", "borderLeftColor", "opacity", "textDecorationLine"]
    .map((k) => s[k])].join(" ");
})"""


@pytest.mark.parametrize("path", ["book/intro.html", "notebooks/03_elbo.html", "search.html"])
@pytest.mark.parametrize("look", LOOKS)
def test_the_light_style_sheet_looks_like_the_whole_one(browser, site, path, look):
    """What book/_ext/slim.py has taken out of the theme's changes the style of no element."""
    theme = Path(pytest.importorskip("pydata_sphinx_theme").__file__).parent
    whole = theme / "theme" / "pydata_sphinx_theme" / "static" / "styles" / "pydata-sphinx-theme.css"
    seen, served = [], []

    def serve(route):
        served.append(route.request.url)
        route.fulfill(body=whole.read_text(encoding="utf-8"), content_type="text/css")

    for swap in (False, True):
        context = browser.new_context(
            viewport={"width": LOOKS[look]["width"], "height": 900}, color_scheme="dark" if LOOKS[look]["dark"] else "light"
        )
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.route("**/mathjax/**", lambda route: route.abort())  # its own styles are not the theme's
        if swap:
            page.route("**/pydata-sphinx-theme.css*", serve)
        page.goto(site + path, wait_until="load")
        page.wait_for_function("!document.querySelector('i.fas, i.fab, i.fa-solid')")  # the icons are drawn
        page.wait_for_timeout(500)  # colours and sizes that fade in have begun to,
        page.wait_for_function("document.getAnimations().every((a) => a.playState !== 'running')")  # and have arrived
        seen.append(page.evaluate(STYLES))
        context.close()
    assert served and whole.stat().st_size > 2 * (HTML / "_static" / "styles" / whole.name).stat().st_size
    light, full = seen
    assert len(light) == len(full) > 100
    assert [pair for pair in zip(light, full) if pair[0] != pair[1]] == []
