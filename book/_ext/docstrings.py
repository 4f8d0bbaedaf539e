"""Docstrings are plain text for `help()`; for the API page this keeps Sphinx from reading markup into their formulas."""

import re

FORMULA = re.compile(r"\S{1,30} = .*[^.]$")


def plain(app, what, name, obj, options, lines: list[str]) -> None:
    """Escape what is no markup; give each formula a line of its own; indented lines are code."""
    shown: list[str] = []
    code = False
    for k, line in enumerate(lines):
        before = shown[-1] if shown else ""
        if line.startswith("    ") and (code or not before):
            shown += [line] if code else ["::", "", line]
            code = True
            continue
        if line.strip():
            code = False
        pieces = re.split(r"(`[^`]*`)", line)  # `code` stays as it is
        text = "".join(p if p.startswith("`") else re.sub(r"([*|\\]|_(?!\w))", r"\\\1", p) for p in pieces)
        formula = k > 0 and FORMULA.match(line.strip()) is not None
        if before and line.strip() and formula != before.startswith("| "):
            shown.append("")
        shown.append(f"| {text.strip()}" if formula else text)
    lines[:] = shown


def setup(app):
    app.connect("autodoc-process-docstring", plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
