"""Side by side with the peers: what a training step, a sample and a trained model cost, each as a ratio in one run.

    make bench                                    # all parts but the long one; writes results.json and README.md
    make bench DATA_ROOT=DATA                     # all parts: twenty minutes of MNIST for each of the three, too
    python benchmarks/bench.py --only step memory # some parts

Candidates take turns in one process, so a slow minute of the machine hits all of them. Reported are medians of the
rounds and the median of the rounds' ratios. Results of parts that are not run again stay in results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_edu import GaussianDiffusion, NoiseSchedule, TrainConfig, TrainState, UNet, ancestral, train
from ddpm_edu.config import PRESETS

warnings.filterwarnings("ignore")
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
SHAPES = {  # side, channels, base, multipliers, blocks, sides with attention
    "35.7 M, 32×32": dict(size=32, channels=3, base=128, multipliers=[1, 2, 2, 2], blocks=2, attention=[16]),
    "1.1 M, 28×28": dict(size=28, channels=1, base=32, multipliers=[1, 2, 2], blocks=1, attention=[7]),
}
BATCHES = {"35.7 M, 32×32": 8, "1.1 M, 28×28": 64}
NAMES = {"ours": "ddpm_edu", "diffusers": "diffusers", "lucidrains": "denoising-diffusion-pytorch"}


# The candidates ---------------------------------------------------------------------------------------------------


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def diffusers_unet(size, channels, base, multipliers, blocks, attention) -> nn.Module:
    """The same architecture as ours, built by diffusers."""
    from diffusers import UNet2DModel

    attends = [size >> level in attention for level in range(len(multipliers))]
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=blocks,
        block_out_channels=[base * m for m in multipliers],
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        norm_eps=1e-6,
        norm_num_groups=min(32, base // 4),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
    )


def lucidrains_unet(like: int, channels: int, multipliers) -> nn.Module:
    """The Unet of denoising-diffusion-pytorch whose number of parameters is nearest to `like`."""
    from denoising_diffusion_pytorch import Unet

    def build(dim: int, last: int) -> nn.Module:
        return Unet(dim=dim, dim_mults=(*multipliers[:-1], last), channels=channels)

    shapes = [(dim, last) for dim in range(8, 201, 8) for last in (multipliers[-1], multipliers[-1] + 1)]
    with torch.device("meta"):
        sizes = {shape: parameters(build(*shape)) for shape in shapes}
    return build(*min(sizes, key=lambda shape: abs(sizes[shape] - like)))


def candidates(shape: str) -> dict[str, tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]]:
    """The three networks of a shape, each with the call that gives ε̂ for (x_t, t)."""
    torch.manual_seed(0)
    config = SHAPES[shape]
    ours, theirs = UNet(**config), diffusers_unet(**config)
    third = lucidrains_unet(parameters(ours), config["channels"], config["multipliers"])
    return {
        "ours": (ours, ours),
        "diffusers": (theirs, lambda x, t: theirs(x, t).sample),
        "lucidrains": (third, third),
    }


def batch_of(shape: str, n: int | None = None) -> tuple[Tensor, Tensor]:
    config, n = SHAPES[shape], n or BATCHES[shape]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, config["channels"], config["size"], config["size"], generator=generator) * 2 - 1
    return x, torch.randint(1, 1001, (n,), generator=generator)


def in_turn(calls: dict[Any, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Seconds of each call, medians over the rounds after a warm-up, and each one's ratio to the first, round by round."""
    times: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    times = {name: values[1:] for name, values in times.items()}
    first = next(iter(times.values()))
    return {
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "over_ours": {
            name: statistics.median(a / b for a, b in zip(values, first)) for name, values in list(times.items())[1:]
        },
    }


# (a) A training step, all under the same loop ---------------------------------------------------------------------


def plain_step(network: nn.Module, call: Callable, x: Tensor, t: Tensor) -> Callable[[], None]:
    """Forward, loss, backward, AdamW: float32, eager."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        F.mse_loss(call(x, t), x).backward()
        optimizer.step()

    return step


def part_step(args) -> dict[str, Any]:
    shape = "35.7 M, 32×32"
    x, t = batch_of(shape)
    of = candidates(shape)
    found = in_turn({name: plain_step(network, call, x, t) for name, (network, call) in of.items()}, args.rounds)
    last = UNet(**SHAPES[shape]).to(memory_format=torch.channels_last)
    calls = {"ours, channels last": plain_step(last, last, x, t), "diffusers": plain_step(*of["diffusers"], x, t)}
    return {
        "batch": len(x),
        "parameters": {name: parameters(network) for name, (network, _) in of.items()},
        **found,
        "channels_last": in_turn(calls, args.rounds),
    }


# (b) A training step as each project does it by default -----------------------------------------------------------


def our_step(shape: str, x: Tensor, **changes) -> Callable[[], Any]:
    """One step of `train` with the configuration's own defaults: fetching, noise, autocast, clipping, EMA, all of it."""
    config = TrainConfig(network={"kind": "UNet", **SHAPES[shape]}, batch=len(x), **changes)
    run = train(TrainState(config), x)
    return lambda: next(run)


def diffusers_step(network: nn.Module, x: Tensor) -> Callable[[], None]:
    """The step of diffusers' unconditional training example with its defaults: float32, AdamW, clipping at 1."""
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler

    noise = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=10_000)
    generator = torch.Generator().manual_seed(0)

    def step(images: Tensor = x) -> None:
        eps = torch.randn(images.shape, generator=generator)
        t = torch.randint(0, 1000, (len(images),), generator=generator)
        loss = F.mse_loss(network(noise.add_noise(images, eps, t), t).sample, eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()

    return step


def lucidrains_step(network: nn.Module, x: Tensor, side: int) -> Callable[[], None]:
    """The step of denoising-diffusion-pytorch's Trainer with its defaults: float32, Adam, clipping at 1, EMA every 10."""
    from denoising_diffusion_pytorch import GaussianDiffusion as Theirs
    from ema_pytorch import EMA

    diffusion = Theirs(network, image_size=side)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    ema = EMA(diffusion, beta=0.995, update_every=10)

    def step(images: Tensor = x) -> None:
        diffusion((images + 1) / 2).backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()

    step.diffusion, step.ema = diffusion, ema
    return step


def part_defaults(args) -> dict[str, Any]:
    results = {}
    for shape in SHAPES:
        x, _ = batch_of(shape)
        of = candidates(shape)
        calls = {
            "ours": our_step(shape, x),
            "diffusers": diffusers_step(of["diffusers"][0], x),
            "lucidrains": lucidrains_step(of["lucidrains"][0], x, SHAPES[shape]["size"]),
        }
        results[shape] = {"batch": len(x), **in_turn(calls, args.rounds)}
    return results


# (c) A sampler's time over that of the network calls it makes -------------------------------------------------------


def part_sampler(args) -> dict[str, Any]:
    """Rounds of: a whole sampling run, then as many bare network calls; the ratio is the sampler's own cost."""
    from denoising_diffusion_pytorch import GaussianDiffusion as Theirs
    from diffusers import DDPMPipeline, DDPMScheduler

    shape, moves, n = "1.1 M, 28×28", 20, 64
    of = candidates(shape)
    diffusion = GaussianDiffusion(NoiseSchedule.linear(1000))
    x, t = batch_of(shape, n)
    pipeline = DDPMPipeline(of["diffusers"][0], DDPMScheduler(num_train_timesteps=1000))
    pipeline.set_progress_bar_config(disable=True)
    third = Theirs(of["lucidrains"][0], image_size=SHAPES[shape]["size"], timesteps=moves)
    runs = {
        "ours": lambda: [*ancestral(diffusion, of["ours"][0], x, moves, diffusion.sigma2_beta_tilde, 1.0)],
        "diffusers": lambda: pipeline(n, num_inference_steps=moves, output_type="np"),
        "lucidrains": lambda: third.sample(batch_size=n),
    }
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad(), open(os.devnull, "w") as quiet:
        for network, _ in of.values():
            network.eval()
        for _ in range(args.rounds + 1):
            for name, run in runs.items():
                stderr, sys.stderr = sys.stderr, quiet
                whole = time.perf_counter()
                run()
                whole = time.perf_counter() - whole
                sys.stderr = stderr
                bare = time.perf_counter()
                for _ in range(moves):
                    of[name][1](x, t)
                ratios[name].append(whole / (time.perf_counter() - bare))
    return {"batch": n, "moves": moves, "ratio": {name: statistics.median(r[1:]) for name, r in ratios.items()}}


# The whole bound ------------------------------------------------------------------------------------------------------


def part_bound(args) -> dict[str, Any]:
    """Seconds for all T terms of the bound of 256 digits, with the shipped network; and those of its calls alone."""
    from ddpm_edu import data, weights
    from ddpm_edu.likelihood import variational_bound

    network, card = weights.load(weights.shipped("digits"))
    diffusion = TrainConfig(**card["config"]).diffusion()
    x = data.digits()[torch.arange(256)]
    started = time.perf_counter()
    variational_bound(diffusion, network, x, levels=17)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        t = torch.full((256,), 500)
        calls = in_turn({"bare": lambda: network(x, t)}, 50)["seconds"]["bare"]
    return {"images": len(x), "T": diffusion.T, "seconds": seconds, "network_calls_alone": diffusion.T * calls}


# (d) Peak memory of a step ------------------------------------------------------------------------------------------


def part_memory(args) -> dict[str, Any]:
    """Each in a process of its own: the peak of two plain training steps above what the process held before them."""
    found: dict[str, Any] = {}
    for name in ["ours", "diffusers", "lucidrains", "ours, checkpointing", "ours, bfloat16"]:
        command = [sys.executable, __file__, "--probe-memory", name]
        values = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3)]
        found[name] = statistics.median(values)
    return {"shape": "35.7 M, 32×32", "batch": 32, "MiB": found}


def probe_memory(name: str) -> None:
    shape = "35.7 M, 32×32"
    x, t = batch_of(shape, 32)
    base, *option = name.split(", ")
    network, call = candidates(shape)[base]
    if option == ["checkpointing"]:
        network = call = UNet(**SHAPES[shape], checkpointing=True)
    step = plain_step(network, call, x, t)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.autocast("cpu", torch.bfloat16, enabled=option == ["bfloat16"]):
        step(), step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


# (e) Twenty minutes of MNIST ------------------------------------------------------------------------------------------


def our_run() -> TrainConfig:
    """The preset for MNIST, with the network that all share; how long it will run is not known, so its rate stays."""
    return replace(PRESETS["mnist"], network={"kind": "UNet", **SHAPES["1.1 M, 28×28"]}, lr_decay=False)


def part_mnist(args) -> dict[str, Any]:
    """Each trains for the same time from scratch with its own defaults; then one judge and one bound measure all three."""
    from ddpm_edu import data, weights
    from ddpm_edu.likelihood import sampled_bits
    from ddpm_edu.metrics import frechet_distance

    shape = "1.1 M, 28×28"
    images, test = (data.load("mnist", args.data_root, split) for split in ("train", "test"))
    real = test[torch.arange(len(test))]
    judge, _ = weights.load(weights.shipped("mnist_judge"))
    features = lambda x: torch.cat([judge.features(part) for part in x.split(500)])  # noqa: E731
    of, diffusion = candidates(shape), our_run().diffusion()
    order = torch.Generator().manual_seed(0)
    results: dict[str, Any] = {"minutes": args.minutes, "samples": args.samples, "moves": 50}

    def fetch(batch: int):
        while True:
            for part in torch.randperm(len(images), generator=order).split(batch)[:-1]:
                yield images[part]

    def train_ours():
        state = TrainState(our_run())
        return (None for _ in train(state, images)), lambda: (diffusion, state.ema_network)

    def train_diffusers():
        network = of["diffusers"][0]
        step, batches = diffusers_step(network, real), fetch(16)
        linear = GaussianDiffusion(NoiseSchedule.linear(1000))
        return (step(next(batches)) for _ in iter(int, 1)), lambda: (linear, lambda x, t: network(x, t - 1).sample)

    def train_lucidrains():
        step, batches = lucidrains_step(of["lucidrains"][0], real, 28), fetch(16)
        bars = step.diffusion.alphas_cumprod.double()
        own = GaussianDiffusion(NoiseSchedule.from_alpha_bars(torch.cat([bars.new_ones(1), bars])))
        model = step.ema.ema_model.model  # predicts v
        return (step(next(batches)) for _ in iter(int, 1)), lambda: (
            own,
            lambda x, t: own.eps_from_v(x, model(x, t - 1), t),
        )

    runs, seconds, counts = {}, dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 0)
    for name, start in {"ours": train_ours, "diffusers": train_diffusers, "lucidrains": train_lucidrains}.items():
        torch.manual_seed(0)
        runs[name] = start()
    while min(seconds.values()) < 60 * args.minutes:  # half a minute each in turn: a slow hour of the machine is everyone's
        for name, (steps, _) in runs.items():
            started = time.perf_counter()
            until = started + min(30, 60 * args.minutes - seconds[name])
            while time.perf_counter() < until:
                next(steps)
                counts[name] += 1
            seconds[name] += time.perf_counter() - started
        print(", ".join(f"{name} {counts[name]} steps in {seconds[name]:.0f} s" for name in runs), flush=True)
    for name, (_, finish) in runs.items():
        own, model = finish()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            x_T = torch.randn(args.samples, 1, 28, 28, generator=generator).split(250)
            walks = ([*ancestral(own, model, x, results["moves"], own.sigma2_beta_tilde, 1.0, generator)][-1].x_t for x in x_T)
            x = data.to_unit(data.to_pixels(torch.cat([*walks])))
            bits = sampled_bits(
                own,
                lambda y, model=model: model,
                real,
                test.labels,
                20,
                own.sigma2_beta_tilde_clipped,
                1.0,
                generator=generator,
            )
        distance = frechet_distance(features(x), features(real[: args.samples]))
        results[name] = {"steps": counts[name], "seconds": seconds[name], "bits_per_dim": bits, "frechet": distance}
        print(name, results[name], flush=True)
    return results


# (f), (g) What a step costs, and where it goes --------------------------------------------------------------------------


def part_scaling(args) -> dict[str, Any]:
    """Seconds of a default training step by batch and by side of the image, and of a sample by T."""
    x, _ = batch_of("1.1 M, 28×28", 128)
    shape = SHAPES["1.1 M, 28×28"]

    def of_side(side: int) -> Callable[[], Any]:
        config = {**shape, "size": side, "attention": [side // 4]}
        run = train(TrainState(TrainConfig(network={"kind": "UNet", **config}, batch=16)), torch.rand(16, 1, side, side))
        return lambda: next(run)

    def of_T(T: int) -> Callable[[], Any]:
        diffusion = GaussianDiffusion(NoiseSchedule.linear(T))
        return lambda: [*ancestral(diffusion, network, x[:16])]

    network = UNet(**shape).eval()
    by_batch = in_turn({n: our_step("1.1 M, 28×28", x[:n]) for n in (8, 16, 32, 64, 128)}, args.rounds)["seconds"]
    by_side = in_turn({side: of_side(side) for side in (16, 32, 64)}, args.rounds)["seconds"]
    by_T = in_turn({T: of_T(T) for T in (10, 30, 100)}, args.rounds)["seconds"]
    return {"by_batch": by_batch, "by_side_at_batch_16": by_side, "sampling_16_by_T": by_T}


HEAVY = ("convolution", "conv2d", "mm", "addmm", "bmm", "linear", "scaled_dot_product", "mkldnn")


def part_share(args) -> dict[str, Any]:
    """The share of a training step's processor time that is spent outside convolutions and matrix products."""
    from torch.profiler import ProfilerActivity, profile

    found = {}
    for shape in SHAPES:
        x, _ = batch_of(shape)
        for precision in ("float32", "bfloat16"):
            step = our_step(shape, x, precision=precision)
            step(), step()
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                for _ in range(3):
                    step()
            rows = [(row.key, row.self_cpu_time_total) for row in seen.key_averages()]
            heavy = sum(time for name, time in rows if name.startswith("aten::") and any(word in name for word in HEAVY))
            found[f"{shape}, {precision}"] = {
                "outside": 1 - heavy / sum(time for _, time in rows),
                "whole_over_heavy": sum(time for _, time in rows) / heavy,
            }
    return found


# The report -----------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "step": part_step,
    "defaults": part_defaults,
    "sampler": part_sampler,
    "bound": part_bound,
    "memory": part_memory,
    "scaling": part_scaling,
    "share": part_share,
    "mnist": part_mnist,
}


def machine() -> dict[str, str]:
    packages = ("torch", "diffusers", "denoising-diffusion-pytorch")
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    return {
        "processor": f"{cpu}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def report(results: dict[str, Any]) -> str:
    """README.md from results.json: nothing in it is typed by hand."""
    out = [
        "# Benchmarks",
        "",
        "Written by `make bench` from [results.json](results.json). A ratio is the median over the rounds of theirs over ours",
        "in the same round, so it need not be the quotient of the two medians of seconds. Candidates take turns.",
        "",
        "Peers: diffusers' `UNet2DModel` in the same architecture as ours, and `Unet` of denoising-diffusion-pytorch with",
        "the nearest number of parameters.",
        "",
    ]

    def table(head: list[str], rows: list[list[Any]]) -> None:
        out.extend(["| " + " | ".join(map(str, head)) + " |", "|" + "---|" * len(head)])
        out.extend("| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row) + " |" for row in rows)
        out.append("")

    def says(paragraph: str) -> None:
        out.extend([*textwrap.wrap(paragraph, 118, break_on_hyphens=False), ""])

    def where(part: str) -> None:
        of = results[part]["machine"]
        out.extend([f"*{of['processor']}; " + ", ".join(f"{k} {v}" for k, v in of.items() if k != "processor") + "*", ""])

    def section(part: str, title: str) -> dict[str, Any] | None:
        if part not in results:
            return None
        out.extend([f"## {title}", ""])
        where(part)
        return results[part]["result"]

    if r := section("step", "A training step, 35.7 M, 32×32, batch 8, float32, eager, one loop for all"):
        rows = [[NAMES[n], r["parameters"][n], r["seconds"][n], r["over_ours"].get(n, 1.0)] for n in NAMES]
        table(["", "parameters", "seconds", "over ours"], rows)
        both = r["channels_last"]
        longer = f"{both['over_ours']['diffusers']:.2f} times as long"
        out += [f"With ours in channels-last layout and diffusers as it is, diffusers takes {longer}.", ""]
    if r := section("defaults", "A training step with each project's defaults"):
        rows = [
            [shape, of["batch"], of["seconds"]["ours"], of["over_ours"]["diffusers"], of["over_ours"]["lucidrains"]]
            for shape, of in r.items()
        ]
        table(["network", "batch", "ours, seconds", "diffusers over ours", "denoising-diffusion-pytorch over ours"], rows)
    if r := section("sampler", "A sampler's time over its network calls"):
        table(["", "ratio"], [[NAMES[n], f"{r['ratio'][n]:.3f}"] for n in NAMES])
    if r := section("bound", "All terms of the bound"):
        table(
            ["digits", "terms each", "seconds", "network calls alone"],
            [[r["images"], r["T"], r["seconds"], r["network_calls_alone"]]],
        )
    if r := section("memory", "Peak memory of a training step"):
        out += [f"{r['shape']}, batch {r['batch']}, float32 unless said; above what the process held before.", ""]
        table(["", "MiB"], [[NAMES.get(n, n.replace("ours", NAMES["ours"])), round(v)] for n, v in r["MiB"].items()])
    if r := section("mnist", "The same time of training on MNIST"):
        ours = our_run()
        says(
            f"{r['minutes']:g} minutes each, in turns of half a minute. ddpm_edu as in its preset for MNIST: batches of "
            f"{ours.batch}, Adam at {ours.lr:g} after {ours.warmup} steps of warm-up, EMA {ours.ema_decay:g}, the "
            f"{ours.schedule} schedule, the precision that suits the machine. diffusers as in its example for unconditional "
            "training: batches of 16, AdamW at 1e-4 after 500 steps of warm-up, the linear schedule, float32. "
            "denoising-diffusion-pytorch as its `Trainer`: batches of 16, Adam at 1e-4, EMA 0.995, its own schedule and "
            "prediction, float32."
        )
        says(
            f"One sampler then draws {r['samples']} images from each, in {r['moves']} moves of the schedule it was trained "
            f"with, and one judge's features compare them with {r['samples']} test images. It is one run of each and one "
            "draw; ± is the standard error of the estimate of bits/dim."
        )
        rows = [
            [NAMES[n], r[n]["steps"], r[n]["bits_per_dim"]["total"], r[n]["bits_per_dim"]["standard_error"], r[n]["frechet"]]
            for n in NAMES
            if n in r
        ]
        table(["", "steps", "bits/dim", "±", "Fréchet distance"], rows)
    if r := section("scaling", "What a step costs"):
        out += ["The network of 1.1 M parameters, with attention at a quarter of each side.", ""]
        out += ["![Seconds of a training step by batch and by side, and of a sample by number of steps](scaling.png)", ""]
        for title, key in (
            ("batch", "by_batch"),
            ("side, batch 16", "by_side_at_batch_16"),
            ("T, 16 samples", "sampling_16_by_T"),
        ):
            table([title, *r[key]], [["seconds", *r[key].values()]])
    if r := section("share", "How near to the limit: time outside convolutions and matrix products"):
        says(
            "From one profile of three steps: the processor time outside them as a share of the whole, and the whole over "
            "the time of those alone. A loop without any other work would have 0 and 1."
        )
        table(
            ["", "share outside", "whole step over those alone"],
            [[k, v["outside"], v["whole_over_heavy"]] for k, v in r.items()],
        )
    return "\n".join(out).rstrip() + "\n"


def draw_scaling(r: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    from ddpm_edu.plots import use_style

    use_style()
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    titles = {
        "by_batch": "images a step",
        "by_side_at_batch_16": "side of the image, pixels",
        "sampling_16_by_T": "steps T of a sample",
    }
    for ax, (key, label) in zip(axes, titles.items()):
        x, y = [int(k) for k in r[key]], [*r[key].values()]
        ax.loglog(x, y, "o-", label="measured")
        power = 2 if "side" in key else 1
        ax.loglog(x, [y[-1] * (k / x[-1]) ** power for k in x], "--", label=f"∝ x{'²' if power == 2 else ''}")
        ax.set_xlabel(label)
        ax.set_xticks(x, x)
        ax.minorticks_off()
        marks = [m * 10.0**e for e in range(-3, 3) for m in (1, 2, 5) if min(y) / 3 < m * 10.0**e < 1.2 * max(y)]
        ax.set_yticks(marks, [f"{mark:g}" for mark in marks])
        ax.legend()
    axes[0].set_ylabel("seconds")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*PARTS], help="these parts; else all, mnist with --data-root only")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data-root", type=Path, help="where MNIST lies, for the part mnist")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training each, for the part mnist")
    parser.add_argument("--samples", type=int, default=500, help="for the part mnist")
    parser.add_argument("--report", action="store_true", help="only write README.md again")
    parser.add_argument("--probe-memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe_memory:
        return probe_memory(args.probe_memory)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in [] if args.report else args.only or [name for name in PARTS if name != "mnist" or args.data_root]:
        print(name, flush=True)
        results[name] = {"machine": machine(), "result": PARTS[name](args)}
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if "scaling" in results:
        draw_scaling(results["scaling"]["result"], HERE / "scaling.png")
    (HERE / "README.md").write_text(report(results))


if __name__ == "__main__":
    main()
