"""The command line: python -m ddpm_edu train / average / sample / evaluate / judge.

Whatever is wrong is found before the work starts and told in one line on stderr, with exit code 2.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from . import data, weights
from ._args import count, instance
from .diffusion import EpsModel, LearnedVariance, ReverseVariance
from .guidance import guided
from .samplers import ancestral, autocast
from .training import (
    HOW,
    PRESETS,
    Checkpoints,
    Metrics,
    TrainConfig,
    TrainingDiverged,
    TrainState,
    fast_precision,
    on_any_process,
    processes,
    train,
)
from .weights import check_writable

SAMPLE_BATCH = 500
# Of a preset:
CHANGEABLE = ("seed", "steps", "batch", "lr", "loss", "times", *HOW)


class Refused(ValueError):
    """A request that cannot be honoured."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for a bad request, 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parser().parse_args(argv)
        args.command_line = "python -m ddpm_edu " + shlex.join(argv)
        return args.run(args)
    except (ValueError, TypeError, OSError, ImportError, TrainingDiverged) as error:
        print(f"ddpm_edu: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except torch.cuda.OutOfMemoryError as error:
        print(f"ddpm_edu: {' '.join(str(error).split())}; train takes less with --accumulate", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ddpm_edu: stopped", file=sys.stderr)
        return 130


# train ------------------------------------------------------------------------------------------------------------


def run_train(args: argparse.Namespace) -> int:
    """Train, with a progress bar; write weights and card; after Ctrl-C save the state and say how to resume."""
    out = _ending(args.out or Path("runs") / f"{Path(args.data).resolve().name}.safetensors", "--out", [".safetensors"])
    checkpoints, device = Checkpoints(out.with_suffix(".checkpoints")), _device(args.device)

    if args.resume is None:
        where = checkpoints.folder
        if checkpoints.paths() and not checkpoints.finished():
            raise Refused(f"{where} holds an unfinished run: add --resume to go on with it, or delete it to start anew")
        if checkpoints.paths() and not out.exists():  # written last: the disk was full, or the process killed in between
            raise Refused(
                f"{where} holds a run without its {out}: add --resume to write it, or delete the folder to start anew"
            )
        state = TrainState(_config(args), device)
        if args.start is not None:
            state.begin_with(args.start)
    else:
        of = checkpoints.folder if args.resume is True else args.resume
        elsewhere = (of.parent if of.is_file() else of).resolve() != checkpoints.folder.resolve()
        if elsewhere and checkpoints.paths() and not checkpoints.finished():
            raise Refused(f"{checkpoints.folder} holds another unfinished run: name another --out, or delete it")
        how = {name: getattr(args, name) for name in HOW if getattr(args, name) is not None}
        state = TrainState.load(of, device, **how) if of.is_file() else Checkpoints(of).load(device, **how)
        _refuse_changes(args, state.config)
    config, device, first = state.config, state.device, processes()[0] == 0
    images = data.load(config.data, args.data_root, size=_image_shape(config)[1])
    want, have = _image_shape(config), tuple(images.shape)
    if have != want:
        raise Refused(f"the images of {config.data} have shape {have}, the network takes {want}")
    for path in (out, weights.card_path(out)):
        check_writable(path)
    steps = train(state, images)
    board = _board(args.tensorboard, state.step) if args.tensorboard and first else None
    save_every = args.save_every or max(1, config.steps // 10)
    if first:
        _check_room(checkpoints.folder, 4 * 4 * _parameters(state.network))  # weights, averages and two moments, 4 bytes each
        for path in checkpoints.paths() if args.resume is None else []:  # of a run that was finished
            path.unlink()
        size = f"{len(images):,} images of shape {have}; {_parameters(state.network):,} parameters"
        print(f"{config.data}: {size}; {config.precision} on {processes()[1]} × {_hardware(device)}", flush=True)

    with _interruptible() as interrupted, _progress(config.steps, state.step, "step", disable=not first) as bar:
        for metrics in steps:
            bar.set_postfix_str(f"loss {metrics.loss:.4f}, {metrics.images_per_second:.0f} images/s", refresh=False)
            bar.update()
            stop = on_any_process(interrupted.is_set(), device)
            if first and (stop or state.step % save_every == 0 or state.step == config.steps):
                checkpoints.save(state, images)
            if board is not None:
                _log(board, state, metrics, args.grid_every or save_every)
            if stop:
                break
    if board is not None:
        board.close()
    if state.step < config.steps:
        resume = ["train", "--data", config.data, "--out", out.as_posix(), "--resume"]
        for name in ("data_root", "tensorboard", "save_every", "grid_every"):  # what no checkpoint holds
            if (value := getattr(args, name)) is not None:
                resume += [_option(name), value.as_posix() if isinstance(value, Path) else str(value)]
        resume += ["--device", args.device] if args.device != "auto" else []
        if first:
            print(
                f"stopped at step {state.step} of {config.steps}; the state is saved. To go on:\n"
                f"python -m ddpm_edu {shlex.join(resume)}",
                file=sys.stderr,
            )
        return 130
    if not first:
        return 0

    card = {
        "command": args.command_line,
        "config": dataclasses.asdict(config),
        "seed": config.seed,
        "commit": _commit(),
        "data": {"name": config.data, "images": len(images), "sha256": images.sha256()},
        "parameters": _parameters(state.network),
        "hardware": _hardware(device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "wall_seconds": round(state.seconds, 1),
        "cpu_seconds": round(state.cpu_seconds, 1),  # over the threads: what the wall time would be on cores that are free
        "loss_curve": [[step, round(loss, 5)] for step, loss in state.loss_curve],
    }
    if state.history:
        card["history"] = state.history
    weights.save(out, state.ema_network, card, getattr(torch, config.stored))
    print(f"{out} and {weights.card_path(out).name} written after {state.seconds / 60:.1f} minutes of training")
    if checkpoints.path(state.step).exists():  # not when a finished run was taken from elsewhere
        print(f"checkpoints in {checkpoints.folder}; the lowest loss on the fixed draw has {checkpoints.best(state).name}")
    return 0


def _check_room(folder: Path, size: int) -> None:
    """Refuse a folder that cannot take four checkpoints of `size` bytes (three are kept, one is being written)."""
    free = shutil.disk_usage(check_writable(folder / "checkpoint").parent).free
    if free < 4 * size:
        need = f"four checkpoints of {size / 1e6:.0f} MB"
        raise Refused(f"{folder} has {free / 1e6:.0f} MB of free space, too little for {need}")
    check_writable(folder / "checkpoint", size)


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("--tensorboard needs a package that is not there: pip install tensorboard") from None
    return SummaryWriter(str(check_writable(folder / "x").parent), purge_step=step + 1)  # a resumed run overwrites its future


def _log(board: Any, state: TrainState, metrics: Metrics, grid_every: int) -> None:
    """The step's scalars, and now and then 16 samples of the averaged network: always from the same noise."""
    for name in ("loss", "grad_norm", "lr", "images_per_second"):
        board.add_scalar(name, getattr(metrics, name), state.step)
    if state.config.precision == "float16":
        board.add_scalar("loss_scale", state.scaler.get_scale(), state.step)
    if state.fixed_curve and state.fixed_curve[-1][0] == state.step:
        board.add_scalar("fixed_loss", state.fixed_curve[-1][1], state.step)
    if state.step % grid_every == 0 or state.step == state.config.steps:
        y, moves = _classes(state.config, 16), state.config.sample_steps or min(100, state.config.T)
        x = draw(state.ema_network, state.config, 16, moves, y=y)
        board.add_image("samples", grid(data.to_bytes(x, data.levels_of(state.config.data))), state.step)


def _config(args: argparse.Namespace) -> TrainConfig:
    preset = args.preset or next((name for name, config in PRESETS.items() if config.data == args.data), args.data)
    if args.data not in data.IMAGE_SETS and not Path(args.data).is_dir():
        raise Refused(f"--data {args.data} is neither one of {', '.join(data.IMAGE_SETS)} nor a folder of images")
    if preset not in PRESETS:
        names = ", ".join(PRESETS)
        raise Refused(f"no preset {preset!r} for the training: name one with --preset ({names})")
    given = {name: getattr(args, name) for name in CHANGEABLE if getattr(args, name) is not None}
    if args.loss:  # the bound trains a variance, so the network needs one
        given["network"] = {**PRESETS[preset].network, "learned_variance": args.loss != "simple"}
    return dataclasses.replace(PRESETS[preset], data=args.data, **given)


def _refuse_changes(args: argparse.Namespace, config: TrainConfig) -> None:
    for name in ("data", *(name for name in CHANGEABLE if name not in HOW)):
        asked = getattr(args, name)
        if asked is not None and asked != getattr(config, name):
            raise Refused(f"{_option(name)} {asked} contradicts the run to resume, which has {name} = {getattr(config, name)}")
    if args.start is not None:
        raise Refused("--start has no meaning with --resume: the checkpoint holds the weights")
    if args.preset is not None:
        raise Refused("--preset has no meaning with --resume: the checkpoint holds the configuration")


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that a step is finished and the state whole; a second Ctrl-C interrupts at once."""
    event = threading.Event()
    before = {of: signal.getsignal(of) for of in (signal.SIGINT, signal.SIGTERM)}  # SIGTERM: a machine that is taken away

    def handler(signum: int, frame: Any) -> None:
        event.set()
        if processes()[1] == 1:  # torchrun sends a second one itself
            signal.signal(signal.SIGINT, signal.default_int_handler)

    for of in before:
        signal.signal(of, handler)
    try:
        yield event
    finally:
        for of, old in before.items():
            signal.signal(of, old)


# average ----------------------------------------------------------------------------------------------------------


def run_average(args: argparse.Namespace) -> int:
    """Average the weights of several runs on one set of data, and say what each of them and the average loses on a draw.

    Runs that began with the same trained weights differ by the noise of their gradients, of which the average keeps less
    [Wortsman 2022]. Averages of unrelated runs are worth nothing, and the losses show it.
    """
    out = _ending(args.out, "--out", [".safetensors"])
    if len(args.weights) < 2:
        raise Refused(f"--weights names {len(args.weights)} file; an average needs two at least")
    networks, cards = zip(*(weights.load(path) for path in args.weights))
    configs = [_card_config(card, path) for card, path in zip(cards, args.weights)]
    fields: dict[str, Callable[[int], Any]] = {
        "network": lambda k: cards[k]["network"],
        "schedule": lambda k: (configs[k].schedule, configs[k].T),
        "data set": lambda k: cards[k].get("data", {"name": configs[k].data}),
    }
    for k, (what, of) in itertools.product(range(1, len(cards)), fields.items()):
        if of(k) != of(0):
            raise Refused(f"{args.weights[k]} has another {what} than {args.weights[0]}: {of(k)}, not {of(0)}")
    for path in (out, weights.card_path(out)):
        check_writable(path)
    config, state = configs[0], TrainState(configs[0])  # its averaged network takes each in turn, the average last
    parts = [network.state_dict() for network in networks]
    average = {name: torch.stack([part[name] for part in parts]).double().mean(0) for name in parts[0]}

    held_out = "test" if config.data in data.IMAGE_SETS else "train"  # a folder has one split
    images = data.load(config.data, args.data_root, held_out, size=_image_shape(config)[1])
    losses = []
    for part in (*parts, average):
        state.ema.module.load_state_dict(part)
        losses.append(round(state.fixed_loss(images, args.images), 6))
    history: list[dict[str, Any]] = []
    for path, card in zip(args.weights, cards):
        for run in (*card.pop("history", []), {"file": path.name, **card}):
            if not any(all(run.get(key) == other.get(key) for key in ("command", "commit", "loss_curve")) for other in history):
                history.append(run)
    card = {
        "command": args.command_line,
        "config": dataclasses.asdict(config),
        "commit": _commit(),
        "data": fields["data set"](0),
        "parameters": _parameters(state.ema_network),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "average": {"files": [path.name for path in args.weights], "losses": losses[:-1], "loss": losses[-1]},
        "history": history,
    }
    weights.save(out, state.ema_network, card, getattr(torch, config.stored))
    for name, loss in zip((*map(str, args.weights), f"{out}, their average"), losses):
        print(f"{name}: loss {loss:.6f}")
    return 0


# sample -----------------------------------------------------------------------------------------------------------


def run_sample(args: argparse.Namespace) -> int:
    """Draw images from a checkpoint, into a picture or an array."""
    out, started = _ending(args.out, "--out", [".png", ".npy"]), time.perf_counter()
    device = _device(args.device)
    network, card = weights.load(args.weights or weights.shipped(), device)
    config = _card_config(card, args.weights)
    y = _classes(config, args.n, args.of_class)
    if args.guidance != 1 and y is None:
        raise Refused(f"--guidance {args.guidance} needs a network with classes; this one has none")
    check_writable(out, args.n * math.prod(_image_shape(config)))
    x = draw(network, config, args.n, _moves(args, config), args.seed, show=True, y=y, scale=args.guidance)
    pixels = data.to_bytes(x, data.levels_of(config.data))
    write_images(out, pixels)
    print(f"{out}: {args.n} samples in {time.perf_counter() - started:.1f} s")
    return 0


def _classes(config: TrainConfig, n: int, of_class: int | None = None) -> Tensor | None:
    """The classes to draw: all in turn, or n times the given one; None for a network without classes."""
    classes = config.network.get("classes", 0)
    if of_class is not None and not of_class < classes:
        allowed = f"this network knows 0..{classes - 1}" if classes else "this network has no classes"
        raise Refused(f"--class {of_class}: {allowed}")
    if not classes:
        return None
    return torch.arange(n) % classes if of_class is None else torch.full((n,), of_class)


def _moves(args: argparse.Namespace, config: TrainConfig) -> list[int]:
    """The steps to visit, as --steps and --spacing say, or else the configuration."""
    return config.diffusion().schedule.steps(args.steps or config.sample_steps, args.spacing)


def draw(
    network: nn.Module,
    config: TrainConfig,
    n: int,
    steps: int | Sequence[int] | None = None,
    seed: int = 0,
    show: bool = False,
    y: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """n images in [-1, 1] by ancestral sampling as the paper does it: x̂_0 clipped to [-1, 1] at every step.

    `steps` as in `NoiseSchedule.steps` (default: the configuration's number of moves); `y` (n,) names a class for each
    image, `scale` guides as in `guided`.
    The same seed gives the same images on the same device. A network trained in 16 bits runs in what this device is fast
    at: a processor without matrix products in 16 bits imitates them, and needs more than ten times as long as in float32.
    The reverse variance is the network's own where it has learned one, and β̃ otherwise.
    """
    learned = config.network.get("learned_variance", False)
    if learned and scale != 1:
        raise Refused(f"--guidance {scale} is for networks without a learned variance: guidance says nothing about v")
    if y is not None and (instance(y, "y", Tensor).shape != (count(n, "n"),) or not config.network.get("classes")):
        raise Refused(f"y must name a class for each of the {n} images, for a network with classes; got {tuple(y.shape)}")
    count(n, "n"), count(seed, "seed", low=0)
    diffusion, device = config.diffusion(), next(network.parameters()).device
    moves = diffusion.schedule.steps(config.sample_steps if steps is None else steps)
    generator = torch.Generator(device).manual_seed(seed)
    precision = "float32" if config.precision == "float32" else fast_precision(device)
    model = network if precision == "float32" else autocast(network, getattr(torch, precision))
    done = []
    with _progress(-(-n // SAMPLE_BATCH) * (len(moves) - 1), 0, "move", disable=not show) as bar:
        for start in range(0, n, SAMPLE_BATCH):
            x_T = torch.randn(min(SAMPLE_BATCH, n - start), *_image_shape(config), generator=generator, device=device)
            eps_model = model if y is None else guided(model, y[start : start + SAMPLE_BATCH], scale)
            sigma2: ReverseVariance = diffusion.sigma2_beta_tilde
            if learned:
                halves = LearnedVariance(diffusion, eps_model)
                eps_model, sigma2 = halves.eps_model, halves.sigma2
            walk = ancestral(diffusion, eps_model, x_T, moves, sigma2, clip=1.0, generator=generator)
            for step in walk:
                bar.update(step.t > 0)
            done.append(step.x_t.cpu())
    return torch.cat(done)


def write_images(path: Path, pixels: Tensor) -> None:
    """uint8 images (n, C, H, W) as a .npy of shape (n, H, W, C), or as one .png: a grid, enlarged without smoothing."""
    import io

    import numpy as np

    if path.suffix not in (".png", ".npy"):
        raise ValueError(f"path = {path} must end in .png or .npy")
    grid(pixels[:1])  # refuses what are no images
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, pixels.permute(0, 2, 3, 1).contiguous().numpy())
    else:
        from PIL import Image

        picture = grid(pixels).permute(1, 2, 0).numpy()
        Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(buffer, "PNG")
    weights.write_bytes(path, buffer.getvalue())


def grid(pixels: Tensor, gap: int = 2, least: int = 40) -> Tensor:
    """uint8 images (n, C, H, W) side by side as one (C, rows, columns): about square, small ones enlarged, thin gaps."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        raise ValueError(
            f"pixels must be uint8 of shape (n, 1, H, W) or (n, 3, H, W) with n >= 1, got {pixels.dtype} {tuple(pixels.shape)}"
        )
    count(gap, "gap", low=0), count(least, "least")
    n, C, H, W = pixels.shape
    columns = min(n, max(1, round(n**0.5)))
    rows = -(-n // columns)
    zoom = max(1, -(-least // max(H, W)))
    large = pixels.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    canvas = torch.full((C, rows * (H * zoom + gap) + gap, columns * (W * zoom + gap) + gap), 96, dtype=torch.uint8)
    for k, image in enumerate(large):
        top, left = gap + k // columns * (H * zoom + gap), gap + k % columns * (W * zoom + gap)
        canvas[:, top : top + H * zoom, left : left + W * zoom] = image
    return canvas


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


# evaluate ---------------------------------------------------------------------------------------------------------


def run_evaluate(args: argparse.Namespace) -> int:
    """Draw samples, measure them beside real held-out images, and write the figures into the card."""
    device = _device(args.device)
    path = Path(args.weights or weights.shipped())
    network, card = weights.load(path, device)
    check_writable(weights.card_path(path))
    config = _card_config(card, path)
    figures = _of_digits if config.data == "digits" and not config.network.get("classes") else _of_classes
    moves = _moves(args, config)
    card["quality"] = {
        "command": args.command_line,
        "steps": len(moves) - 1,
        "spacing": args.spacing,
        "seed": args.seed,
        **_rounded(figures(args, network, config, moves)),
    }
    for line in _lines(card["quality"]):
        print(line)
    weights.write_card(path, card)
    return 0


def _of_digits(args: argparse.Namespace, network: nn.Module, config: TrainConfig, moves: list[int]) -> dict[str, Any]:
    from .metrics import quality

    images, split = data.digits(), data.digits_split()
    x = draw(network, config, len(split["A"]), moves, args.seed, show=True)
    x = data.to_unit(data.to_pixels(x, images.levels), images.levels)
    return quality(x, images[:], images.labels, split)


def _of_classes(args: argparse.Namespace, network: nn.Module, config: TrainConfig, moves: list[int]) -> dict[str, Any]:
    from .likelihood import sampled_bits
    from .metrics import Judge, class_quality

    if config.network.get("learned_variance"):
        raise Refused("evaluate measures networks with classes by a bound with a fixed variance; this one has learned its own")
    if not config.network.get("classes"):
        raise Refused(f"evaluate knows the digits and networks with classes; this one is of {config.data}, without classes")
    test = data.load(config.data, args.data_root, "test")
    judge, _ = weights.load(args.judge or weights.shipped(f"{config.data}_judge"))
    if not isinstance(test, data.ImageData) or not isinstance(judge, Judge):
        raise Refused(f"--judge {args.judge} is not a judge of {config.data}")
    want = {"channels": test.shape[0], "classes": config.network["classes"]}
    if judge.config != want:
        raise Refused(f"this judge is for {judge.config}, the network and its images have {want}")
    for option, asked in (("--guided", args.guided or 1), ("--per-step", args.per_step)):
        if asked > len(test):
            raise Refused(f"{option} {asked} is more than the {len(test)} test images")
    half, real = len(test) // 2, test[torch.arange(len(test))]
    # As many of each class as a random half of the real images has.
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(args.seed))
    y, guided_y = (test.labels[order[:n]] for n in (half, args.guided or half))
    pixels = lambda x: data.to_unit(data.to_pixels(x, test.levels), test.levels)  # noqa: E731
    x = pixels(draw(network, config, half, moves, args.seed, show=True, y=y))
    guided_x = pixels(draw(network, config, len(guided_y), moves, args.seed + 1, True, guided_y, args.guidance))
    report = class_quality(judge, x, y, guided_x, guided_y, real, test.labels)
    diffusion, generator = config.diffusion(), torch.Generator().manual_seed(args.seed)
    per_step = args.per_step
    bits = sampled_bits(
        diffusion,
        lambda labels: _at_home(network, guided(network, labels)),
        real,
        test.labels,
        per_step,
        diffusion.sigma2_beta_tilde_clipped,
        clip=1.0,
        levels=test.levels,
        generator=generator,
        progress=True,
    )
    return {"guidance": args.guidance, **report, "bits_per_dim": {"images": len(test), "images_per_step": per_step, **bits}}


def _at_home(network: nn.Module, eps_model: EpsModel) -> EpsModel:
    """`eps_model`, made of `network`, for x_t that lie anywhere: computed where the network is, handed back where x_t is."""
    home = next(network.parameters()).device
    return lambda x_t, t: eps_model(x_t.to(home), t.to(home)).to(x_t.device)


# judge ------------------------------------------------------------------------------------------------------------


def run_judge(args: argparse.Namespace) -> int:
    """Train the classifier that `evaluate` asks, and write it with what real images get from it.

    That is the share of the test images that it names rightly, and the Fréchet distance from half as many training images
    as there are test images: mean and range over disjoint draws of them, once drawn at random, and once with as many of
    each class as half of the test images has.
    """
    from .metrics import frechet_beside, train_judge

    out = _ending(args.out or Path("runs") / f"{args.data}_judge.safetensors", "--out", [".safetensors"])
    for path in (out, weights.card_path(out)):
        check_writable(path)
    train_set, test = (data.load(args.data, args.data_root, split) for split in ("train", "test"))
    if not isinstance(train_set, data.ImageData) or not isinstance(test, data.ImageData):
        raise Refused(f"a judge needs labels; {args.data} has none")
    judge = train_judge(train_set[torch.arange(len(train_set))], train_set.labels, args.epochs, args.seed)
    images, half = test[torch.arange(len(test))], len(test) // 2
    accuracy = float((torch.cat([judge.probabilities(x) for x in images.split(500)]).argmax(1) == test.labels).double().mean())
    generator = torch.Generator().manual_seed(args.seed)
    order, like = torch.randperm(len(train_set), generator=generator), torch.bincount(test.labels.sort().values[1::2])
    at_random = [some for some in order.split(half) if len(some) == half]
    copies = {
        name: _mean_and_range([frechet_beside(judge, train_set[some], images) for some in draws])
        for name, draws in (("random", at_random), ("in_proportion", _in_proportion(train_set.labels[order], like, order)))
    }
    card = {
        "command": args.command_line,
        "config": {"data": args.data, "epochs": args.epochs, "seed": args.seed},
        "commit": _commit(),
        "data": {"name": args.data, "images": len(train_set), "sha256": train_set.sha256()},
        "parameters": _parameters(judge),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "test_accuracy": accuracy,
        "test_images": len(test),
        "frechet_of_training_images": _rounded({"images": half, **copies}),
    }
    weights.save(out, judge, card)
    print(f"{out}: {accuracy:.2%} of {len(test):,} test images are named rightly")
    return 0


def _in_proportion(labels: Tensor, counts: Tensor, order: Tensor) -> list[Tensor]:
    """Disjoint draws from `order`, as many as can be had, each with counts[k] entries whose `labels` are k."""
    of_class = [(n, order[labels == k]) for k, n in enumerate(counts.tolist()) if n]
    return [
        torch.cat([rows[n * i : n * (i + 1)] for n, rows in of_class]) for i in range(min(len(r) // n for n, r in of_class))
    ]


def _mean_and_range(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Of what `frechet_beside` says of several draws."""
    if not draws:
        return {"draws": 0}
    means = {key: sum(draw[key] for draw in draws) / len(draws) for key in ("samples", "real", "ratio")}
    ratios = [draw["ratio"] for draw in draws]
    return {"draws": len(draws), **means, "ratio_range": [min(ratios), max(ratios)]}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_rounded(of) for of in value]
    return round(value, 4) if isinstance(value, float) else value


def _lines(report: dict[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in report.items():
        if isinstance(value, dict):
            yield f"{indent}{key}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {value}"


# What the commands share ------------------------------------------------------------------------------------------


def _card_config(card: dict[str, Any], path: Any) -> TrainConfig:
    try:
        if not card["config"]:
            raise KeyError("its card has no config")
        return TrainConfig(**card["config"])
    except (KeyError, TypeError) as error:
        raise weights.WeightsError(f"{path} does not say how it was trained: {error}") from error


def _image_shape(config: TrainConfig) -> tuple[int, int, int]:
    size = config.network.get("size", 32)
    return config.network.get("channels", 3), size, size


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _progress(total: int, initial: int, unit: str, disable: bool = False) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=initial, unit=unit, disable=disable, smoothing=0.05, dynamic_ncols=True)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise Refused(f"--device {name} is not a device; cpu, cuda, cuda:0, mps … are") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise Refused(f"--device {name} must be cpu, cuda or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise Refused("--device mps is not there: torch sees no Apple GPU")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Refused(f"--device {name} is not there: torch sees {torch.cuda.device_count()} CUDA device(s)")
    return device


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return f"{name}, {torch.get_num_threads()} threads"


def _commit() -> str:
    """The commit of the package's sources, with a mark if they were changed since; "unknown" outside a repository."""
    folder = Path(__file__).resolve().parent
    git = lambda *what: subprocess.run(["git", "-C", str(folder), *what], capture_output=True, text=True, check=True)  # noqa: E731
    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy lies in somebody else's repository
        return git("rev-parse", "HEAD").stdout.strip() + (" with changes" if git("status", "--porcelain", ".").stdout else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _ending(path: str | Path, name: str, endings: list[str]) -> Path:
    if Path(path).suffix not in endings:
        raise Refused(f"{name} {path} must end in {' or '.join(endings)}")
    return Path(path)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message} (see {self.prog} --help)")


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"must be a whole number {allowed}, got {text!r}")
        return value

    return parse


def _number(allowed: str, inside: Callable[[float], bool]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and inside(value)):
            raise argparse.ArgumentTypeError(f"must be a number {allowed}, got {text!r}")
        return value

    return parse


_positive = _number("above 0", lambda value: value > 0)
_at_least_1 = _number("of at least 1", lambda value: value >= 1)
_SPACING = "above 1: the moves lie closer together at small t, t_k = T (k/steps)^POWER (default: 1, even)"
_SEED = _whole(0, 2**63 - 2)  # torch takes seeds of 63 bits, and evaluate takes the next one, too


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m ddpm_edu", description="Train a denoising diffusion model, sample from it, measure it.")
    commands = parser.add_subparsers(required=True, metavar="train | average | sample | evaluate | judge")

    def command(name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        of = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        of.set_defaults(run=run)
        if run not in (run_average, run_judge):  # a few minutes at most, on any processor
            of.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps …")
        return of

    of = command("train", run_train)
    of.add_argument("--data", required=True, help=f"{', '.join(data.IMAGE_SETS)}, or a folder of images")
    of.add_argument("--data-root", type=Path, help="where the image sets lie (default: the variable DDPM_EDU_DATA)")
    of.add_argument("--preset", help=f"{', '.join(PRESETS)} (default: the one named like the data)")
    of.add_argument("--out", type=Path, help="weights to write (default: runs/DATA.safetensors), the card beside them")
    of.add_argument(
        "--resume", type=Path, nargs="?", const=True, help="checkpoint, or folder of them, to go on with (default: --out's)"
    )
    of.add_argument("--start", type=Path, help="weights to begin with instead of random ones: fine-tuning")
    of.add_argument("--save-every", type=_whole(1), metavar="STEPS", help="steps between checkpoints (default: a tenth of all)")
    of.add_argument("--tensorboard", type=Path, metavar="DIR", help="write scalars of every step and sample grids there")
    of.add_argument("--grid-every", type=_whole(1), metavar="STEPS", help="steps between sample grids (default: --save-every)")
    of.add_argument("--seed", type=_SEED)
    of.add_argument("--steps", type=_whole(1))
    of.add_argument("--batch", type=_whole(1))
    of.add_argument("--lr", type=_positive)
    of.add_argument("--loss", choices=["simple", "hybrid", "vlb"], help="hybrid and vlb learn the reverse variance, too")
    of.add_argument("--times", choices=["uniform", "importance"], help="how t is drawn (importance: with a learned variance)")
    of.add_argument(
        "--precision", choices=["auto", "float32", "bfloat16", "float16"], help="default: what the device is fast at"
    )
    of.add_argument("--accumulate", type=_whole(1), metavar="PIECES", help="cut the batch into pieces to need less memory")
    of.add_argument("--compile", action=argparse.BooleanOptionalAction, help="by torch.compile (default: on CUDA)")
    of.add_argument("--channels-last", action=argparse.BooleanOptionalAction, help="memory layout (default: on CUDA)")

    of = command("average", run_average)
    of.add_argument("--weights", type=Path, nargs="+", required=True, help="weights of two runs or more")
    of.add_argument("--out", type=Path, required=True, help="weights to write, the card with those of the runs beside them")
    of.add_argument("--data-root", type=Path, help="where the image sets lie (default: the variable DDPM_EDU_DATA)")
    of.add_argument("--images", type=_whole(1), default=1000, help="test images of the losses (default: 1000)")

    of = command("sample", run_sample)
    of.add_argument("--n", type=_whole(1), default=64, help="how many images (default: 64)")
    of.add_argument(
        "--out", type=Path, default=Path("samples.png"), help=".png grid or .npy uint8 (n, height, width, channels)"
    )
    of.add_argument("--weights", type=Path, help="checkpoint (default: the shipped digits)")
    of.add_argument("--steps", type=_whole(1), help="moves of the sampler (default: the checkpoint's)")
    of.add_argument("--spacing", type=_at_least_1, default=1.0, metavar="POWER", help=_SPACING)
    of.add_argument("--seed", type=_SEED, default=0)
    of.add_argument("--class", dest="of_class", type=_whole(0), help="with classes: draw only this one (default: all in turn)")
    of.add_argument("--guidance", type=_positive, default=1.0, help="with classes: scale of the guidance, 1 (default) is none")

    of = command("evaluate", run_evaluate)
    of.add_argument("--weights", type=Path, help="checkpoint (default: the shipped digits)")
    of.add_argument("--steps", type=_whole(1), help="moves of the sampler (default: the checkpoint's)")
    of.add_argument("--spacing", type=_at_least_1, default=1.0, metavar="POWER", help=_SPACING)
    of.add_argument("--seed", type=_SEED, default=0)
    of.add_argument("--data-root", type=Path, help="where the image sets lie (default: the variable DDPM_EDU_DATA)")
    of.add_argument("--judge", type=Path, help="with classes: the judge's checkpoint (default: the shipped one for the data)")
    of.add_argument("--guidance", type=_positive, default=2.0, help="with classes: the guided samples' scale (default: 2)")
    of.add_argument("--guided", type=_whole(1), help="with classes: how many guided samples (default: half the test images)")
    of.add_argument("--per-step", type=_whole(2), default=100, help="with classes: test images for each term of the bound")

    of = command("judge", run_judge)
    of.add_argument("--data", required=True, help=f"one of {', '.join(data.IMAGE_SETS)}, with labels")
    of.add_argument("--data-root", type=Path, help="where the image sets lie (default: the variable DDPM_EDU_DATA)")
    of.add_argument("--out", type=Path, help="weights to write (default: runs/DATA_judge.safetensors), the card beside them")
    of.add_argument("--epochs", type=_whole(1), default=3)
    of.add_argument("--seed", type=_SEED, default=0)
    return parser
