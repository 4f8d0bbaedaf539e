"""The chapters as Colab runs them: alone in a folder, on a Python that has torch and its companions and no ddpm_edu.

Such a Python is made of this one: a new virtual environment sees, by symbolic links, the packages that are named below
and what they need, and nothing else. The install cell runs to the letter; git alone is told that the book's address means
a repository made of the files as they are here. Nothing is fetched.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import chapters
import execute
import lock
import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from packaging.requirements import Requirement

BOOK = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICK = "02_gaussians"  # the one that `make test` plays
# Colab has all of these; "pip" stands for its own, "diffusers" is what Chapter 10 compares with.
PRESENT = [*lock.declared()[""], *map(Requirement, ["ipykernel", "pip", "setuptools>=70.1", "diffusers"])]
FILES = ["ddpm_edu", "weights", "pyproject.toml", "README.md", "LICENSE"]


def git(*arguments: str, folder: Path) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> Path:
    """A folder of links to the files of the packages that Colab has."""
    folder = tmp_path_factory.mktemp("packages")
    for name, distribution in lock.installed(PRESENT).items():
        if not distribution.files:  # as some operating systems package it
            pytest.skip(f"{name} does not say which files it has: install it with pip")
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(distribution.locate_file(top)).resolve())
    return folder


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """What is installed, as a git repository."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("repository")
    for name in FILES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.part"))
        else:
            shutil.copy(ROOT / name, folder)
    git("init", "-q", folder=folder)
    git("add", ".", folder=folder)
    git("commit", "-q", "-m", "as it is", folder=folder)
    return folder


class Colab:
    """A machine without ddpm_edu, and an empty folder on it."""

    def __init__(self, folder: Path, packages: Path, repository: Path):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "machine")], check=True)
        self.folder, self.content, self.python = folder, folder / "content", folder / "machine" / "bin" / "python"
        self.content.mkdir()
        (self.site,) = (folder / "machine" / "lib").glob("python*/site-packages")
        (self.site / "colab.pth").write_text(f"{packages}\n")
        kernel = folder / "jupyter" / "kernels" / "colab"
        kernel.mkdir(parents=True)
        argv = [str(self.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}))
        mine = ("PIP_", "PYTHON", "VIRTUAL_ENV", "DDPM_EDU_", "GIT_")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(mine)} | {
            "PYTHONHASHSEED": "0",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",  # a requirement that what is there does not meet is an error, not a download
            "PIP_NO_BUILD_ISOLATION": "0",  # reads like its opposite: build with the setuptools that is there
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": chapters.repository(),
        }

    def versions(self) -> dict[str, str]:
        """What pip says is there."""
        listing = [str(self.python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
        done = subprocess.run(listing, env=self.env, cwd=self.content, capture_output=True, text=True, check=True)
        return {entry["name"].lower().replace("_", "-"): entry["version"] for entry in json.loads(done.stdout)}

    def run(self, notebook: Path, monkeypatch) -> nbformat.NotebookNode:
        """Every cell of the notebook, from first to last; an error in one is an error here."""
        nb = nbformat.read(shutil.copy(notebook, self.content), as_version=4)
        monkeypatch.setenv("JUPYTER_PATH", str(self.folder / "jupyter"))
        client = NotebookClient(nb, timeout=600, kernel_name="colab", resources={"metadata": {"path": str(self.content)}})
        client.record_timing = client.store_widget_state = False
        client.coalesce_streams = True
        client.extra_arguments = ["--log-level=ERROR"]
        client.execute(env=self.env)
        return execute.normalise(nb)


@pytest.fixture
def colab(tmp_path, packages, repository) -> Colab:
    return Colab(tmp_path, packages, repository)


@pytest.mark.parametrize(
    "notebook", [pytest.param(p, id=p.stem, marks=[] if p.stem == QUICK else [pytest.mark.slow]) for p in BOOK]
)
def test_a_chapter_alone_on_colab(notebook, colab, monkeypatch):
    """It installs the package, replaces nothing, and says what the book says."""
    before = colab.versions()
    assert {"torch", "numpy", "matplotlib", "ipywidgets"} <= set(before) and "ddpm-edu" not in before

    run = colab.run(notebook, monkeypatch)

    after = colab.versions()
    assert after.pop("ddpm-edu") and (colab.site / "ddpm_edu" / "__init__.py").exists()
    assert after == before, "the install cell replaced a package"
    stored = nbformat.read(notebook, as_version=4)
    install = next(k for k, cell in enumerate(stored.cells) if cell.cell_type == "code")
    run.cells[install].outputs = stored.cells[install].outputs  # there pip speaks, here it does nothing
    faults, _ = execute.differences(stored, run)
    assert not faults, "\n".join(faults)


def test_the_machine_has_nothing_of_ours(packages):
    """Else the test above would pass whatever the install cell does."""
    assert not [path.name for path in packages.iterdir() if "ddpm_edu" in path.name]
    assert not any((packages / name).exists() for name in ("pytest", "sphinx", "nbclient", "hypothesis"))
