"""requirements-lock.txt: exact, of no machine, within the declared ranges, and what the shipped cards say."""

import json
import re

import lock
import pytest
from conftest import ROOT
from packaging.requirements import Requirement

TEXT = lock.LOCK.read_text(encoding="utf-8")
HAVE = lock.versions(TEXT)


def test_every_line_is_a_name_and_a_version():
    """No address, no path, no tag of one build, not our own package."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    assert len(HAVE) == len(lines) > 50 and list(HAVE) == sorted(HAVE)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*", line) for line in lines)
    assert "ddpm-edu" not in HAVE and not re.search(r"https?:|file:|@", TEXT)


def test_the_versions_are_within_the_ranges():
    assert lock.main(["--check"]) == 0


def test_a_version_out_of_range_and_a_missing_one_are_seen():
    older = re.sub("(?m)^numpy==.*$", "numpy==1.0", TEXT)
    assert [fault for fault in lock.contradictions(older) if re.match("numpy>=.* does not admit 1.0", fault)]
    without = re.sub("(?m)^sympy==.*\n", "", TEXT)
    assert [fault for fault in lock.contradictions(without) if re.match("sympy>=.* is not in the lock file", fault)]


def test_the_cards_name_these_versions():
    python = re.search(r"on Python ([\d.]+)", TEXT)[1]
    named = [json.loads(path.read_text(encoding="utf-8")).get("versions") for path in (ROOT / "weights").glob("*.json")]
    assert any(named)
    for of in filter(None, named):
        assert of["torch"].split("+")[0] == HAVE["torch"] and of["python"] == python


def test_what_is_not_installed_or_too_old_is_refused():
    with pytest.raises(lock.Unmet, match="nothing-of-this-name>=2 is not installed"):
        lock.installed([Requirement("nothing-of-this-name>=2")])
    with pytest.raises(lock.Unmet, match="numpy>=99 is not met by numpy"):
        lock.installed([Requirement("numpy>=99")])
    assert {"numpy", "torch", "filelock"} <= set(
        lock.installed([Requirement("torch")]) | lock.installed([Requirement("numpy")])
    )
