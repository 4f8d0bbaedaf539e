"""The benchmarks compare equals, and their page says what was measured."""

import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("bench", ROOT / "benchmarks" / "bench.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


@pytest.mark.parametrize("shape", bench.SHAPES)
def test_the_candidates_are_of_one_size(shape):
    with torch.device("meta"):
        sizes = {name: bench.parameters(network) for name, (network, _) in bench.candidates(shape).items()}
    assert sizes["ours"] == sizes["diffusers"]
    assert sizes["lucidrains"] == pytest.approx(sizes["ours"], rel=0.05)


def test_taking_turns_gives_the_ratio_of_the_times():
    slow = {"quick": lambda: time.sleep(0.01), "slow": lambda: time.sleep(0.03)}
    found = bench.in_turn(slow, 3)
    assert found["seconds"]["quick"] == pytest.approx(0.01, rel=0.5)
    assert found["over_ours"] == {"slow": pytest.approx(3, rel=0.3)}


def test_a_step_of_each_learns():
    """Each project's default step lowers its own loss on one batch: what is timed is training."""
    x = bench.batch_of("1.1 M, 28×28", 4)[0]
    for name, (network, _) in bench.candidates("1.1 M, 28×28").items():
        before = [p.detach().clone() for p in network.parameters()]
        if name == "ours":
            continue  # `train` has its own tests
        step = bench.diffusers_step(network, x) if name == "diffusers" else bench.lucidrains_step(network, x, 28)
        step(), step()
        moved = sum(not torch.equal(a, b) for a, b in zip(before, network.parameters()))
        assert moved > 0.9 * len(before)


def test_the_page_is_written_from_the_results():
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert (ROOT / "benchmarks" / "README.md").read_text() == bench.report(results)
    assert set(results) <= set(bench.PARTS)
    for part in results.values():
        assert {"processor", "python", "torch", "diffusers", "denoising-diffusion-pytorch"} == set(part["machine"])


def test_the_same_time_of_training_teaches_ours_most():
    of = json.loads((ROOT / "benchmarks" / "results.json").read_text())["mnist"]["result"]
    assert all(abs(of[name]["seconds"] - 60 * of["minutes"]) < 30 for name in bench.NAMES)
    for name in set(bench.NAMES) - {"ours"}:
        gain = of[name]["bits_per_dim"]["total"] - of["ours"]["bits_per_dim"]["total"]
        assert gain > 5 * of[name]["bits_per_dim"]["standard_error"] and of["ours"]["frechet"] < of[name]["frechet"]
