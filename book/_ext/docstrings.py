"""Docstrings are plain text for `help()`; for the API page this keeps Sphinx from reading markup into their formulas."""

import re

FORMULA = re.compile(r"\S{1,30} = .*[^.]$")


def plain(app, what, name, obj, options, lines: list[str]) -> None:
    shown: list[str] = []
    for k, line in enumerate(lines):
        pieces = re.split(r"(`[^`]*`)", line)  # `code` stays as it is
        text = "".join(p if p.startswith("`") else re.sub(r"([*|\\]|_(?!\w))", r"\\\1", p) for p in pieces)
        formula = k > 0 and FORMULA.match(line.strip()) is not None
        if shown and shown[-1] and text.strip() and formula != shown[-1].startswith("| "):
            shown.append("")
        shown.append(f"| {text.strip()}" if formula else text)
    lines[:] = shown


def setup(app):
    app.connect("autodoc-process-docstring", plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
