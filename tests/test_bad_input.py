"""Bad input: every public function says which argument is wrong, what it got and what is allowed, and leaves no file behind.

The table is bad_input.txt, one line per case:

    argument :: call  ->  the whole message                     (… stands for any text)

A call is worth a line when nothing about it is right but one argument. `python tests/test_bad_input.py` writes the messages
anew, after a change of words: read the difference before you commit it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
import torch

import ddpm_edu
from ddpm_edu import (  # noqa: F401  # the table's calls use them all
    check,
    cli,
    config,
    data,
    diffusion,
    discrete,
    gaussian,
    guidance,
    latent,
    likelihood,
    metrics,
    notation,
    oracles,
    plots,
    published,
    routes,
    samplers,
    schedules,
    scores,
    snr,
    steering,
    training,
    unet,
    weights,
)
from ddpm_edu.config import TrainConfig
from ddpm_edu.diffusion import GaussianDiffusion, LearnedVariance, per_sample  # noqa: F401
from ddpm_edu.discrete import DiscreteDiffusion, SequenceLaw
from ddpm_edu.gaussian import FullGaussian, Gaussian, push_forward  # noqa: F401
from ddpm_edu.latent import LinearGaussianModel
from ddpm_edu.mlp import MLP
from ddpm_edu.oracles import ClassOracle, GaussianMixture, LinearGaussianChain, Oracle, SDEOracle  # noqa: F401
from ddpm_edu.schedules import NoiseSchedule
from ddpm_edu.scores import EnergyMLP  # noqa: F401
from ddpm_edu.sde import VPSDE
from ddpm_edu.training import Checkpoints, TrainState  # noqa: F401
from ddpm_edu.unet import UNet

TABLE = Path(__file__).with_name("bad_input.txt")
ERRORS = (ValueError, TypeError, OSError)  # FileNotFoundError is an OSError, WeightsError a ValueError
SMALL = {"size": 8, "channels": 1, "base": 8, "multipliers": [1], "blocks": 1, "attention": []}
# Public names without a case, and why.
EXEMPT = {
    "takes no argument, or nothing but self": """
        config.TrainConfig.diffusion data.ImageData.sha256 data.ImageFiles.sha256 data.digits discrete.SequenceLaw.entropy
        gaussian.FullGaussian.entropy gaussian.FullGaussian.natural gaussian.FullGaussian.log_partition
        latent.LinearGaussianModel.marginal likelihood.Bound.bits_per_dim likelihood.Bound.rate_distortion
        oracles.GaussianMixture.moments plots.use_style training.ImportanceSampler.probabilities training.Checkpoints.paths
        training.processes""",
    "a record of results that the package makes": """
        diffusion.LossWeights likelihood.Flow metrics.Neighbours notation.VDM notation.EDM notation.Preconditioning
        samplers.Step samplers.LangevinStep training.Metrics""",
    "an exception, or a protocol": """
        check.CheckFailed cli.Refused training.TrainingDiverged training.Data weights.WeightsError""",
    "a part of UNet, which checks for it": """
        unet.ResBlock unet.ResBlock.forward unet.Attention unet.Attention.forward unet.Block unet.Block.forward
        unet.Downsample unet.Downsample.forward unet.Upsample unet.Upsample.forward unet.step_of_each""",
    "takes what the command line's parser has checked; see COMMANDS": """
        cli.main cli.run_train cli.run_average cli.run_sample cli.run_evaluate cli.run_judge""",
    "asks the device or the other processes what they have, no more": "training.fast_precision training.on_any_process",
    "looks at its arguments when it is called": "diffusion.LearnedVariance",
    "draws the book's fixed diagrams": "diagrams",
}


def cases() -> list[tuple[str, str, str]]:
    """(argument, call, message) for each line of the table."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [re.fullmatch(r"(\S+) :: (.*?)(?:  ->  (.*))?", line).groups() for line in lines]  # type: ignore[union-attr]


def namespace(folder: Path) -> dict:
    """What the table's calls are written with: good values in lower case, bad ones in capitals."""
    g = torch.Generator().manual_seed(0)
    x, eps, img = torch.randn(4, 2, generator=g), torch.randn(4, 2, generator=g), torch.rand(4, 1, 8, 8, generator=g)
    standard = Gaussian(torch.zeros(4, 2), torch.ones(4, 2))
    S = NoiseSchedule.linear(10)
    D = GaussianDiffusion(S)
    mixture = GaussianMixture([0.5, 0.5], torch.tensor([[0.0, 0.0], [1.0, 1.0]]), [1.0, 2.0])
    y = torch.tensor([0, 1, 2, 0])
    mlp, learned = {"kind": "MLP", "width": 8, "layers": 1}, {"learned_variance": True}
    dots = TrainConfig(data="two_moons", network=mlp, T=10, steps=4, batch=4, warmup=0, precision="float32")
    TrainState(dots).save(folder / "state.safetensors")
    trained = TrainState(dots)
    trained.step, trained.data_sha256 = 1, "0" * 64
    weights.save(folder / "dots.safetensors", MLP(width=8, layers=1), {})
    good = dict(
        S=S, D=D, x=x, eps=eps, img=img, t=torch.tensor([1, 2, 3, 4]), y=y, g=standard, mixture=mixture, gen=g, small=SMALL,
        full=FullGaussian(torch.zeros(2), torch.eye(2)), sde=VPSDE(), lin=LinearGaussianModel(standard, 2.0, 1.0),
        oracle=Oracle(mixture, D), classy=ClassOracle(mixture, D, torch.tensor([0, 1])),
        chain=LinearGaussianChain(D, 1.0, 0.0, 1.0), points=GaussianMixture.of_points(x), point=Gaussian(x, 0 * x),
        letters3=DiscreteDiffusion.uniform(3, [0.9, 0.5, 0.1]), masked=DiscreteDiffusion.absorbing(3, [0.9, 0.5, 0.1]),
        words=torch.tensor([[0, 1], [1, 2], [2, 0], [0, 0]]), law=SequenceLaw(torch.full((3, 3), 1 / 9)),
        images=data.ImageData("mine", (255 * img).byte(), y), judge=metrics.Judge(1, 3),
        net=UNet(**SMALL), net3=UNet(**SMALL, classes=3), dots=dots,
        hybrid=replace(dots, loss="hybrid", network={**mlp, **learned}),
        classed=replace(dots, network={"kind": "UNet", **SMALL, "classes": 3}),
        digits=replace(dots, network={"kind": "UNet", **SMALL}),
        learned=replace(dots, loss="hybrid", network={"kind": "UNet", **SMALL, **learned}),
        shipped=folder / "dots.safetensors", state_file=folder / "state.safetensors",
        trained=trained, model=lambda x, t: x, model3=lambda x, t, y: x, both=lambda x, t: torch.cat([x, x], 1),
        logits3=lambda x, t: x.sum(1, keepdim=True) * torch.tensor([1.0, 2.0, 3.0]),
        flat3=lambda x, t: torch.zeros(*x.shape, 3), zero_score=lambda x, t: 0 * x,
    )  # fmt: skip
    bad = dict(
        INTS=torch.ones(4, 2, dtype=torch.int64), NAN=x * nan, INF=x * inf, META=torch.ones(4, 2, device="meta"),
        SHORT=torch.randn(3, 2, generator=g), EMPTY=torch.zeros(0, 2), SCALAR=torch.tensor(1.0),
    )  # fmt: skip
    return {**globals(), **good, **bad, "ONES": torch.ones(4, 2)}


def owner(call: str, names: dict) -> str:
    """The public function whose check it is, as module.qualified_name: of f(a)(b) it is f, which made the inner function."""
    outer = ast.parse(call, mode="eval").body
    while isinstance(outer, ast.Call) and isinstance(outer.func, ast.Name) and outer.func.id in ("list", "next"):
        outer = outer.args[0]
    assert isinstance(outer, ast.Call), call
    function = eval(compile(ast.Expression(outer.func), "<table>", "eval"), names)
    if isinstance(function, torch.nn.Module):
        function = type(function).forward
    elif inspect.ismethod(function):
        function = function.__func__
    elif not (inspect.isfunction(function) or inspect.isclass(function)):
        function = type(function).__call__
    return f"{function.__module__.removeprefix('ddpm_edu.')}.{function.__qualname__.split('.<locals>')[0]}"


def public() -> set[str]:
    """Every class, function and method that a module of the package defines without an underscore, and __call__."""
    names = set()
    for module in pkgutil.iter_modules(ddpm_edu.__path__):
        if module.name.startswith("_") or module.ispkg:
            continue  # exercises and explorers have tests of their own refusals
        for name, thing in vars(importlib.import_module(f"ddpm_edu.{module.name}")).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != f"ddpm_edu.{module.name}" or not callable(thing):
                continue
            if name not in ("EpsModel", "Score"):
                names.add(f"{module.name}.{name}")
            if inspect.isclass(thing):
                own = [of for of in vars(thing) if not of.startswith("_") or of == "__call__"]
                names |= {f"{module.name}.{name}.{of}" for of in own if callable(getattr(thing, of))}
    return names


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    return namespace(tmp_path_factory.mktemp("given"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("argument, call, message", cases(), ids=lambda text: None)
def test_refuses(argument, call, message, names, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DDPM_EDU_DATA", raising=False)
    with pytest.raises(ERRORS) as caught:
        eval(call, names)
    said = str(caught.value)
    assert re.search(rf"(?<!\w){re.escape(argument)}(?!\w)", said), f"{argument} is not named: {said}"
    assert re.fullmatch(re.escape(message).replace("…", ".*"), " ".join(said.split())), said
    assert not list(tmp_path.rglob("*")) and capsys.readouterr().out == ""


def test_every_public_function_has_a_case_or_a_reason(names):
    tried = {owner(call, names) for _, call, _ in cases()}
    excused = {name for listed in EXEMPT.values() for name in listed.split()}
    wanted = {name for name in public() if name.split(".")[0] not in excused}
    assert wanted - tried - excused == set()
    assert excused & tried == set() and len(cases()) >= 300
    assert {name for name in excused if "." in name} <= wanted  # no reason for what is no longer there


# The commands -----------------------------------------------------------------------------------------------------

# argv -> words of the one line on stderr; those that test_cli.py has are not repeated.
COMMANDS = """
train --data digits --steps 0  ->  argument --steps: must be a whole number of at least 1, got '0'
train --data digits --steps nan  ->  argument --steps: must be a whole number of at least 1, got 'nan'
train --data digits --batch 2.5  ->  argument --batch: must be a whole number of at least 1, got '2.5'
train --data digits --lr nan  ->  argument --lr: must be a number above 0, got 'nan'
train --data digits --lr inf  ->  argument --lr: must be a number above 0, got 'inf'
train --data digits --seed -1  ->  argument --seed: must be a whole number from 0 to 9223372036854775806, got '-1'
train --data digits --save-every 0  ->  argument --save-every: must be a whole number of at least 1, got '0'
train --data digits --accumulate 0  ->  argument --accumulate: must be a whole number of at least 1, got '0'
train --data digits --loss l1  ->  argument --loss: invalid choice: 'l1'
train --data digits --device meta  ->  --device meta must be cpu, cuda or mps
train --data digits --device cuda:x  ->  --device cuda:x is not a device
train --data digits --start no.safetensors  ->  no weight file at no.safetensors
train --data digits --out .safetensors  ->  --out .safetensors must end in .safetensors
train --data digits --resume --preset digits  ->  no checkpoint in runs/digits.checkpoints
train --data  ->  argument --data: expected one argument
train --data digits extra  ->  unrecognized arguments: extra
average --weights weights.safetensors  ->  the following arguments are required: --out
average --weights --out mean.safetensors  ->  argument --weights: expected at least one argument
average --weights no.safetensors --out mean.safetensors  ->  --weights names 1 file; an average needs two at least
average --weights no.safetensors nor.safetensors --out mean.safetensors  ->  no weight file at no.safetensors
average --weights no.safetensors nor.safetensors --out mean.pt  ->  --out mean.pt must end in .safetensors
average --weights a b --out mean.safetensors --images 0  ->  argument --images: must be a whole number of at least 1, got '0'
sample --n -1  ->  argument --n: must be a whole number of at least 1, got '-1'
sample --n 1e3  ->  argument --n: must be a whole number of at least 1, got '1e3'
sample --seed 18446744073709551615  ->  argument --seed: must be a whole number from 0 to 9223372036854775806
judge --data digits --device cuda  ->  unrecognized arguments: --device cuda
sample --seed x  ->  argument --seed: must be a whole number from 0 to 9223372036854775806, got 'x'
sample --class -1  ->  argument --class: must be a whole number of at least 0, got '-1'
sample --guidance nan  ->  argument --guidance: must be a number above 0, got 'nan'
sample --device meta  ->  --device meta must be cpu, cuda or mps
sample --out picture  ->  --out picture must end in .png or .npy
sample --weights .  ->  no weight file at .
evaluate --weights no.safetensors  ->  no weight file at no.safetensors
evaluate --per-step 1  ->  argument --per-step: must be a whole number of at least 2, got '1'
evaluate --spacing 0.5  ->  argument --spacing: must be a number of at least 1, got '0.5'
sample --spacing even  ->  argument --spacing: must be a number of at least 1, got 'even'
evaluate --guided 0  ->  argument --guided: must be a whole number of at least 1, got '0'
evaluate --device toaster  ->  --device toaster is not a device
judge --data unicorns  ->  data = 'unicorns' is neither one of digits
judge --data digits --epochs 0  ->  argument --epochs: must be a whole number of at least 1, got '0'
judge --data digits --seed 0.5  ->  argument --seed: must be a whole number from 0 to 9223372036854775806, got '0.5'
judge --data mnist  ->  give its folder with --data-root or set DDPM_EDU_DATA
judge --data digits --out judge.json  ->  --out judge.json must end in .safetensors
"""


@pytest.mark.parametrize("line", COMMANDS.strip().splitlines())
def test_commands_refuse_in_one_line(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DDPM_EDU_DATA", raising=False)
    argv, words = line.split("  ->  ")
    assert cli.main(argv.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("ddpm_edu: ") and err.count("\n") == 1 and words in err, err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def write_messages() -> None:
    """Put into the table what each call says now."""
    import os
    import tempfile

    os.environ.pop("DDPM_EDU_DATA", None)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        names, lines = namespace(Path(folder)), []
        for line in TABLE.read_text(encoding="utf-8").splitlines():
            if found := re.fullmatch(r"(\S+ :: (.*?))(?:  ->  (.*))?", line):
                start, call, before = found.groups()
                try:
                    said = f"no error, but {eval(call, names)!r:.60}"
                except ERRORS as error:
                    said = str(error)
                said = " ".join(said.split())
                fits = before and re.fullmatch(re.escape(before).replace("…", ".*"), said)
                line = line if fits else f"{start}  ->  {said}"
            lines.append(line)
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(TABLE.parents[1]))
    write_messages()
