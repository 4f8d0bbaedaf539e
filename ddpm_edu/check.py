"""Checks that can fail: the cells behind every numbered equation of the book.

`got` and `want` must come from different routes: the package's function on one side, and on the other quadrature,
brute force over the chain, autograd, sympy, an exact oracle or a peer library; `by` names that route. Each call
prints one line that is the same on every machine, or raises CheckFailed.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from ._args import instance, number
from .gaussian import Gaussian

ROUTES = (
    "quadrature",  # an integral done numerically
    "brute force",  # the chain, the sum or the search carried out literally
    "enumeration",  # every case of a finite space
    "recursion",  # moments pushed through the chain step by step
    "linear algebra",  # joint covariance matrices, solved
    "autograd",  # derivatives by automatic differentiation
    "finite differences",
    "sympy",  # symbolic algebra
    "torch.distributions",
    "scipy",
    "diffusers",
    "exact oracle",  # a closed form of the data's own law
    "closed form",  # a known value from outside the chapter's derivation
    "Monte Carlo",
    "measurement",  # on a trained network or real data
)


class CheckFailed(AssertionError):
    """Two routes to one equation disagree."""


def check(tag: str, got, want, *, atol: float, by: str) -> None:
    """Pass if max |got - want| <= atol; then print `✓ Eq. (tag) · by · agrees to atol`.

    tag: the equation's number, such as "5.3". got, want: numbers, arrays or tensors of one shape (a plain number may
    stand for all entries). atol: an absolute tolerance > 0. by: one of ROUTES, the route of `want`.
    Raises CheckFailed with the residual, where it is, and a hint; NaN never passes.
    """
    _known_tag(tag)
    _known_route(by)
    residual, where, g, w = _residual(got, want)
    if not residual <= _tolerance(atol):
        raise CheckFailed(
            f"Eq. ({tag}) · {by} · off by {residual:.3g}, allowed {atol:g}; largest at index {where}: "
            f"got {g:.12g}, want {w:.12g}. {_hint(got, want, atol)}"
        )
    print(f"✓ Eq. ({tag}) · {by} · agrees to {_tidy(atol)}")


def check_symbolic(tag: str, got, want, *, by: str = "sympy") -> None:
    """Pass if sympy simplifies got - want to 0; entries of matrices and lists one by one."""
    import sympy

    _known_tag(tag)
    _known_route(by)
    left, right = (list(sympy.flatten([side])) for side in (got, want))
    if not left or len(left) != len(right):
        raise CheckFailed(f"Eq. ({tag}) · {by} · {len(left)} expression(s) against {len(right)}")
    for g, w in zip(left, right):
        rest = sympy.simplify(sympy.expand(g - w))
        if rest != 0:
            raise CheckFailed(f"Eq. ({tag}) · {by} · the difference does not vanish: {rest}")
    print(f"✓ Eq. ({tag}) · {by} · identical")


def check_mean(tag: str, samples, want, *, z: float = 5.0, se_max: float | None = None) -> None:
    """Pass if the mean of `samples` over axis 0 lies within z standard errors of `want`, for every entry.

    The Monte Carlo form of `check`: the standard error is estimated from the samples and printed, so that a reader can
    see how sharp the test is. `se_max` fails a test that is blunter than that. Use a fixed seed.
    """
    _known_tag(tag)
    number(z, "z", 0, math.inf)
    x = _array(samples, "samples")
    if x.ndim < 1 or len(x) < 100:
        raise ValueError(f"samples must have at least 100 draws along axis 0, got shape {tuple(x.shape)}")
    se = x.std(0) / math.sqrt(len(x))
    blunt = float(se.max())
    if se_max is not None and not blunt <= se_max:
        raise CheckFailed(
            f"Eq. ({tag}) · Monte Carlo · too blunt: standard error {blunt:.3g} with {len(x)} draws, at most {se_max:g} wanted"
        )
    # A constant sample has no spread: then only rounding is allowed.
    allowed = z * se + 1e-12 * (1 + x.mean(0).abs())
    off, where, *_ = _residual(x.mean(0) / allowed, _array(want, "want").expand_as(allowed) / allowed)
    if not off <= 1:
        raise CheckFailed(f"Eq. ({tag}) · Monte Carlo · {off * z:.1f} standard errors off (allowed {z:g}) at index {where}")
    print(f"✓ Eq. ({tag}) · Monte Carlo, n = {len(x)} · within {z:g} standard errors (s.e. {_tidy(blunt, up=True)})")


def check_distribution(tag: str, samples, law: Gaussian, *, z: float = 5.0) -> None:
    """Pass if `samples` look like draws of `law`: mean, variance, skewness, kurtosis and the Kolmogorov-Smirnov distance.

    A variance alone cannot tell a Gaussian from anything else, so the third and fourth moments and the whole
    distribution function are compared too. samples: (n, *law's shape). Each coordinate must pass.
    """
    _known_tag(tag)
    number(z, "z", 0, math.inf), instance(law, "law", Gaussian)
    x = _array(samples, "samples")
    if x.ndim < 1 or len(x) < 1000:
        raise ValueError(f"samples must have at least 1000 draws along axis 0, got shape {tuple(x.shape)}")
    n = len(x)
    u = ((x - law.mean.double()) / law.var.double().sqrt()).reshape(n, -1)
    # For u ~ N(0, 1): moments 0, 1, 0, 3 with variances 1, 2, 15, 96.
    for name, power, mean, var in (
        ("mean", 1, 0, 1),
        ("variance", 2, 1, 2),
        ("third moment", 3, 0, 15),
        ("fourth moment", 4, 3, 96),
    ):
        off = float(((u**power).mean(0) - mean).abs().max()) / math.sqrt(var / n)
        if not off <= z:
            raise CheckFailed(
                f"Eq. ({tag}) · Monte Carlo · the standardised {name} is {off:.1f} standard errors off (allowed {z:g})"
            )
    cdf = torch.special.ndtr(u.sort(0).values)
    grid = torch.arange(1, n + 1, dtype=torch.float64).unsqueeze(1) / n
    distance = float(torch.maximum((grid - cdf).abs(), (cdf - grid + 1 / n).abs()).max())
    allowed = math.sqrt(-0.5 * math.log(0.5 * 1e-6 / u.shape[1])) / math.sqrt(n)  # Massart's bound at 1e-6
    if not distance <= allowed:
        raise CheckFailed(
            f"Eq. ({tag}) · Monte Carlo · Kolmogorov-Smirnov distance {distance:.3g}, allowed {allowed:.3g} for n = {n}"
        )
    bound = _tidy(allowed, up=True)
    print(f"✓ Eq. ({tag}) · Monte Carlo, n = {n} · four moments within {z:g} standard errors, KS distance below {bound}")


def refute(tag: str, wrong, want, *, slip: str, atol: float = 1e-6, unit: str = "") -> None:
    """Pass only if a wrong formula is far off: max |wrong - want| > 1000 · atol; print by how much, rounded down.

    slip: what was written wrongly, in words. atol: the tolerance that the right formula is held to. NaN and infinity
    count as wrong.
    """
    _known_tag(tag)
    residual, *_ = _residual(wrong, want)
    if residual <= 1000 * _tolerance(atol):
        raise CheckFailed(
            f"Eq. ({tag}) · the slip '{slip}' is off by only {residual:.3g}; that refutes nothing at tolerance {atol:g}"
        )
    size = "not a finite number" if not math.isfinite(residual) else f"off by {_tidy(residual)}{' ' + unit if unit else ''}"
    print(f"✗ slip refuted · Eq. ({tag}) · {slip} · {size}")


def _known_tag(tag: str) -> None:
    if not isinstance(tag, str) or not re.fullmatch(r"\d+\.\d+", tag):
        raise ValueError(f"tag must be an equation number such as '5.3', got {tag!r}")


def _known_route(by: str) -> None:
    if by not in ROUTES:
        raise ValueError(f"by = {by!r} is not a known route; allowed: {', '.join(ROUTES)}")


def _tolerance(atol: float) -> float:
    if not (isinstance(atol, (int, float)) and 0 < atol < math.inf):
        raise ValueError(f"atol must be a number > 0, got {atol!r}")
    return atol


def _array(x, name: str) -> Tensor:
    try:
        x = x.detach().cpu() if isinstance(x, Tensor) else x
        x = torch.as_tensor(x, dtype=torch.float64)  # Python floats straight to float64, never through float32
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a number, an array or a tensor, got {type(x).__name__}: {error}") from None
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: nothing would be compared")
    return x


def _residual(got, want) -> tuple[float, list[int], float, float]:
    """max |got - want|, its index, and the two values there; NaN counts as infinitely far."""
    got, want = _array(got, "got"), _array(want, "want")
    if got.shape != want.shape and got.ndim and want.ndim:
        raise CheckFailed(f"shapes differ: got {tuple(got.shape)}, want {tuple(want.shape)}")
    got, want = torch.broadcast_tensors(got, want)
    difference = (got - want).abs()
    difference[got == want] = 0.0  # equal infinities
    difference = difference.nan_to_num(nan=math.inf, posinf=math.inf)
    k = int(difference.argmax())
    where = [int(i) for i in torch.unravel_index(torch.tensor(k), difference.shape)] if difference.ndim else []
    return float(difference.flatten()[k]), where, float(got.flatten()[k]), float(want.flatten()[k])


def _hint(got, want, atol: float) -> str:
    """Name the slips that a plain factor gives away."""
    got, want = _array(got, "got"), _array(want, "want")
    root = got.abs().sqrt()
    guesses = {
        "a sign": -got,
        "a missing root": root,
        "a root too many": got**2,
        "a factor ½ too many": got * 2,
        "a factor 2 too many": got / 2,
    }
    for name, guess in guesses.items():
        if bool(((guess - want).abs() <= atol).all()):
            return f"It looks like {name}."
    return "Look for an index, a bar or a square root."


def _tidy(x: float, up: bool = False) -> str:
    """x rounded down to two digits (or up to one), so that the printed line is the same on every machine."""
    if x == 0:
        return "0"
    digits = 1 if up else 2
    unit = 10.0 ** (math.floor(math.log10(abs(x))) - digits + 1)
    rounded = unit * (math.ceil(x / unit - 1e-9) if up else math.floor(x / unit + 1e-9))
    if 10 <= abs(rounded) < 1e5:
        return f"{rounded:.0f}"
    return re.sub(r"e([-+])0", r"e\1", f"{rounded:.{digits}g}").replace("e+", "e")
