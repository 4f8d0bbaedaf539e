"""Explorers of chapter 20: schedules with the same ends."""

from __future__ import annotations

import math

import torch

from ..diffusion import GaussianDiffusion
from ..oracles import GaussianMixture, Oracle
from ..schedules import NoiseSchedule
from ..snr import CosineLogSNR, LinearBetaLogSNR, LinearLogSNR, LogSNR
from .base import Choice, Explorer, Frame, Line, Panel, Points, Slider, sig


def snr_explorer() -> Explorer:
    """Choose a schedule and a number of intervals: what the chain pays from noise to data, beside the information it gets."""
    ends = (6.0, -6.0)
    curves: dict[str, LogSNR] = {
        "λ linear": LinearLogSNR(*ends),
        "cosine": CosineLogSNR(*ends),
        "β linear": LinearBetaLogSNR(*ends),
    }
    data = GaussianMixture([0.3, 0.7], [-1.2, 0.8], [0.05, 0.10])
    x = torch.linspace(-8, 8, 801, dtype=torch.float64)

    def errors(schedule: NoiseSchedule) -> tuple[torch.Tensor, torch.Tensor]:
        """For t = 1..T: the least mean square error of x_0, and I(x_0; x_t), by quadrature."""
        oracle, found = Oracle(data, GaussianDiffusion(schedule)), []
        for t in range(1, schedule.T + 1):
            log_q = oracle.q_t(t).log_prob(x)
            entropy = -torch.trapezoid(log_q.exp() * log_q, x)
            noise = 0.5 * math.log(2 * math.pi * math.e * (1 - float(schedule.alpha_bars[t])))
            found.append((torch.trapezoid(log_q.exp() * oracle.x_0_moments(x, t)[1], x), entropy - noise))
        error, information = (torch.stack(column) for column in zip(*found))
        return error, information

    fine = NoiseSchedule.from_log_snr(curves["λ linear"], 241)
    error, arrived = errors(fine)
    noise_error = fine.snr[1:] * error
    time = torch.linspace(0, 1, 101, dtype=torch.float64)

    def noise_errors(curve: LogSNR) -> torch.Tensor:
        """The best noise error at the drawn times, read off the fine table, which is straight in λ."""
        place = (6.0 - curve(time)) / 12.0 * 240
        k = place.floor().clamp(0, 239).long()
        return torch.lerp(noise_error[k], noise_error[k + 1], place - k)

    def draw(name: str, n: int) -> Frame:
        curve, schedule = curves[name], NoiseSchedule.from_log_snr(curves[name], n + 1)
        lam = schedule.log_snr[1:]
        error, information = errors(schedule)
        prices = 0.5 * (schedule.snr[1:-1] - schedule.snr[2:]) * error[1:]
        paid = torch.cat([prices.flip(0).cumsum(0).flip(0), torch.zeros(1)])  # at t = 1..T, from the noise's end
        k = torch.arange(81).clamp(max=n)  # the number of marks must not change: the last dot fills up
        left = Panel(
            "The schedule, and its steps",
            "A curve that falls from log SNR 6 at time 0 to -6 at time 1, with dots at the steps. The cosine is steep at both "
            "ends, the linear beta at the data's end.",
            (0, 1),
            (-7, 7),
            [Line(time, curve(time), "blue"), Points(k / n, lam[k], "blue", radius=3)],
            "time t",
            "log SNR",
            width=340,
        )
        right = Panel(
            "Paid, and received",
            "Nats against log SNR. The grey curve of information rises from 0 to about 2.4 and is the same for every schedule. "
            "The line of what was paid starts with it and rises above; with more intervals it comes down to the grey curve.",
            (-7, 7),
            (0, 8.5),
            [
                Line(fine.log_snr[1::4], (arrived - arrived[-1])[::4], "grey", "information received", width=4),
                Line(lam, paid, "vermillion", "paid by the chain"),
            ],
            "log SNR",
            "nats",
            width=340,
        )
        total, received = float(paid[0]), float(information[0] - information[-1])
        simple = float(torch.trapezoid(noise_errors(curve), time))
        readout = [("intervals", str(n)), ("paid", f"{sig(total)} nats"), ("received", f"{sig(received)} nats")]
        return Frame([left, right], [*readout, ("excess", f"{sig(total - received)} nats"), ("simple loss", sig(simple))])

    return Explorer(
        "snr",
        [Choice("schedule", list(curves)), Slider("intervals n", [14, 20, 28, 40, 56, 80], start=0)],
        draw,
        title="Three schedules with the same ends, one amount of information",
        caption="The information that arrives between the ends depends on no schedule. What a chain pays for it does, until "
        "its intervals are small; and the simple loss always does.",
    )
