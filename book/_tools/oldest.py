"""What `make test-oldest` does: unit tests and chapters with the oldest versions that pyproject.toml admits.

A chapter's checks must pass there, and nothing may warn; the last digits that it prints may differ.

They are installed into .venv-oldest (VENV names another place; VENV_ARGS and TORCH_INDEX as for `make book`). EXCEPT=torch
leaves that package at whatever version is there or comes. Needs the network, and Python 3.10 or 3.11, for which the old
versions were built: make test-oldest PYTHON=python3.10
"""

import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from install import ROOT, create, shown, stop, works

EXTRAS = ("images", "hub", "peers")
TOOLS = ["pytest", "pytest-xdist", "hypothesis", "nbformat", "nbclient", "ipykernel", "pyyaml", "packaging"]
FULL = re.compile(r"(?P<name>[\w.-]+)(?:>=|==)(?P<version>[\w.]+)")


def bounds(text: str, leave: tuple[str, ...] = ()) -> list[str]:
    """name==lowest version, of the dependencies and the extras that the unit tests use, in the text of pyproject.toml."""
    project = text[text.index("\ndependencies = [") :]
    parts = [project[: project.index("\n]")], *(re.search(rf"(?m)^{extra} = \[(.*)\]$", text)[1] for extra in EXTRAS)]
    found = [FULL.match(line) for part in parts for line in re.findall(r'"([^"]+)"', part)]
    return [f"{line['name']}=={line['version']}" for line in found if line["name"] not in leave]


def suites() -> list[str]:
    """The test files of the package's modules."""
    modules = [path.stem for path in sorted((ROOT / "ddpm_edu").glob("[a-z]*.py"))]
    return [f"tests/test_{module}.py" for module in modules if (ROOT / "tests" / f"test_{module}.py").exists()]


def main() -> int:
    if not (3, 10) <= sys.version_info[:2] <= (3, 11):
        return stop("The oldest versions were built for Python 3.10 and 3.11: make test-oldest PYTHON=python3.10")
    venv = ROOT / (os.environ.get("VENV") or ".venv-oldest")
    python = venv / "bin" / "python"
    if not works(python) and (fault := create(venv)):
        return fault
    wanted = bounds((ROOT / "pyproject.toml").read_text(encoding="utf-8"), tuple((os.environ.get("EXCEPT") or "").split()))
    print(f"The oldest versions, in {shown(venv)}:", *wanted, sep="\n  ", flush=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    if os.environ.get("TORCH_INDEX"):
        pip += ["--extra-index-url", os.environ["TORCH_INDEX"]]
    if subprocess.run([*pip, *wanted, *TOOLS], cwd=ROOT, check=False).returncode:
        return stop("These versions cannot be installed together: see pip's words above. Raise a bound in pyproject.toml.")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    tests = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "-m", "not slow", *suites()]
    unit = subprocess.run(tests, cwd=ROOT, env=env, check=False).returncode
    chapters = [str(python), "book/_tools/execute.py", "--alarms"]
    return subprocess.run(chapters, cwd=ROOT, env=env, check=False).returncode or unit


if __name__ == "__main__":
    sys.exit(main())
