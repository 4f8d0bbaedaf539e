"""The commands: what they write, and that whatever is wrong is one line on stderr and exit code 2."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_edu import cli, data, training, weights
from ddpm_edu.training import TrainConfig

NET = {
    "kind": "UNet",
    "size": 8,
    "channels": 1,
    "base": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention": [4],
    "dropout": 0.1,
}
TINY = TrainConfig(data="digits", network=NET, T=20, steps=6, batch=8, lr=1e-3, warmup=2, ema_decay=0.9, sample_steps=4)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(training.PRESETS, "digits", TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DDPM_EDU_DATA", raising=False)


@pytest.fixture
def trained(tmp_path):
    assert cli.main(["train", "--data", "digits", "--out", "net.safetensors"]) == 0
    return tmp_path / "net.safetensors"


def refused(capsys, *argv):
    """The one line that the command prints."""
    assert cli.main(list(argv)) == 2
    err = capsys.readouterr().err
    assert err.startswith("ddpm_edu: ") and err.count("\n") == 1, err
    return err


def test_train_writes_weights_and_card(capsys):
    assert cli.main(["train", "--data", "digits"]) == 0
    captured = capsys.readouterr()
    assert "6/6" in captured.err and "loss" in captured.err and "images/s" in captured.err
    assert sorted(p.name for p in Path("runs").iterdir()) == ["digits.json", "digits.safetensors"]
    card = json.loads(Path("runs/digits.json").read_text())
    assert card["command"] == "python -m ddpm_edu train --data digits"
    assert card["seed"] == 0 and card["config"]["steps"] == 6 and len(card["loss_curve"]) == 6
    assert card["data"]["images"] == 1438 and card["data"]["sha256"] == data.load("digits").sha256()
    assert card["parameters"] == sum(p.numel() for p in weights.load("runs/digits.safetensors")[0].parameters())
    assert {"commit", "hardware", "wall_seconds", "versions", "network"} <= card.keys()


def test_same_seed_same_file_other_seed_other_file(trained, tmp_path):
    for name, seed in (("again", "0"), ("other", "1")):
        assert cli.main(["train", "--data", "digits", "--seed", seed, "--out", f"{name}.safetensors"]) == 0
    again, other = weights.load("again.safetensors")[0], weights.load("other.safetensors")[0]
    first = weights.load(trained)[0]
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))
    assert not torch.equal(first.first.weight, other.first.weight)


def test_sample_writes_an_array(trained):
    assert cli.main(["sample", "--weights", "net.safetensors", "--n", "5", "--out", "x.npy"]) == 0
    x = np.load("x.npy")
    assert x.dtype == np.uint8 and x.shape == (5, 8, 8, 1)
    assert set(np.unique(x)) <= {round(k * 255 / 16) for k in range(17)} and len(np.unique(x)) > 2
    for seed, same in (("0", True), ("1", False)):
        assert cli.main(["sample", "--weights", "net.safetensors", "--n", "5", "--seed", seed, "--out", "y.npy"]) == 0
        assert np.array_equal(np.load("y.npy"), x) is same


def test_sample_writes_a_grid(trained):
    from PIL import Image

    assert cli.main(["sample", "--weights", "net.safetensors", "--n", "7", "--steps", "3", "--out", "new/grid.png"]) == 0
    with Image.open("new/grid.png") as picture:
        assert picture.mode == "L" and picture.size == (3 * 42 + 2, 3 * 42 + 2)


def test_grid_places_each_image_and_enlarges_without_smoothing():
    pixels = torch.arange(5, dtype=torch.uint8)[:, None, None, None] * 10 + torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8)
    got = cli.grid(pixels, gap=1, least=6)
    assert got.shape == (1, 3 * 7 + 1, 2 * 7 + 1)
    for k, image in enumerate(pixels):
        top, left = 1 + k // 2 * 7, 1 + k % 2 * 7
        tile = got[0, top : top + 6, left : left + 6]
        assert torch.equal(tile[1::3, 1::3], image[0]) and torch.equal(tile[::3, 2::3], image[0])


def test_draws_are_drawn_in_batches(trained, monkeypatch):
    network, _ = weights.load(trained)
    monkeypatch.setattr(cli, "SAMPLE_BATCH", 4)
    x = cli.draw(network, TINY, 10)
    assert x.shape == (10, 1, 8, 8) and x.min() >= -1 and x.max() <= 1
    assert len({tuple(row.flatten().tolist()) for row in x}) == 10


def test_default_is_the_shipped_digits_checkpoint(trained, monkeypatch):
    monkeypatch.setattr(weights, "shipped", lambda: trained)
    assert cli.main(["sample", "--n", "2", "--out", "x.npy"]) == 0


def test_evaluate_writes_the_figures_into_the_card(trained, monkeypatch, capsys):
    monkeypatch.setattr("ddpm_edu.metrics.quality", lambda x, *rest: {"share": float(len(x)), "deep": {"list": [0.123456]}})
    assert cli.main(["evaluate", "--weights", "net.safetensors", "--seed", "3"]) == 0
    card = json.loads(Path("net.json").read_text())
    assert card["quality"]["share"] == len(data.digits_split()["A"]) and card["quality"]["deep"]["list"] == [0.1235]
    assert card["quality"]["seed"] == 3 and card["quality"]["steps"] == 4 and "--seed 3" in card["quality"]["command"]
    assert card["loss_curve"] and "share: 8" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, message",
    [
        ("sample --n 0", "argument --n: must be a whole number of at least 1, got '0'"),
        ("sample --n two", "argument --n: must be a whole number"),
        ("sample --steps -3", "argument --steps"),
        ("sample --out picture.jpg", "--out picture.jpg must end in .png or .npy"),
        ("sample --weights no.safetensors", "no weight file at no.safetensors"),
        ("sample --device cuda:99 --weights no.safetensors", "--device cuda:99 is not there"),
        ("sample --device toaster", "--device toaster is not a device"),
        ("train --data digits --lr 0", "argument --lr: must be a number above 0"),
        ("train --data digits --seed 1.5", "argument --seed"),
        ("train --data digits --preset best", "no preset 'best'"),
        ("train --data unicorns", "--data unicorns is neither one of digits"),
        ("train --data mnist", "--data-root or set DDPM_EDU_DATA"),
        ("train --data mnist --data-root .", "MNIST/raw/train-images-idx3-ubyte, which does not exist"),
        ("train --data digits --preset cifar10", "the images of digits have shape (1, 8, 8), the network takes (3, 32, 32)"),
        ("train --data digits --out model.pt", "must end in .safetensors"),
        ("train --data digits --resume", "no weight file at runs/digits.checkpoint.safetensors"),
        ("train", "--data"),
        ("dream", "dream"),
        ("", "required"),
    ],
)
def test_refuses(capsys, argv, message):
    assert message in refused(capsys, *argv.split())


def test_unwritable_out_is_found_before_the_work(capsys, monkeypatch, trained):
    capsys.readouterr()
    Path("file").write_text("")
    monkeypatch.setattr(cli, "train", lambda *a: pytest.fail("trained"))
    monkeypatch.setattr(cli, "draw", lambda *a, **k: pytest.fail("sampled"))
    assert "cannot write file/net.safetensors" in refused(capsys, "train", "--data", "digits", "--out", "file/net.safetensors")
    assert "cannot write file/x.png" in refused(capsys, "sample", "--weights", "net.safetensors", "--out", "file/x.png")


def test_steps_beyond_T_and_damaged_weights(capsys, trained):
    capsys.readouterr()
    assert "steps = 21 is more than the schedule's T = 20" in refused(
        capsys, "sample", "--weights", "net.safetensors", "--steps", "21", "--out", "x.png"
    )
    trained.write_bytes(trained.read_bytes()[:1000])
    assert "not a whole safetensors file" in refused(capsys, "sample", "--weights", "net.safetensors")
    assert not Path("x.png").exists()


def test_diverged_training_is_told_in_one_line(capsys, monkeypatch):
    def explode(state, images):
        raise training.TrainingDiverged("step 3: the loss is nan")
        yield

    monkeypatch.setattr(cli, "train", explode)
    assert cli.main(["train", "--data", "digits"]) == 2
    assert capsys.readouterr().err.endswith("ddpm_edu: step 3: the loss is nan\n")


def test_interrupted_run_saves_says_how_to_resume_and_goes_on(capsys, monkeypatch, trained):
    capsys.readouterr()

    def with_ctrl_c(state, images):
        for metrics in training.train(state, images):
            if state.step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield metrics

    monkeypatch.setattr(cli, "train", with_ctrl_c)
    assert cli.main(["train", "--data", "digits", "--out", "again.safetensors"]) == 130
    err = capsys.readouterr().err
    assert "stopped at step 3 of 6; the state is saved" in err and not Path("again.safetensors").exists()
    resume = err.strip().splitlines()[-1].removeprefix("python -m ddpm_edu ").split()

    assert "holds an unfinished run" in refused(capsys, "train", "--data", "digits", "--out", "again.safetensors")
    assert "--seed 4 contradicts" in refused(capsys, *resume, "--seed", "4")

    monkeypatch.setattr(cli, "train", training.train)
    assert cli.main(resume) == 0
    a, b = weights.load("again.safetensors")[0].state_dict(), weights.load(trained)[0].state_dict()
    assert all(torch.equal(a[k], b[k]) for k in b)
    assert not Path("again.checkpoint.safetensors").exists()


def test_real_ctrl_c_in_a_real_process(tmp_path):
    command = [sys.executable, "-m", "ddpm_edu", "train", "--data", "digits", "--batch", "8", "--out", "net.safetensors"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout.readline().startswith("digits: 1,438 images")
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert "the state is saved" in err and "--resume net.checkpoint.safetensors" in err
    state = training.TrainState.load(tmp_path / "net.checkpoint.safetensors")
    assert 0 < state.step < state.config.steps


def test_import_is_light():
    """No heavy import at the package's top level: only inside the functions that need them."""
    heavy = "'sklearn', 'torchvision', 'matplotlib', 'scipy', 'PIL', 'IPython'"
    code = f"import sys, ddpm_edu, ddpm_edu.cli; print([m for m in ({heavy}) if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
