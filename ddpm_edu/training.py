"""Training: Algorithm 1 of the paper and what makes it work in practice, in one file read top to bottom.

    state = TrainState(PRESETS["digits"])
    for metrics in train(state, data):        # a generator: print, plot or stop whenever you like
        ...
    state.ema_network                         # the averaged network, the one to sample from

All randomness of step k (which images, t, ε, dropout) is a function of the seed and k. So a run that is stopped,
saved, loaded and resumed is the same run, bit for bit (on a GPU but for the order in which it adds), and no random state
needs storing. (An `ImportanceSampler`'s t depend on the losses seen, too: those are part of what is saved.) The same two
lines started by `torchrun --nproc-per-node N` train on N devices: every process draws the joint batch and takes its share.
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ._args import NotFinite, as_steps, count, device_of, floating, instance, number, real
from .config import HOW, PRESETS, TrainConfig  # noqa: F401
from .diffusion import EpsModel, GaussianDiffusion, LearnedVariance
from .weights import WeightsError, build_network, load_into, path_of, read_card, read_tensors, write_tensors


class Data(Protocol):
    """What can be trained on: indexing with a tensor of indices gives a batch of floats. A plain tensor is such a thing."""

    def __len__(self) -> int: ...
    def __getitem__(self, indices: Tensor, /) -> Tensor: ...


# What the configuration means, step by step --------------------------------------------------------------------------


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of step 1..steps: a straight rise over `warmup` steps, then constant or a half cosine to 0."""
    rate = config.lr * min(1.0, count(step, "step") / max(1, config.warmup))
    if config.lr_decay and step > config.warmup:
        done = (step - config.warmup) / max(1, config.steps - config.warmup)
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return rate


def fast_precision(device: torch.device) -> str:
    """bfloat16 where the device multiplies matrices in it (GPUs since Ampere, CPUs with AMX), float16 on older GPUs."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)  # not in every version of torch
    return "bfloat16" if device.type == "cpu" and amx() else "float32"


def _can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs for a GPU: Triton (not on Windows), and a card since Volta."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0) and find_spec("triton") is not None


def ema_decay(config: TrainConfig, n: int) -> float:
    """min(decay, (1 + n)/(10 + n)) for the n-th average: at the start a long memory would remember the random weights."""
    return min(config.ema_decay, (1 + count(n, "n", low=0)) / (10 + n))


def loss_terms(
    config: TrainConfig,
    diffusion: GaussianDiffusion,
    model: EpsModel,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    levels: int | None = None,
) -> Tensor:
    """The terms of config.loss, shape (B,), per coordinate: their mean over t ~ U{1..T} is the loss. Not for "simple".

    "hybrid" is `GaussianDiffusion.hybrid_term`, "vlb" T times `vlb_term` in nats, which trains mean and variance alike.
    """
    if config.loss == "hybrid":
        return diffusion.hybrid_term(model, x_0, t, eps, config.vlb_weight, levels)
    if config.loss != "vlb":
        raise ValueError(f"config.loss = {config.loss!r} has no terms of its own; 'hybrid' and 'vlb' have")
    learned = LearnedVariance(diffusion, model)
    bound = diffusion.vlb_term(learned.eps_model, x_0, t, eps, learned.sigma2, levels)
    return diffusion.T * bound / x_0[0].numel()


class ImportanceSampler:
    """Draws t more often where the loss is large: p_t ∝ √E[L_t²], over the last losses seen at t [Nichol 2021, Eq. 18].

    Uniform until `keep` losses have been seen at each t = 1..T. Every p_t is then at least `floor` / T, as in the authors'
    code: so no weight exceeds 1 / `floor`. `losses` (T, keep) and `seen` (T,), how many so far, are all there is to save.
    """

    def __init__(self, T: int, keep: int = 10, floor: float = 0.001):
        self.floor = number(floor, "floor", 0, 1, closed="low high")
        self.losses = torch.zeros(count(T, "T"), count(keep, "keep"), dtype=torch.float64)
        self.seen = torch.zeros(T, dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """p_1..p_T, shape (T,), float64, summing to 1."""
        T, keep = self.losses.shape
        root = self.losses.square().mean(1).sqrt()
        if self.seen.min() < keep or not root.any():
            return torch.full((T,), 1 / T, dtype=torch.float64)
        return (1 - self.floor) * root / root.sum() + self.floor / T

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n steps t in 1..T, and the weights 1 / (T p_t), with which a mean over them is one over uniform t."""
        p = self.probabilities()
        u = torch.rand(count(n, "n"), generator=generator, dtype=torch.float64)
        t = torch.searchsorted(p.cumsum(0)[:-1], u, right=True)  # of the last interval no end is needed: it is 1
        return 1 + t, 1 / (len(p) * p[t])

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Remember a loss for each t, unweighted; the oldest at that t is forgotten."""
        T, keep = self.losses.shape
        t, losses = as_steps(t, T), real(losses, "losses").detach()
        if t.ndim != 1 or t.shape != losses.shape:
            raise ValueError(f"t and losses must have one shape (B,), got {tuple(t.shape)} and {tuple(losses.shape)}")
        for k, loss in zip((t - 1).tolist(), losses.tolist()):
            self.losses[k, self.seen[k] % keep] = loss
            self.seen[k] += 1


# State ------------------------------------------------------------------------------------------------------------


class TrainState:
    """Everything that changes while training: network, averaged network, optimiser, step, and the loss curve."""

    def __init__(self, config: TrainConfig, device: str | torch.device = "cpu"):
        instance(config, "config", TrainConfig)
        self.device = _join(device_of(device))
        on_cuda = self.device.type == "cuda"
        self.config = config = dataclasses.replace(
            config,
            precision=fast_precision(self.device) if config.precision == "auto" else config.precision,
            compile=_can_compile(self.device) if config.compile is None else config.compile,
            channels_last=on_cuda if config.channels_last is None else config.channels_last,
        )
        self.step, self.seconds, self.cpu_seconds = 0, 0.0, 0.0  # time as the clock and as the processors count it
        self.loss_curve: list[tuple[int, float]] = []  # (step, mean loss since the entry before), about 100 entries
        self.fixed_curve: list[tuple[int, float]] = []  # (step, loss of the averaged network on a draw that never changes)
        self.history: list[dict[str, Any]] = []  # the cards of the runs that made the weights it began with
        self._recent: list[float] = []
        self.data_sha256: str | None = None  # of what it trained on, where the data can say
        with _seeded(self.device, config.seed, "weights"):
            self.network = build_network(**config.network).to(self.device)
        if config.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)

        @torch.no_grad()
        def average(averages, values, n):  # ema ← decay · ema + (1 - decay) · θ
            torch._foreach_lerp_(averages, values, 1 - ema_decay(config, int(n)))

        self.ema = AveragedModel(self.network, multi_avg_fn=average)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=self.device.type != "mps"
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.times = ImportanceSampler(config.T) if config.times == "importance" else None

    @property
    def ema_network(self) -> nn.Module:
        """The network with averaged weights, the one to sample from."""
        return self.ema.module.eval()

    def begin_with(self, path: str | Path) -> None:
        """Fine-tune: take over trained weights, in the network and in its average, and remember their card."""
        if self.step:
            raise ValueError(f"this run is at step {self.step}; only at step 0 can it begin with the weights of {path}")
        tensors, header = read_tensors(path)
        if header.get("format") == "ddpm_edu checkpoint":
            raise WeightsError(
                f"{path} is a training checkpoint, to go on from with --resume; name the weights of a finished run"
            )
        for network in (self.network, self.ema.module):
            load_into(network, tensors, path)
        earlier = {"file": Path(path).name, **read_card(path)}
        self.history = [*earlier.pop("history", []), earlier]

    def recognise(self, data: Data) -> None:
        """Remember the fingerprint of the data, if they have a `sha256`; refuse to go on with other data than before."""
        seen = data.sha256() if hasattr(data, "sha256") else None
        if self.step and self.data_sha256 and seen and seen != self.data_sha256:
            raise ValueError(f"data has the fingerprint {seen:.12}…, but this run has trained on {self.data_sha256:.12}…")
        self.data_sha256 = seen or self.data_sha256

    def record(self, loss: float) -> None:
        """Add a loss to the curve."""
        self._recent.append(number(loss, "loss", -math.inf, math.inf))
        if self.step % max(1, self.config.steps // 100) == 0 or self.step == self.config.steps:
            self.loss_curve.append((self.step, sum(self._recent) / len(self._recent)))
            self._recent = []

    @torch.no_grad()
    def fixed_loss(self, data: Data, n: int = 256) -> float:
        """The loss of the averaged network on n images of `data`, their t (spread over 1..T) and ε the same at every call.

        Two calls differ by what the network learned in between and by nothing else, where the training loss jumps with
        its random t. Also kept in `fixed_curve`; `Checkpoints` calls the state with the lowest one the best.
        """
        config, network, diffusion = self.config, self.ema_network, self.config.diffusion()
        g = _generator(config.seed, "fixed")
        if not len(data):
            raise ValueError("data is empty")
        indices = torch.randperm(len(data), generator=g)[: count(n, "n")]
        t = 1 + torch.arange(len(indices)) * diffusion.T // len(indices)
        total = 0.0
        for k in torch.arange(len(indices)).split(64):
            x_0 = _images(data, indices[k], network)
            y = data.labels[indices[k]].to(self.device) if config.network.get("classes", 0) else None  # type: ignore[attr-defined]
            model = network if y is None else lambda x_t, t: network(x_t, t, y)  # noqa: B023
            eps = torch.randn(x_0.shape, generator=g).to(x_0)
            if config.loss == "simple":
                loss = diffusion.simple_loss(model, x_0, t[k], eps)
            else:
                loss = loss_terms(config, diffusion, model, x_0, t[k], eps, getattr(data, "levels", None)).mean()
            total += float(loss) * len(k)
        self.fixed_curve.append((self.step, total / len(indices)))
        return total / len(indices)

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file; the numbers are JSON in its header. Atomic: see `write_bytes`."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"network.{name}": x for name, x in self.network.state_dict().items()}
        tensors |= {f"ema.{name}": x for name, x in self.ema.state_dict().items()}
        tensors |= {f"optimizer.{i}.{name}": x for i, of in optimizer["state"].items() for name, x in of.items()}
        if self.times is not None:
            tensors |= {"times.losses": self.times.losses, "times.seen": self.times.seen}
        numbers = {
            "config": dataclasses.asdict(self.config),
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "loss_curve": self.loss_curve,
            "fixed_curve": self.fixed_curve,
            "history": self.history,
            "recent": self._recent,
            "data_sha256": self.data_sha256,
            "scaler": self.scaler.state_dict(),
        }
        header = {"format": "ddpm_edu checkpoint", "state": json.dumps(numbers)}
        write_tensors(path, {name: x.detach().to("cpu") for name, x in tensors.items()}, header)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu", **how: Any) -> TrainState:
        """The state that `save` wrote. Raises FileNotFoundError, or WeightsError that says what is wrong with the file.

        `how` changes fields of its configuration that say how to compute, not what (`config.HOW`): a run may go on where
        the machine has other strengths. Its steps are then no longer the same to the bit.
        """
        if set(how) - set(HOW):
            raise TypeError(f"a run goes on with its own {sorted(set(how) - set(HOW))}; only {', '.join(HOW)} may change")
        tensors, header = read_tensors(path)
        if header.get("format") != "ddpm_edu checkpoint":
            raise WeightsError(f"{path} is not a training checkpoint to resume from (format {header.get('format')!r})")
        try:
            numbers = json.loads(header["state"])
            state = cls(TrainConfig(**{**numbers["config"], **how}), device)
            state.step, state._recent = numbers["step"], numbers["recent"]
            state.seconds, state.cpu_seconds = numbers["seconds"], numbers["cpu_seconds"]
            state.loss_curve = [(step, loss) for step, loss in numbers["loss_curve"]]
            state.fixed_curve = [(step, loss) for step, loss in numbers.get("fixed_curve", [])]
            state.history, state.data_sha256 = numbers.get("history", []), numbers.get("data_sha256")
            if state.scaler.is_enabled() and numbers["scaler"]:  # a run that began in another precision has none
                state.scaler.load_state_dict(numbers["scaler"])
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is a training checkpoint with a damaged or foreign header: {error}") from error
        part = lambda start: {k.removeprefix(start): x for k, x in tensors.items() if k.startswith(start)}  # noqa: E731
        load_into(state.network, part("network."), path)
        load_into(state.ema, part("ema."), path)
        if state.times is not None:
            for name, like in (("losses", state.times.losses), ("seen", state.times.seen)):
                x = tensors.get(f"times.{name}")
                if x is None or x.shape != like.shape or x.dtype != like.dtype:
                    raise WeightsError(f"{path} lacks the losses seen at each t: it is not a whole checkpoint of this run")
                like.copy_(x)
        parameters = [p.detach() for p in state.network.parameters()]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, x in part("optimizer.").items():
            i, kind = name.split(".")
            # In the layout of the parameter: the optimiser walks through both side by side.
            like = parameters[int(i)] if kind != "step" and int(i) < len(parameters) else x
            if like.shape != x.shape:
                raise WeightsError(f"{path}: {kind} of parameter {i} has shape {tuple(x.shape)}, not {tuple(like.shape)}")
            moments.setdefault(int(i), {})[kind] = torch.empty_like(like, device=x.device).copy_(x)
        if state.step and [set(of) for of in moments.values()] != [{"step", "exp_avg", "exp_avg_sq"}] * len(parameters):
            raise WeightsError(f"{path} lacks some of the optimiser's moments: it is not a whole checkpoint")
        state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
        return state


# Checkpoints on disk -----------------------------------------------------------------------------------------------


class Checkpoints:
    """A folder with the checkpoints of one run: the newest two, and the one with the lowest `fixed_loss`."""

    def __init__(self, folder: str | Path):
        self.folder = path_of(folder, "folder")

    def paths(self) -> list[Path]:
        """The checkpoints there, in the order of their steps."""
        return sorted(self.folder.glob("step-*.safetensors"))

    def path(self, step: int) -> Path:
        """Where the checkpoint of that step lies."""
        return self.folder / f"step-{count(step, 'step', low=0):08d}.safetensors"

    def best(self, state: TrainState) -> Path:
        """The checkpoint with the lowest fixed loss of those that are still there."""
        there = [(loss, step) for step, loss in state.fixed_curve if self.path(step).exists()]
        if not there:
            raise FileNotFoundError(f"{self.folder} holds no checkpoint of this run")
        return self.path(min(there)[1])

    def save(self, state: TrainState, data: Data) -> None:
        """Measure the state's fixed loss and write it; then, not before, remove what need not be kept."""
        state.fixed_loss(data)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            state.save(self.path(state.step))
        except OSError as error:
            what = f"cannot write {self.path(state.step)}: {error.strerror or error}"
            raise OSError(f"{what}; the checkpoints before it are whole") from error
        older = [path for path in self.paths() if path <= self.path(state.step)]
        for path in set(self.paths()) - {*older[-2:], self.best(state)}:
            path.unlink()
        for path in self.folder.glob(".step-*.safetensors.*"):  # what a killed process was writing
            path.unlink()

    def finished(self) -> bool:
        """Whether the newest checkpoint is of the last step of its run."""
        if not self.paths():
            raise FileNotFoundError(f"no checkpoint in {self.folder}: looked for {self.folder / 'step-*.safetensors'}")
        numbers = json.loads(read_tensors(self.paths()[-1])[1].get("state", "{}"))
        return numbers.get("step", 0) >= numbers.get("config", {}).get("steps", math.inf)

    def load(self, device: str | torch.device = "cpu", **how: Any) -> TrainState:
        """The newest state; `how` as in `TrainState.load`.

        A damaged file is never passed over in silence: the error names it and the one before it.
        """
        if not self.paths():
            raise FileNotFoundError(f"no checkpoint in {self.folder}: looked for {self.folder / 'step-*.safetensors'}")
        *older, newest = self.paths()
        try:
            return TrainState.load(newest, device, **how)
        except WeightsError as error:
            hint = f"the one before it is {older[-1]}: name that to go on from there" if older else "there is no older one"
            raise WeightsError(f"{error}; {hint}") from error


# The loop ---------------------------------------------------------------------------------------------------------


class Metrics(NamedTuple):
    """What one step reports; of the joint batch, when there are several processes."""

    step: int
    loss: float
    grad_norm: float  # before clipping
    lr: float
    images_per_second: float


class TrainingDiverged(RuntimeError):
    """The loss or its gradient is no longer finite; the weights are still those of the step before."""


def train(state: TrainState, data: Data, until: int | None = None) -> Iterator[Metrics]:
    """Train to step `until` (default: config.steps), yielding Metrics after every step [Ho 2020, Alg. 1].

    Each step: x_0 from the data, t ~ U{1..T}, ε ~ N(0, I); a gradient step on ‖ε - ε_θ(√ᾱ_t x_0 + √(1-ᾱ_t) ε, t)‖²;
    then the average moves. With a config.loss other than "simple" the step is on the mean of `loss_terms` (images that have
    `data.levels` are decoded on their grid, other data by a density); with config.times = "importance" t is drawn by the
    state's `ImportanceSampler`, and its weights 1/(T p_t) make up for that.
    Raises TrainingDiverged when the loss is NaN or infinite, before anything is updated.
    With float16 a gradient that overflows halves the scale of the loss instead, and the step changes no weight.
    """
    config, network, device, scaler = state.config, state.network, state.device, state.scaler
    diffusion, (rank, world) = config.diffusion(), processes()
    until = config.steps if until is None else count(until, "until")
    if not len(data):
        raise ValueError("data is empty")
    state.recognise(data)
    if min(config.batch, len(data)) < world * config.accumulate:
        raise ValueError(
            f"a batch of {min(config.batch, len(data))} cannot be cut into accumulate · processes = "
            f"{config.accumulate} · {world} pieces"
        )
    shape = _images(data, torch.zeros(1, dtype=torch.int64), network).shape[1:]
    if config.flip and len(shape) != 3:
        raise ValueError("flip = True mirrors images, and the data are not images (B, C, H, W)")
    classes, levels = config.network.get("classes", 0), getattr(data, "levels", None)
    if classes:
        _check_labels(getattr(data, "labels", None), len(data), classes)
    on_all = DistributedDataParallel(network) if world > 1 else network  # averages the gradients of all processes
    compiled = torch.compile(on_all) if config.compile else on_all

    def images(chosen: Tensor, mirrored: Tensor) -> Tensor:
        """The chosen images of the data, flipped where mirrored, in the memory layout asked for."""
        x_0 = _images(data, chosen, network)
        if config.flip:
            x_0 = torch.where(mirrored.to(device)[:, None, None, None], x_0.flip(-1), x_0)
        if config.channels_last and x_0.ndim == 4:
            x_0 = x_0.contiguous(memory_format=torch.channels_last)
        return x_0

    def model_for(chosen: Tensor, hidden: Tensor) -> EpsModel:
        """The network, told the class of each image; where the label is hidden, the class after the last."""
        if not classes:
            return compiled
        y = data.labels[chosen].masked_fill(hidden, classes).to(device)  # type: ignore[attr-defined]
        return lambda x_t, t: compiled(x_t, t, y)

    def loop() -> Iterator[Metrics]:
        while state.step < until:
            network.train()  # at every step: the caller may have looked at a sample in between
            started, cpu_started, step = time.perf_counter(), time.process_time(), state.step + 1

            # The joint batch, drawn alike in every process; each then works on its own pieces of it.
            indices, lr = _batch(config, len(data), step), learning_rate(config, step)
            n = len(indices)
            on_cpu, on_device = _generator(config.seed, step, "t"), _generator(config.seed, step, "eps", device=device)
            mirrored = torch.rand(n, generator=on_cpu) < 0.5 if config.flip else torch.zeros(n, dtype=torch.bool)
            if state.times is None:
                t, weights = torch.randint(1, diffusion.T + 1, (n,), generator=on_cpu), torch.ones(n)
            else:
                t, weights = state.times.sample(n, on_cpu)
            hidden = torch.rand(n, generator=_generator(config.seed, step, "y")) < config.label_drop
            cuts = [n * k // (world * config.accumulate) for k in range(world * config.accumulate + 1)]
            pieces = [slice(*ends) for ends in pairwise(cuts)][rank * config.accumulate :][: config.accumulate]

            eps = torch.randn(n, *shape, generator=on_device, device=device)
            joint_loss, joint_terms = torch.zeros((), device=device), torch.zeros(n, device=device)
            state.optimizer.zero_grad()
            with _seeded(device, config.seed, step, "dropout", *([rank] if rank else [])):
                for piece in pieces:
                    x_0 = images(indices[piece], mirrored[piece])
                    model = model_for(indices[piece], hidden[piece])
                    # Gradients add up over the pieces and are averaged over the processes once, at the last piece.
                    with nullcontext() if world == 1 or piece is pieces[-1] else on_all.no_sync():  # type: ignore[operator]
                        try:
                            with _autocast(device, config.precision):
                                if config.loss == "simple":
                                    loss = diffusion.simple_loss(model, x_0, t[piece], eps[piece]) * (len(x_0) / n)
                                else:
                                    of_each = loss_terms(config, diffusion, model, x_0, t[piece], eps[piece], levels)
                                    loss = (of_each * weights[piece].to(of_each)).sum() / n
                                    joint_terms[piece] = of_each.detach()
                        except NotFinite as error:  # in the data, or in what the network says of them
                            raise TrainingDiverged(_diagnosis(step, str(error), lr, data[indices])) from error
                        scaler.scale(loss * world).backward()
                    joint_loss += loss.detach()
            if world > 1:
                dist.all_reduce(joint_loss)
                dist.all_reduce(joint_terms)

            scaler.unscale_(state.optimizer)  # clipping must see the true gradient
            grad_norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip_grad)
            finite = math.isfinite(grad_norm.item())
            if not math.isfinite(joint_loss.item()) or not (finite or scaler.get_scale() > 1):
                found = f"the loss is {joint_loss.item()}, its gradient's norm {grad_norm.item()}"
                raise TrainingDiverged(_diagnosis(step, found, lr, data[indices]))
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            scaler.step(state.optimizer)  # float16: skipped when the gradient has overflowed
            scaler.update()
            if finite:
                state.ema.update_parameters(network)
            if state.times is not None:
                state.times.update(t, joint_terms)

            seconds = time.perf_counter() - started
            state.step, state.seconds = step, state.seconds + seconds
            state.cpu_seconds += time.process_time() - cpu_started
            state.record(joint_loss.item())
            yield Metrics(step, joint_loss.item(), grad_norm.item(), lr, n / seconds)

    return loop()


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in `precision`; weights, the loss and the optimiser stay in float32."""
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "float32")


def _images(data: Data, indices: Tensor, network: nn.Module) -> Tensor:
    """x_0 at these indices, where the network is and in its dtype; whole numbers are refused, not scaled."""
    like = next(network.parameters())
    return floating(data[indices], "data").to(like.device, like.dtype)


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


def _diagnosis(step: int, found: str, lr: float, x_0: Tensor) -> str:
    return (
        f"step {step}: {found}. The batch has values from {x_0.min().item():.3g} to {x_0.max().item():.3g}, mean "
        f"{x_0.mean().item():.3g}. The learning rate is {lr:.3g}: try a third of it, a longer warm-up, a smaller clip_grad, "
        f"or precision='float32'; data belong in [-1, 1]"
    )


# Several processes -----------------------------------------------------------------------------------------------


def processes() -> tuple[int, int]:
    """(rank, how many processes train together): (0, 1) unless torchrun has started several. Rank 0 writes the files."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def on_any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in one of the processes: so all of them stop at the same step."""
    if processes()[1] == 1:
        return flag
    flags = torch.tensor(float(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def _join(device: torch.device) -> torch.device:
    """Where this process works. Under torchrun it first joins the others, and "cuda" becomes its own GPU."""
    if not dist.is_available() or not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return device


# Randomness as a function of the seed and the step -------------------------------------------------------------------


def _seed(*what: int | str) -> int:
    """A seed mixed from the given values: neighbouring steps get unrelated ones."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=7).digest(), "big")


def _generator(*what: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(_seed(*what))


@contextmanager
def _seeded(device: torch.device, *what: int | str) -> Iterator[None]:
    """Seed torch's global generators, which dropout and initialisation draw from; afterwards `device`'s are as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(_seed(*what))
        yield
