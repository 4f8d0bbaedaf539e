"""Imports inside ddpm_edu point one way, and importing it is cheap."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ddpm_edu"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")
# Each layer may import only from layers above it, and from its own.
LAYERS = [
    {"_args"},
    {"schedules", "gaussian"},
    {"diffusion", "latent", "sde"},
    {
        "likelihood",
        "samplers",
        "guidance",
        "steering",
        "scores",
        "oracles",
        "routes",
        "discrete",
        "unet",
        "mlp",
        "data",
        "metrics",
        "snr",
    },
    {"published", "notation"},
    {"weights"},
    {"config"},
    {"training"},
    {"cli"},
]
LEAVES = {"check", "plots", "diagrams", "explorers", "exercises"}  # they may import anything; the core never imports them
LEVEL = {name: k for k, layer in enumerate(LAYERS) for name in layer}


def module(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The modules of ddpm_edu that a file imports, anywhere in it."""
    here = ["ddpm_edu", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            full = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*full, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "ddpm_edu" and len(name) > 1}
    return found & (set(LEVEL) | LEAVES)


def test_every_module_has_its_place():
    assert {module(path) for path in FILES} - {"__init__"} <= set(LEVEL) | LEAVES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path):
    name = module(path)
    if name == "__init__":
        assert not imported(path) & LEAVES
    elif name not in LEAVES:
        assert not imported(path) & LEAVES, f"{name} is core and must not import {imported(path) & LEAVES}"
        wrong = {other for other in imported(path) if LEVEL[other] > LEVEL[name]}
        assert not wrong, f"{name} must not import {wrong}"


def test_no_circles():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(module(path), set()).update(imported(path) - {module(path)})
    graph.pop("__init__")
    while free := [name for name, needs in graph.items() if not needs & set(graph)]:
        for name in free:
            del graph[name]
    assert not graph, f"these modules import each other: {sorted(graph)}"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


HEAVY = ("sklearn", "torchvision", "matplotlib", "scipy", "ipywidgets", "IPython", "sympy", "tqdm")


def test_import_takes_nothing_heavy_along():
    loaded = "import sys, torch; before = set(sys.modules); import ddpm_edu; print(*(set(sys.modules) - before))"
    top = {name.split(".")[0] for name in run(loaded).split()}
    assert not top & set(HEAVY)


def test_import_costs_at_most_0_3_s_more_than_torch():
    code = "import torch, time; t = time.process_time(); import ddpm_edu; print(time.process_time() - t)"
    assert statistics.median(float(run(code)) for _ in range(3)) <= 0.3
