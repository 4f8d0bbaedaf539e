"""Executor, index, installation and stages: what `make` leans on."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import chapters
import errata
import execute
import index
import install
import lock
import nbformat
import oldest
import pytest
import stages
import yaml
from conftest import ROOT, tiny_cells, write_chapter

import ddpm_edu

# The executor -----------------------------------------------------------------------------------------------------


def test_running_twice_gives_the_same_bytes(tiny, tmp_path):
    again = Path(shutil.copy(tiny, tmp_path / tiny.name))
    execute.run(again)
    assert again.read_bytes() == tiny.read_bytes()


def test_the_result_does_not_depend_on_who_wrote_the_file(tiny, tmp_path):
    """Other ids, editor metadata, trailing blanks and an empty cell: the same bytes after a run."""
    nb = nbformat.read(tiny, as_version=4)
    nb.metadata = {"kernelspec": {"name": "python3", "display_name": "mine"}, "widgets": {"x": 1}, "colab": {}}
    for k, cell in enumerate(nb.cells):
        cell.id, cell.source = f"other-{k}", cell.source + "  \n"
        cell.metadata.update(collapsed=False, execution={"iopub.execute_input": "2024"})
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []
    nb.cells.append(nbformat.v4.new_code_cell(""))
    path = tmp_path / tiny.name
    nbformat.write(nb, path)
    assert execute.main(["--check", str(path)]) == 1
    execute.run(path)
    assert path.read_bytes() == tiny.read_bytes()
    assert execute.main(["--check", str(path)]) == 0


def test_normalise_drops_the_widget_beside_its_html_and_nothing_else():
    data = {execute.WIDGET: {"model_id": "1"}, "text/html": "<p>", "text/plain": "x"}
    lone = {execute.WIDGET: {"model_id": "1"}, "text/plain": "x"}
    outputs = [
        nbformat.v4.new_output("display_data", data, metadata={execute.WIDGET: {}, "text/html": {}}),
        nbformat.v4.new_output("display_data", lone),
        nbformat.v4.new_output("stream", name="stdout", text="a\n"),
        nbformat.v4.new_output("stream", name="stdout", text="b\n"),
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])
    first, second, stream = execute.normalise(nb).cells[0].outputs
    assert set(first.data) == {"text/html", "text/plain"} and set(first.metadata) == {"text/html"}
    assert set(second.data) == set(lone)
    assert stream.text == "a\nb\n"


def test_a_failing_cell_leaves_the_file_alone(tmp_path, capsys):
    path = write_chapter(tmp_path / "06_bad.ipynb", [("code", "print(1)", {}), ("code", "1 / 0", {})])
    before = path.read_bytes()
    assert execute.main([str(path)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert path.read_bytes() == before
    assert execute.main([str(tmp_path / "none.ipynb")]) == 1


@pytest.mark.parametrize("code, result", [("print(1)", 0), ("import warnings\nwarnings.warn('old')", 1), ("1 / 0", 1)])
def test_alarms_are_failures_and_warnings_and_nothing_is_written(tmp_path, capsys, code, result):
    path = write_chapter(tmp_path / "06_run.ipynb", [("code", code, {})])
    before = path.read_bytes()
    assert execute.main(["--alarms", str(path)]) == result
    said = capsys.readouterr().out
    assert ("✗" in said) == bool(result) and ("UserWarning: old" in said) == ("warn" in code)
    assert path.read_bytes() == before


def test_again_sees_every_byte_of_text_and_lets_a_picture_be(tmp_path, capsys):
    code = "import os\nprint('run')\nprint('by', os.environ.get('RUN_BY', 'me'))"
    path = write_chapter(tmp_path / "06_run.ipynb", [("code", code, {})])
    execute.run(path)
    before = path.read_bytes()
    assert execute.main(["--again", str(path)]) == 0
    path.write_bytes(before.replace(b"by me", b"by you"))
    capsys.readouterr()
    assert execute.main(["--again", str(path)]) == 1
    assert "cell 0: stored 'by you', now 'by me'" in capsys.readouterr().out
    assert b"by you" in path.read_bytes()  # nothing was written

    def drawn(png, plain="<Figure>"):
        output = nbformat.v4.new_output("display_data", {"image/png": png, "text/plain": plain})
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", id="a", outputs=[output])])

    assert execute.differences(drawn("AA"), drawn("AA")) == ([], [])
    assert execute.differences(drawn("AA"), drawn("BB")) == ([], [0])
    assert len(execute.differences(drawn("AA"), drawn("AA", "<Axes>"))[0]) == 1


def test_the_chapters_outputs_are_in_the_normal_form():
    assert execute.main(["--check"]) == 0


# The reader and the index -----------------------------------------------------------------------------------------


def test_the_reader_finds_what_a_chapter_says(tiny):
    chapter = chapters.Chapter(tiny)
    assert [e.tag for e in chapter.equations] == ["5.1", "5.2"]
    whole = r"\bar\alpha_t = \alpha_1 \cdots \alpha_t = \bar\alpha_{t-1}\,\alpha_t"
    assert [e.tex for e in chapter.equations] == [r"\alpha_t = 1 - \beta_t", whole]
    assert {tag for _, tag in chapter.references} == {"5.1", "5.2"}
    check, refute = chapter.checks
    assert (check.kind, check.tag, check.route, check.tolerance) == ("check", "5.2", "recursion", "1e-12")
    assert (refute.kind, refute.tag) == ("refute", "5.2")
    assert chapter.summary[1].code == ["NoiseSchedule.alpha_bars"] and chapter.summary[0].source == "Ho 2020, Sec. 2"


def test_an_equation_of_several_lines_is_read_whole_and_with_its_left_side():
    block = r"\begin{align*} a&=b \tag{1.1}\\ &=c+\\ &\quad d,\qquad&e&=f \tag{1.2}\\ \left(g\right)&=h \tag{1.3} \end{align*}"
    assert dict(chapters._tagged(block)) == {"1.1": "a =b", "1.2": r"a =c+ \quad d,\qquad e =f", "1.3": r"\left(g\right) =h"}


@pytest.mark.parametrize(
    "name, full",
    [
        ("NoiseSchedule.alpha_bars", "ddpm_edu.schedules.NoiseSchedule.alpha_bars"),
        ("NoiseSchedule.snr", "ddpm_edu.schedules.NoiseSchedule.snr"),
        ("GaussianDiffusion.q_posterior", "ddpm_edu.diffusion.GaussianDiffusion.q_posterior"),
        ("ddpm_edu.gaussian.product", "ddpm_edu.gaussian.product"),
        ("product", "ddpm_edu.gaussian.product"),
        ("NoiseSchedule.gammas", None),
        ("torch.exp", None),
    ],
)
def test_resolve(name, full):
    assert chapters.resolve(name) == full


def test_the_index_says_what_the_chapter_says(tiny):
    text = index.page([chapters.Chapter(tiny)])
    assert "2 numbered equations in 1 chapter, held by 1 checks; 1 common slips refuted." in text
    assert "## [5. A tiny chapter](../notebooks/05_tiny.ipynb)" in text
    link = "{py:obj}`NoiseSchedule.alpha_bars <ddpm_edu.schedules.NoiseSchedule>`"
    assert f"| (5.2) | one factor a step | — | {link} | recursion (10⁻¹²) |" in text
    assert "| (5.1) | what is kept | Ho 2020, Sec. 2 |" in text and text.count("| definition |") == 1


def test_tolerances_are_written_as_powers():
    assert [index.powers(t) for t in ("1e-12", "2.5e-9", "0.01", "4 standard errors")] == [
        "10⁻¹²",
        "2.5·10⁻⁹",
        "0.01",
        "4 standard errors",
    ]


def test_the_committed_index_is_what_the_chapters_say():
    assert index.main(["--check"]) == 0, "run make index"
    assert errata.main(["--check"]) == 0, "run make index"


def test_the_page_of_slips_shows_the_wrong_the_right_and_the_damage(tiny):
    text = errata.page([chapters.Chapter(tiny)])
    (slip,) = errata.slips([chapters.Chapter(tiny)])
    assert f"*{errata.escaped(slip.what)}*: {errata.escaped(slip.damage)}" in text
    assert f"Eq. ({slip.tag})" in text and slip.chapter.equations[1].tex in text


# Installation -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path):
    """A copy of the files that `make` needs before anything is installed, without a network."""
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "book" / "_tools", tmp_path / "book" / "_tools")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "VENV", "TORCH_INDEX", "MAKE"))}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PYTHONUNBUFFERED": "1"}

    def make(*arguments: str):
        command = ["make", f"PYTHON={sys.executable}", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    return tmp_path, make


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
def test_setting_up(fresh):
    """Without a network it says so and does not look complete; then it goes on where it stopped, once."""
    folder, make = fresh
    options = ("VENV=env", "VENV_ARGS=--system-site-packages")
    stamp = folder / "env" / "installed"

    result = make("book", *options)
    said = result.stdout + result.stderr
    assert result.returncode != 0 and not stamp.exists()
    assert "No network: pip could not reach its package index" in said
    assert "Traceback" not in said and len(said.splitlines()) < 10
    assert "Connection refused" in (folder / "env" / "install.log").read_text()
    assert "include-system-site-packages = true" in (folder / "env" / "pyvenv.cfg").read_text()

    (folder / "requirements.txt").write_text("# nothing\n")
    assert "Installed in env" in make("install", *options).stdout
    assert make("install", *options).stdout == ""
    (folder / "requirements.txt").write_text("# something else\n")
    assert "Installed in env" in make("install", *options).stdout
    stamp.unlink()  # as an interruption leaves it, with half of the packages gone
    shutil.rmtree(folder / "env" / "lib")
    assert "Installed in env" in make("install", *options).stdout and stamp.exists()


@needs_make
def test_help_names_the_commands_and_the_options(fresh):
    _, make = fresh
    assert all(word in make().stdout for word in ("make book", "make test", "VENV_ARGS", "TORCH_INDEX", "PYTHON="))


def test_a_folder_that_is_no_environment_is_not_overwritten(tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.txt").write_text("x")
    monkeypatch.setenv("VENV", str(tmp_path))
    assert install.main() == 1
    assert "is no virtual environment" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def test_a_python_without_venv_is_told_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    monkeypatch.setenv("VENV", str(tmp_path / "env"))
    assert install.main() == 1
    assert "sudo apt install python3" in capsys.readouterr().err


def test_an_old_python_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 8, 1))
    assert install.main() == 1
    assert "Python 3.10 or newer is needed; this is 3.8.1" in capsys.readouterr().err


def test_the_oldest_versions_are_the_lower_bounds():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pins = dict(pin.split("==") for pin in oldest.bounds(text))
    for extra in ("", *oldest.EXTRAS):
        for requirement in lock.declared()[extra]:
            assert requirement.specifier.contains(pins[requirement.name])
            assert not requirement.specifier.contains("0.0.1") and len(requirement.specifier) == 1
    assert "torch" in pins and "torch" not in dict(pin.split("==") for pin in oldest.bounds(text, ("torch",)))
    assert all((ROOT / path).exists() for path in oldest.suites()) and len(oldest.suites()) > 20


def test_one_version_in_package_changelog_and_citation():
    changes = re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert changes[0] == cited["version"] == ddpm_edu.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(cited)  # what the format asks for
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8").split()[0]
    assert cited["license"] == licence
    assert f'license = {{text = "{licence}"}}' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_an_installed_package_carries_the_weights(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "ddpm_edu", source / "ddpm_edu", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "weights", source / "weights")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    modules = {f"ddpm_edu/{path.relative_to(ROOT / 'ddpm_edu').as_posix()}" for path in (ROOT / "ddpm_edu").rglob("*.py")}
    shipped = {f"ddpm_edu/_weights/{path.name}" for path in (ROOT / "weights").iterdir() if path.suffix != ".md"}
    assert {n for n in names if ".dist-info" not in n} == modules | shipped


# Stages -----------------------------------------------------------------------------------------------------------


def stage(name: str, code: str, **more) -> stages.Stage:
    return stages.Stage(name, [[sys.executable, "-c", code]], **more)


def test_stages_stop_at_the_first_failure_and_name_it(capsys):
    broken = "print('reasons'); print('3 passed, 2 failed, 1 error in 1s'); raise SystemExit(1)"
    run = [
        stage("one", "print('4 passed, 1 skipped in 1s')"),
        stage("two", broken),
        stage("three", "print('8 passed in 1s')"),
    ]
    assert stages.test(run) == 1
    said = capsys.readouterr().out
    assert "✓ one · 4 passed, 1 skipped" in said and "✗ two" in said and "reasons" in said and "three" not in said
    assert "make test stopped at stage 2 of 3, two" in said
    assert said.splitlines()[-1] == "ddpm-edu: 7 passed, 3 failed, 1 skipped"


def test_stages_pass_and_sum_up(capsys):
    run = [stage("one", "print('4 passed in 1s')"), stage("two", ""), stage("three", "1/0", skip=lambda: "no browser")]
    assert stages.test(run) == 0
    said = capsys.readouterr().out
    assert "✓ two · clean" in said and "– three · not run: no browser" in said
    assert said.splitlines()[-1] == "ddpm-edu: 4 passed, 0 failed"


def test_kill_rates_are_shown(capsys):
    assert stages.test([stage("one", "print('noise\\nkill rate: 3 of 4\\n4 passed')")]) == 0
    said = capsys.readouterr().out
    assert "✓ one · 4 passed" in said and "\n  kill rate: 3 of 4\n" in said and "noise" not in said


def test_a_stage_that_fails_without_counting_counts_as_one(capsys):
    assert stages.test([stage("one", "raise SystemExit(1)")]) == 1
    assert "0 passed, 1 failed" in capsys.readouterr().out


def test_tiny_cells_are_the_house_form():
    assert tiny_cells("05_tiny.ipynb")[1][1] == chapters.bootstrap()
