"""The map of the book shows what the chapters say of each other."""

import json
import re
from pathlib import Path

import bookmap
import chapters
import pytest

ROOT = Path(__file__).resolve().parents[1]
BOOK = bookmap.parts(ROOT)
ALL = [chapter for _, listed in BOOK for chapter in listed]


def notebook(path: Path, *cells: str) -> Path:
    kinds = [{"cell_type": "markdown", "source": [cell]} for cell in cells]
    path.write_text(json.dumps({"cells": [*kinds, {"cell_type": "code", "source": ["# Eq. (2.9)"]}]}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "need, chapters_named",
    [
        ("sums (Chapter 2), and a network (Chapter 7).", [2, 7]),
        ("the jump (Section 5.5) and the samplers of Chapters 3 and 6. Section 9.5 looks back.", [3, 5, 6]),
        ("Chapters 2, 4 and 7", [2, 4, 7]),
        ("Chapters 3 to 5", [3, 4, 5]),
        ("nothing but 4 hours", []),
    ],
)
def test_what_a_chapter_needs(tmp_path, need, chapters_named):
    path = notebook(
        tmp_path / "09_x.ipynb", f"# 9. A title\n\n**You need:** {need}\n\n**You will be able to:** skip Chapter 8", "x"
    )
    chapter = bookmap.read(path)
    assert (chapter.number, chapter.title, chapter.stem) == (9, "A title", "09_x")
    assert chapter.needs == chapters_named


def test_each_equation_counts_once_and_code_not_at_all(tmp_path):
    path = notebook(tmp_path / "09_x.ipynb", "# 9. T", "Eq. (5.3), Eqs. (5.3) and (5.4).", "Eq. (9.1), Eq. (10.2), Eq. (2.1)")
    assert bookmap.read(path).cited == {5: 2, 2: 1}


def test_the_map_holds_every_chapter_and_all_that_it_builds_on():
    assert [chapter.stem for chapter in ALL] == [chapter.path.stem for chapter in chapters.chapters()]
    drawn = bookmap.draw(BOOK)
    lines = re.findall(r'<a href="\.\./notebooks/([\w]+)\.html" aria-label="(\d+)\. [^"]*; builds on ([^"]+)">(.*?)</a>', drawn)
    assert [stem for stem, *_ in lines] == [chapter.stem for chapter in ALL]
    for chapter, (_, number, builds, inside) in zip(ALL, lines):
        assert int(number) == chapter.number
        assert inside.count("<path") == len(chapter.needs)
        assert [int(k) for k in re.findall(r"\d+", builds)] == chapter.needs
    assert drawn.count('class="part"') == len(BOOK)


def test_the_book_can_be_read_from_front_to_back():
    """Every chapter after the second says what it builds on, and it names no later one."""
    for chapter in ALL:
        assert chapter.needs or chapter.number <= 2
        prose = "\n\n".join(source for _, source in chapters.Chapter(ROOT / "notebooks" / f"{chapter.stem}.ipynb").markdown())
        need = bookmap.NEED.search(prose)[1]
        assert all(
            float(k) < chapter.number + 1 for group in bookmap.NAMED.findall(need) for k in re.findall(r"[\d.]*\d", group)
        )


def test_arcs_stay_on_the_page():
    drawn = bookmap.draw(BOOK)
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', drawn).groups())
    for path in re.findall(r' d="([^"]+)"', drawn):
        numbers = [float(k) for k in re.findall(r"-?\d+", path)]
        across, down = numbers[::2], numbers[1::2]
        assert (across[0] + 3 * across[1] + 3 * across[2] + across[3]) / 8 >= 0  # the middle of the curve, furthest left
        assert across[0] == across[3] == bookmap.LEFT and 0 < down[0] < down[3] < height
    for name in re.findall(r"<text[^>]*>([^<]*)</text>", drawn):
        assert bookmap.LEFT + 14 + 0.55 * bookmap.FONT * len(name) <= width, name
