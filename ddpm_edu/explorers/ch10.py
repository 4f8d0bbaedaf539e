"""Explorers of chapter 10: the U-Net."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..unet import Block, Downsample, UNet, Upsample
from .base import Bars, Choice, Explorer, Frame, Line, Panel, Points, Slider, Text


class Stop(NamedTuple):
    """One block on the way through a U-Net: what it is, what goes in and out, what it holds and costs, its partner."""

    name: str
    channels_in: int
    channels_out: int
    side: int  # of what comes out
    parameters: int
    multiply_adds: int
    attends: bool
    partner: int | None  # on the way up, the stop whose output it is handed; on the way down, who is handed its own


def unet_stops(network: UNet) -> list[Stop]:
    """Every block of a U-Net in the order in which an image passes it, from a network on the "meta" device or any other.

    Shapes are read off a run with one image, and multiply-adds are counted by torch during that run.
    """
    parts: dict[str, nn.Module] = {"first": network.first}
    for name in ("down", "middle", "up"):
        parts |= {f"{name}.{k}": module for k, module in enumerate(getattr(network, name))}
    parts["last"] = network.last
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}

    def note(name: str):
        return lambda module, inputs, output: shapes.__setitem__(name, (inputs[0].shape, output.shape))

    hooks = [module.register_forward_hook(note(name)) for name, module in parts.items()]
    config, device = network.config, network.first.weight.device
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            x_t = torch.zeros(1, config["channels"], config["size"], config["size"], device=device)
            network(x_t, torch.ones(1, dtype=torch.int64, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    operations = counter.get_flop_counts()

    kept, partner = [0], dict[int, int]()
    for k, (name, module) in enumerate(parts.items()):
        if name.startswith("down"):
            kept.append(k)
        elif name.startswith("up") and isinstance(module, Block):
            partner[k] = kept.pop()
            partner[partner[k]] = k
    stops = []
    for k, (name, module) in enumerate(parts.items()):
        (_, channels_in, *_), (_, channels_out, *_, side) = shapes[name]
        way = {"first": "first convolution", "last": "last convolution"}.get(name) or name.split(".")[0]
        kind = {Downsample: "way down: half the side", Upsample: "way up: twice the side"}.get(type(module))
        attends = isinstance(module, Block) and hasattr(module.attention, "qkv")
        words = kind or (way if k in (0, len(parts) - 1) else {"middle": "middle"}.get(way, f"way {way}"))
        if isinstance(module, Block):
            words += ": residual block" + (", attention" if attends else "")
        parameters = sum(p.numel() for p in module.parameters())
        flops = sum(operations[f"UNet.{name}"].values())  # torch counts a multiply-add as two
        stops.append(Stop(words, channels_in, channels_out, side, parameters, flops // 2, attends, partner.get(k)))
    return stops


def unet_explorer() -> Explorer:
    """Slide along the paper's CIFAR-10 network: each block's shapes, parameters and cost, and what is handed across."""
    with torch.device("meta"):
        network = UNet()
    stops = unet_stops(network)
    steps = range(len(stops))
    sides = sorted({stop.side for stop in stops})
    height = [float(sides.index(stop.side)) for stop in stops]
    counts = {
        "parameters": [stop.parameters for stop in stops],
        "multiply-adds": [stop.multiply_adds for stop in stops],
    }
    everything = sum(p.numel() for p in network.parameters())  # the stops and the two layers of the time
    totals = {"parameters": everything, "multiply-adds": sum(counts["multiply-adds"])}
    plain, attending = [k for k in steps if not stops[k].attends], [k for k in steps if stops[k].attends]

    def draw(k: int, what: str) -> Frame:
        stop = stops[k]
        other = k if stop.partner is None else stop.partner
        route = Panel(
            "The way through",
            "Thirty dots in the shape of a U: from 32 by 32 pixels at the top left down in three steps to 4 by 4, along the "
            "bottom, and up again to the top right. Dots of blocks with attention, all at 16 by 16 and one at the bottom, "
            "have another colour. A ring of colour marks the chosen block, and a dashed level line leads to the block that "
            "it shares a shortcut with.",
            (-1, len(stops)),
            (-0.5, len(sides) - 0.4),
            [
                Line([*steps], height, "grey", width=1.2),
                Line([k, other], [height[k], height[other]], "green", "the shortcut", dash=True),
                Points([k], [height[k]], "orange", "the chosen block", radius=9),
                Points(plain, [height[j] for j in plain], "blue", "block"),
                Points(attending, [height[j] for j in attending], "vermillion", "with attention"),
                Text(8, len(sides) - 1, "way down", "grey"),
                Text(20, len(sides) - 1, "way up", "grey"),
            ],
            "block",
            "side of the image",
            xticks=[0, 10, 20, len(stops) - 1],
            yticks=[(i, str(side)) for i, side in enumerate(sides)],
            width=420,
        )
        shares = [100 * value / totals[what] for value in counts[what]]
        bars = Panel(
            f"Share of all {what}",
            "A bar for each of the thirty blocks. Of the parameters most lie in the blocks of the way up, where the input is "
            "widest; the first blocks hold few. Of the multiply-adds the tallest bars stand at the end of the way up, at 16 by "
            "16 and 32 by 32 pixels. The chosen block's bar is orange.",
            (-1, len(stops)),
            (0, 12),
            [
                Bars([*steps], shares, "blue"),
                Bars([k], [shares[k]], "orange"),
            ],
            "block",
            "%",
            xticks=[0, 10, 20, len(stops) - 1],
        )
        takes = f", {stops[other].channels_out} of them from block {other}" if other < k else ""
        readout = [
            ("block", f"{k}"),
            ("kind", stop.name),
            ("channels in", f"{stop.channels_in}{takes}"),
            ("out", f"{stop.channels_out} × {stop.side} × {stop.side}"),
            ("parameters", f"{stop.parameters:,} of {totals['parameters']:,}"),
            ("multiply-adds", f"{stop.multiply_adds / 1e6:.1f} of {totals['multiply-adds'] / 1e6:.0f} million"),
        ]
        return Frame([route, bars], readout)

    return Explorer(
        "unet",
        [
            Slider("block", [*steps], start=next(k for k in steps if stops[k].attends)),
            Choice("show", ["parameters", "multiply-adds"]),
        ],
        draw,
        title="The CIFAR-10 network, block by block",
        caption="Parameters and work are in different places: a weight at 32 × 32 pixels is used 1024 times per image, one at "
        "4 × 4 only 16 times. What is handed across makes the input of every residual block on the way up wider than its "
        "output.",
    )
