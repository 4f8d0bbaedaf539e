"""Wrong versions of the package's formulas, each of which a unit test and a chapter's check cell must notice.

    python tests/mutants.py                    # every entry of mutants.yml, two processes; prints the kill rates
    python tests/mutants.py --only posterior   # entries whose id starts so

An entry names a function, a piece of its source (`old`) and what is written instead (`new`). The function's code is
replaced in a forked process, so nothing is written to disk and nothing has to be put back: one child runs the unit test,
one runs the check cell, both must fail. A chapter is executed once, up to the last cell that is asked for, and each
child is forked right before its cell; with `from_start` the child runs the whole chapter up to that cell instead, for
functions whose results are made early in the chapter.
"""

from __future__ import annotations
import __future__

import argparse
import ast
import contextlib
import functools
import importlib
import inspect
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, settings

ROOT = Path(__file__).resolve().parents[1]
REGISTER = Path(__file__).with_name("mutants.yml")
LIMIT = 120  # seconds for one child: an endless loop is noticed too
SURVIVED, NOTICED, BROKEN = 0, 1, 3
QUIET = ["-q", "-p", "no:cacheprovider"]


@dataclass(frozen=True)
class Mutant:
    id: str
    function: str  # "diffusion.GaussianDiffusion.q_posterior": below ddpm_edu
    slip: str  # what is written wrongly, in words
    old: str
    new: str
    test: str = ""  # "test_diffusion.py::test_name": a unit test that fails
    check: str = ""  # "5.9": the equation whose check cell fails
    from_start: bool = False
    equivalent: str = ""  # the proof, where no test can tell the two apart

    @property
    def chapter(self) -> int:
        return int(self.check.split(".")[0])


def register() -> list[Mutant]:
    return [Mutant(**entry) for entry in yaml.safe_load(REGISTER.read_text(encoding="utf-8"))]


# Changing a function in place -------------------------------------------------------------------------------------


def _find(path: str) -> tuple[Any, Any]:
    """The module and the plain function behind a dotted name; properties, classmethods and decorators are unpacked."""
    module_name, *names = path.split(".")
    module = importlib.import_module(f"ddpm_edu.{module_name}")
    owner: Any = module
    for name in names[:-1]:
        owner = getattr(owner, name)
    return module, _plain(inspect.getattr_static(owner, names[-1]))


def _plain(found: Any) -> Any:
    if isinstance(found, (property, functools.cached_property)):
        found = found.fget if isinstance(found, property) else found.func
    return inspect.unwrap(getattr(found, "__func__", found))


def mutated(mutant: Mutant) -> tuple[Any, Any]:
    """The function and its wrong twin. Raises ValueError when `old` does not occur exactly once in it."""
    module, function = _find(mutant.function)
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(mutant.old) != 1:
        raise ValueError(f"{mutant.id}: {mutant.old!r} occurs {source.count(mutant.old)} times in {mutant.function}, not once")
    source = source.replace(mutant.old, mutant.new)
    namespace = dict(vars(module))
    code = compile(source, f"<mutant {mutant.id}>", "exec", __future__.annotations.compiler_flag, dont_inherit=True)
    exec(code, namespace)
    return function, _plain(namespace[function.__name__])


def apply(mutant: Mutant) -> None:
    function, wrong = mutated(mutant)
    function.__code__, function.__defaults__, function.__kwdefaults__ = wrong.__code__, wrong.__defaults__, wrong.__kwdefaults__


# Who notices ------------------------------------------------------------------------------------------------------


def forked(work: Callable[[], int]) -> int:
    """The exit status of `work` in a child process that prints nothing."""
    if (child := os.fork()) == 0:
        status = BROKEN
        try:
            signal.signal(signal.SIGALRM, lambda *_: os._exit(NOTICED))
            signal.alarm(LIMIT)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1), os.dup2(quiet, 2)
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def same_examples() -> None:
    """Hypothesis draws the same examples every time, and does not look for simpler ones: red is red."""
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("red", derandomize=True, database=None, phases=phases, suppress_health_check=list(HealthCheck))
    settings.load_profile("red")


class UnitTests:
    """A pytest plugin: the test files are collected once, and each mutant's test runs in a fork of that."""

    def __init__(self, mutants: list[Mutant]):
        self.mutants, self.failed = mutants, False
        self.results, self.without = dict[str, int](), dict[str, int]()  # by mutant; and of each test without any

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed |= report.failed

    def pytest_runtestloop(self, session: Any) -> bool:
        for mutant in self.mutants:
            file, name = mutant.test.split("::")
            items = [item for item in session.items if item.path.name == file and name in (item.name, item.originalname)]
            if items and mutant.test not in self.without:
                self.without[mutant.test] = forked(lambda items=items: self.ask(items))
            self.results[mutant.id] = forked(lambda mutant=mutant, items=items: self.ask(items, mutant)) if items else BROKEN
        return True

    def ask(self, items: list[Any], mutant: Mutant | None = None) -> int:
        if mutant:
            apply(mutant)
        for item in items:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return NOTICED if self.failed else SURVIVED


def unit_tests(mutants: list[Mutant]) -> dict[str, int]:
    """By a mutant's id: does its unit test fail? What does not, is asked again with the mutant there at the import.

    A test that fails without any mutant notices nothing: its mutants are BROKEN.
    """
    files = sorted({str(ROOT / "tests" / mutant.test.split("::")[0]) for mutant in mutants})
    trials = UnitTests(mutants)
    same_examples()
    with silent():
        pytest.main([*QUIET, "-s", *files], plugins=[trials])
    again = (mutant for mutant in mutants if trials.results.get(mutant.id) != NOTICED)
    results = {**trials.results, **{mutant.id: unit_test(mutant) for mutant in again}}
    return {m.id: results[m.id] if trials.without.get(m.test, SURVIVED) == SURVIVED else BROKEN for m in mutants}


def unit_test(mutant: Mutant) -> int:
    def work() -> int:
        sys.modules.pop(mutant.test.split(".py")[0], None)
        apply(mutant)
        code = pytest.main(["-x", *QUIET, str(ROOT / "tests" / mutant.test)])
        return {0: SURVIVED, 1: NOTICED, 2: NOTICED}.get(int(code), BROKEN)

    return forked(work)


@dataclass(frozen=True)
class Cell:
    source: str
    tags: tuple[str, ...]  # of the equations it checks


@functools.cache
def cells(chapter: int) -> list[Cell]:
    (path,) = ROOT.glob(f"notebooks/{chapter:02d}_*.ipynb")
    found = []
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code" and not {"remove-cell", "exercise"} & set(cell.metadata.get("tags", [])):
            checks = re.search(r"\bcheck(_mean|_distribution|_symbolic)?\(", cell.source)
            tags = re.findall(r"[\"'](\d+\.\d+)[\"']", cell.source) if checks else []
            plain = re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell.source)  # lines of IPython magic
            found.append(Cell(plain, tuple(tags)))
    return found


def run_cell(cell: Cell, namespace: dict[str, Any]) -> None:
    exec(compile(cell.source, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)


def red(run: Callable[[], None]) -> int:
    try:
        run()
    except BaseException:
        return NOTICED
    return SURVIVED


@contextlib.contextmanager
def silent() -> Iterator[None]:
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        yield


def walk(chapter: int, visit: Callable[[int, Cell, dict[str, Any]], None], last: int | None = None) -> None:
    """Run a chapter cell by cell; `visit` is called before each with what is defined by then."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    torch.set_default_dtype(torch.float32)  # as in a new process
    namespace: dict[str, Any] = {"__name__": "__main__", "display": lambda *_: None}
    for k, cell in enumerate(cells(chapter)):
        visit(k, cell, namespace)
        if k == last:
            return
        with silent():
            run_cell(cell, namespace)
        plt.close("all")


def check_cells(chapter: int, wanted: list[tuple[Mutant | None, str]]) -> dict[tuple[str, str], int]:
    """For each (mutant, tag): does one of the cells that check the equation go red? Mutant None is the package itself."""
    results: dict[tuple[str, str], int] = {}
    places = {tag: [k for k, cell in enumerate(cells(chapter)) if tag in cell.tags] for _, tag in wanted}
    if missing := [tag for tag, at in places.items() if not at]:
        raise ValueError(f"no cell of chapter {chapter} checks {', '.join(missing)}")

    def whole(mutant: Mutant, tag: str) -> int:
        def run() -> None:
            apply(mutant)
            walk(chapter, lambda *_: None, last=places[tag][-1] + 1)

        return red(run)

    def visit(k: int, cell: Cell, namespace: dict[str, Any]) -> None:
        for mutant, tag in wanted:
            key = (mutant.id if mutant else "", tag)
            if k == 0 and mutant and mutant.from_start:
                results[key] = forked(lambda mutant=mutant, tag=tag: whole(mutant, tag))
            elif k in places[tag] and not (mutant and mutant.from_start) and results.get(key) != NOTICED:

                def work(mutant=mutant) -> int:
                    if mutant:
                        apply(mutant)
                    return red(lambda: run_cell(cell, namespace))

                results[key] = forked(work)

    walk(chapter, visit, last=max(max(at) for at in places.values()))
    return results


# All of them ------------------------------------------------------------------------------------------------------


def by_tests(mutants: list[Mutant]) -> list[str]:
    """Faults, one line each: mutants whose unit test does not fail."""
    faults, results = [], unit_tests(mutants)
    for mutant in mutants:
        if (got := results[mutant.id]) != NOTICED:
            why = "passes" if got == SURVIVED else "could not be run"
            faults.append(f"{mutant.id} ({mutant.slip}): the unit test {mutant.test} {why}")
    return faults


def by_chapter(mutants: list[Mutant]) -> list[str]:
    """Faults of mutants of one chapter: no cell that checks the equation goes red, or one does without any mutant."""
    wanted: list[tuple[Mutant | None, str]] = [(None, tag) for tag in sorted({m.check for m in mutants})]
    results = check_cells(mutants[0].chapter, wanted + [(mutant, mutant.check) for mutant in mutants])
    faults = []
    for (name, tag), got in results.items():
        if name and got != NOTICED:
            faults.append(f"{name}: no check cell of Eq. ({tag}) goes red")
        if not name and got != SURVIVED:
            faults.append(f"the check cell of Eq. ({tag}) fails without any mutant, so it notices nothing")
    return faults


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Does every wrong version of the package get noticed?")
    parser.add_argument("--only", default="", help="entries whose id starts so")
    options = parser.parse_args(arguments)
    import mutation  # which imports this module

    mutants = [m for m in register() if m.id.startswith(options.only) and not m.equivalent]
    chapters = sorted({m.chapter for m in mutants})
    for name in ("hypothesis", "scipy.integrate", "sympy", "matplotlib.pyplot"):
        importlib.import_module(name)  # once, for all children
    torch.set_num_threads(1)  # threads do not survive a fork
    faults: list[str] = []
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        jobs = [pool.submit(by_chapter, [m for m in mutants if m.chapter == chapter]) for chapter in chapters]
        by_file = sorted(mutants, key=lambda mutant: mutant.test)
        jobs += [pool.submit(by_tests, by_file[k : k + 25]) for k in range(0, len(mutants), 25)]
        for job in jobs:
            faults += job.result()
    for fault in faults:
        print(f"✗ {fault}")
    unnoticed = {fault.split()[0].rstrip(":") for fault in faults}
    noticed = len(mutants) - len(unnoticed)
    print(f"kill rate, by a unit test and by a check cell: {noticed} of {len(mutants)} wrong versions of formulas")
    for module, (dead, tried) in mutation.rates(mutation.results()).items():
        print(f"kill rate, by unit tests, when last tried: {dead} of {tried} small edits of {module}.py ({dead / tried:.1%})")
    print(f"{noticed} passed, {len(unnoticed)} failed")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
