"""Training: Algorithm 1 of the paper and what makes it work in practice, in one file read top to bottom.

    state = TrainState(PRESETS["digits"])
    for metrics in train(state, data):        # a generator: print, plot or stop whenever you like
        ...
    state.ema_network                         # the averaged network, the one to sample from

All randomness of step k (which images, t, ε, dropout) is a function of the seed and k. So a run that is stopped,
saved, loaded and resumed is the same run, bit for bit, and nothing about random states needs storing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ._args import count, number
from .diffusion import GaussianDiffusion
from .weights import WeightsError, build_network, build_schedule, load_into, read_tensors, write_tensors


class Data(Protocol):
    """What can be trained on: indexing with a tensor of indices gives a batch of floats. A plain tensor is such a thing."""

    def __len__(self) -> int: ...
    def __getitem__(self, indices: Tensor, /) -> Tensor: ...


# Configuration ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides how a run goes. The defaults are the paper's for CIFAR-10 [Ho 2020, Appendix B].

    `dataclasses.replace(PRESETS["digits"], steps=100)` changes a value. Values out of range raise at once.
    """

    data: str = "cifar10"
    network: dict[str, Any] = field(default_factory=lambda: {"kind": "UNet", "dropout": 0.1})
    schedule: str = "linear"
    T: int = 1000
    steps: int = 800_000
    batch: int = 128
    lr: float = 2e-4
    warmup: int = 5000  # steps over which the learning rate rises to lr
    lr_decay: bool = False  # let it fall to 0 along a half cosine until the last step
    weight_decay: float = 0.0
    clip_grad: float = 1.0  # the gradient's norm is cut to this
    ema_decay: float = 0.9999
    flip: bool = False  # mirror half of the images left to right
    label_drop: float = 0.1  # share of labels hidden from a network with classes [Ho & Salimans 2022, Alg. 1]
    precision: str = "auto"  # "float32", "bfloat16", or "auto": what the device is fast at
    seed: int = 0
    stored: str = "float32"  # how the finished weights are written; "float16" halves the file
    sample_steps: int | None = None  # moves of the default sampler; None visits all T

    def __post_init__(self):
        for name in ("T", "steps", "batch"):
            count(getattr(self, name), name)
        count(self.warmup, "warmup", low=0)
        count(self.seed, "seed", low=0)
        number(self.lr, "lr", 0, math.inf)
        number(self.weight_decay, "weight_decay", 0, math.inf, closed="low")
        number(self.clip_grad, "clip_grad", 0, math.inf, closed="high")
        number(self.ema_decay, "ema_decay", 0, 1, closed="low")
        number(self.label_drop, "label_drop", 0, 1, closed="low high")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision = {self.precision!r} must be 'auto', 'float32' or 'bfloat16'")
        if self.stored not in ("float32", "float16"):
            raise ValueError(f"stored = {self.stored!r} must be 'float32' or 'float16'")
        build_schedule(self.schedule, self.T).steps(self.sample_steps)

    def diffusion(self) -> GaussianDiffusion:
        """The diffusion this configuration trains for."""
        return GaussianDiffusion(build_schedule(self.schedule, self.T))


PRESETS = {
    "digits": TrainConfig(
        data="digits",
        network={
            "kind": "UNet",
            "size": 8,
            "channels": 1,
            "base": 32,
            "multipliers": [1, 2],
            "blocks": 1,
            "attention": [4],
            "dropout": 0.1,
        },
        schedule="cosine",
        steps=2800,
        batch=128,
        lr=2e-3,
        warmup=200,
        lr_decay=True,
        ema_decay=0.999,
        precision="float32",
        sample_steps=50,
    ),
    "mnist": TrainConfig(
        data="mnist",
        network={
            "kind": "UNet",
            "size": 28,
            "channels": 1,
            "base": 32,
            "multipliers": [1, 2, 3],
            "blocks": 1,
            "attention": [7],
            "classes": 10,
        },
        schedule="cosine",
        steps=8000,
        batch=64,
        lr=1e-3,
        warmup=300,
        lr_decay=True,
        ema_decay=0.999,
        stored="float16",
        sample_steps=100,
    ),
    "cifar10": TrainConfig(flip=True),
    "celeba": TrainConfig(
        data="celeba",
        network={"kind": "UNet", "size": 64, "multipliers": [1, 2, 2, 2, 4], "attention": [16]},
        steps=500_000,
        lr=2e-5,
        flip=True,
    ),
}


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of step 1..steps: a straight rise over `warmup` steps, then constant or a half cosine to 0."""
    rate = config.lr * min(1.0, step / max(1, config.warmup))
    if config.lr_decay and step > config.warmup:
        done = (step - config.warmup) / max(1, config.steps - config.warmup)
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return rate


def fast_precision(device: torch.device) -> str:
    """bfloat16 where the device multiplies matrices in it (GPUs since Ampere, CPUs with AMX), otherwise float32."""
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"


def ema_decay(config: TrainConfig, n: int) -> float:
    """min(decay, (1 + n)/(10 + n)) for the n-th average: at the start a long memory would remember the random weights."""
    return min(config.ema_decay, (1 + n) / (10 + n))


# State ------------------------------------------------------------------------------------------------------------


class TrainState:
    """Everything that changes while training: network, averaged network, optimiser, step, and the loss curve."""

    def __init__(self, config: TrainConfig, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        precision = fast_precision(self.device) if config.precision == "auto" else config.precision
        self.config = config = dataclasses.replace(config, precision=precision)
        self.step, self.seconds, self.cpu_seconds = 0, 0.0, 0.0  # time as the clock and as the processors count it
        self.loss_curve: list[tuple[int, float]] = []  # (step, mean loss since the entry before), about 100 entries
        self._recent: list[float] = []
        with _seeded(self.device, config.seed, "weights"):
            self.network = build_network(**config.network).to(self.device)

        @torch.no_grad()
        def average(averages, values, n):  # ema ← decay · ema + (1 - decay) · θ
            torch._foreach_lerp_(averages, values, 1 - ema_decay(config, int(n)))

        self.ema = AveragedModel(self.network, multi_avg_fn=average)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )

    @property
    def ema_network(self) -> nn.Module:
        """The network with averaged weights, the one to sample from."""
        return self.ema.module.eval()

    def record(self, loss: float) -> None:
        """Add a loss to the curve."""
        self._recent.append(loss)
        if self.step % max(1, self.config.steps // 100) == 0 or self.step == self.config.steps:
            self.loss_curve.append((self.step, sum(self._recent) / len(self._recent)))
            self._recent = []

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file; the numbers are JSON in its header. Atomic: see `write_bytes`."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"network.{name}": x for name, x in self.network.state_dict().items()}
        tensors |= {f"ema.{name}": x for name, x in self.ema.state_dict().items()}
        tensors |= {f"optimizer.{i}.{name}": x for i, of in optimizer["state"].items() for name, x in of.items()}
        numbers = {
            "config": dataclasses.asdict(self.config),
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "loss_curve": self.loss_curve,
            "recent": self._recent,
        }
        header = {"format": "ddpm_edu checkpoint", "state": json.dumps(numbers)}
        write_tensors(path, {name: x.detach().to("cpu") for name, x in tensors.items()}, header)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> TrainState:
        """The state that `save` wrote. Raises FileNotFoundError, or WeightsError that says what is wrong with the file."""
        tensors, header = read_tensors(path)
        if header.get("format") != "ddpm_edu checkpoint":
            raise WeightsError(f"{path} is not a training checkpoint to resume from (format {header.get('format')!r})")
        try:
            numbers = json.loads(header["state"])
            state = cls(TrainConfig(**numbers["config"]), device)
            state.step, state._recent = numbers["step"], numbers["recent"]
            state.seconds, state.cpu_seconds = numbers["seconds"], numbers["cpu_seconds"]
            state.loss_curve = [(step, loss) for step, loss in numbers["loss_curve"]]
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is a training checkpoint with a damaged or foreign header: {error}") from error
        part = lambda start: {k.removeprefix(start): x for k, x in tensors.items() if k.startswith(start)}  # noqa: E731
        load_into(state.network, part("network."), path)
        load_into(state.ema, part("ema."), path)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, x in part("optimizer.").items():
            i, kind = name.split(".")
            moments.setdefault(int(i), {})[kind] = x
        parameters = list(state.network.parameters())
        if state.step and [set(of) for of in moments.values()] != [{"step", "exp_avg", "exp_avg_sq"}] * len(parameters):
            raise WeightsError(f"{path} lacks some of the optimiser's moments: it is not a whole checkpoint")
        state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
        return state


# The loop ---------------------------------------------------------------------------------------------------------


class Metrics(NamedTuple):
    """What one step reports."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    images_per_second: float


class TrainingDiverged(RuntimeError):
    """The loss or its gradient is no longer finite; the weights are still those of the step before."""


def train(state: TrainState, data: Data, until: int | None = None) -> Iterator[Metrics]:
    """Train to step `until` (default: config.steps), yielding Metrics after every step [Ho 2020, Alg. 1].

    Each step: x_0 from the data, t ~ U{1..T}, ε ~ N(0, I); a gradient step on ‖ε - ε_θ(√ᾱ_t x_0 + √(1-ᾱ_t) ε, t)‖²;
    then the average moves. Raises TrainingDiverged when the loss is NaN or infinite, before anything is updated.
    """
    config, network, device = state.config, state.network, state.device
    diffusion = config.diffusion()
    until = config.steps if until is None else count(until, "until")
    if not len(data):
        raise ValueError("data is empty")
    classes = config.network.get("classes", 0)
    if classes:
        _check_labels(getattr(data, "labels", None), len(data), classes)

    def loop() -> Iterator[Metrics]:
        network.train()
        while state.step < until:
            started, cpu_started, step = time.perf_counter(), time.process_time(), state.step + 1

            indices = _batch(config, len(data), step)
            x_0 = data[indices].to(device)
            on_cpu, on_device = _generator(config.seed, step, "t"), _generator(config.seed, step, "eps", device=device)
            if config.flip:
                mirrored = torch.rand(len(x_0), generator=on_cpu) < 0.5
                x_0 = torch.where(mirrored.to(device)[:, None, None, None], x_0.flip(-1), x_0)
            t = torch.randint(1, diffusion.T + 1, (len(x_0),), generator=on_cpu)
            eps = torch.randn(x_0.shape, generator=on_device, device=device)

            model = network
            if classes:
                hidden = torch.rand(len(x_0), generator=_generator(config.seed, step, "y")) < config.label_drop
                y = data.labels[indices].masked_fill(hidden, classes).to(device)
                model = lambda x_t, t: network(x_t, t, y)  # noqa: B023, E731

            with _seeded(device, config.seed, step, "dropout"):
                with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                    loss = diffusion.simple_loss(model, x_0, t, eps)
                state.optimizer.zero_grad()
                loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip_grad)
            lr = learning_rate(config, step)
            if not math.isfinite(loss.item()) or not math.isfinite(grad_norm.item()):
                raise TrainingDiverged(_diagnosis(step, loss, grad_norm, lr, x_0))
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            state.optimizer.step()
            state.ema.update_parameters(network)

            seconds = time.perf_counter() - started
            state.step, state.seconds = step, state.seconds + seconds
            state.cpu_seconds += time.process_time() - cpu_started
            state.record(loss.item())
            yield Metrics(step, loss.item(), grad_norm.item(), lr, len(x_0) / seconds)

    return loop()


def _batch(config: TrainConfig, n: int, step: int) -> Tensor:
    """Indices of the images of a step: every epoch a new order, cut into batches, the odd rest left out."""
    size = min(config.batch, n)
    epoch, k = divmod(step - 1, n // size)
    return torch.randperm(n, generator=_generator(config.seed, epoch, "order"))[k * size : (k + 1) * size]


def _check_labels(labels: Tensor | None, n: int, classes: int) -> None:
    if labels is None:
        raise ValueError(f"the network has {classes} classes, but the data have no labels")
    if labels.shape != (n,) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} from {labels.min()} to {labels.max()} do not fit {n} images and the "
            f"network's classes 0..{classes - 1}"
        )


def _diagnosis(step: int, loss: Tensor, grad_norm: Tensor, lr: float, x_0: Tensor) -> str:
    return (
        f"step {step}: the loss is {loss.item()}, its gradient's norm {grad_norm.item()}. The batch has values from "
        f"{x_0.min().item():.3g} to {x_0.max().item():.3g}, mean {x_0.mean().item():.3g}. The learning rate is {lr:.3g}: "
        f"try a third of it, a longer warm-up, a smaller clip_grad, or precision='float32'; data belong in [-1, 1]"
    )


# Randomness as a function of the seed and the step -------------------------------------------------------------------


def _seed(*what: int | str) -> int:
    """A seed mixed from the given values: neighbouring steps get unrelated ones."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=7).digest(), "big")


def _generator(*what: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(_seed(*what))


@contextmanager
def _seeded(device: torch.device, *what: int | str) -> Iterator[None]:
    """Seed torch's global generators, which dropout and initialisation draw from; afterwards they are as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(_seed(*what))
        yield
