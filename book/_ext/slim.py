"""Makes the built pages light, after everything else: what no page uses is left out of what every page loads.

- the theme's icons come as one script with thousands; those that no page shows are taken out;
- its style sheets hold rules for hundreds of classes; those of a class that no page and no script mentions are taken out;
- every page loads the search index, and the styles of cards, tabs and live kernels; only the search page searches, and
  there are no cards, tabs and live kernels;
- each word of a signature stands in a <span> that no style sheet asks for;
- pictures get a palette: a plot has few colours, and a grey-scale picture at most 256.
"""

import re
from pathlib import Path

ICON = re.compile(r'(?:"([\w-]+)"|([\w$]+)):\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+","[^"]*"\],?')
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


def words(folder: Path) -> set[str]:
    """Every word in a page or a script: a class that is none of them is the class of nothing."""
    files = [path for kind in ("html", "js") for path in folder.rglob(f"*.{kind}") if "mathjax" not in path.parts]
    return {word for path in files for word in re.findall(r"[\w-]+", path.read_text(encoding="utf-8"))}


def fewer_rules(css: str, known: set[str]) -> str:
    """The style sheet without the selectors that ask for a class that is not in `known`."""
    out, end = [], 0
    for start, opened, closed in _blocks(css):
        out.append(css[end:start])
        head, body, end = css[start:opened], css[opened + 1 : closed], closed + 1
        if re.match(r"\s*@(media|supports|layer|container)\b", head):
            body = fewer_rules(body, known)
        elif not head.lstrip().startswith("@"):
            head = ",".join(one for one in _split(head) if _can_match(one, known))
        if head and body.strip():
            out.append(f"{head}{{{body}}}")
    return "".join([*out, css[end:]])


def _can_match(selector: str, known: set[str]) -> bool:
    while (flat := re.sub(r"\([^()]*\)", "", selector)) != selector:  # :not(.a), :is(.a, .b): no class need be there
        selector = flat
    return all("\\" in name or name in known for name in re.findall(r"\.((?:[\w-]|\\.)+)", re.sub(r"\[[^]]*\]", "", selector)))


def _blocks(css: str):
    """(start, {, }) of each outermost block; its selectors or at-rule begin at start."""
    start = depth = opened = 0
    for token in re.finditer(r'/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[{};]', css, flags=re.S):
        sign = token[0]
        if sign.startswith("/*") and not depth and not css[start : token.start()].strip():
            start = token.end()
        elif sign == "{":
            depth += 1
            opened = token.start() if depth == 1 else opened
        elif sign == "}":
            depth -= 1
            if not depth:
                yield start, opened, token.start()
                start = token.end()
        elif sign == ";" and not depth:  # @charset, @import
            start = token.end()


def _split(selectors: str) -> list[str]:
    """At the commas that stand in no brackets."""
    parts, depth = [""], 0
    for letter in selectors:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


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
    for script in folder.rglob("fontawesome.js"):
        script.write_text(fewer_icons(script.read_text(encoding="utf-8"), used_icons(folder)), encoding="utf-8")
    known = words(folder)
    for sheet in folder.rglob("*.css"):
        if "mathjax" not in sheet.parts:
            sheet.write_text(fewer_rules(sheet.read_text(encoding="utf-8"), known), encoding="utf-8")
    for picture in folder.glob("_images/*.png"):
        if picture.stat().st_size > LEAST:
            lighter_picture(picture)


def finish(app, exception) -> None:
    if exception is None and app.builder.format == "html":
        slim(Path(app.outdir))


def setup(app):
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
