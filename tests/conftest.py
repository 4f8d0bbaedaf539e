"""What the tests share: a tiny chapter in the house form, and the folder of the book's tools."""

import re
import sys
from pathlib import Path

import nbformat.v4 as v4
import pytest

ROOT = Path(__file__).resolve().parents[1]
for folder in ("book/_tools", "book/_ext"):
    sys.path.insert(0, str(ROOT / folder))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadgroup`, the tests of one page of the book stay in one process, which opens it once.

    xdist's own marks for this have no effect with pytest 9.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByPage(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            page = re.search(r"(notebooks|book)/\w+\.html|test_playground", nodeid)
            return page[0] if page else nodeid

    return ByPage(config, log)


def pytest_collection_modifyitems(items):
    """What takes minutes begins first, so that at the end nothing has to wait for it."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)


EXPLORER = """\
from IPython.display import HTML

HTML('<div class="ddpm-explorer"><input type="range"><svg></svg><output aria-live="polite">0</output></div>')"""


def tiny_cells(filename: str) -> list:
    """(kind, source, metadata) of the smallest chapter 5 that the linter accepts."""
    from chapters import badge, bootstrap

    cells = [
        ("markdown", f"# 5. A tiny chapter\n\n{badge(filename)}", {}),
        ("code", bootstrap(), {"tags": ["remove-cell"]}),
        ("code", "import torch\n\nfrom ddpm_edu import NoiseSchedule\nfrom ddpm_edu.check import check, refute", {}),
        ("markdown", "A definition:\n\n$$ \\alpha_t = 1 - \\beta_t \\tag{5.1} $$", {}),
        (
            "markdown",
            "From Eq. (5.1), one factor a step:\n\n"
            "\\begin{align*}\n\\bar\\alpha_t &= \\alpha_1 \\cdots \\alpha_t \\\\\n"
            "&= \\bar\\alpha_{t-1}\\,\\alpha_t \\tag{5.2}\n\\end{align*}",
            {},
        ),
        (
            "code",
            "schedule = NoiseSchedule.linear(10)\nlogs = torch.log1p(-schedule.betas).cumsum(0)\n"
            'check("5.2", schedule.alpha_bars, logs.exp(), atol=1e-12, by="recursion")\n'
            'refute("5.2", schedule.alphas, logs.exp(), slip="α for ᾱ")',
            {},
        ),
        ("code", EXPLORER, {}),
    ]
    for k in (1, 2, 3):
        cells += [
            ("markdown", f"**Exercise 5.{k}.** Write `f`.", {}),
            ("code", f"def f(x): ...\n\n\ngrade_5_{k} = print\ngrade_5_{k}('not written yet')", {"tags": ["exercise"]}),
            (
                "markdown",
                f"<details>\n<summary><b>Solution 5.{k}</b></summary>\n\nBy Eq. (5.2): $x^2$\n\n</details>",
                {},
            ),
        ]
    table = (
        "## Summary\n\n| Eq. | What it says | Code | Source | Check |\n|---|---|---|---|---|\n"
        "| (5.1) | what is kept | `NoiseSchedule.alphas` | Ho 2020, Sec. 2 | definition |\n"
        "| (5.2) | one factor a step | `NoiseSchedule.alpha_bars` | — | recursion |\n"
    )
    return cells + [("markdown", table, {})]


def write_chapter(path: Path, cells: list) -> Path:
    make = {"markdown": v4.new_markdown_cell, "code": v4.new_code_cell}
    nb = v4.new_notebook(cells=[make[kind](source, metadata=metadata) for kind, source, metadata in cells])
    import nbformat

    nbformat.write(nb, path)
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """The tiny chapter, executed."""
    import execute

    path = tmp_path_factory.mktemp("notebooks") / "05_tiny.ipynb"
    execute.run(write_chapter(path, tiny_cells(path.name)))
    return path


def write_mnist(root: Path, images: int = 40, test_images: int = 20) -> Path:
    """Files in MNIST's layout whose images are bright in the row of their class; labels 0..9 in turn."""
    import numpy as np

    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for start, n in (("train", images), ("t10k", test_images)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        pixels = np.random.default_rng(n).integers(0, 60, (n, 28, 28)).astype(np.uint8)
        pixels[np.arange(n)[:, None], (2 * labels + 4)[:, None] + np.arange(2)] += 190
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / f"{start}-{kind}-ubyte").write_bytes(head + array.tobytes())
    return root
