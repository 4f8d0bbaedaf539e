"""Every exercise of every chapter: the blank fails cleanly, the answer passes, each listed wrong answer gets its hint.

The blank and the answer are the notebook's own: its exercise cell, and the code of its folded solution.
"""

import ast
import importlib
import pkgutil
import re

import pytest
import torch
from chapters import REFERENCE, Chapter, chapters

import ddpm_edu.exercises as exercises
from ddpm_edu.exercises import Exercise

FILES = [m.name for m in pkgutil.iter_modules(exercises.__path__)]
ALL = {
    name: value
    for file in FILES
    for name, value in vars(importlib.import_module(f"ddpm_edu.exercises.{file}")).items()
    if isinstance(value, Exercise)
}

double = Exercise(
    "1.1",
    [(2.0,), (3.0,)],
    lambda x: 2 * x,
    {"that is a square": lambda x: x**2, "that is a half": lambda x: x / 2, "a sign is lost": lambda x: -2 * x},
    praise="twice",
)


@pytest.mark.parametrize(
    "attempt, verdict",
    [
        (lambda x: 2 * x, "✓ Exercise 1.1 · twice"),
        (lambda x: torch.tensor(2 * x), "✓ Exercise 1.1 · twice"),
        (lambda x: ..., "✗ Exercise 1.1 · not written yet"),
        (lambda x: None, "✗ Exercise 1.1 · not written yet"),
        (lambda x: x**2, "✗ Exercise 1.1 · that is a square"),
        (3.0, "✗ Exercise 1.1 · give the grader your function itself, not float"),
        (lambda x: 5.0, "✗ Exercise 1.1 · not yet: with input 1 of 2, (2), the value should not be 5"),
        (lambda: 0, None),
        (lambda x: "a", None),
        (lambda x: float("nan"), None),
    ],
)
def test_verdicts(attempt, verdict):
    line = double.verdict(attempt)
    assert "\n" not in line
    assert line == verdict if verdict else line.startswith("✗ Exercise 1.1 · ")


def test_blank_that_raises():
    def blank(x):
        raise NotImplementedError

    assert double.verdict(blank) == "✗ Exercise 1.1 · not written yet"


@pytest.mark.parametrize("name", sorted(ALL))
def test_exercise(name):
    exercise = ALL[name]
    assert name == "grade_" + exercise.number.replace(".", "_")
    assert len(exercise.slips) >= 3
    assert exercise.verdict(lambda *args: ...) == f"✗ Exercise {exercise.number} · not written yet"
    assert exercise.verdict(exercise.answer).startswith("✓")
    for hint, slip in exercise.slips.items():
        assert exercise.verdict(slip) == f"✗ Exercise {exercise.number} · {hint}"


BOOK = chapters()
TAGS = {equation.tag for chapter in BOOK for equation in chapter.equations}
SOLUTION = re.compile(r"<details>\s*<summary><b>Solution (\d+\.\d+)</b></summary>(.*?)</details>", flags=re.S)


@pytest.mark.parametrize("name", sorted(ALL))
def test_hints_are_sentences_that_lead_to_equations(name):
    exercise = ALL[name]
    for hint in [*exercise.slips, exercise.praise]:
        assert len(hint.split()) >= 2 and "\n" not in hint
        assert "Eq" not in hint or REFERENCE.search(hint), f"no equation can be found from: {hint}"
        for group in REFERENCE.findall(hint):
            assert set(re.findall(r"\d+\.\d+", group)) <= TAGS, hint


def blanks(chapter: Chapter) -> dict[str, tuple[str, str, str]]:
    """For each exercise, by number: its cell's source, the grader's call in it, what the cell is stored to print."""
    found = {}
    for k, tree in chapter.trees():
        if "exercise" in chapter.cells[k].metadata.get("tags", []):
            call = ast.unparse(tree.body[-1])
            number = re.fullmatch(r"grade_(\d+)_(\d+)\(\w+\)", call)
            assert number, f"cell {k} of {chapter} must end with the grader's call, not with {call}"
            stored = "".join(output.get("text", "") for output in chapter.cells[k].outputs)
            found[".".join(number.groups())] = (chapter.cells[k].source, call, stored)
    return found


@pytest.fixture
def as_it_was():
    """A solution may set torch's default dtype, as its chapter does."""
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.mark.parametrize("chapter", BOOK, ids=lambda chapter: chapter.path.stem)
def test_the_notebook_s_blanks_fail_and_its_folded_solutions_pass(chapter, capsys, as_it_was):
    prose = "\n\n".join(source for _, source in chapter.markdown())
    solutions, given = dict(SOLUTION.findall(prose)), blanks(chapter)
    graders = {exercise.number for exercise in ALL.values() if exercise.number.split(".")[0] == str(chapter.number)}
    assert set(given) == set(solutions) == graders and len(graders) >= 3
    assert re.search(r"\*\*Exercise \d+\.\d+[^\n]*small project", prose), "one exercise should be a small project"
    names: dict = {}
    for number, (source, call, stored) in given.items():
        exec(source, names)
        blank = capsys.readouterr().out
        assert blank == stored and blank.splitlines()[-1] == f"✗ Exercise {number} · not written yet"
        for code in re.findall(r"```python\n(.*?)```", solutions[number], flags=re.S):
            exec(code, names)
        capsys.readouterr()  # what the solution prints by itself
        exec(call, names)
        assert capsys.readouterr().out.startswith(f"✓ Exercise {number} · ")
