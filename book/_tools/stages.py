"""What `make book`, `make test` and `make test-all` do once .venv is there: stages, each with a plain verdict and its time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from install import duration

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "_build" / "html" / "index.html"
BOOK = "book, warnings as errors"
RATE = "kill rate"  # a stage's lines that begin so are shown
PY = [sys.executable, "-m"]
PYTEST = [*PY, "pytest", "-q", "-p", "no:cacheprovider", "--no-header"]
FAST = ["-m", "not slow"]
IN_BROWSER = ["tests/test_browser.py", "tests/test_playground.py"]  # these need the built book
NBVAL = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=300", "-n", "2", "--dist", "loadfile", "notebooks"]


def chromium() -> str | None:
    """The browser for the page tests: $CHROMIUM, or the first one on the path."""
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def build() -> list[str]:
    return [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "--all", "-W", "-n", "--keep-going"]


@dataclass
class Stage:
    name: str
    commands: list[list[str]]
    skip: Callable[[], str | None] = lambda: None  # a reason not to run, in words
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def run(self) -> bool:
        """Run the commands; print one line, and everything they said when one fails."""
        started = time.monotonic()
        if reason := self.skip():
            print(f"– {self.name} · not run: {reason}", flush=True)
            return True
        if sys.stdout.isatty():
            print(f"… {self.name}", end="\r", flush=True)
        if self.name == BOOK:
            shutil.rmtree(PAGE.parent, ignore_errors=True)  # pages of chapters that are gone
        for command in self.commands:
            # One thread a process: two processes run side by side, and more threads only get in each other's way.
            env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
            done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)\b", _last_line(done.stdout)):
                word = "failed" if word.startswith("error") else word
                self.counts[word] = self.counts.get(word, 0) + int(number)
            self.seconds = time.monotonic() - started
            if done.returncode:
                self.counts["failed"] = max(1, self.counts.get("failed", 0))
                print(f"✗ {self.name} · {duration(self.seconds)}\n")
                print(f"$ {' '.join(command)}\n{done.stdout.rstrip()}\n", flush=True)
                return False
        what = ", ".join(f"{n} {word}" for word, n in self.counts.items()) or "clean"
        print(f"✓ {self.name} · {what} · {duration(self.seconds)}", flush=True)
        print(*(f"  {line}\n" for line in done.stdout.splitlines() if line.startswith(RATE)), sep="", end="", flush=True)
        return True


STAGES = [
    Stage("lint and types", [[*PY, "ruff", "check"], [*PY, "ruff", "format", "--check"], [*PY, "mypy"]]),
    Stage(
        "unit and property tests",
        [[*PYTEST, *FAST, "-n", "2", "--dist", "worksteal", "tests", *(f"--ignore={path}" for path in IN_BROWSER)]],
    ),
    Stage(
        "notebook linter",
        [[sys.executable, "book/_tools/lint.py"], [sys.executable, "book/_tools/execute.py", "--check"]],
    ),
    Stage(
        "chapters, every cell against its stored output",
        [[*PYTEST, *NBVAL]],
        skip=lambda: None if list(ROOT.glob("notebooks/[0-9][0-9]_*.ipynb")) else "there is no chapter yet",
    ),
    Stage("wrong versions of the package, each to be noticed", [[sys.executable, "tests/mutants.py"]]),
    Stage(BOOK, [build()]),
    Stage(
        "pages in a browser",
        [
            [*PYTEST, "-m", "not slow and not alone", "-n", "2", "--dist", "loadgroup", *IN_BROWSER],
            [*PYTEST, "-m", "alone", *IN_BROWSER],
        ],
        skip=lambda: None if chromium() else "no Chromium or Chrome found (install one, or set CHROMIUM=/path/to/it)",
    ),
]

# What takes hours on two cores, after everything else has passed.
LONG = [
    Stage("slow tests", [[*PYTEST, "-m", "slow", "-n", "2", "--dist", "loadfile", "tests"]]),
    Stage("every chapter run again, byte for byte", [[sys.executable, "book/_tools/execute.py", "--again"]]),
]


def test(stages: list[Stage], command: str = "make test") -> int:
    started = time.monotonic()
    failed = None
    for stage in stages:
        if not stage.run():
            failed = stage
            break
    total = {word: sum(s.counts.get(word, 0) for s in stages) for word in ("passed", "failed", "skipped")}
    if failed:
        at = f"stage {stages.index(failed) + 1} of {len(stages)}, {failed.name}"
        print(f"{command} stopped at {at}: see above.")
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    print(f"took {duration(time.monotonic() - started)}")
    print(f"ddpm-edu: {total['passed']} passed, {total['failed']} failed{skipped}")
    return 1 if failed else 0


def book() -> int:
    started = time.monotonic()
    print("Building the book …", flush=True)
    shutil.rmtree(PAGE.parent, ignore_errors=True)
    done = subprocess.run(build(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    took = duration(time.monotonic() - started)
    if done.returncode:
        print(done.stdout)
        print(f"The book was not built: see the warnings and errors above ({took}).")
        return 1
    print(f"The book is built ({took}). Open {PAGE.relative_to(ROOT)}")
    return 0


def _last_line(text: str) -> str:
    return text.rstrip().splitlines()[-1] if text.strip() else ""


if __name__ == "__main__":
    what = sys.argv[1:]
    sys.exit(book() if what == ["book"] else test([*STAGES, *LONG], "make test-all") if what == ["test-all"] else test(STAGES))
