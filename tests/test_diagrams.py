"""The schematic figures say what the things they show say: read back from the drawing, and from the network's parameters."""

import re

import pytest
import torch

from ddpm_edu import GaussianDiffusion, NoiseSchedule, UNet
from ddpm_edu.diagrams import chain_diagram, elbo_diagram, unet_diagram, unet_levels
from ddpm_edu.oracles import LinearGaussianChain

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def arrows(figure) -> list[tuple]:
    """(from, to, colour) of every arrow."""
    notes = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)]
    return [(note.xyann, note.xy, note.arrow_patch.get_edgecolor()) for note in notes]


@pytest.mark.parametrize("T", [1, 4])
def test_the_chains_run_both_ways(T):
    figure = chain_diagram(torch.zeros(T + 1, 1, 8, 8))
    assert len(figure.axes[0].images) == T + 1
    right = [a for a in arrows(figure) if a[1][0] > a[0][0]]
    left = [a for a in arrows(figure) if a[1][0] < a[0][0]]
    assert len(right) == len(left) == T and not {a[2] for a in right} & {a[2] for a in left}
    for t in range(1, T + 1):
        assert f"$q(x_{{{t}}}|x_{{{t - 1}}})$" in words(figure)
        assert f"$p_\\theta(x_{{{t - 1}}}|x_{{{t}}})$" in words(figure)


@pytest.mark.parametrize("T", [2, 5])
def test_the_bound_has_the_terms_that_the_package_computes(T):
    """As many terms as `bound_terms` returns, each of them once, and a call of the network for every step but no other."""
    chain = LinearGaussianChain(
        GaussianDiffusion(NoiseSchedule.linear(T, 0.1, 0.5)), slopes=[1.0] * T, offsets=[0.0] * T, variances=[0.5] * T
    )
    computed = len(chain.bound_terms(torch.tensor([0.3]))[0])
    drawn = words(elbo_diagram(T))
    names = [int(k) for word in drawn for k in re.findall(r"^\$L_\{?(\d+)\}?\$$", word)]
    assert names == list(range(T, -1, -1)) and len(names) == computed
    calls = [re.findall(r"epsilon_\\theta\(x_\{(\d+)\},(\d+)\)", word) for word in drawn]
    assert [call for found in calls for call in found] == [(str(t), str(t)) for t in range(T, 0, -1)]
    for t in range(2, T + 1):  # L_{t-1} is about x_{t-1}, and both sides are given x_t
        assert f"$q(x_{{{t - 1}}}|x_{{{t}}},x_0)$  with  $p_\\theta(x_{{{t - 1}}}|x_{{{t}}})$" in drawn


NETWORKS = {
    "paper": {},
    "classes and variance": dict(
        size=16, base=8, multipliers=(1, 2, 3), blocks=3, attention=(4,), classes=5, learned_variance=True
    ),
    "one level": dict(size=8, channels=1, base=8, multipliers=(2,), blocks=1, attention=()),
}


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_levels_are_those_of_the_network(options):
    """Run it, and compare: the feature maps that pass, their sides and channels, and what is handed across."""
    with torch.device("meta"):
        network = UNet(**options)
        seen = {"down": [], "up": [], "given": []}

        def watch(name):
            def hook(module, inputs, output):
                if hasattr(module, "res"):
                    seen[name].append((output.shape[-1], output.shape[1]))
                    if name == "up":
                        seen["given"].append((output.shape[-1], inputs[0].shape[1]))

            return hook

        for name in ("down", "up"):
            for module in getattr(network, name):
                module.register_forward_hook(watch(name))
        config = network.config
        network(torch.empty(1, config["channels"], config["size"], config["size"]), torch.ones(1, dtype=torch.int64))
    levels = unet_levels(network)
    assert [(level.side, width) for level in levels for width in level.down] == seen["down"]
    assert [(level.side, width) for level in reversed(levels) for width in level.up] == seen["up"]
    # A block on the way up takes the output of the one before it and what is handed across, the last kept first.
    before, given = levels[-1].down[-1], []
    for level in reversed(levels):
        for kept, width in zip(reversed(level.kept), level.up):
            given.append((level.side, before + kept))
            before = width
    assert given == seen["given"]
    assert {level.side for level in levels if level.attends} == set(config["attention"])


def test_the_drawing_names_every_level_and_where_t_and_y_enter():
    with torch.device("meta"):
        known, plain = UNet(**NETWORKS["classes and variance"]), UNet()
    drawn = words(unet_diagram(known))
    for level in unet_levels(known):
        assert f"{level.side} × {level.side}" in drawn
        assert " + ".join(map(str, level.kept)) in drawn
    assert any("class $y$" in word for word in drawn) and any("$v$" in word for word in drawn)
    assert not any("class" in word or "$v$" in word for word in words(unet_diagram(plain)))
    dots = [line for line in unet_diagram(plain).axes[0].lines if line.get_marker() == "o"]
    assert len(dots) == 2 * 4 + 1 + 2  # both sides of four levels, the middle, and the two of the legend


@pytest.mark.parametrize(
    "draw, says",
    [
        (lambda: chain_diagram(torch.zeros(3, 3, 8, 8)), r"pictures must have shape \(T\+1, 1, H, W\).*\(3, 3, 8, 8\)"),
        (lambda: chain_diagram(torch.zeros(1, 1, 8, 8)), "T >= 1"),
        (lambda: elbo_diagram(1), "T = 1"),
    ],
)
def test_refusals(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()
