"""A run that is killed at any moment goes on from a whole checkpoint, and ends in the weights of one that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_edu import data
from ddpm_edu.training import TrainConfig, TrainState, train

ROOT = Path(__file__).resolve().parents[1]
DOTS = TrainConfig(
    data="two_moons", network={"kind": "MLP", "width": 8, "layers": 1}, T=10, steps=6, batch=8, precision="float32"
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def crash(folder, trainings, samplings, seed):
    argv = [sys.executable, str(ROOT / "tests" / "crashes.py"), str(folder), str(trainings), str(samplings), str(seed)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(argv, capture_output=True, text=True, cwd=folder, env=env, timeout=3600)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


def survived(runs):
    """Every run: nothing half-written under a final name, and the end of the run that was never killed."""
    for run in runs:
        assert run["broken"] == [] and run["left"] == [] and run["exit"] == 0 and run["same"], run
        if not run["checkpoints"]:
            code, line = run["without_checkpoint"]
            assert code == 2 and "no checkpoint in net.checkpoints" in line, run
    return True


def check(report, trainings, samplings):
    assert len(report["training"]) == trainings and survived(report["training"])
    assert survived(report["writing"]) and all(run["killed"] for run in report["writing"])
    newest = [run["newest"] for run in report["writing"]]
    # Half of the fourth: the third is the newest. Not yet named, the first: none. Named, the fifth: it is there, and whole.
    assert newest == ["00000003", "00000012", "", "00000005", "00000005", "00000012"]

    full = report["full"]
    assert survived([full]) and full["newest"] == "00000004"
    code, line = full["first"]
    assert code == 2 and "cannot write net.checkpoints/step-00000005.safetensors: File too large" in line
    assert line.startswith("ddpm_edu: ") and line.endswith("the checkpoints before it are whole")

    elsewhere = report["elsewhere"]
    assert elsewhere["exit"] == 0 and elsewhere["same"] and elsewhere["there"] >= 2  # what it came from is still there
    code, line = report["foreign"]
    assert code == 2 and "data has the fingerprint" in line and "but this run has trained on" in line

    assert len(report["sampling"]) == samplings
    assert all(run["whole"] and run["exit"] == 0 and run["same"] for run in report["sampling"])


@pytest.mark.slow
def test_kills_at_random_moments_and_in_every_part_of_a_write(tmp_path):
    check(crash(tmp_path, 3, 2, seed=0), 3, 2)


@pytest.mark.slow
def test_fifty_kills_at_random_moments(tmp_path):
    report = crash(tmp_path, 50, 20, seed=1)
    check(report, 50, 20)
    assert sum(run["killed"] for run in report["training"]) >= 40  # the others had ended before
    assert len({run["newest"] for run in report["training"]}) > 5


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    digits, state = data.load("digits"), TrainState(DOTS)
    list(train(state, data.toy("two_moons", 70), until=2))  # a plain tensor has no fingerprint
    assert state.data_sha256 is None
    state.recognise(digits)
    state.save(tmp_path / "state.safetensors")
    again = TrainState.load(tmp_path / "state.safetensors")
    assert again.data_sha256 == digits.sha256()
    with pytest.raises(ValueError, match=r"data has the fingerprint .*, but this run has trained on"):
        train(again, data.load("digits", split="test"))
    next(train(again, data.toy("two_moons", 70)))  # data that cannot say what they are are taken at their word
    assert again.data_sha256 == digits.sha256()
