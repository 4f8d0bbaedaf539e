"""Every public name of the package is documented, stands in the API page, is tested, and has its equation or a reason."""

import ast
import inspect
import re
from pathlib import Path

import index
import pytest
from chapters import Chapter, chapters, pages, resolve

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ddpm_edu"
MODULES = sorted(p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("_"))


def names_of(module: str) -> list[str]:
    """Public functions, classes, their methods and properties, as they are written in the module's file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for node in ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, (*kinds, ast.ClassDef)) and not node.name.startswith("_"):
            found.append(node.name)
            if isinstance(node, ast.ClassDef):
                found += [f"{node.name}.{m.name}" for m in node.body if isinstance(m, kinds) and not m.name.startswith("_")]
    return found


PUBLIC = {f"ddpm_edu.{module}.{name}" for module in MODULES for name in names_of(module)}


def test_the_reader_of_files_sees_what_python_sees():
    import ddpm_edu.schedules

    seen = {
        name
        for name, value in vars(ddpm_edu.schedules).items()
        if inspect.isclass(value) and value.__module__.endswith("schedules")
    }
    assert {"NoiseSchedule"} == seen and "ddpm_edu.schedules.NoiseSchedule.snr" in PUBLIC and len(PUBLIC) > 300


# In the API page --------------------------------------------------------------------------------------------------

COMMANDS = {"cli"}  # the README and --help say how it is used; no one imports it


@pytest.mark.parametrize("module", sorted(set(MODULES) - COMMANDS))
def test_each_module_stands_in_the_api_page_with_all_its_names(module):
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    block = re.search(rf"\.\. automodule:: ddpm_edu\.{module}\n((?:   :.*\n)*)", page)
    assert block, f"book/api.md has no automodule line for ddpm_edu.{module}"
    assert "exclude-members" not in block[1] and ":members: " not in block[1]


def test_the_api_page_names_no_module_that_is_gone():
    assert index.documented() <= {*MODULES, "explorers"}


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_says_what_it_is(module):
    """Autodoc leaves out what has no docstring; `forward` is torch's word and speaks for itself."""
    bare = []
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bare += [f"{node.name}.{m.name}" for m in node.body if isinstance(m, ast.FunctionDef) and undocumented(m)]
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    bare += [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and undocumented(n)]
    assert bare == []


def undocumented(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return not (node.name.startswith("_") or node.name == "forward" or ast.get_docstring(node))


# In a test --------------------------------------------------------------------------------------------------------


def referenced(tree: ast.AST) -> set[str]:
    """Every name that code uses: variables, attributes and imports; not words in strings or comments."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
    return found


def checking_cells(chapter: Chapter) -> list[ast.Module]:
    cells = {c.cell for c in chapter.checks if c.kind != "refute"}
    return [tree for k, tree in chapter.trees() if k in cells]


RECORDS = re.compile(r"NamedTuple|Protocol|dataclass")


def fields_of_records() -> dict[str, set[str]]:
    """Classes that only hold an answer together, without methods of their own: a test meets them through their fields."""
    found = {}
    for module in MODULES:
        for node in ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef):
                continue
            marks = " ".join(ast.unparse(mark) for mark in [*node.bases, *node.decorator_list])
            methods = [m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
            if RECORDS.search(marks) and not methods:
                found[f"ddpm_edu.{module}.{node.name}"] = {s.target.id for s in node.body if isinstance(s, ast.AnnAssign)}
    return found


@pytest.fixture(scope="module")
def used() -> set[str]:
    here = Path(__file__).name
    trees = [ast.parse(p.read_text(encoding="utf-8")) for p in (ROOT / "tests").glob("*.py") if p.name != here]
    return set().union(*(referenced(t) for t in [*trees, *(t for c in [*chapters(), *pages()] for t in checking_cells(c))]))


def test_everything_public_is_used_by_a_test_or_a_check(used):
    """By its plain name: where two classes share a method's name, this gate cannot tell them apart."""
    unused = {full for full in PUBLIC if full.rsplit(".", 1)[-1] not in used | {"forward"}}
    met = {full for full, fields in fields_of_records().items() if fields <= used}
    assert sorted(name for name in unused - met if name.split(".")[1] not in COMMANDS) == []


def test_every_command_is_run_by_a_test():
    """The functions behind the command line are reached through it."""
    words = {n.value for n in ast.walk(ast.parse((ROOT / "tests" / "test_cli.py").read_text())) if isinstance(n, ast.Constant)}
    commands = {name.removeprefix("run_") for name in names_of("cli") if name.startswith("run_")}
    assert len(commands) >= 4 and commands <= words


# In the index of equations, or with a reason ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def indexed() -> set[str]:
    return {resolve(name) for chapter in chapters() for row in chapter.summary for name in row.code}


def test_everything_public_has_its_equation_or_a_reason(indexed):
    reasons = {f"ddpm_edu.{name}" for names in index.WITHOUT_EQUATION.values() for name in names}
    missing = sorted(name for name in PUBLIC if name not in indexed and not covered(name, reasons, indexed))
    assert missing == [], "add these to a chapter's summary table, or to WITHOUT_EQUATION in book/_tools/index.py"


def covered(name: str, reasons: set[str], indexed: set[str]) -> bool:
    """A reason given for a module or a class holds for all in it; a class is where its methods are."""
    parts = name.split(".")
    inside = any(other.startswith(name + ".") for other in indexed)
    return inside or any(".".join(parts[:k]) in reasons for k in range(2, len(parts) + 1))


def test_no_reason_is_given_for_what_has_an_equation_or_is_gone(indexed):
    everything = PUBLIC | {f"ddpm_edu.{module}" for module in MODULES}
    for names in index.WITHOUT_EQUATION.values():
        for name in names:
            full = f"ddpm_edu.{name}"
            assert full in everything, f"{full} is not public any more"
            assert full not in indexed, f"{full} has its equation"


# In the checks of its chapter -------------------------------------------------------------------------------------


def test_the_code_of_an_equation_stands_in_a_check_cell_of_its_chapter():
    unasked = set()
    for chapter in chapters():
        names = set().union(*(referenced(tree) for tree in checking_cells(chapter)))
        for row in chapter.summary:
            if row.code and row.check != ["definition"] and not any(name.split(".")[-1] in names for name in row.code):
                unasked.add(row.tag)
    assert unasked == set(), "let a check of the chapter call the code that its summary names"
