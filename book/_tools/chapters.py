"""One reader for all tools: what a chapter says about itself, in its cells, equations, checks and summary table."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]
BOOTSTRAP = """\
# Colab does not have ddpm_edu yet: install it. Anywhere else this cell does nothing.
try:
    import ddpm_edu
except ImportError:
    %pip install -q git+{repository}
"""
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})"
COLUMNS = ["Eq.", "What it says", "Code", "Source", "Check"]
TAG = re.compile(r"\\tag\{([^{}]*)\}")
# "Eq. (5.3)", "Eqs. (5.3) and (5.4)", "Eqs. (5.3)-(5.5)": every number in brackets counts.
REFERENCE = re.compile(r"\bEqs?\.\s*(\(\d+\.\d+\)(?:(?:\s*(?:,|-|–|and|or|to|,\s*and)\s*)\(\d+\.\d+\))*)")


@functools.cache
def repository() -> str:
    """The public repository's address, whose one home is `_config.yml`."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]


def bootstrap() -> str:
    """The first code cell of every chapter, to the letter."""
    return BOOTSTRAP.format(repository=repository()).rstrip("\n")


def badge(filename: str) -> str:
    """The Colab badge of the chapter `filename`, to the letter."""
    path = repository().replace("https://github.com/", "github/")
    return BADGE.format(colab=f"https://colab.research.google.com/{path}/blob/main/notebooks/{filename}")


@dataclass(frozen=True)
class Equation:
    tag: str
    cell: int
    tex: str


@dataclass(frozen=True)
class Check:
    """One call of check, check_mean, check_distribution, check_symbolic or refute, as written in a cell."""

    kind: str
    tag: str | None
    cell: int
    call: ast.Call

    def keyword(self, name: str) -> ast.expr | None:
        return next((k.value for k in self.call.keywords if k.arg == name), None)

    @property
    def route(self) -> str | None:
        """The route of the second side, None when it is not written as a plain string."""
        if self.kind in ("check_mean", "check_distribution"):
            return "Monte Carlo"
        by = self.keyword("by")
        if by is None and self.kind == "check_symbolic":
            return "sympy"
        return by.value if isinstance(by, ast.Constant) and isinstance(by.value, str) else None

    @property
    def tolerance(self) -> str:
        """How close the two sides must be, as the cell writes it."""
        if self.kind == "check_symbolic":
            return "identical"
        if self.kind == "check":
            atol = self.keyword("atol")
            return "?" if atol is None else ast.unparse(atol).replace("e-0", "e-")
        z = self.keyword("z")
        return f"{'5' if z is None else ast.unparse(z)} standard errors".replace(".0 ", " ")


@dataclass(frozen=True)
class Row:
    """One row of a chapter's summary table."""

    tag: str
    meaning: str
    code: list[str]
    source: str
    check: list[str]
    cell: int


class Chapter:
    """A notebook, read once."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.nb = nbformat.read(self.path, as_version=4)
        self.cells = self.nb.cells
        match = re.match(r"(\d\d)_", self.path.name)
        self.number = int(match.group(1)) if match else 0

    def __repr__(self) -> str:
        return f"Chapter({self.path.name})"

    @property
    def title(self) -> str:
        first = self.cells[0].source if self.cells else ""
        return first.splitlines()[0].lstrip("# ").strip() if first.strip() else ""

    def markdown(self) -> Iterator[tuple[int, str]]:
        return ((k, c.source) for k, c in enumerate(self.cells) if c.cell_type == "markdown")

    def code(self) -> Iterator[tuple[int, str]]:
        return ((k, c.source) for k, c in enumerate(self.cells) if c.cell_type == "code")

    def trees(self) -> Iterator[tuple[int, ast.Module]]:
        """Every code cell's syntax tree; lines of IPython magic count as `pass`. Raises SyntaxError with the cell."""
        for k, source in self.code():
            plain = re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source)
            try:
                yield k, ast.parse(plain)
            except SyntaxError as error:
                raise SyntaxError(f"cell {k} is not Python: {error.msg} (line {error.lineno})") from None

    @functools.cached_property
    def equations(self) -> list[Equation]:
        return [Equation(tag, k, tex) for k, source in self.markdown() for tag, tex in _tagged(source)]

    @functools.cached_property
    def references(self) -> list[tuple[int, str]]:
        return [
            (k, tag)
            for k, cell in enumerate(self.cells)
            for group in REFERENCE.findall(cell.source)
            for tag in re.findall(r"\d+\.\d+", group)
        ]

    @functools.cached_property
    def checks(self) -> list[Check]:
        kinds = ("check", "check_mean", "check_distribution", "check_symbolic", "refute")
        found = []
        for k, tree in self.trees():
            calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
            for call in sorted(calls, key=lambda n: (n.lineno, n.col_offset)):
                if call.func.id in kinds:
                    first = call.args[0] if call.args else None
                    tag = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
                    found.append(Check(call.func.id, tag, k, call))
        return found

    @functools.cached_property
    def summary(self) -> list[Row]:
        """The rows of the table under `## Summary`. Raises ValueError when the section or its table is not there."""
        sections = [(k, s) for k, s in self.markdown() if re.search(r"(?m)^## Summary\s*$", s)]
        if not sections:
            raise ValueError("there is no section '## Summary'")
        k, source = sections[-1]
        lines = [line.strip() for line in re.split(r"(?m)^## Summary\s*$", source)[-1].splitlines()]
        table = [_cells(line) for line in lines if line.startswith("|")]
        if not table or table[0] != COLUMNS:
            raise ValueError(f"cell {k}: the summary table's columns must be | {' | '.join(COLUMNS)} |")
        rows = []
        for cells in table[2:]:
            if len(cells) != len(COLUMNS) or not re.fullmatch(r"\(\d+\.\d+\)", cells[0]):
                raise ValueError(f"cell {k}: this row of the summary table cannot be read: | {' | '.join(cells)} |")
            eq, meaning, code, source_, check = cells
            rows.append(
                Row(eq[1:-1], meaning, re.findall(r"`([^`]+)`", code), source_, [c.strip() for c in check.split(",")], k)
            )
        return rows


def chapters(folder: Path | None = None) -> list[Chapter]:
    """All chapters of the book, in order."""
    return [Chapter(path) for path in sorted((folder or ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]


def pages(folder: Path | None = None) -> list[Chapter]:
    """The notebooks of the back matter: they derive no equations, but check what they say of the chapters'."""
    return [Chapter(path) for path in sorted((folder or ROOT / "notebooks").glob("[a-z]*.ipynb"))]


def _cells(line: str) -> list[str]:
    """The cells of one table line; a bar inside `code` or after a backslash does not divide."""
    parts = re.split(r"(?<!\\)\|(?=(?:[^`]*`[^`]*`)*[^`]*$)", line.strip().strip("|"))
    return [part.strip() for part in parts]


def _tagged(source: str) -> Iterator[tuple[str, str]]:
    """(tag, TeX) for every tagged equation of a markdown cell, readable on its own.

    In a block of several lines these are the lines since the last tag; where they begin with a relation, the block's own
    left side stands before it.
    """
    blocks = re.findall(r"\$\$(.+?)\$\$|\\begin\{(align\*?)\}(.+?)\\end\{\2\}", source, flags=re.S)
    for dollars, _, aligned in blocks:
        left, since = aligned.split("&")[0], ""
        for line in re.split(r"\\\\(?:\[[^\]]*\])?", aligned) if aligned else [dollars]:
            since += " " + TAG.sub("", line)
            for tag in TAG.findall(line):
                tex = " ".join((since.replace("&", " ") if aligned else since).split())
                yield tag, f"{left.strip()} {tex}" if aligned and re.match(r"=|\\(le|ge|approx)(?![a-z])", tex) else tex
                since = ""


# What the package offers -----------------------------------------------------------------------------------------


@functools.cache
def package() -> dict[str, object]:
    """Every public name of ddpm_edu (classes, functions) by its plain name, and its modules."""
    import ddpm_edu

    names: dict[str, object] = {}
    for info in pkgutil.iter_modules(ddpm_edu.__path__):
        if info.name.startswith("_") or info.name in ("cli", "exercises"):
            continue
        module = importlib.import_module(f"ddpm_edu.{info.name}")
        names[info.name] = module
        for name, value in vars(module).items():
            # A package also owns what its files hold.
            own = f"{getattr(value, '__module__', '')}.".startswith(f"{module.__name__}.")
            if own and not name.startswith("_") and (inspect.isclass(value) or inspect.isroutine(value)):
                names.setdefault(name, value)
    return names


def resolve(dotted: str) -> str | None:
    """The full name (`ddpm_edu.schedules.NoiseSchedule.snr`) of what a summary table calls `NoiseSchedule.snr`, or None."""
    first, *rest = dotted.removeprefix("ddpm_edu.").split(".")
    if first not in package():
        return None
    value, full = package()[first], []
    if inspect.ismodule(value):
        full = [value.__name__]
    else:
        full = [value.__module__, value.__qualname__]
    for name in rest:
        if name in getattr(value, "__dataclass_fields__", {}):
            value = value.__dataclass_fields__[name]
        elif hasattr(value, name):
            value = getattr(value, name)
        else:
            return None
        full.append(name)
    return ".".join(full)
