"""The checks themselves: what passes, what fails, what is printed."""

import math

import pytest
import sympy
import torch

from ddpm_edu import Gaussian
from ddpm_edu.check import ROUTES, CheckFailed, check, check_distribution, check_mean, check_symbolic, refute


def standard(n, seed=0, *shape):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_check_prints_one_stable_line(capsys):
    check("5.3", [1.0, 2.0], torch.tensor([1.0, 2.0 + 1e-13]), atol=1e-12, by="quadrature")
    assert capsys.readouterr().out == "✓ Eq. (5.3) · quadrature · agrees to 1e-12\n"


@pytest.mark.parametrize(
    "got, want, message",
    [
        ([1.0, 2.0], [1.0, 2.1], r"off by 0.1, allowed 1e-06; largest at index \[1\]: got 2, want 2.1"),
        (float("nan"), 1.0, "off by inf"),
        (1.0, float("nan"), "off by inf"),
        ([1.0, 2.0], [[1.0, 2.0]], "shapes differ"),
        (-3.0, 3.0, "looks like a sign"),
        (9.0, 3.0, "a missing root"),
        (3.0, 9.0, "a root too many"),
        (2.0, 3.0, "Look for an index"),
        (math.inf, 1.0, "off by inf"),
    ],
)
def test_check_fails(got, want, message):
    with pytest.raises(CheckFailed, match=message):
        check("5.3", got, want, atol=1e-6, by="sympy")


def test_check_takes_equal_infinities_and_a_number_for_all():
    check("1.1", [-math.inf, 0.0], [-math.inf, 0.0], atol=1e-9, by="closed form")
    check("1.1", torch.ones(3), 1, atol=1e-9, by="closed form")


@pytest.mark.parametrize(
    "kwargs, error",
    [
        ({"tag": "5"}, ValueError),
        ({"tag": 5.3}, ValueError),
        ({"by": "faith"}, ValueError),
        ({"atol": 0}, ValueError),
        ({"atol": -1e-3}, ValueError),
        ({"atol": math.inf}, ValueError),
        ({"got": "one"}, TypeError),
        ({"got": [], "want": []}, ValueError),
    ],
)
def test_check_refuses_bad_arguments(kwargs, error):
    arguments = {"tag": "5.3", "got": 1.0, "want": 1.0, "atol": 1e-6, "by": ROUTES[0], **kwargs}
    with pytest.raises(error):
        check(arguments.pop("tag"), arguments.pop("got"), arguments.pop("want"), **arguments)


def test_symbolic(capsys):
    a, b = sympy.symbols("a b", positive=True)
    check_symbolic("2.1", (a + b) ** 2, a**2 + 2 * a * b + b**2)
    assert capsys.readouterr().out == "✓ Eq. (2.1) · sympy · identical\n"
    with pytest.raises(CheckFailed, match="does not vanish"):
        check_symbolic("2.1", sympy.Matrix([a, b]), sympy.Matrix([a, -b]))
    with pytest.raises(CheckFailed, match="against"):
        check_symbolic("2.1", [a, b], [a])


def test_mean(capsys):
    check_mean("4.6", standard(10_000), 0.0)
    assert capsys.readouterr().out == "✓ Eq. (4.6) · Monte Carlo, n = 10000 · within 5 standard errors (s.e. 0.02)\n"
    check_mean("4.6", torch.full((100,), 0.3), torch.tensor(0.3))
    with pytest.raises(CheckFailed, match="standard errors off"):
        check_mean("4.6", standard(10_000) + 0.1, 0.0)
    with pytest.raises(CheckFailed, match=r"index \[1\]"):
        check_mean("4.6", standard(10_000, 0, 2) + torch.tensor([0.0, 0.1]), 0.0)
    with pytest.raises(CheckFailed, match="too blunt"):
        check_mean("4.6", standard(10_000), 0.0, se_max=1e-3)
    with pytest.raises(CheckFailed):
        check_mean("4.6", torch.full((100,), math.nan), 0.0)
    with pytest.raises(ValueError, match="at least 100"):
        check_mean("4.6", standard(50), 0.0)


LAW = Gaussian(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))


def test_distribution_passes_for_the_law(capsys):
    check_distribution("4.6", standard(50_000), LAW)
    assert capsys.readouterr().out.startswith("✓ Eq. (4.6) · Monte Carlo, n = 50000 · four moments within 5 standard")
    shifted = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.25]))
    check_distribution("4.6", shifted.mean + shifted.var.sqrt() * standard(20_000, 1, 2).float(), shifted)


@pytest.mark.parametrize(
    "samples, message",
    [
        (standard(50_000) + 0.05, "mean"),
        (standard(50_000) * 1.05, "variance"),
        (standard(50_000) * standard(50_000, 1), "fourth moment"),  # right variance, kurtosis 9
        (standard(50_000).abs() * 2 - 1.5957691216, "variance|third"),
        ((standard(50_000) ** 2 - 1) / math.sqrt(2), "third moment"),
        (torch.sign(standard(50_000)) * 1.0, "fourth moment"),
        (torch.full((50_000,), math.nan), "mean"),
    ],
)
def test_distribution_fails_for_others(samples, message):
    with pytest.raises(CheckFailed, match=message):
        check_distribution("4.6", samples, LAW)


def test_distribution_sees_what_four_moments_do_not():
    # Three atoms, ±√3 with probability 1/6 and 0 with 2/3, share the first five moments of N(0, 1).
    atoms = torch.tensor([-math.sqrt(3.0), 0.0, 0.0, 0.0, 0.0, math.sqrt(3.0)], dtype=torch.float64).repeat(5000)
    with pytest.raises(CheckFailed, match="Kolmogorov-Smirnov"):
        check_distribution("4.6", atoms, LAW)


def test_refute(capsys):
    refute("5.3", 0.25, 1.0, slip="√ swallowed β_t", unit="nats")
    assert capsys.readouterr().out == "✗ slip refuted · Eq. (5.3) · √ swallowed β_t · off by 0.75 nats\n"
    refute("5.3", math.nan, 1.0, slip="0/0")
    assert "not a finite number" in capsys.readouterr().out
    with pytest.raises(CheckFailed, match="refutes nothing"):
        refute("5.3", 1.0005, 1.0, slip="nearly right")
    with pytest.raises(CheckFailed, match="refutes nothing"):
        refute("5.3", 1.0, 1.0, slip="right")
