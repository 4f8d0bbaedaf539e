"""The map of the book on its first page: which chapter builds on which, read from the chapters when the book is built.

A chapter builds on those that its paragraph "You need" names, by "Chapter 5" or "Section 5.5". An arc joins the two, the
thicker the more of the other's equations the chapter calls upon by "Eq. (5.9)". The picture is drawn as text of the page: its
lines are links, and it takes the page's colours by day and by night.
"""

import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

NEED = re.compile(r"\*\*You need:?\*\*:?(.*?)(?:\n\s*\n|\Z)", flags=re.S)
NAMED = re.compile(r"\b(?:Chapters?|Sections?)\s+(\d+(?:\.\d+)?(?:(?:,\s*|\s+and\s+|,\s+and\s+|-|–|\s+to\s+)\d+(?:\.\d+)?)*)")
REFERENCE = re.compile(r"\bEqs?\.\s*(\(\d+\.\d+\)(?:(?:\s*(?:,|-|–|and|or|to|,\s*and)\s*)\(\d+\.\d+\))*)")
ROW, LEFT, WIDTH, FONT = 24, 128, 420, 14


@dataclass
class Chapter:
    number: int
    title: str
    stem: str
    needs: list[int] = field(default_factory=list)
    cited: dict[int, int] = field(default_factory=dict)  # an earlier chapter -> how many of its equations are called upon


def read(path: Path) -> Chapter:
    """What one notebook says of the others."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    number, title = re.match(r"# (\d+)\. (.+)", prose).groups()  # type: ignore[union-attr]
    chapter = Chapter(int(number), title.strip(), path.stem)
    need = NEED.search(prose)
    named = {int(float(k)) for group in NAMED.findall(need[1] if need else "") for k in _numbers(group)}
    chapter.needs = sorted(k for k in named if k < chapter.number)
    tags = {tag for group in REFERENCE.findall(prose) for tag in re.findall(r"\d+\.\d+", group)}
    for tag in tags:
        home = int(tag.split(".")[0])
        if home < chapter.number:
            chapter.cited[home] = chapter.cited.get(home, 0) + 1
    return chapter


def _numbers(group: str) -> list[str]:
    """The numbers of "4, 7 and 15", "15 to 17" with those between."""
    found = re.findall(r"\d+(?:\.\d+)?", group)
    if re.search(r"-|–|\bto\b", group) and len(found) == 2 and "." not in group:
        return [str(k) for k in range(int(found[0]), int(found[1]) + 1)]
    return found


def parts(root: Path) -> list[tuple[str, list[Chapter]]]:
    """The book's parts with their chapters, as the contents list them; the back matter has none."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    found = []
    for part in toc["parts"]:
        files = [root / f"{entry['file']}.ipynb" for entry in part["chapters"]]
        chapters = [read(path) for path in files if re.match(r"\d\d_", path.name)]
        if chapters:
            found.append((part["caption"], chapters))
    return found


def draw(book: list[tuple[str, list[Chapter]]]) -> str:
    """The map as SVG, one line a chapter, an arc for every "builds on"; a chapter's own arcs stand with its line."""
    at, y, out = {}, 8, []
    for caption, chapters in book:
        y += ROW
        out.append(f'<text class="part" x="{LEFT + 14}" y="{y + 5}">{html.escape(caption)}</text>')
        for chapter in chapters:
            y += ROW
            at[chapter.number] = y
    last = max(at)
    for _, chapters in book:
        for chapter in chapters:
            here, arcs = at[chapter.number], []
            for k in chapter.needs:
                reach = 12 + (LEFT - 20) * (chapter.number - k) / last
                width = 1 + 0.5 * min(chapter.cited.get(k, 0), 8)
                bend = f"M{LEFT} {at[k]}C{LEFT - 1.33 * reach:.0f} {at[k]} {LEFT - 1.33 * reach:.0f} {here} {LEFT} {here}"
                arcs.append(f'<path d="{bend}" stroke-width="{width:g}"/>')
            builds = f"builds on {', '.join(map(str, chapter.needs))}" if chapter.needs else "builds on no other chapter"
            name = html.escape(f"{chapter.number}. {chapter.title}")
            out.append(
                f'<a href="../notebooks/{chapter.stem}.html" aria-label="{name}; {builds}">{"".join(arcs)}'
                f'<circle cx="{LEFT}" cy="{here}" r="4"/><text x="{LEFT + 14}" y="{here + 5}">{name}</text></a>'
            )
    label = "The chapters from top to bottom; each is joined by arcs to the earlier chapters that it builds on."
    return (
        f'<svg class="book-map" viewBox="0 0 {WIDTH} {y + 16}" role="group" aria-label="{label}" font-size="{FONT}">'
        f"{''.join(out)}</svg>"
    )


class BookMap(Directive):
    """`{book-map}`: the map; the directive's content is its caption."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        env = self.state.document.settings.env
        root = Path(env.srcdir)
        book = parts(root)
        for _, chapters in book:
            for chapter in chapters:
                env.note_dependency(f"notebooks/{chapter.stem}.ipynb")
        figure = nodes.figure("", nodes.raw("", draw(book), format="html"), ids=["fig-book-map"])
        words = nodes.Element()
        self.state.nested_parse(StringList(list(self.content), source=""), self.content_offset, words)
        figure += nodes.caption("", "", *(words[0].children if len(words) else []))
        return [figure]


def setup(app):
    app.add_directive("book-map", BookMap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
