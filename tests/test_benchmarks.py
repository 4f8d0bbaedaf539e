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


def result(part):
    return json.loads((ROOT / "benchmarks" / "results.json").read_text())[part]["result"]


def test_the_measured_costs_are_what_we_promise():
    step, defaults, sampler, memory = (result(part) for part in ("step", "defaults", "sampler", "memory"))
    assert min(step["over_ours"].values()) >= 1  # no slower than the fastest peer
    assert defaults["35.7 M, 32×32"]["over_ours"]["diffusers"] >= 1.6
    assert defaults["1.1 M, 28×28"]["over_ours"]["diffusers"] >= 1.8
    assert sampler["ratio"]["ours"] <= 1.02
    assert memory["MiB"]["ours"] <= min(memory["MiB"][name] for name in ("diffusers", "lucidrains"))
    assert all(0 < of["outside"] < 1 for of in result("share").values()) and set(result("scaling"))


def test_ours_trains_in_the_benchmark_as_in_its_preset():
    ours, preset = bench.our_run(), bench.PRESETS["mnist"]
    changed = {name for name, value in vars(ours).items() if value != getattr(preset, name)}
    assert changed == {"network", "lr_decay"}


def test_the_long_part_runs_only_where_its_data_are_named(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(bench, "PARTS", {name: lambda args, name=name: ran.append(name) or {} for name in bench.PARTS})
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "report", lambda results: "")
    monkeypatch.setattr(bench, "draw_scaling", lambda *args: None)
    for argv in ([], ["--data-root", "DATA"], ["--only", "step"]):
        monkeypatch.setattr("sys.argv", ["bench.py", *argv])
        bench.main()
    every = [*bench.PARTS]
    assert ran == [*[name for name in every if name != "mnist"], *every, "step"]


def test_the_same_time_of_training_teaches_ours_most():
    of = json.loads((ROOT / "benchmarks" / "results.json").read_text())["mnist"]["result"]
    assert all(abs(of[name]["seconds"] - 60 * of["minutes"]) < 30 for name in bench.NAMES)
    for name in set(bench.NAMES) - {"ours"}:
        gain = of[name]["bits_per_dim"]["total"] - of["ours"]["bits_per_dim"]["total"]
        assert gain > 5 * of[name]["bits_per_dim"]["standard_error"] and of["ours"]["frechet"] < of[name]["frechet"]
