"""Write requirements-lock.txt: the exact version of everything that the book and its tests use here.

Usage:

    python book/_tools/lock.py           write it anew from this environment
    python book/_tools/lock.py --check   write nothing; fail where the file and pyproject.toml contradict each other
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings this one along
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements-lock.txt"
HEAD = """\
# The versions that the stored outputs and the shipped checkpoints were made with, on Python {python}, {system}.
# To install just these: PIP_CONSTRAINT=requirements-lock.txt make book VENV=.venv-lock
# Written by `make lock`; what the package itself asks for stands in pyproject.toml, as ranges.
"""


class Unmet(ValueError):
    """A requirement that what is installed does not meet."""


def normal(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for, by extra; "" for what every user gets."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    own = normal(project["name"])
    return {extra: [r for r in map(Requirement, lines) if normal(r.name) != own] for extra, lines in groups.items()}


def installed(requirements: list[Requirement]) -> dict[str, importlib.metadata.Distribution]:
    """The installed packages that the requirements name, and all that these need in turn. Raises Unmet."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo, seen = list(requirements), set()
    while todo:
        requirement = todo.pop()
        name, extras = normal(requirement.name), sorted(requirement.extras)
        try:
            found[name] = found.get(name) or importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise Unmet(f"{requirement} is not installed") from None
        if not requirement.specifier.contains(found[name].version, prereleases=True):
            raise Unmet(f"{requirement} is not met by {name} {found[name].version}")
        if (name, *extras) in seen:
            continue
        seen.add((name, *extras))
        for needed in map(Requirement, found[name].requires or []):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append(needed)
    return found


def lock() -> str:
    """The file's text. A build's own tag (2.4.0+cpu) is left out: the version is what counts, on any hardware."""
    everything = installed([requirement for group in declared().values() for requirement in group])
    head = HEAD.format(python=platform.python_version(), system=platform.system())
    return head + "".join(f"{name}=={of.version.split('+')[0]}\n" for name, of in sorted(everything.items()))


def versions(text: str) -> dict[str, str]:
    """name: version, of a lock file's text."""
    return dict(line.split("==") for line in text.splitlines() if line and not line.startswith("#"))


def contradictions(text: str) -> list[str]:
    """What pyproject.toml asks for and the lock file does not have, as sentences."""
    have, faults = versions(text), []
    for extra, group in declared().items():
        for requirement in group:
            version = have.get(normal(requirement.name))
            if version is None:
                faults.append(f"{requirement} ({extra or 'dependencies'}) is not in the lock file")
            elif not requirement.specifier.contains(version, prereleases=True):
                faults.append(f"{requirement} ({extra or 'dependencies'}) does not admit {version} of the lock file")
    return faults


def main(arguments: list[str] | None = None) -> int:
    if (sys.argv[1:] if arguments is None else arguments) == ["--check"]:
        faults = contradictions(LOCK.read_text(encoding="utf-8"))
        print(*(faults or [f"{LOCK.name} is within the ranges of pyproject.toml"]), sep="\n")
        return 1 if faults else 0
    try:
        text = lock()
    except Unmet as error:
        print(f"Nothing was written: {error}. Set up .venv anew, and try again.", file=sys.stderr)
        return 1
    LOCK.write_text(text, encoding="utf-8")
    print(f"{LOCK.name}: {len(versions(text))} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
