"""What the project never does: run what it loads, keep what it did not check, or pull in what it does not name.

(That a weight file with a poisoned pickle is refused: `test_weights.py`. That no page asks another server: `test_browser.py`.)
"""

import ast
import json
import re

import chapters
import lock
import pytest
import yaml
from conftest import ROOT

# Nothing dangerous is called ----------------------------------------------------------------------------------------

# What is called, or imported, under its full name; a name that ends in a dot stands for all that it holds.
NEVER = (
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "os.system", "os.popen",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.", "_pickle.", "dill.", "cloudpickle.", "joblib.load",
    "marshal.", "shelve.", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.hub.",
    "torch.jit.load", "torch.package.", "urllib.", "requests.", "httpx.", "socket.", "ftplib.", "telnetlib.",
    "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp", "tarfile.", "zipfile.", "shutil.unpack_archive",
)  # fmt: skip
FILES = [path for folder in ("ddpm_edu", "book/_tools", "book/_ext", "benchmarks") for path in (ROOT / folder).rglob("*.py")]


def faults(tree: ast.AST) -> list[str]:
    """Each dangerous call in a piece of code, as line and name."""
    home = {}  # the full name behind a name of the file
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            home |= {a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            home |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def full(node: ast.AST) -> str:
        if isinstance(node, ast.Attribute):
            return f"{full(node.value)}.{node.attr}"
        return home.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, keywords = full(node.func), {k.arg: k.value for k in node.keywords}
        says = {word: getattr(value, "value", "not a constant") for word, value in keywords.items()}
        bad = any(name == never or (never.endswith(".") and name.startswith(never)) for never in NEVER)
        bad |= name.startswith(("os.exec", "os.spawn"))
        bad |= name == "torch.load" and says.get("weights_only") is not True
        bad |= name.endswith(".load") and says.get("allow_pickle", False) is not False
        bad |= name.startswith("subprocess.") and says.get("shell", False) is not False
        bad |= name.endswith((".extractall", ".load_state_dict_from_url"))
        bad |= says.get("trust_remote_code", False) is not False or says.get("download", False) is not False
        if bad:
            found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_runs_what_it_loads(path):
    assert not faults(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_chapter_runs_what_it_loads(path):
    chapter = chapters.Chapter(path)
    assert not [f"cell {k}, {fault}" for k, tree in chapter.trees() for fault in faults(tree)]
    magic = {line.strip() for _, source in chapter.code() for line in re.findall(r"(?m)^\s*[%!].*$", source)}
    assert magic <= {f"%pip install -q git+{chapters.repository()}", "%pip install -q diffusers"}


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)",
        "import pickle as p\np.load(file)",
        "from pickle import loads as read\nread(data)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=flag)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import os\nos.system('ls')",
        "import os\nos.execv('ls', [])",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "from subprocess import Popen\nPopen('ls', shell=yes)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import urllib.request\nurllib.request.urlopen(address)",
        "from torchvision import datasets\ndatasets.MNIST(root, download=True)",
        "from transformers import AutoModel\nAutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_scan_sees(code):
    assert faults(ast.parse(code))


def test_the_scan_lets_be():
    code = "import torch, pickle, subprocess, re\ntorch.load(p, weights_only=True)\nnet.eval()\npickle.UnpicklingError()\n"
    assert not faults(ast.parse(code + "subprocess.run(['ls'])\nre.compile('x')\njson.loads(s)\nweights.load(path)\n"))


# Data are what the cards say ------------------------------------------------------------------------------------------


def test_cards_that_name_the_same_data_name_the_same_hash():
    """Two networks of one data set saw the same images, whoever fetched them."""
    hashes: dict[tuple, set[str]] = {}
    for path in (ROOT / "weights").glob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))["data"]
        assert re.fullmatch("[0-9a-f]{64}", data["sha256"]), path
        hashes.setdefault((data["name"], data["images"]), set()).add(data["sha256"])
    assert hashes and all(len(of_one) == 1 for of_one in hashes.values()), hashes


# Pages ask no other server ----------------------------------------------------------------------------------------------

# Whatever a browser would fetch by itself, from the outside or by a script.
FETCHES = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|input|object)\b[^>]*\b(?:src|data)\s*=\s*["']?(?:https?:)?//"""
    r"""|<link\b[^>]*\bhref\s*=\s*["']?(?:https?:)?//|@import\b|\burl\(\s*["']?(?:https?:)?//"""
    r"""|\bfetch\s*\(|\bXMLHttpRequest\b|\bWebSocket\b|\bEventSource\b|\bsendBeacon\b|\bimportScripts\b|\bimport\s*\("""
    r"""|\beval\s*\(|\bnew\s+Function\b|\bdocument\.write\b"""
)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_stored_output_fetches_anything(path):
    """The explorers work from what is in them."""
    for k, cell in enumerate(chapters.Chapter(path).cells):
        for output in cell.get("outputs", []):
            html = "".join(output.get("data", {}).get("text/html", ""))
            assert not FETCHES.search(html), f"cell {k}: {FETCHES.search(html)[0]}"
            assert not re.search(r"\son\w+\s*=\s*[\"']", html), f"cell {k}: a script inside an attribute"


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<img src=//example.org/a.png>",
        '<link rel="stylesheet" href="http://a">',
        "<style>a{background:url('https://a/b.png')}</style>",
        "<script>fetch('x')</script>",
        "<script>import('x')</script>",
        "<script>eval(data)</script>",
    ],
)
def test_the_pattern_sees(html):
    assert FETCHES.search(html)


# Dependencies: few, and each with its reason ---------------------------------------------------------------------------


def test_every_dependency_has_its_reason():
    """CONTRIBUTING.md has one row for each package and extra, and none for a package that is not needed."""
    rows = re.findall(r"(?m)^\| (`[^|]+`) \|([^|]*)\|([^|]+)\|$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    said = {(name, extra.strip().strip("`")): why for names, extra, why in rows for name in re.findall(r"`([^`]+)`", names)}
    needed = {(requirement.name, extra) for extra, group in lock.declared().items() for requirement in group}
    assert {pair for pair in said if pair[1] in lock.declared()} == needed
    assert all(len(said[pair].split()) >= 3 for pair in needed)


def test_few_packages_come_with_the_package():
    """What a reader's Colab must have: each more is one more that can break it."""
    assert len(lock.declared()[""]) <= 9


def test_workflows_may_do_no_more_than_they_need():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        workflow = yaml.safe_load(text)
        assert workflow["permissions"]["contents"] == "read", path
        assert "pull_request_target" not in text and "secrets." not in text, path
        writes = {name for name, may in workflow["permissions"].items() if may == "write"}
        assert writes <= ({"pages", "id-token"} if path.stem == "publish" else set()), path
