"""kill -9, again and again: python tests/crashes.py FOLDER TRAINING_KILLS SAMPLING_KILLS SEED prints a report as JSON.

One process imports torch and forks every run from itself, which is a hundred times cheaper than starting Python anew; it
never trains itself, since a process that has used autograd must not be forked. test_crashes.py says what the report must be.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
import sklearn.datasets  # noqa: F401  # warm: every fork would import it
import torch
import torch._dynamo  # the optimiser would import it in every fork
import tqdm  # noqa: F401

from ddpm_edu import cli, training, weights

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
TINY = training.TrainConfig(
    data="digits", network=NET, T=20, steps=12, batch=8, lr=1e-3, warmup=2, ema_decay=0.9, precision="float32", sample_steps=8
)
TRAIN = "train --data digits --device cpu --out net.safetensors --save-every 1".split()
SAMPLE = "sample --device cpu --n 100 --weights net.safetensors --out x.npy".split()


def start(folder: Path, argv: list[str], before: Callable[[], None] = lambda: None) -> int:
    """The command in a forked process that works in `folder`; its pid. `before` is run first, over there."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.chdir(folder)
        for fd, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder.parent / f"{folder.name}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
        before()
        code = cli.main(argv)
    finally:
        sys.stderr.flush(), sys.stdout.flush()
        os._exit(code)


def finish(pid: int) -> int:
    """The exit code; minus the signal for a process that was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def last_line(folder: Path) -> str:
    return (folder.parent / f"{folder.name}.stderr").read_text().strip().splitlines()[-1]


def broken(folder: Path) -> list[str]:
    """Files under a final name that are not whole."""
    bad = []
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.checkpoints/step-*")]:
        try:
            weights.read_tensors(path)
        except weights.WeightsError:
            bad.append(path.name)
    return bad


def same(folder: Path, straight: Path) -> bool:
    """Whether the run ended in the same weights and the same last checkpoint, bit for bit, with the same header.

    Not byte for byte: safetensors writes the entries of a header in an order of its own, another one every time.
    """
    for name in ("net.safetensors", "net.checkpoints/step-00000012.safetensors"):
        (a, told_a), (b, told_b) = (weights.read_tensors(x / name) for x in (folder, straight))
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a) or told_a.keys() != told_b.keys():
            return False
        if name == "net.safetensors" and told_a != told_b:  # a checkpoint's header holds times
            return False
    return True


def resume(folder: Path, straight: Path) -> dict:
    """What is left after a kill, and how the run ends that goes on from it."""
    found = sorted(path.name for path in folder.glob("net.checkpoints/step-*"))
    facts = {"broken": broken(folder), "checkpoints": len(found), "newest": found[-1][5:13] if found else ""}
    code = finish(start(folder, [*TRAIN, "--resume"]))
    if not found:
        facts["without_checkpoint"] = [code, last_line(folder)]
        code = finish(start(folder, TRAIN))
    hidden = [path.name for path in folder.rglob(".step-*")]
    return {**facts, "exit": code, "same": code == 0 and same(folder, straight), "left": hidden}


def in_write(what: str, nth: int) -> Callable[[], None]:
    """Dies in the nth write of a file: half of it written, all of it but not under its name, or just after it has it."""

    def before() -> None:
        count = iter(range(10_000))
        die = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        fdopen, replace = os.fdopen, os.replace

        def half(handle, mode):
            file = fdopen(handle, mode)
            if next(count) == nth:
                write = file.write
                file = type("Half", (), {"__enter__": lambda s: s, "__exit__": lambda *a: None})()
                file.write = lambda content: (write(content[: len(content) // 2]), os.fsync(handle), die())
            return file

        def named(a, b):
            now = next(count) == nth
            if now and what == "unnamed":
                die()
            replace(a, b)
            if now:
                die()

        setattr(os, "fdopen" if what == "half" else "replace", half if what == "half" else named)

    return before


def full_disk(nth: int) -> Callable[[], None]:
    """No file may be larger than 32 kB from the nth checkpoint on."""

    def before() -> None:
        import resource

        save, count = training.TrainState.save, iter(range(10_000))

        def limited(state, path):
            if next(count) == nth:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, 2**15))
            save(state, path)

        training.TrainState.save = limited  # type: ignore[method-assign]

    return before


def main(folder: Path, trainings: int, samplings: int, seed: int) -> dict:
    torch.set_num_threads(1)
    training.PRESETS["digits"] = TINY
    training.TrainState.fixed_loss.__defaults__ = (16,)  # images; what follows has no part in what is tested, and takes long
    digits = cli.data.load("digits")
    cli.data.load = lambda *args, **options: digits  # type: ignore[assignment]
    cli._commit = lambda: "unknown"
    rng = random.Random(seed)
    report: dict[str, Any] = {"training": [], "writing": [], "sampling": []}
    new = lambda name: (folder / name).mkdir() or folder / name  # noqa: E731
    straight = new("straight")
    began = time.perf_counter()
    assert finish(start(straight, TRAIN)) == 0, last_line(straight)
    took = time.perf_counter() - began

    for k in range(trainings):
        run, delay = new(f"train-{k}"), rng.uniform(0, took)
        pid = start(run, TRAIN)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        report["training"].append({"after": round(delay / took, 3), "killed": finish(pid) == -9, **resume(run, straight)})
    for k, (what, nth) in enumerate([("half", 3), ("half", 12), ("unnamed", 0), ("unnamed", 5), ("named", 4), ("named", 12)]):
        run = new(f"write-{k}")
        pid = start(run, TRAIN, in_write(what, nth))
        report["writing"].append({"what": what, "killed": finish(pid) == -9, **resume(run, straight)})

    run = new("full")
    code = finish(start(run, TRAIN, full_disk(4)))
    report["seconds"] = round(took, 2)
    report["full"] = {"first": [code, last_line(run)], **resume(run, straight)}

    run, other = new("first"), new("elsewhere")  # a run goes on under another --out
    finish(start(run, TRAIN, in_write("named", 5)))
    again = [*TRAIN, "--resume", str(run / "net.checkpoints")]
    code = finish(start(other, again))
    report["elsewhere"] = {"exit": code, "same": code == 0 and same(other, straight), "there": len(list(run.rglob("step-*")))}

    def foreign() -> None:  # the same run, other images under the same name
        load = cli.data.load

        def changed(*args, **options):
            of = load(*args, **options)
            return dataclasses.replace(of, pixels=of.pixels.flip(0))

        cli.data.load = changed  # type: ignore[assignment]

    code = finish(start(run, [*TRAIN, "--resume"], foreign))
    report["foreign"] = [code, last_line(run)]

    began = time.perf_counter()
    assert finish(start(straight, SAMPLE)) == 0, last_line(straight)
    took, want = time.perf_counter() - began, (straight / "x.npy").read_bytes()
    for k in range(samplings):
        run, delay = new(f"sample-{k}"), rng.uniform(0, took)
        for name in ("net.safetensors", "net.json"):
            (run / name).write_bytes((straight / name).read_bytes())
        (run / "x.npy").write_bytes(b"what was there before")
        pid = start(run, SAMPLE)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        killed, kept = finish(pid) == -9, (run / "x.npy").read_bytes()
        code = finish(start(run, SAMPLE))
        whole = kept in (want, b"what was there before")
        report["sampling"].append(
            {"killed": killed, "whole": whole, "exit": code, "same": (run / "x.npy").read_bytes() == want}
        )
    return report


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:5]))))
