"""The commands: what they write, and that whatever is wrong is one line on stderr and exit code 2."""

import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from conftest import write_mnist

from ddpm_edu import cli, data, training, weights
from ddpm_edu.guidance import guided
from ddpm_edu.metrics import Judge
from ddpm_edu.training import PRESETS, TrainConfig

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
SHIPPED = PRESETS["digits"]
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
    assert sorted(p.name for p in Path("runs").iterdir()) == ["digits.checkpoints", "digits.json", "digits.safetensors"]
    card = json.loads(Path("runs/digits.json").read_text())
    assert card["command"] == "python -m ddpm_edu train --data digits"
    assert card["seed"] == 0 and card["config"]["steps"] == 6 and len(card["loss_curve"]) == 6
    assert card["data"]["images"] == 1438 and card["data"]["sha256"] == data.load("digits").sha256()
    assert card["parameters"] == sum(p.numel() for p in weights.load("runs/digits.safetensors")[0].parameters())
    assert {"commit", "hardware", "wall_seconds", "versions", "network"} <= card.keys()


def test_checkpoints_stay_and_a_finished_run_is_replaced(capsys):
    assert cli.main(["train", "--data", "digits"]) == 0
    folder = training.Checkpoints("runs/digits.checkpoints")
    names = [path.name for path in folder.paths()]
    assert len(names) in (2, 3) and names[-2:] == ["step-00000005.safetensors", "step-00000006.safetensors"]
    assert f"the lowest loss on the fixed draw has {folder.best(folder.load()).name}" in capsys.readouterr().out
    assert cli.main(["train", "--data", "digits", "--resume"]) == 0  # nothing left to do but the weights
    assert cli.main(["train", "--data", "digits", "--steps", "2", "--save-every", "1"]) == 0
    assert [path.name for path in folder.paths()] == ["step-00000001.safetensors", "step-00000002.safetensors"]


def test_how_is_a_choice_of_the_command(capsys):
    how = ["--precision", "float32", "--accumulate", "3", "--channels-last", "--no-compile"]
    assert cli.main(["train", "--data", "digits", *how]) == 0
    config = json.loads(Path("runs/digits.json").read_text())["config"]
    assert [config[name] for name in ("precision", "accumulate", "channels_last", "compile")] == ["float32", 3, True, False]
    capsys.readouterr()
    assert "--batch 2 contradicts" in refused(capsys, "train", "--data", "digits", "--resume", "--batch", "2")


def test_a_run_goes_on_where_the_machine_has_other_strengths(capsys):
    """The first machine was fast in bfloat16; what is computed stays, how it is computed changes, in every direction."""
    for name, first, then in (
        ("a", "bfloat16", "float16"),
        ("b", "float16", "float32"),
        ("c", "float32", "auto"),
    ):
        state = training.TrainState(dataclasses.replace(TINY, precision=first))
        list(training.train(state, data.load("digits"), until=3))
        training.Checkpoints(f"{name}.checkpoints").save(state, data.load("digits"))
        how = ["--precision", then, "--accumulate", "2", "--channels-last"]
        assert cli.main(["train", "--data", "digits", "--out", f"{name}.safetensors", "--resume", *how]) == 0
        config = json.loads(Path(f"{name}.json").read_text())["config"]
        assert config["precision"] == (training.fast_precision(torch.device("cpu")) if then == "auto" else then)
        assert [config[key] for key in ("accumulate", "channels_last", "batch", "lr")] == [2, True, TINY.batch, TINY.lr]
    with pytest.raises(TypeError, match="a run goes on with its own"):
        training.TrainState.load("a.checkpoints/step-00000006.safetensors", lr=1.0)


def test_no_other_run_s_work_is_overwritten(capsys, trained):
    capsys.readouterr()
    state = training.TrainState(TINY)
    list(training.train(state, data.load("digits"), until=2))
    other = training.Checkpoints("other.checkpoints")
    other.save(state, data.load("digits"))
    line = ["train", "--data", "digits", "--resume", "net.checkpoints", "--out", "other.safetensors"]
    assert "other.checkpoints holds another unfinished run" in refused(capsys, *line)
    assert [path.name for path in other.paths()] == ["step-00000002.safetensors"]
    trained.unlink()  # as after a disk that was full at the very end
    again = ["train", "--data", "digits", "--out", "net.safetensors"]
    assert "add --resume to write it" in refused(capsys, *again)
    assert cli.main([*again, "--resume"]) == 0 and trained.exists()


def test_resume_takes_a_folder_by_its_name_dot_too(trained, monkeypatch):
    monkeypatch.chdir(trained.parent / "net.checkpoints")
    assert cli.main(["train", "--data", "digits", "--out", "../copy.safetensors", "--resume", "."]) == 0
    one, other = (weights.read_tensors(trained.parent / name)[0] for name in ("net.safetensors", "copy.safetensors"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_s_images_have_the_size_of_the_preset(tmp_path, monkeypatch):
    """A preset that names no size means the network's own default."""
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for k in range(8):
        Image.new("RGB", (40, 50), (30 * k, 0, 90)).save(tmp_path / "pictures" / f"{k}.png")
    network = {"kind": "UNet", "base": 8, "multipliers": [1, 2], "blocks": 1, "attention": []}
    monkeypatch.setitem(PRESETS, "cifar10", dataclasses.replace(TINY, data="cifar10", network=network, steps=1, T=4))
    assert cli.main(["train", "--data", "pictures", "--preset", "cifar10"]) == 0
    assert weights.load("runs/pictures.safetensors")[0].config["channels"] == 3


def test_out_of_memory_is_one_line(trained, monkeypatch, capsys):
    capsys.readouterr()

    def full(*rest, **named):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(cli, "draw", full)
    assert "CUDA out of memory. Tried to allocate 2 GiB" in refused(capsys, "sample", "--weights", "net.safetensors")


def test_a_card_without_a_config_is_told(capsys, trained):
    capsys.readouterr()
    network, _ = weights.load(trained)
    weights.save("bare.safetensors", network, {"seed": 1})
    assert "its card has no config" in refused(capsys, "sample", "--weights", "bare.safetensors")


def test_evaluate_asks_the_network_where_it_is():
    """The images stay on the CPU, whatever the device: a stand-in on torch's device without memory."""
    seen = []

    class Elsewhere(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, device="meta"))

        def forward(self, x_t, t):
            seen.append((x_t.device.type, t.device.type))
            return torch.ones(x_t.shape)

    network = Elsewhere()
    assert cli._at_home(network, network)(torch.zeros(2, 3), torch.ones(2)).device.type == "cpu"
    assert seen == [("meta", "meta")]


def test_the_commit_is_the_package_s_own(tmp_path, monkeypatch):
    """An installed copy, ignored in somebody else's repository, has no commit of its own."""
    git = lambda *what: subprocess.run(["git", "-C", str(tmp_path), *what], check=True, capture_output=True)  # noqa: E731
    git("init", "-q")
    (tmp_path / ".gitignore").write_text("lib/\n")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "theirs")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "cli.py").touch()
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "lib" / "cli.py"))
    assert cli._commit() == "unknown"
    git("add", "-f", "lib/cli.py")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "ours")
    assert len(cli._commit()) == 40


def test_a_variance_is_learned_drawn_from_and_refused_guidance(capsys, monkeypatch):
    how = ["--loss", "hybrid", "--times", "importance"]
    assert cli.main(["train", "--data", "digits", "--out", "v.safetensors", *how]) == 0
    network, card = weights.load("v.safetensors")
    assert network.config["learned_variance"] and card["config"]["loss"] == "hybrid"
    assert card["config"]["times"] == "importance"
    with torch.no_grad():
        network.last[-1].bias[1] = 2.0  # v near 2: a variance that no fixed choice has
    config = TrainConfig(**card["config"])
    wild, tame = (cli.draw(net, config, 4, seed=1) for net in (network, weights.load("v.safetensors")[0]))
    assert wild.shape == (4, 1, 8, 8) and not torch.equal(wild, tame)
    assert cli.main(["sample", "--weights", "v.safetensors", "--n", "2", "--out", "v.npy"]) == 0
    with pytest.raises(ValueError, match=r"--guidance 2\.0 is for networks without a learned variance"):
        cli.draw(network, config, 4, y=torch.arange(4), scale=2.0)
    capsys.readouterr()
    assert "contradicts the run to resume" in refused(
        capsys, "train", "--data", "digits", "--out", "v.safetensors", "--resume", "--loss", "vlb"
    )
    assert "times = 'importance' is for" in refused(capsys, "train", "--data", "digits", "--times", "importance")


def test_tensorboard_gets_scalars_and_grids():
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert cli.main(["train", "--data", "digits", "--tensorboard", "board", "--grid-every", "3"]) == 0
    board = events.EventAccumulator("board").Reload()
    assert [e.step for e in board.Images("samples")] == [3, 6]
    card = json.loads(Path("runs/digits.json").read_text())
    losses = [(e.step, e.value) for e in board.Scalars("loss")]
    assert losses == [(step, pytest.approx(loss, abs=1e-4)) for step, loss in card["loss_curve"]]
    assert {"grad_norm", "lr", "images_per_second", "fixed_loss"} <= set(board.Tags()["scalars"])


def test_the_grid_of_a_network_with_classes_shows_them_in_turn(classy, monkeypatch):
    pytest.importorskip("tensorboard")
    asked = []
    monkeypatch.setattr(cli, "guided", lambda network, y, scale: asked.append(y.tolist()) or guided(network, y, scale))
    assert cli.main(["train", "--data", "mnist", "--tensorboard", "board", "--grid-every", "2", "--steps", "2"]) == 0
    assert asked == [[*range(10), *range(6)]]


def test_tensorboard_is_optional(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "pip install tensorboard" in refused(capsys, "train", "--data", "digits", "--tensorboard", "board")


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


@pytest.mark.parametrize("trained_in", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("fast", ["float32", "bfloat16", "float16"])
def test_draws_are_computed_in_what_the_device_is_fast_at(monkeypatch, trained, trained_in, fast):
    """A processor that imitates bfloat16 needs many times as long; a network from float32 is not rounded anywhere."""
    network, _ = weights.load(trained)
    seen = []
    inner = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][2]
    inner.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    monkeypatch.setattr(cli, "fast_precision", lambda device: fast)
    x = cli.draw(network, dataclasses.replace(TINY, precision=trained_in), 2)
    assert x.dtype == torch.float32 and len(seen) == TINY.sample_steps
    assert set(seen) == {torch.float32 if trained_in == "float32" else getattr(torch, fast)}


@pytest.mark.parametrize(
    "options, visited",
    [
        ([], [20, 15, 10, 5]),
        (["--spacing", "2"], [20, 11, 5, 1]),  # 20 (k/4)² = 20, 11.25, 5, 1.25
        (["--steps", "3", "--spacing", "2"], [20, 9, 2]),  # 20 (k/3)² = 20, 8.9, 2.2
    ],
)
@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_the_steps_visited_are_those_asked_for(trained, monkeypatch, command, options, visited):
    network, card = weights.load(trained)
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(int(inputs[1].reshape(-1)[0])))
    monkeypatch.setattr(weights, "load", lambda *rest: (network, card))
    monkeypatch.setattr("ddpm_edu.metrics.quality", lambda *rest: {})
    assert (
        cli.main([command, "--weights", str(trained), *options] + (["--n", "2", "--out", "x.npy"] * (command == "sample"))) == 0
    )
    batches = 1 if command == "sample" else -(-len(data.digits_split()["A"]) // cli.SAMPLE_BATCH)
    assert seen == visited * batches
    if command == "evaluate":
        quality = json.loads(Path("net.json").read_text())["quality"]
        assert quality["steps"] == len(visited) and quality["spacing"] == (2 if "--spacing" in options else 1)


def test_default_is_the_shipped_digits_checkpoint(trained, monkeypatch):
    monkeypatch.setattr(weights, "shipped", lambda: trained)
    assert cli.main(["sample", "--n", "2", "--out", "x.npy"]) == 0


def test_evaluate_writes_the_figures_into_the_card(trained, monkeypatch, capsys):
    monkeypatch.setattr("ddpm_edu.metrics.quality", lambda x, *rest: {"share": float(len(x)), "deep": {"list": [0.123456]}})
    assert cli.main(["evaluate", "--weights", "net.safetensors", "--seed", "3"]) == 0
    card = json.loads(Path("net.json").read_text())
    assert card["quality"]["share"] == len(data.digits_split()["A"]) and card["quality"]["deep"]["list"] == [0.1235]
    assert card["quality"]["seed"] == 3 and card["quality"]["steps"] == 4 and "--seed 3" in card["quality"]["command"]
    assert card["quality"]["spacing"] == 1
    assert card["loss_curve"] and "share: 8" in capsys.readouterr().out


# Networks with classes ------------------------------------------------------------------------------------------------


@pytest.fixture
def classy(tmp_path, monkeypatch):
    """A folder with data in MNIST's layout, and a class-conditional network trained on it for two steps."""
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "data")
    monkeypatch.setenv("DDPM_EDU_DATA", str(tmp_path / "data"))
    network = {"kind": "UNet", "size": 28, "channels": 1, "base": 8, "multipliers": [1, 1, 1], "blocks": 1, "attention": []}
    small = dataclasses.replace(
        PRESETS["mnist"],
        network={**network, "classes": 10},
        T=6,
        steps=2,
        batch=4,
        warmup=0,
        sample_steps=3,
        precision="float32",
    )
    monkeypatch.setitem(PRESETS, "mnist", small)
    assert cli.main(["train", "--data", "mnist", "--out", "net.safetensors"]) == 0
    return tmp_path


def test_classes_and_guidance_reach_the_network(classy, monkeypatch):
    asked = []

    def spy(network, y, scale=1.0):
        asked.append((y.tolist(), scale))
        return guided(network, y, scale)

    monkeypatch.setattr(cli, "guided", spy)
    for line in ("sample --n 12", "sample --n 3 --class 7 --guidance 1.5"):
        assert cli.main([*line.split(), "--weights", "net.safetensors", "--out", "x.npy"]) == 0
    assert asked == [([*range(10), 0, 1], 1.0), ([7, 7, 7], 1.5)]


def test_a_judge_is_trained_and_asked(classy, capsys):
    assert cli.main(["judge", "--data", "mnist", "--epochs", "12", "--out", "judge.safetensors"]) == 0
    card = json.loads(Path("judge.json").read_text())
    assert card["test_accuracy"] > 0.5 and card["test_images"] == 20  # rows of light; guessing gives 0.1
    copies = card["frechet_of_training_images"]
    assert copies["images"] == 10
    for name in ("random", "in_proportion"):
        assert (
            copies[name]["draws"] == 4
            and copies[name]["ratio_range"][0] < copies[name]["ratio"] < copies[name]["ratio_range"][1]
        )
    line = "evaluate --weights net.safetensors --judge judge.safetensors --guidance 3 --guided 4 --per-step 2"
    assert cli.main(line.split()) == 0
    quality = json.loads(Path("net.json").read_text())["quality"]
    assert quality["guidance"] == 3 and quality["samples"] == 10 and quality["guided_samples"] == 4
    assert quality["recognised"]["real"] == pytest.approx(card["test_accuracy"])
    bits = quality["bits_per_dim"]
    assert bits["total"] == pytest.approx(bits["L_0"] + bits["L_1:T-1"] + bits["L_T"], abs=2e-4) and bits["standard_error"] > 0
    assert bits["images"] == 20 and "bits_per_dim" in capsys.readouterr().out


def test_draws_in_proportion_are_disjoint_and_hold_the_numbers_that_are_asked_for():
    generator = torch.Generator().manual_seed(0)
    labels, order = torch.randint(0, 5, (400,), generator=generator), torch.randperm(400, generator=generator)
    counts = torch.tensor([10, 0, 3, 20, 1])
    draws = cli._in_proportion(labels[order], counts, order)
    for some in draws:
        assert torch.equal(torch.bincount(labels[some], minlength=5), counts)
    assert len(torch.cat(draws).unique()) == 34 * len(draws) and len(draws) == int((labels == 3).sum()) // 20


@pytest.mark.parametrize(
    "line, message",
    [
        ("sample --weights net.safetensors --class 10", "--class 10: this network knows 0..9"),
        ("sample --class 3", "--class 3: this network has no classes"),
        ("sample --guidance 2", "--guidance 2.0 needs a network with classes"),
        ("sample --guidance -1", "argument --guidance: must be a number above 0"),
        ("evaluate --weights net.safetensors --judge net.safetensors", "is not a judge of mnist"),
        ("evaluate --weights net.safetensors --judge no.safetensors", "no weight file at no.safetensors"),
        ("evaluate --weights net.safetensors --data-root nowhere", "looked for nowhere/MNIST/raw/t10k-images-idx3-ubyte"),
        ("judge --data celeba --data-root nowhere", "looked for nowhere/celeba/img_align_celeba"),
        ("judge --data mnist --out judge.pt", "must end in .safetensors"),
    ],
)
def test_what_classes_cannot_be_asked(classy, capsys, line, message):
    assert cli.main(line.split()) == 2
    assert message in capsys.readouterr().err


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
        ("train --data digits --resume", "no checkpoint in runs/digits.checkpoints"),
        ("train --data digits --resume old.safetensors", "no checkpoint in old.safetensors"),
        ("train --data digits --accumulate 9", "accumulate = 9 is more than the batch = 8"),
        ("train --data digits --precision float8", "argument --precision: invalid choice"),
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


def test_a_run_can_begin_with_trained_weights(capsys, trained):
    """Fine-tuning: network and average are those begun with, and the card keeps the card of the run before."""
    begun, before = weights.load(trained)
    on = ["train", "--data", "digits", "--start"]
    assert cli.main([*on, "net.safetensors", "--lr", "1e-30", "--out", "two.safetensors"]) == 0
    after, card = weights.load("two.safetensors")
    for (name, x), y in zip(begun.state_dict().items(), after.state_dict().values()):
        assert torch.equal(x, y), name  # at this rate nothing moves
    assert [(run["file"], run["command"]) for run in card["history"]] == [("net.safetensors", before["command"])]
    assert cli.main([*on, "two.safetensors", "--out", "three.safetensors"]) == 0
    history = weights.load("three.safetensors")[1]["history"]
    assert [run["file"] for run in history] == ["net.safetensors", "two.safetensors"]
    assert not any("history" in run for run in history)


def test_runs_with_a_common_start_are_averaged(capsys, trained):
    """The mean of the weights, the loss of each and of the mean on one draw, and each run's card once, the start's first."""
    on = ["train", "--data", "digits", "--start", "net.safetensors"]
    for seed in ("1", "2"):
        assert cli.main([*on, "--seed", seed, "--out", f"net{seed}.safetensors"]) == 0
    names = ["net.safetensors", "net1.safetensors", "net2.safetensors"]
    capsys.readouterr()
    line = ["average", "--weights", *names, "--out", "mean.safetensors", "--images", "50"]
    assert cli.main(line) == 0
    said = capsys.readouterr().out.splitlines()
    _, card = weights.load("mean.safetensors")
    runs = [safetensors.numpy.load_file(name) for name in names]
    for name, x in safetensors.numpy.load_file("mean.safetensors").items():
        assert not np.array_equal(runs[1][name], runs[2][name]) or not runs[0][name].any(), name
        np.testing.assert_allclose(x, np.mean([run[name].astype("f8") for run in runs], axis=0), rtol=2**-24, atol=0)

    state = training.TrainState(TINY)  # of the start's configuration, whose seed decides the draw
    losses = []
    for name in (*names, "mean.safetensors"):
        weights.load_into(state.ema.module, weights.load(name)[0].state_dict(), name)
        losses.append(state.fixed_loss(data.load("digits", split="test"), 50))
    assert len(set(losses)) == 4
    assert [*card["average"]["losses"], card["average"]["loss"]] == pytest.approx(losses, abs=1e-6)
    assert card["average"]["files"] == names and "loss_curve" not in card
    assert [row.split(":")[0] for row in said] == [*names, "mean.safetensors, their average"]
    assert all(f"loss {loss:.6f}" in row for loss, row in zip(losses, said))

    assert [run["file"] for run in card["history"]] == names and not any("history" in run for run in card["history"])
    assert card["command"] == "python -m ddpm_edu " + " ".join(line) and card["config"]["seed"] == 0
    assert cli.main(["sample", "--weights", "mean.safetensors", "--n", "1", "--out", "x.png"]) == 0
    assert cli.main(["train", "--data", "digits", "--start", "mean.safetensors", "--out", "on.safetensors"]) == 0
    history = weights.load("on.safetensors")[1]["history"]
    assert [run["file"] for run in history] == [*names, "mean.safetensors"]


def test_only_runs_of_one_kind_are_averaged(capsys, trained, monkeypatch):
    def of(config: TrainConfig, name: str) -> None:
        monkeypatch.setitem(training.PRESETS, "digits", config)
        assert cli.main(["train", "--data", "digits", "--steps", "1", "--out", f"{name}.safetensors"]) == 0

    of(dataclasses.replace(TINY, network={**NET, "base": 16}), "wide")
    of(dataclasses.replace(TINY, T=10), "short")
    of(TINY, "strange")
    card = json.loads(Path("strange.json").read_text())
    Path("strange.json").write_text(json.dumps({**card, "data": {**card["data"], "sha256": "0" * 64}}))
    capsys.readouterr()
    for what, words in (
        ("net.safetensors", "--weights names 1 file; an average needs two at least"),
        ("net.safetensors wide.safetensors", "wide.safetensors has another network than net.safetensors: {"),
        ("net.safetensors net.safetensors short.safetensors", "short.safetensors has another schedule than net.safetensors: "),
        ("net.safetensors strange.safetensors", "strange.safetensors has another data set than net.safetensors: "),
        ("net.safetensors nowhere.safetensors", "no weight file at nowhere.safetensors"),
    ):
        assert words in refused(capsys, "average", "--weights", *what.split(), "--out", "mean.safetensors")
    both = ["average", "--weights", "net.safetensors", "strange.safetensors", "--out"]
    assert "must end in .safetensors" in refused(capsys, *both, "mean.json")
    assert not Path("mean.safetensors").exists() and not Path("mean.json").exists()


def test_weights_to_begin_with_are_checked_before_the_work(capsys, trained):
    capsys.readouterr()
    assert "no weight file at nowhere" in refused(capsys, "train", "--data", "digits", "--start", "nowhere.safetensors")
    error = refused(capsys, "train", "--data", "digits", "--preset", "playground", "--start", "net.safetensors")
    assert "net.safetensors is of another network" in error
    assert cli.main(["train", "--data", "digits", "--steps", "2"]) == 0
    capsys.readouterr()
    checkpoint = next(Path("net.checkpoints").glob("step-*.safetensors"))
    error = refused(capsys, "train", "--data", "digits", "--out", "on.safetensors", "--start", str(checkpoint))
    assert "is a training checkpoint, to go on from with --resume" in error
    assert "--start has no meaning" in refused(capsys, "train", "--data", "digits", "--resume", "--start", "net.safetensors")
    state = training.TrainState(TINY)
    state.step = 1
    with pytest.raises(ValueError, match="at step 1"):
        state.begin_with(trained)


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


def start(cwd, *more):
    """`train --data digits` with the real preset and small batches, in a process of its own, once it has begun."""
    command = [sys.executable, "-m", "ddpm_edu", *"train --data digits --out net.safetensors".split(), *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd)
    assert process.stdout.readline().startswith("digits: 1,438 images"), process.communicate()
    return process


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_real_ctrl_c_in_a_real_process(tmp_path, sent):
    process = start(tmp_path, "--batch", "8")
    time.sleep(3)
    process.send_signal(sent)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err
    assert "the state is saved" in err and "--out net.safetensors --resume" in err
    state = training.Checkpoints(tmp_path / "net.checkpoints").load()
    assert 0 < state.step < state.config.steps


def test_killed_run_resumes_to_the_same_weights_bit_for_bit(tmp_path):
    """kill -9 at whatever step, then --resume: 20 steps in all, beside 20 without a break."""
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    steps = ["--batch", "8", "--steps", "20", "--save-every", "5"]
    process = start(tmp_path / "killed", *steps)
    while not (files := training.Checkpoints(tmp_path / "killed" / "net.checkpoints").paths()):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert training.TrainState.load(files[0]).step == 5 and not (tmp_path / "killed" / "net.safetensors").exists()
    for name, more in (("killed", ["--resume", "--save-every", "5"]), ("straight", steps)):
        process = start(tmp_path / name, *more)
        assert process.wait(timeout=300) == 0, process.communicate()
    for file in ("net.safetensors", "net.checkpoints/step-00000020.safetensors"):
        one, other = (weights.read_tensors(tmp_path / name / file)[0] for name in ("straight", "killed"))
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_full_disk_is_found_before_the_work(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "train", lambda *a: iter(pytest.fail("trained") for _ in range(1)))
    monkeypatch.setattr(cli.shutil, "disk_usage", lambda folder: cli.shutil._ntuple_diskusage(10**9, 10**9 - 10**5, 10**5))
    assert "runs/digits.checkpoints has 0 MB of free space, too little for four" in refused(capsys, "train", "--data", "digits")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))"
    code = f"{limit}; from ddpm_edu import cli; raise SystemExit(cli.main())"
    run = subprocess.run(
        [sys.executable, "-c", code, "train", "--data", "digits"], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    size = 16 * sum(p.numel() for p in weights.build_network(**SHIPPED.network).parameters())
    wanted = f"cannot write runs/digits.checkpoints/checkpoint, of {size / 1e6:.0f} MB: File too large"
    assert run.returncode == 2 and wanted in run.stderr, run.stderr
    assert "step" not in run.stderr and not any(Path("runs/digits.checkpoints").iterdir())


@pytest.mark.parametrize("wrong", ["--preset best", "--data-root nowhere --data mnist", "--start nothing.safetensors"])
def test_what_is_refused_leaves_no_folder(capsys, monkeypatch, tmp_path, wrong):
    monkeypatch.chdir(tmp_path)
    refused(capsys, *f"train --data digits --out new/net.safetensors {wrong}".split())
    assert not any(tmp_path.iterdir())


def test_a_disk_too_full_for_the_samples_is_found_before_they_are_drawn(trained, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))"
    code = f"{limit}; from ddpm_edu import cli; cli.draw = None; raise SystemExit(cli.main())"
    line = "sample --weights net.safetensors --n 30000 --steps 1 --out many.npy".split()
    run = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, timeout=120)
    assert run.returncode == 2 and "cannot write many.npy, of 2 MB: File too large" in run.stderr, run.stderr


def test_figures_are_told_even_if_the_card_cannot_be_written(classy, capsys, monkeypatch):
    assert cli.main(["judge", "--data", "mnist", "--epochs", "1", "--out", "judge.safetensors"]) == 0

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write_card", full)
    assert cli.main("evaluate --weights net.safetensors --judge judge.safetensors --per-step 2".split()) == 2
    assert "bits_per_dim" in capsys.readouterr().out


def test_a_judge_of_other_images_is_refused_before_anything_is_drawn(classy, capsys, monkeypatch):
    monkeypatch.setattr(cli, "draw", None)
    for channels, classes in ((3, 10), (1, 5)):
        weights.save("other.safetensors", Judge(channels, classes), {})
        assert cli.main("evaluate --weights net.safetensors --judge other.safetensors".split()) == 2
        want = f"is for {{'channels': {channels}, 'classes': {classes}}}, the network and its images have {{'channels': 1"
        assert want in capsys.readouterr().err
    weights.save("judge.safetensors", Judge(), {})
    for option in ("--guided", "--per-step"):
        assert cli.main(f"evaluate --weights net.safetensors --judge judge.safetensors {option} 21".split()) == 2
        assert f"{option} 21 is more than the 20 test images" in capsys.readouterr().err


def test_torchrun_needs_no_other_change(tmp_path):
    """Two processes: one bar and one set of files. Behind `--`, `--start` is ours, and not torchrun's `--start-method`."""
    from test_training import torchrun

    command = "ddpm_edu train --data digits --steps 3 --batch 6 --save-every 2 --device cpu --out two.safetensors".split()
    run = torchrun("-m", "--", *command, "--start", str(weights.shipped("digits")), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("images of shape") == 1 and "float32 on 2 × " in run.stdout
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"two.safetensors", "two.json", "step-00000002.safetensors", "step-00000003.safetensors"}
    assert training.Checkpoints(tmp_path / "two.checkpoints").load().step == 3


def test_import_is_light():
    """No heavy import at the package's top level: only inside the functions that need them."""
    heavy = "'sklearn', 'torchvision', 'matplotlib', 'scipy', 'PIL', 'IPython'"
    code = f"import sys, ddpm_edu, ddpm_edu.cli; print([m for m in ({heavy}) if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator without this habit")
def test_large_blocks_are_kept_for_the_next_move():
    """Pages asked of the system, when 80 MB are needed ten times more: for few by the command, for all ten without it."""
    code = """if True:
        import resource, runpy, sys, torch
        from ddpm_edu import cli

        def main():
            torch.ones(20_000_000)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(10):
                torch.ones(20_000_000)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

        cli.main = main
        main() if sys.argv[1:] else runpy.run_module("ddpm_edu", run_name="__main__")"""
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", code, *more], capture_output=True, text=True, check=True).stdout)
        for more in ([], ["plain"])
    )
    assert kept < given_back / 4
