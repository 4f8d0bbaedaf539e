"""What the book's pages leave out: only what they do not use, and pictures keep their looks."""

import numpy as np
import pytest
import slim

SCRIPT = (
    'var a={bars:[448,512,["navicon"],"f0c9","M0 96Z"],"file-pdf":[512,512,[],"f1c1","M1 1Z"],dog:[576,512,[],"f6d3","M2 2Z"]};'
    'var b={search:[1,2,["magnifying-glass"],"f002","M3Z"],cat:[1,2,[],"f6be","M4Z"]};run(a,b);'
)
CSS = """@charset "utf-8";/* .gone{ */@font-face{font-family:a}
.fa-dog:before{content:"\\f6d3}"}.fa-bars:before,.fa-navicon:before{content:"{"}p,.gone.used{margin:0}
@media (max-width:9px){.gone>a{color:red}.used:not(.gone){color:blue}}@media print{.gone{a:b}}
.used :is(.gone,b),a[href$=".gone"]{c:d}.sm\\:x{e:f}@keyframes gone{from{g:h}}"""
LEAN = """@charset "utf-8";/* .gone{ */@font-face{font-family:a}
.fa-bars:before{content:"{"}p{margin:0}
@media (max-width:9px){.used:not(.gone){color:blue}}
.used :is(.gone,b),a[href$=".gone"]{c:d}.sm\\:x{e:f}@keyframes gone{from{g:h}}"""
HEAD = """<head>
  <link rel="stylesheet" href="_static/book.css?v=1" />
  <link rel="stylesheet" type="text/css" href="_static/sphinx-thebe.css?v=4" />
  <link rel="stylesheet" type="text/css" href="_static/sphinx-design.min.css?v=6" />
  <script src="_static/design-tabs.js?v=1"></script>
  <script src="_static/doctools.js"></script>
  <script src="_static/searchtools.js"></script>
  <script src="_static/language_data.js"></script>
  <script src="searchindex.js"></script>
</head>"""


def test_icons_that_are_used_stay_under_any_of_their_names():
    lean = slim.fewer_icons(SCRIPT, {"navicon", "file-pdf", "magnifying-glass"})
    assert all(name in lean for name in ("bars:[", '"file-pdf":[', "search:[")) and lean.endswith("};run(a,b);")
    assert "dog" not in lean and "cat" not in lean
    assert slim.fewer_icons(lean, {"navicon", "file-pdf", "magnifying-glass"}) == lean


def test_rules_go_only_where_no_element_can_match():
    known = {"used", "fa-bars", "utf-8", "sm"}
    assert slim.fewer_rules(CSS, known).replace("\n", "") == LEAN.replace("\n", "")
    assert slim.fewer_rules(LEAN, known) == LEAN


@pytest.mark.parametrize("css", ["a{b:c}", ".a.b,.c>.d{e:f}", "@media x{.a{b:c}}", "/* x */ .a { b : url('}') ; }", ""])
def test_a_style_sheet_all_of_which_is_used_stays_as_it_is(css):
    assert slim.fewer_rules(css, {"a", "b", "c", "d"}) == css


def test_only_the_search_page_loads_the_index():
    page = slim.lighter_page(HEAD + '<span class="pre">a_b</span> <span class="pre"><b>c</b></span>')
    assert "searchtools" not in page and "searchindex" not in page and "language_data" not in page
    assert "sphinx-design" not in page and "thebe" not in page and "design-tabs" not in page
    assert "book.css" in page and "doctools.js" in page
    assert page.endswith('</head>a_b <span class="pre"><b>c</b></span>')
    assert slim.lighter_page(HEAD, searches=True).count("<script") == 4
    assert "sphinx-design" in slim.lighter_page(HEAD + '<div class="sd-card">')


def test_a_folder_is_made_light_once_and_for_all(tmp_path):
    (tmp_path / "index.html").write_text(HEAD + '<i class="fas fa-bars"></i>', encoding="utf-8")
    (tmp_path / "search.html").write_text(HEAD, encoding="utf-8")
    (tmp_path / "fontawesome.js").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "theme.js").write_text('icon("fa-cat", "used")', encoding="utf-8")
    (tmp_path / "pydata-sphinx-theme.css").write_text(CSS, encoding="utf-8")
    slim.slim(tmp_path)
    seen = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert "bars" in seen["fontawesome.js"] and "cat" in seen["fontawesome.js"] and "dog" not in seen["fontawesome.js"]
    assert "searchindex" in seen["search.html"] and "searchindex" not in seen["index.html"]
    assert "dog" not in seen["pydata-sphinx-theme.css"] and ".fa-bars" in seen["pydata-sphinx-theme.css"]
    slim.slim(tmp_path)
    assert seen == {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}


@pytest.mark.parametrize("grey", [True, False])
def test_a_picture_keeps_its_looks_and_its_size_in_pixels(tmp_path, grey):
    """Grey levels are kept to the last one; of a colour plot's colours none moves by more than a few levels of 255."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pixels = np.full((200, 300, 3), 255, dtype=np.uint8)
    if grey:
        pixels[:] = rng.integers(0, 256, (200, 300, 1))
    else:
        for k, colour in enumerate(([0, 114, 178], [213, 94, 0], [0, 158, 115])):
            shade = np.linspace(0, 1, 300)[None, :, None]
            pixels[40 * k : 40 * k + 40] = (shade * np.array(colour) + (1 - shade) * 255).round()
    path = tmp_path / "a.png"
    image.fromarray(pixels).convert("RGBA").save(path, dpi=(144, 144))
    before = path.stat().st_size
    slim.lighter_picture(path)
    with image.open(path) as light:
        assert path.stat().st_size <= before and round(light.info["dpi"][0]) == 144
        off = np.abs(np.asarray(light.convert("RGB")).astype(int) - pixels)
    assert off.max() <= (0 if grey else 8)


def test_a_picture_that_can_be_seen_through_is_left_alone(tmp_path):
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "a.png"
    image.new("RGBA", (50, 50), (255, 0, 0, 100)).save(path)
    before = path.read_bytes()
    slim.lighter_picture(path)
    assert path.read_bytes() == before
