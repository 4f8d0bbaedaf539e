"""Graders of the book's exercises: they recognise the usual wrong answers and never give the right one away.

One file per chapter, `ch05.py` and so on, each a few `Exercise` objects named `grade_5_1`, … A notebook calls
`grade_5_1(my_function)`; the grader prints one line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Exercise:
    """One exercise: where to try an answer, the right answer, and the wrong ones people give, each with its hint.

    number: "5.1". inputs: argument tuples to try. answer: the right function. slips: hint -> the function that a
    reader who fell for this slip writes; at least three, each wrong on at least one input. A hint says what went
    wrong ("this is a standard deviation; Eq. (5.9) is a variance") and does not state the answer. praise: what the
    right answer shows, in a few words.
    """

    number: str
    inputs: Sequence[tuple]
    answer: Callable[..., Any]
    slips: dict[str, Callable[..., Any]]
    praise: str = ""
    rtol: float = 1e-6
    atol: float = field(default=1e-9)

    def __call__(self, attempt: Callable[..., Any]) -> None:
        """Grade `attempt` and print the verdict as one line."""
        print(self.verdict(attempt))

    def verdict(self, attempt: Callable[..., Any]) -> str:
        """The line that `__call__` prints."""
        right, wrong = f"✓ Exercise {self.number} · ", f"✗ Exercise {self.number} · "
        if not callable(attempt):
            return wrong + f"give the grader your function itself, not {type(attempt).__name__}"
        try:
            got = [attempt(*args) for args in self.inputs]
        except NotImplementedError:
            return wrong + "not written yet"
        except Exception as error:
            return wrong + f"your function stopped with {type(error).__name__}: {error}"
        if any(value is None or value is Ellipsis for value in got):
            return wrong + "not written yet"
        try:
            if self._same(got, self.answer):
                return right + (self.praise or "right")
            for hint, slip in self.slips.items():
                if self._same(got, slip):
                    return wrong + hint
        except (TypeError, ValueError) as error:
            return wrong + f"your function should return numbers: {error}"
        k = next(k for k, args in enumerate(self.inputs) if not self._close(got[k], self.answer(*args)))
        return wrong + f"not yet: {self._call(k)} should not be {_show(got[k])}"

    def _same(self, got: list, function: Callable[..., Any]) -> bool:
        return all(self._close(g, function(*args)) for g, args in zip(got, self.inputs))

    def _close(self, got, want) -> bool:
        got, want = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (got, want))
        return got.shape == want.shape and torch.allclose(got, want, rtol=self.rtol, atol=self.atol, equal_nan=True)

    def _call(self, k: int) -> str:
        return f"with input {k + 1} of {len(self.inputs)}, ({', '.join(_show(a) for a in self.inputs[k])}), the value"


def _show(value) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.item():.6g}" if value.numel() == 1 else f"tensor of shape {tuple(value.shape)}"
    return (
        f"{value:.6g}" if isinstance(value, float) else repr(value) if isinstance(value, (int, str)) else type(value).__name__
    )
