"""The notebook linter: holds every chapter to the promise that each numbered equation is derived, coded and checked.

Usage:

    python book/_tools/lint.py                       all chapters, and the notebooks of the back matter
    python book/_tools/lint.py notebooks/05_*.ipynb  these (references may point into any chapter)
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import sides
from chapters import TAG, Chapter, badge, bootstrap, chapters, pages, resolve

LINES = 5  # the longest function a chapter may define outside an exercise


def lint(chapter: Chapter, known: set[str]) -> Iterator[str]:
    """Every fault of one chapter, as a sentence. `known`: the tags of the whole book."""
    try:
        list(chapter.trees())
    except SyntaxError as error:
        yield str(error.msg)
        return
    page = not chapter.number  # a notebook of the back matter: no equations of its own, no exercises, no explorer
    if page:
        yield from _questions(chapter)
    else:
        yield from _tags(chapter)
        yield from _summary(chapter)
        yield from _exercises(chapter)
    yield from _references(chapter, known)
    yield from _checks(chapter, known if page else {e.tag for e in chapter.equations})
    yield from _independence(chapter)
    yield from _head(chapter)
    yield from _functions(chapter)
    yield from _outputs(chapter)


# Equations --------------------------------------------------------------------------------------------------------


def _tags(chapter: Chapter) -> Iterator[str]:
    tags = [e.tag for e in chapter.equations]
    for k, source in chapter.markdown():
        if len(TAG.findall(source)) != len([e for e in chapter.equations if e.cell == k]):
            yield f"cell {k}: a \\tag stands outside $$ … $$ and \\begin{{align*}} … \\end{{align*}}, or twice in one line"
        for block in re.finditer(r"\$\$(.+?)\$\$", source, flags=re.S):
            before, after = source[: block.start()], source[block.end() :]
            if not (re.search(r"(\A|\n[ >]*\n)[ >]*\Z", before) and re.match(r"[ ]*(\Z|\n[ >]*(\n|\Z))", after)):
                yield f"cell {k}: a $$ … $$ needs a blank line before and after: {' '.join(block[0].split())[:60]}"
            block = block[1]
            if r"\\" in block and r"\begin{" not in block:
                yield f"cell {k}: a line break in $$ … $$ shows nowhere but in Colab; use \\begin{{align*}} … \\end{{align*}}"
        if re.search(r"\\begin\{align\}|\\eqref|\\label", source):
            yield f"cell {k}: use \\begin{{align*}} with \\tag; align, \\eqref and \\label are numbered twice or not at all"
    wanted = [f"{chapter.number}.{k + 1}" for k in range(len(tags))]
    for tag, want in zip(tags, wanted):
        if tag != want:
            yield f"equation ({tag}) stands where ({want}) is due: tags run from {chapter.number}.1 without gaps"
            break
    if not tags:
        yield "there is no numbered equation"


def _references(chapter: Chapter, known: set[str]) -> Iterator[str]:
    for k, tag in chapter.references:
        if tag not in known:
            yield f"cell {k}: Eq. ({tag}) does not exist"


def _checks(chapter: Chapter, tags: set[str]) -> Iterator[str]:
    from ddpm_edu.check import ROUTES

    for check in chapter.checks:
        where = f"cell {check.cell}: {check.kind}"
        if check.tag is None:
            yield f"{where} must name its equation as a plain string, such as check('{chapter.number or 5}.1', …)"
        elif check.tag not in tags:
            home = "chapter" if chapter.number else "book"
            yield f"{where}('{check.tag}', …) names an equation that this {home} does not have"
        if len(check.call.args) < 3:
            yield f"{where}('{check.tag}', …) needs its two sides as second and third argument"
        if check.kind == "refute":
            continue
        if check.route is None:
            yield f"{where}('{check.tag}', …) must say by='…', its route, as a plain string"
        elif check.route not in ROUTES:
            yield f"{where}('{check.tag}', …): by='{check.route}' is not a known route; allowed: {', '.join(ROUTES)}"


def _summary(chapter: Chapter) -> Iterator[str]:
    try:
        rows = chapter.summary
    except ValueError as error:
        yield str(error)
        return
    tags, listed = [e.tag for e in chapter.equations], [row.tag for row in rows]
    if listed != tags:
        missing, extra = [t for t in tags if t not in listed], [t for t in listed if t not in tags]
        detail = f"missing: {', '.join(missing) or 'none'}; not in the chapter: {', '.join(extra) or 'none'}"
        yield f"the summary table must list every equation once, in order ({detail})"
    for row in rows:
        done = {c.route for c in chapter.checks if c.tag == row.tag and c.kind != "refute"}
        if row.check == ["definition"]:
            if done:
                yield f"the summary calls ({row.tag}) a definition, yet it is checked by {_listed(done)}"
        elif not done:
            yield f"equation ({row.tag}) has no check; if it defines something, write 'definition' in the summary table"
        elif len(row.check) != len(set(row.check)) or set(row.check) != done:
            yield f"the summary says ({row.tag}) is checked by {', '.join(row.check)}; its cells use {_listed(done)}"
        for name in row.code:
            if resolve(name) is None:
                yield f"the summary's code for ({row.tag}), `{name}`, is not in ddpm_edu"


def _listed(routes) -> str:
    return ", ".join(sorted(str(route) for route in routes))


# The two sides of a check -----------------------------------------------------------------------------------------


def _independence(chapter: Chapter) -> Iterator[str]:
    """Refuse a check whose sides are one expression, or for which one function of the package is asked twice."""
    for check, fault in sides.faults(chapter):
        yield f"cell {check.cell}: {check.kind}('{check.tag}', …): {fault}"


# Anatomy ----------------------------------------------------------------------------------------------------------


def _head(chapter: Chapter) -> Iterator[str]:
    if not re.fullmatch(r"(\d\d_)?[a-z][a-z0-9_]*\.ipynb", chapter.path.name):
        yield "a chapter's file is called NN_slug.ipynb, a page's slug.ipynb, in small letters"
    first = chapter.cells[0].source if chapter.cells else ""
    title = f"# {chapter.number}. " if chapter.number else "# "
    if not re.match(rf"{re.escape(title)}\S", first):
        yield f"the first cell must begin with the title '{title}…'"
    if badge(chapter.path.name) not in "\n".join(source for _, source in chapter.markdown()):
        yield f"the Colab badge is missing or points elsewhere; it must read\n    {badge(chapter.path.name)}"
    code = [chapter.cells[k] for k, _ in chapter.code()]
    if not code or code[0].source.strip() != bootstrap() or "remove-cell" not in code[0].metadata.get("tags", []):
        yield f"the first code cell must have the tag remove-cell and read\n{_indented(bootstrap())}"


def _questions(chapter: Chapter) -> Iterator[str]:
    """Of a page: no equation of its own; a heading that asks is answered by words, a number and where to read on."""
    if any(TAG.search(source) for _, source in chapter.markdown()):
        yield "a page of the back matter has no numbered equations: derive them in a chapter"
    sections: list[list] = [["", "", False]]
    for cell in chapter.cells:
        if cell.cell_type == "markdown":
            before, *rest = re.split(r"(?m)^#+ (.+)$", cell.source)
            sections[-1][1] += before
            sections += [[heading.strip(), text, False] for heading, text in zip(rest[::2], rest[1::2])]
        elif cell.cell_type == "code":
            sections[-1][2] |= any(re.search(r"\d", output.get("text", "")) for output in cell.outputs)
    for asked, said, shown in sections:
        if asked.endswith("?") and not shown:
            yield f"no number is printed under the question '{asked}'"
        if asked.endswith("?") and not re.search(r"\bEqs?\. \(|\bChapters? \d", said):
            yield f"the answer to '{asked}' says neither Eq. (…) nor Chapter …, where to read on"


def _exercises(chapter: Chapter) -> Iterator[str]:
    prose = "\n\n".join(source for _, source in chapter.markdown())
    found = re.findall(r"\*\*Exercise (\d+)\.(\d+)\.\*\*", prose)
    if len(found) < 3:
        yield f"there are {len(found)} exercises ('**Exercise {chapter.number}.k.**'); at least three are due"
    if [int(k) for _, k in found] != list(range(1, len(found) + 1)) or any(int(n) != chapter.number for n, _ in found):
        yield f"exercises must be numbered {chapter.number}.1, {chapter.number}.2, … in order"
    called = {
        node.func.id
        for _, tree in chapter.trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    folded = re.findall(r"<details>(.*?)</details>", prose, flags=re.S)
    for n, k in found:
        if not any(re.search(rf"Solution {n}\.{k}\b", block) for block in folded):
            yield f"exercise {n}.{k} has no '<details> … Solution {n}.{k} … </details>'"
        if f"grade_{n}_{k}" not in called:
            yield f"exercise {n}.{k} has no grader call, grade_{n}_{k}(…)"
    for block in folded:
        if "<summary>" not in block or not re.search(r"</summary>\s*\n\s*\n", block):
            yield "a <details> needs <summary>…</summary> and a blank line after it, or its math stays raw"


def _functions(chapter: Chapter) -> Iterator[str]:
    for k, tree in chapter.trees():
        if "exercise" in chapter.cells[k].metadata.get("tags", []):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if (lines := node.end_lineno - node.lineno + 1) > LINES:
                yield f"cell {k}: {node.name} has {lines} lines, more than {LINES}: move it to ddpm_edu"


def _outputs(chapter: Chapter) -> Iterator[str]:
    explorer = not chapter.number  # only a chapter needs one
    if all(not chapter.cells[k].outputs for k, _ in chapter.code()):
        yield "no cell has a stored output; run python book/_tools/execute.py"
        return
    for k, _ in chapter.code():
        cell = chapter.cells[k]
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        explorer |= any("ddpm-explorer" in "".join(output.get("data", {}).get("text/html", "")) for output in cell.outputs)
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"cell {k}: its stored output is an error, {output.ename}"
            if output.output_type == "stream" and output.name == "stderr":
                yield f"cell {k}: its stored output has a warning or log on stderr: {output.text.strip().splitlines()[-1]}"
            if re.search(r"\bat 0x[0-9a-f]{6,}|/tmp/|/home/", str(output)):
                yield f"cell {k}: its stored output holds an address or a path of this machine"
        if kinds & {"image/png", "image/jpeg", "image/svg+xml"}:
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            if len(alt.split()) < 3:
                yield f"cell {k}: the picture has no alt text in its metadata, {{'mystnb': {{'image': {{'alt': '…'}}}}}}"
    if not explorer:
        yield "there is no explorer (an output with the class ddpm-explorer)"


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    options = parser.parse_args(arguments)
    book = chapters()
    chosen = [Chapter(path) for path in options.notebooks] or [*book, *pages()]
    known = {e.tag for chapter in [*book, *chosen] for e in chapter.equations}
    faults = 0
    for chapter in chosen:
        for fault in lint(chapter, known):
            print(f"✗ {chapter.path.name}: {fault}")
            faults += 1
    numbers = [chapter.number for chapter in book]
    for number in sorted({n for n in numbers if numbers.count(n) > 1}):
        print(f"✗ two chapters have the number {number}")
        faults += 1
    checks = sum(c.kind != "refute" for chapter in chosen for c in chapter.checks)
    equations = sum(len(chapter.equations) for chapter in chosen)
    print(f"{len(chosen)} notebook(s), {equations} equations, {checks} checks: {faults or 'no'} fault{'s' * (faults != 1)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
