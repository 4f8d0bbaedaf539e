"""The book's own files agree with each other: contents, address, README, API page."""

import re
import subprocess
import sys
from pathlib import Path

import chapters
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def contents() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def test_every_page_is_in_the_contents_and_exists():
    listed = contents()
    assert len(listed) == len(set(listed))
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    prose = {f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")}
    assert set(listed) == notebooks | prose, "_toc.yml must list every chapter and every page of book/"
    numbered = [name for name in listed if re.match(r"notebooks/\d", name)]
    assert numbered == sorted(numbered)


def test_one_address_everywhere():
    """`_config.yml` is its home; README, chapters and citation file follow."""
    address = chapters.repository()
    owner_and_name = address.removeprefix("https://github.com/")
    texts = [path for path in [*ROOT.glob("*.md"), *ROOT.glob("*.cff"), *(ROOT / "notebooks").glob("*.ipynb")]]
    for path in texts:
        for found in re.findall(r"github(?:\.com|usercontent\.com)?/([\w.-]+/ddpm[\w-]*)", path.read_text(encoding="utf-8")):
            assert found.removesuffix(".git") == owner_and_name, path
    assert f"git clone {address}" in README


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_chapters_install_from_that_address(path):
    chapter = chapters.Chapter(path)
    first = next(source for _, source in chapter.code())
    assert first.strip() == chapters.bootstrap()
    assert any(chapters.badge(path.name) in source for _, source in chapter.markdown())


def test_the_install_cell_runs_and_installs_only_where_it_is_missing():
    """Run as IPython would, with pip replaced by a recorder: once with the package there, once without."""
    code = (
        "import sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "asked = []\n"
        "shell.register_magic_function(asked.append, magic_name='pip')\n"
        "cell = sys.argv[1]\n"
        "shell.run_cell(cell).raise_error()\n"
        "assert asked == [], asked\n"
        "sys.modules['ddpm_edu'] = None\n"
        "shell.run_cell(cell).raise_error()\n"
        "print(*asked)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, chapters.bootstrap()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == f"install -q git+{chapters.repository()}"


def test_the_readme_example_runs_as_printed():
    """Its last line says what it prints."""
    code = re.search(r"```python\n(.*?)```", README, flags=re.S).group(1)
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 11
    expected = lines[-1].removeprefix("# ")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected


def test_what_the_readme_names_is_there():
    for name in re.findall(r"^\| `([^`]+)` \|", README, flags=re.M):
        assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\(((?!https?:)[^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    alt = re.findall(r"!\[(.*?)\]", README)
    assert all(len(text.split()) >= 3 for text in alt)


def test_the_api_page_shows_the_package():
    shown = set(re.findall(r"automodule:: ddpm_edu\.(\w+)", (ROOT / "book" / "api.md").read_text(encoding="utf-8")))
    files = {path.stem for path in (ROOT / "ddpm_edu").glob("[a-z]*.py")} - {"cli"}
    packages = {path.parent.name for path in (ROOT / "ddpm_edu").glob("[a-z]*/__init__.py")} - {"exercises"}
    assert shown == files | packages, "book/api.md must show every module of the package"


def test_nothing_speaks_of_one_machine():
    """No absolute path of a machine in what a reader gets."""
    for path in [*ROOT.glob("*.md"), *(ROOT / "book").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]:
        assert not re.search(r"/(?:home|Users|root|work)/\w", path.read_text(encoding="utf-8")), path
