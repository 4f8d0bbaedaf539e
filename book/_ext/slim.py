"""Makes the built pages light, after everything else: what no page uses is left out of what every page loads.

- the theme's icons come as one script with thousands, and again as a font with a style rule for each; those that no page
  shows are taken out of both;
- every page loads the search index, and the styles of cards, tabs and live kernels; only the search page searches, and
  there are no cards, tabs and live kernels;
- each word of a signature stands in a <span> that no style sheet asks for;
- pictures get a palette: a plot has few colours, and a grey-scale picture at most 256.
"""

import re
from pathlib import Path

ICON = re.compile(r'(?:"([\w-]+)"|([\w$]+)):\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+","[^"]*"\],?')
RULE = re.compile(r'(?:\.fa-[\w-]+::?before,?)+\{content:"[^"]*"\}')
SEARCH = re.compile(r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>')
UNSEEN = re.compile(r"\s*(?:<link [^>]*sphinx-(?:design|thebe)[^>]*>|<script [^>]*design-tabs\.js[^>]*></script>)")
WORD = re.compile(r'<span class="pre">([^<]*)</span>')
LEAST = 20_000  # bytes; smaller pictures are left alone


def used_icons(folder: Path) -> set[str]:
    """Every name after fa- in a page, or in a script other than the icons' own."""
    files = [path for kind in ("html", "js") for path in folder.rglob(f"*.{kind}")]
    files = [path for path in files if path.name != "fontawesome.js" and "mathjax" not in path.parts]
    return {name for path in files for name in re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8"))}


def fewer_icons(script: str, used: set[str]) -> str:
    """The icons' script with those of `used`, by their name or an alias."""

    def keep(match: re.Match) -> str:
        aliases = re.findall(r'"([\w-]+)"', match[3])
        return match[0] if used & {match[1] or match[2], *aliases} else ""

    return ICON.sub(keep, script)


def fewer_rules(css: str, used: set[str]) -> str:
    """The style sheet with the rules of those icons."""
    return RULE.sub(lambda rule: rule[0] if used & set(re.findall(r"\.fa-([\w-]+)", rule[0])) else "", css)


def lighter_page(text: str, searches: bool = False) -> str:
    """A page that loads no more than it uses."""
    if not searches:
        text = SEARCH.sub("", text)
    if not re.search(r'class="[^"]*\bsd-', text):
        text = UNSEEN.sub("", text)
    return WORD.sub(r"\1", text)


def lighter_picture(path: Path) -> None:
    """The same picture in at most 256 colours, if that makes the file smaller."""
    from PIL import Image

    with Image.open(path) as opened:
        opaque = opened.mode in ("L", "RGB") or (opened.mode == "RGBA" and opened.getextrema()[3] == (255, 255))
        if not opaque:
            return
        small = opened.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        dpi = opened.info.get("dpi")
    part = path.with_name(path.name + ".part")
    small.save(part, "PNG", optimize=True, **({"dpi": dpi} if dpi else {}))
    if part.stat().st_size < path.stat().st_size:
        part.replace(path)
    else:
        part.unlink()


def slim(folder: Path) -> None:
    """Make the site in `folder` light; doing it twice changes nothing more."""
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(lighter_page(text, page.name == "search.html"), encoding="utf-8")
    used = used_icons(folder)
    for name, fewer in (("fontawesome.js", fewer_icons), ("pydata-sphinx-theme.css", fewer_rules)):
        for path in folder.rglob(name):
            path.write_text(fewer(path.read_text(encoding="utf-8"), used), encoding="utf-8")
    for picture in folder.glob("_images/*.png"):
        if picture.stat().st_size > LEAST:
            lighter_picture(picture)


def finish(app, exception) -> None:
    if exception is None and app.builder.format == "html":
        slim(Path(app.outdir))


def setup(app):
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
