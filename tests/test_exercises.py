"""Every exercise of every chapter: the blank fails cleanly, the answer passes, each listed wrong answer gets its hint."""

import importlib
import pkgutil

import pytest
import torch

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
