"""A general mutation test: every small edit of a function must make some unit test fail.

    python tests/mutation.py                 # functions whose source changed since mutation.json was written
    python tests/mutation.py --survivors     # those with survivors, again: after tests were added
    python tests/mutation.py --all           # everything, an hour on two cores
    python tests/mutation.py --only gaussian.product

The edits are Cosmic Ray's (another operator, another number, `not` added, a loop that never runs, …) and three of our
own: a tensor method left out, a keyword argument left out, a call that only checks left out. What is not edited: error
messages, annotations, docstrings, and what stands outside functions. A mutant replaces the functions' code in a forked
process that has everything imported; there only those tests of its module run which execute the edited lines, the quick
ones first, until one fails. mutation.json keeps the results function by function, so that an interrupted run goes on where
it stopped. survivors.yml says of mutants that no test can tell apart, or that no test is worth, why that is so.
"""

from __future__ import annotations
import __future__

import argparse
import ast
import contextlib
import hashlib
import importlib
import inspect
import json
import os
import platform
import resource
import signal
import sys
import traceback
import types
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import process_time
from typing import Any

import cosmic_ray.plugins
import parso.python.tree
import pytest
import torch
import yaml
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators.operator import Operator
from mutants import same_examples

ROOT = Path(__file__).resolve().parents[1]
RESULTS, EXPLAINED = Path(__file__).with_name("mutation.json"), Path(__file__).with_name("survivors.yml")
MODULES = ("schedules", "gaussian", "scores", "oracles", "samplers", "likelihood", "diffusion")
SURVIVED, NOTICED, NO_MUTANT, BROKEN = 0, 1, 3, 4
MEMORY = 2 << 30  # more than this, on top of what is in use, is a mutant's doing

# What is edited ---------------------------------------------------------------------------------------------------

BINARY = "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Pow_Mul BitAnd_BitOr"
COMPARISON = "Lt_LtE LtE_Lt Gt_GtE GtE_Gt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is"
OTHERS = "AddNot ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceAndWithOr ReplaceOrWithAnd ExceptionReplacer "
OTHERS += "NumberReplacer RemoveDecorator ZeroIterationForLoop ReplaceUnaryOperator_Delete_USub "
OTHERS += "ReplaceUnaryOperator_Delete_Not ReplaceUnaryOperator_Delete_Invert"
METHODS = set(
    "abs clamp clone cpu detach double exp expand expand_as flip log mean sqrt square sum to unsqueeze all any cumsum".split()
)


class Own(Operator):
    """An edit that takes pieces out of a node's children."""

    def pieces(self, node: Any) -> Iterator[slice]:
        raise NotImplementedError

    def mutation_positions(self, node: Any) -> Iterator[tuple]:
        for piece in self.pieces(node) if isinstance(node, parso.tree.BaseNode) else ():
            yield node.children[piece][0].start_pos, node.children[piece][-1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        del node.children[list(self.pieces(node))[index]]
        return node

    @classmethod
    def examples(cls) -> tuple:
        return ()


class DropMethod(Own):
    """x.sqrt() → x"""

    def pieces(self, node: Any) -> Iterator[slice]:
        for k, (name, call) in enumerate(zip(node.children, node.children[1:])):
            if name.type == call.type == "trailer" and call.children[0].value == "(" and name.children[1].value in METHODS:
                if not (k == 1 and node.children[0].get_code().strip() in ("torch", "math", "np", "np.random")):
                    yield slice(k, k + 2)


class DropKeyword(Own):
    """f(x, dtype=y) → f(x)"""

    def pieces(self, node: Any) -> Iterator[slice]:
        for k, child in enumerate(node.children):
            named = child.type == "argument" and child.children[1].get_code().strip() == "="
            if named and child.children[0].value != "device":  # which is the CPU in every test
                if node.type == "arglist":
                    yield slice(k - 1, k + 1) if k else slice(0, 2)
                elif node.type == "trailer":
                    yield slice(k, k + 1)


class DropCheck(Own):
    """A statement that is only a call → pass"""

    def pieces(self, node: Any) -> Iterator[slice]:
        if node.type == "simple_stmt" and node.children[0].type in ("atom_expr", "power"):
            if node.children[0].children[-1].get_code().startswith("("):
                yield slice(0, 1)

    def mutate(self, node: Any, index: int) -> Any:
        first = node.get_first_leaf()
        node.children[0] = parso.python.tree.Name("pass", first.start_pos, first.prefix)
        return node


def operators() -> dict[str, type[Operator]]:
    names = [f"ReplaceBinaryOperator_{swap}" for swap in BINARY.split()]
    names += [f"ReplaceComparisonOperator_{swap}" for swap in COMPARISON.split()] + OTHERS.split()
    found = {name: cosmic_ray.plugins.get_operator(f"core/{name}") for name in names}
    return {**found, **{own.__name__: own for own in (DropMethod, DropKeyword, DropCheck)}}


OPERATORS = operators()


@dataclass(frozen=True)
class Function:
    module: str
    name: str  # "NoiseSchedule.steps"
    text: str  # of the function alone, a method below "class _:"
    first: int  # the line of the module before the first of the text
    digest: str  # of what it does: comments, docstrings, messages and layout are left out


@dataclass(frozen=True)
class Mutant:
    function: Function
    operator: str
    occurrence: int
    lines: frozenset[int]  # of the module; a test that executes one of them is asked

    def text(self) -> str:
        return str(MutationVisitor.mutate_code(self.function.text, OPERATORS[self.operator](), self.occurrence))

    def edit(self) -> dict[str, str]:
        """The edited lines, before and after."""
        before, after = ([line.strip() for line in text.splitlines()] for text in (self.function.text, self.text()))
        for end in (0, -1):
            while before and after and before[end] == after[end]:
                del before[end], after[end]
        return {"old": " ".join(before), "new": " ".join(" ".join(after).split())}


def path_of(module: str) -> Path:
    return ROOT / "ddpm_edu" / f"{module}.py"


def functions(module: str) -> list[Function]:
    source = path_of(module).read_text(encoding="utf-8")
    lines, found = source.splitlines(keepends=True), []

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef):
                first = min([child.lineno, *(d.lineno for d in child.decorator_list)]) - 1
                head = "class _:\n" if prefix else "\n"
                text = head + "".join(lines[first : child.end_lineno])
                for part in ast.walk(child):
                    if isinstance(part, ast.FunctionDef) and ast.get_docstring(part) is not None:
                        part.body = part.body[1:]
                    if isinstance(part, ast.Raise):
                        part.exc = None
                digest = hashlib.sha256(ast.dump(child).encode()).hexdigest()[:12]
                found.append(Function(module, prefix + child.name, text, first - 1, digest))

    visit(ast.parse(source), "")
    return found


def mutants(function: Function) -> list[Mutant]:
    counts: Counter[str] = Counter()
    found = []
    for node in ast_nodes(get_ast(function.text)):
        for name, operator in OPERATORS.items():
            for k, _ in enumerate(operator().mutation_positions(node)):
                if (k == 0 or name != "NumberReplacer") and _edited(node):
                    found.append(Mutant(function, name, counts[name], _lines(node, function)))
                counts[name] += 1
    return found


def _edited(node: Any) -> bool:
    """Whether a node is no part of an error message."""
    while node is not None and node.type != "raise_stmt":
        node = node.parent
    return node is None


def _lines(node: Any, function: Function) -> frozenset[int]:
    """The lines of the node's statement, of the head of an `if` or `for` only its own; for a default all of the function's."""
    at = node
    while at.parent is not None and at.type not in ("simple_stmt", "parameters", "decorator", "suite"):
        at = at.parent
    first, last = node.start_pos[0], node.end_pos[0]
    if at.type == "simple_stmt":
        first, last = at.start_pos[0], at.end_pos[0]
    elif at.type != "suite":
        first, last = 1, function.text.count("\n")
    elif node.type in ("if_stmt", "for_stmt", "while_stmt"):
        last = next(child.start_pos[0] for child in node.children if child.get_code().strip() == ":")
    return frozenset(range(function.first + first, function.first + last + 1))


# Changing a module in place ---------------------------------------------------------------------------------------


def apply(mutant: Mutant) -> None:
    """Raises SyntaxError when the edit is no Python, which some edits of `*` are."""
    module = importlib.import_module(f"ddpm_edu.{mutant.function.module}")
    *classes, name = mutant.function.name.split(".")
    flags, namespace = __future__.annotations.compiler_flag, dict(vars(module))
    exec(compile(mutant.text(), str(module.__file__), "exec", flags, dont_inherit=True), namespace)
    owner = getattr(module, classes[0]) if classes else module
    was = inspect.getattr_static(owner, name)
    now = inspect.getattr_static(namespace["_"], name) if classes else namespace[name]
    f, g = _plain(was), _plain(now)
    if type(was) is not type(now) or f.__code__.co_freevars != g.__code__.co_freevars:  # without decorator, or super()
        plain = types.FunctionType(g.__code__, vars(module), g.__name__, g.__defaults__)
        setattr(owner, name, plain if inspect.isfunction(now) else type(now)(plain))
    else:
        f.__code__, f.__defaults__, f.__kwdefaults__ = g.__code__, g.__defaults__, g.__kwdefaults__


def _plain(found: Any) -> Any:
    found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    return inspect.unwrap(found) if callable(found) else found


# Who notices ------------------------------------------------------------------------------------------------------


class Trial:
    """A pytest plugin: collects once, learns which test executes which lines, then tries mutants in forks."""

    def __init__(self, module: str, work: Any):
        self.work, self.failed, self.items, self.left_out = work, False, [], []
        self.source, self.file = str(path_of(module)), ROOT / "tests" / f"test_{module}.py"
        self.lines: dict[str, set[int]] = defaultdict(set)  # by test; "" while the test file is imported
        self.seconds: dict[str, float] = {}
        self.kills: Counter[tuple[str, str]] = Counter()  # (function, test)

    def pytest_collectstart(self) -> None:
        self._trace("")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed |= report.failed

    def pytest_runtestloop(self, session: Any) -> bool:
        sys.settrace(None)
        if session.testsfailed:
            raise pytest.UsageError(f"{self.file.name} could not be collected")
        self.items = session.items
        try:
            self.work(self)
        except Exception:
            traceback.print_exc()
            raise
        return True

    def _trace(self, context: str) -> None:
        source, seen = self.source, self.lines[context]

        def line(frame: Any, event: str, _: Any) -> Any:
            seen.add(frame.f_lineno)
            return line

        sys.settrace(lambda frame, event, _: line if frame.f_code.co_filename == source else None)

    def passes(self, item: Any) -> bool:
        self.failed = False
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return not self.failed

    def measure(self) -> None:
        kept = []
        for item in self.items:
            began = process_time()
            self._trace(item.nodeid)
            passed = self.passes(item)
            sys.settrace(None)
            self.seconds[item.nodeid] = process_time() - began
            if not passed:
                self.left_out.append(f"--deselect={item.nodeid}")
                print(f"✗ {item.nodeid} fails without any mutant: it is not asked", file=sys.stderr, flush=True)
            else:
                kept.append(item)
        self.items = kept

    def who(self, mutant: Mutant) -> list[Any]:
        """The tests that execute the edited lines: those that noticed something in this function first, then the quick."""
        whole = frozenset(range(mutant.function.first, mutant.function.first + mutant.function.text.count("\n") + 2))
        found: list[Any] = []
        for lines in (mutant.lines, whole):
            found = found or [item for item in self.items if self.lines[item.nodeid] & lines]
        key = mutant.function.name
        return sorted(found, key=lambda item: (-self.kills[key, item.nodeid], self.seconds[item.nodeid]))

    def trial(self, mutant: Mutant, tests: list[Any], tell: int) -> int:
        try:
            apply(mutant)
        except SyntaxError:
            return NO_MUTANT
        except Exception as error:
            os.write(tell, repr(error).encode())
            raise
        for item in tests:
            if not self.passes(item):
                os.write(tell, item.name.encode())
                return NOTICED
        if self.imported(mutant):  # the test file calls the function while it is imported: once more with a fresh import
            sys.modules.pop(self.file.stem, None)
            return int(pytest.main(["-x", *QUIET, str(self.file), *self.left_out])) and NOTICED
        return SURVIVED

    def imported(self, mutant: Mutant) -> bool:
        first = mutant.function.first
        return any(first < line <= first + mutant.function.text.count("\n") for line in self.lines[""])

    def outcomes(self, group: list[Mutant], jobs: int) -> list[tuple[Mutant, int, str]]:
        """For each mutant: the outcome, and the test that noticed it."""
        waiting, running, done = list(group), {}, []
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant, (hear, tell) = waiting.pop(0), os.pipe()
                tests = self.who(mutant)
                again = self.items if self.imported(mutant) else []
                limit = 10 + 5 * sum(self.seconds[item.nodeid] for item in [*tests, *again])
                running[fork(lambda mutant=mutant, tests=tests, tell=tell: self.trial(mutant, tests, tell), limit)] = (
                    mutant,
                    hear,
                )
                os.close(tell)
            pid, status = os.wait()
            mutant, hear = running.pop(pid)
            with os.fdopen(hear) as pipe:
                by = pipe.read()
            if (code := os.waitstatus_to_exitcode(status)) == BROKEN:
                raise RuntimeError(f"{mutant.function.name}, {mutant.edit()['new']}: {by}")
            nodes = [item.nodeid for item in self.items if item.name == by]
            self.kills.update((mutant.function.name, node) for node in nodes)
            done.append((mutant, code if code in (SURVIVED, NO_MUTANT) else NOTICED, by))
        return done


def fork(work: Any, seconds: float) -> int:
    """Start `work` in a child process that prints nothing; more than its seconds of CPU time end it."""
    if child := os.fork():
        return child
    status = BROKEN
    try:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.alarm(60 + int(40 * seconds))  # one that waits for ever uses none
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        status = work()
    finally:
        os._exit(status)


# All of them ------------------------------------------------------------------------------------------------------

QUIET = ["-q", "-s", "-p", "no:cacheprovider", "--tb=native", "--no-header"]


def run(module: str, work: Any) -> int:
    """Collect a module's unit tests and hand them over."""
    torch.set_num_threads(1)  # threads do not survive a fork
    same_examples()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        trial = Trial(module, work)
        return int(pytest.main([*QUIET, str(trial.file)], plugins=[trial]) != 0 or bool(trial.left_out))


Results = dict[str, dict[str, dict[str, Any]]]  # module, function, what was found


def results() -> Results:
    return json.loads(RESULTS.read_text(encoding="utf-8"))["modules"] if RESULTS.exists() else {}


def save(found: Results) -> None:
    versions = {"python": platform.python_version(), **{name: version(name) for name in ("torch", "cosmic-ray", "hypothesis")}}
    kept: Results = {}
    for module in MODULES:
        names = [function.name for function in functions(module)]
        kept[module] = {name: found[module][name] for name in names if name in found.get(module, {})}
    text = json.dumps({"versions": versions, "modules": kept}, indent=1, ensure_ascii=False)
    RESULTS.write_text(text + "\n", encoding="utf-8")


def rates(found: Results) -> dict[str, tuple[int, int]]:
    """For each module: mutants noticed, and mutants."""
    return {
        module: (sum(of["noticed"] for of in table.values()), sum(of["mutants"] for of in table.values()))
        for module, table in found.items()
    }


Edit = tuple[str, str, str]  # function, line before, line after


def survivors(found: Results) -> tuple[set[Edit], set[Edit]]:
    """Those that survivors.yml does not explain, and entries of survivors.yml that are none."""
    alive = {
        (f"{m}.{name}", s["old"], s["new"]) for m, table in found.items() for name, of in table.items() for s in of["alive"]
    }
    known = set()
    for entry in yaml.safe_load(EXPLAINED.read_text(encoding="utf-8")) or []:
        known |= {(entry["function"], edit["old"], new) for edit in entry["edits"] for new in edit["new"]}
    return alive - known, known - alive


def known(of: dict[str, Any], function: Function, every: int) -> bool:
    return of.get("source") == function.digest and of.get("every", 1) <= every


def try_all(function: Function, before: dict[str, Any], trial: Trial, jobs: int, every: int) -> dict[str, Any]:
    """What the tests say to a function's mutants; of a function that is known, only to those that survived."""
    group, dead = mutants(function), 0
    if known(before, function, every):
        edits = [(s["old"], s["new"]) for s in before["alive"]]
        group = [mutant for mutant in group if tuple(mutant.edit().values()) in edits]
        dead = before["noticed"]
        every = before.get("every", 1)
    else:
        group = group[::every]
    done = [one for one in trial.outcomes(group, jobs) if one[1] != NO_MUTANT]
    alive = sorted((mutant.edit() for mutant, code, _ in done if code == SURVIVED), key=lambda s: (s["old"], s["new"]))
    noticed = dead + len(done) - len(alive)
    of = {"source": function.digest, "mutants": noticed + len(alive), "noticed": noticed, "alive": alive}
    if every > 1:
        of["every"] = every
    told = [(mutant, by) for mutant, code, by in done if by]
    if told and not dead:
        mutant, by = told[len(told) // 2]
        of["sample"] = {"operator": mutant.operator, "occurrence": mutant.occurrence, "test": by}
    elif "sample" in before:
        of["sample"] = before["sample"]
    return of


def again(samples: list[tuple[Function, dict[str, Any]]]) -> list[str]:
    """Of examples from mutation.json, those that are not noticed any more."""
    torch.set_num_threads(1)
    left = []
    for function, of in samples:
        mutant = Mutant(function, of["operator"], of["occurrence"], frozenset())
        test = f"{ROOT / 'tests' / f'test_{function.module}.py'}::{of['test']}"

        def work(mutant: Mutant = mutant, test: str = test) -> int:
            apply(mutant)
            return int(pytest.main(["-x", *QUIET, test]) in (1, 2))

        _, status = os.waitpid(fork(work, 60), 0)
        if os.waitstatus_to_exitcode(status) == SURVIVED:
            left.append(f"{function.module}.{function.name}: {mutant.edit()['new']}")
    return left


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Which small edits of the package does no unit test notice?")
    parser.add_argument("--all", action="store_true", help="every function, changed or not")
    parser.add_argument("--survivors", action="store_true", help="also unexplained survivors, once more")
    parser.add_argument("--only", default="", help="functions whose name starts so, e.g. gaussian.product")
    parser.add_argument(
        "--sample", action="store_true", help="only try examples that were noticed, one of every fourth function"
    )
    parser.add_argument("--every", type=int, default=1, help="of each function's edits, only every so-manieth: a first look")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    options = parser.parse_args(arguments)
    found = {} if options.all else results()
    if options.sample:
        present = [(f, found[module].get(f.name, {})) for module in MODULES for f in functions(module)]
        samples = [(f, of["sample"]) for f, of in present if "sample" in of and of["source"] == f.digest][::4]
        left = again(samples)
        print(*(f"✗ not noticed any more: {line}" for line in left), f"{len(samples)} tried", sep="\n")
        return int(bool(left))
    fault = 0
    for module in MODULES:
        table = found.setdefault(module, {})
        missing = {name for name, *_ in survivors(found)[0]} if options.survivors else set()
        wanted = [
            function
            for function in functions(module)
            if f"{module}.{function.name}".startswith(options.only)
            and (f"{module}.{function.name}" in missing or not known(table.get(function.name, {}), function, options.every))
        ]

        def work(trial: Trial, wanted=wanted, table=table, module=module) -> None:
            trial.measure()
            for function in wanted:
                table[function.name] = of = try_all(function, table.get(function.name, {}), trial, options.jobs, options.every)
                save(found)
                print(f"{module}.{function.name}: {of['noticed']} of {of['mutants']}", file=sys.stderr, flush=True)

        if wanted:
            fault |= run(module, work)
    for module, (noticed, total) in rates(found).items():
        print(f"{module:11} {noticed:5} of {total:5} mutants noticed · {noticed / max(total, 1):.1%}")
    left, stale = survivors(found)
    for name, old, new in sorted(left):
        print(f"✗ neither noticed nor explained: {name}: {old}  →  {new}")
    for name, old, new in sorted(stale):
        print(f"✗ survivors.yml explains what is noticed: {name}: {old}  →  {new}")
    return int(bool(fault or left or stale))


if __name__ == "__main__":
    sys.exit(main())
