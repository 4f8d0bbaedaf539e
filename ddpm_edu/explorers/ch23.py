"""Explorers of chapter 23: discrete diffusion."""

from __future__ import annotations

import torch

from ..discrete import DiscreteDiffusion, SequenceLaw, expected_terms, model_law
from .base import Bars, Choice, Explorer, Frame, Line, Panel, Points, Slider, sig


def independence_explorer() -> Explorer:
    """Choose the noise, the number of steps and how much letters repeat: what the perfect network samples, and what it pays.

    Three letters, 0 or 1; the first is a fair coin, each next one repeats the last with the probability of the slider.
    """
    counts, repeats = [1, 2, 4, 8, 16], [0.5, 0.7, 0.8, 0.9, 0.98]
    noises = {"mask": DiscreteDiffusion.absorbing, "uniform": DiscreteDiffusion.uniform}
    data = {r: SequenceLaw.markov([0.5, 0.5], [[r, 1 - r], [1 - r, r]], D=3) for r in repeats}
    bounds, laws = {}, {}
    for noise, build in noises.items():
        for T in counts:
            diffusion = build(2, 1 - torch.arange(1, T + 1, dtype=torch.float64) / T)
            for r, words in data.items():
                ideal = words.denoiser(diffusion)
                bounds[noise, T, r] = float(words.probs @ expected_terms(diffusion, ideal, words.sequences).sum(1))
                laws[noise, T, r] = model_law(diffusion, ideal, 3).probs
    names = [(k, "".join(str(int(i)) for i in word)) for k, word in enumerate(data[0.5].sequences)]
    places = torch.arange(8)

    def draw(noise: str, T: int, r: float) -> Frame:
        words, sampled = data[r], laws[noise, T, r]
        entropy = float(words.entropy())
        prices = [bounds[noise, n, r] - entropy for n in counts]
        left = Panel(
            "The words, and what is sampled",
            "Eight pairs of bars, one for each word of three letters; grey are the data, blue the samples. With one step the "
            "blue bars are all alike, however tall 000 and 111 are. With more steps they approach the grey ones.",
            (-0.6, 7.6),
            (0, 0.5),
            [
                Bars(places, words.probs, "grey", "data", width=0.9),
                Bars(places, sampled, "blue", "samples", width=0.5),
            ],
            "word",
            "probability",
            xticks=names,
        )
        right = Panel(
            "The price of independence",
            "A curve that falls as the number of steps grows, in the end by about half for each doubling, and a dot on it at "
            "the chosen number. It is higher the more the letters repeat, and zero if they do not.",
            (0, 17),
            (0, 1.3),
            [
                Line(counts, prices, "vermillion", "bound less entropy"),
                Points([T], [bounds[noise, T, r] - entropy], "vermillion", radius=5),
            ],
            "steps T",
            "nats",
            xticks=counts,
        )
        readout = [
            ("entropy of the words", f"{entropy:.6f} nats"),
            ("bound", f"{bounds[noise, T, r]:.6f} nats"),
            ("price", f"{abs(bounds[noise, T, r] - entropy):.6f} nats"),
            ("KL(words ‖ samples)", f"{abs(float((words.probs * (words.probs / sampled).log()).sum())):.6f} nats"),
            ("samples 000 or 111", sig(sampled[0] + sampled[7])),
        ]
        return Frame([left, right], readout)

    return Explorer(
        "independence",
        [
            Choice("noise", list(noises)),
            Slider("steps T", counts, 1),
            Slider("a letter repeats with probability", repeats, 3, format=lambda r: f"{r:g}"),
        ],
        draw,
        title="What the perfect network samples when letters change at the same time",
        caption="The network knows the law of every letter given what is seen, exactly. But letters that change in the same "
        "step are drawn independently. The bound pays for it, like 1/T; the law of the samples is off by less.",
    )
