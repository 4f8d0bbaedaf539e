"""The Sphinx extension, on a book of two pages: what plain markdown becomes, and what it warns of."""

import io
import re
from pathlib import Path

import docstrings
import pytest

pytest.importorskip("sphinx")
from sphinx.testing.util import SphinxTestApp

EXT = Path(__file__).resolve().parents[1] / "book" / "_ext"
CONF = f"""
import sys
sys.path.insert(0, {str(EXT)!r})
extensions = ["myst_nb", "equations"]
myst_enable_extensions = ["amsmath", "dollarmath", "html_image"]
html_theme = "basic"
equation_index = "index"
"""
INDEX = """\
# All equations

| Eq. | What it says |
|---|---|
| (5.1) | first |
| (5.2) | second |

```{toctree}
five
```
"""
FIVE = """\
# Five

See Eq. (5.1), and Eqs. (5.1)
and (5.2). But not `Eq. (5.1)`.

$$ a = b \\tag{5.1} $$

\\begin{align*}
a &= b \\\\
&= c \\tag{5.2}
\\end{align*}

> [!WARNING]
> **A slip.** Not $x^2$.
>
> More.

> [!TIP]
> Short.

> A plain quotation.

<details>
<summary><b>Solution 5.1</b></summary>

By Eq. (5.2), $y^2$.

</details>

[![Open in Colab](https://elsewhere.org/badge.svg)](https://elsewhere.org/notebook)

| Eq. | What it says | Check |
|---|---|---|
| (5.2) | second | sympy |
"""


@pytest.fixture
def build(tmp_path):
    """build({name: text}) -> ({name: html}, the warnings)."""

    def build_(pages: dict[str, str]) -> tuple[dict[str, str], str]:
        source = tmp_path / "source"
        source.mkdir()
        (source / "conf.py").write_text(CONF)
        for name, text in pages.items():
            (source / f"{name}.md").write_text(text, encoding="utf-8")
        warning = io.StringIO()
        app = SphinxTestApp("html", srcdir=source, warning=warning, builddir=tmp_path / "out")
        app.build()
        html = {name: (Path(app.outdir) / f"{name}.html").read_text(encoding="utf-8") for name in pages}
        app.cleanup()
        return html, re.sub(r"\x1b\[\d+m", "", warning.getvalue())

    return build_


def test_plain_markdown_becomes_a_linked_book(build):
    html, warnings = build({"index": INDEX, "five": FIVE})
    assert warnings == ""
    five, index = html["five"], html["index"]

    # Anchors, with the tag outside of any wrapping of Sphinx's own.
    assert re.search(r'id="eq-5-1">\s*\\\[ a = b \\tag\{5.1\} \\\]', five)
    assert re.search(r'id="eq-5-2">\s*\\\[?\s*\\begin\{align\*\}', five) and "split" not in five

    # References, across lines and pages, but not in code.
    assert five.count('href="#eq-5-1"') == 2 and five.count('href="#eq-5-2"') == 2
    assert ">Eq. (5.1)</span></a>" in five and ">Eqs. (5.1)</span></a>" in five and ">(5.2)</span></a>" in five
    assert '<span class="pre">Eq.</span> <span class="pre">(5.1)</span></code>' in five

    # From the summary to the index and back.
    assert 'href="index.html#index-5-2"' in five
    assert re.search(r'<td id="index-5-2">.*href="five.html#eq-5-2"', index)

    # Boxes and folded parts.
    assert '<div class="admonition warning">' in five and '<div class="admonition tip">' in five
    assert "[!" not in five and "<blockquote>" in five
    assert re.search(r"<details>.*By <a .*\\\(y\^2\\\).*</details>", five, flags=re.S)

    # Nothing is fetched from elsewhere: the badge is its text, still a link.
    assert re.search(r'<a [^>]*href="https://elsewhere.org/notebook"[^>]*><span>Open in Colab</span></a>', five)
    assert "badge.svg" not in five


@pytest.mark.parametrize(
    "addition, expected",
    [
        ("Eq. (9.9)", "there is no equation Eq. (9.9)"),
        ("Eqs. (5.1), (5.2) and (5.7)", "there is no equation (5.7)"),
        ("$$ c \\tag{5.1} $$", "Eq. (5.1) is tagged twice"),
        ("Text $$ c \\tag{5.3} $$ goes on", "must stand on lines of its own"),
        ("![](picture.png)", "a picture has no alt text"),
        ("| Eq. | What |\n|---|---|\n| (5.8) | x |", "the index has no entry for (5.8)"),
    ],
)
def test_warnings(build, addition, expected):
    _, warnings = build({"index": INDEX, "five": f"{FIVE}\n{addition}\n"})
    assert expected in warnings


def test_a_tag_used_on_two_pages_is_a_warning(build):
    index = INDEX.replace("five\n", "five\nsix\n")
    _, warnings = build({"index": index, "five": FIVE, "six": "# Six\n\n$$ d \\tag{5.2} $$\n"})
    assert warnings.count("Eq. (5.2) is tagged twice") == 1


def test_a_notebook_picture_needs_its_alt_text(build, tmp_path):
    import nbformat.v4 as v4

    picture = v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})
    cell = v4.new_code_cell("x", outputs=[picture])
    nb = v4.new_notebook(cells=[v4.new_markdown_cell("# Six"), cell])

    def warnings(**metadata) -> str:
        import nbformat

        cell.metadata = metadata
        folder = tmp_path / str(len(metadata))
        folder.mkdir()
        (folder / "conf.py").write_text(CONF + "nb_execution_mode = 'off'\nroot_doc = 'six'\nequation_index = ''\n")
        nbformat.write(nb, folder / "six.ipynb")
        warning = io.StringIO()
        app = SphinxTestApp("html", srcdir=folder, warning=warning, builddir=folder / "out")
        app.build()
        app.cleanup()
        return warning.getvalue()

    assert "a picture has no alt text" in warnings()
    assert "alt text" not in warnings(mystnb={"image": {"alt": "A dot"}})


@pytest.mark.parametrize(
    "before, after",
    [
        (["|got - want| of `a|b` and ε*"], [r"\|got - want\| of `a|b` and ε\*"]),
        (["q_T_ and x_ t, x_0"], [r"q_T\_ and x\_ t, x_0"]),
        (["One.", "", "x = y + z", "w = v,", "then text."], ["One.", "", "| x = y + z", "| w = v,", "", "then text."]),
        (
            ["Do:", "", "    a = *b", "", "    c", "", "Then * d"],
            ["Do:", "", "::", "", "    a = *b", "", "    c", "", r"Then \* d"],
        ),
        (["f = g is said first", "Last = one."], ["f = g is said first", "Last = one."]),
    ],
)
def test_docstrings_stay_plain(before, after):
    docstrings.plain(None, "function", "f", None, {}, before)
    assert before == after
