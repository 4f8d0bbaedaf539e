"""The plot style and show_source: what a chapter gets is what the package holds."""

import ast
import inspect
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from ddpm_edu import GaussianDiffusion, NoiseSchedule
from ddpm_edu.plots import COLOURS, image_grid, show_source, tile, use_style

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


def _contrast(a: str, b: str) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour):
        channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["blue", "vermillion", "green", "purple", "grey"])
@pytest.mark.parametrize("background", ["#ffffff", "#121212"])
def test_line_colours_can_be_seen_in_light_and_dark(name, background):
    assert _contrast(COLOURS[name], background) >= 3


def test_importing_plots_does_not_import_matplotlib():
    code = "import sys, ddpm_edu.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_style_is_white_and_uses_the_palette():
    with matplotlib.rc_context():
        use_style()
        assert matplotlib.rcParams["figure.facecolor"] == "white"
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"][:2] == ["#0072B2", "#D55E00"]


# Images ----------------------------------------------------------------------------------------------------------


def test_tile_puts_every_pixel_where_it_belongs():
    images = torch.linspace(-1, 1, 5 * 3 * 2 * 4).reshape(5, 3, 2, 4)
    picture = tile(images, columns=2, gap=1)
    assert picture.shape == (3 * 2 + 2, 2 * 4 + 1, 3)
    for k in range(5):
        row, column = divmod(k, 2)
        cell = picture[row * 3 : row * 3 + 2, column * 5 : column * 5 + 4]
        np.testing.assert_allclose(cell.permute(2, 0, 1), images[k] / 2 + 0.5, atol=1e-6)
    assert (picture[2] == 1).all() and (picture[:, 4] == 1).all()  # the gaps are white
    assert (picture[6:, 5:] == 1).all()  # and so is the place of the sixth image


def test_tile_clamps_what_a_sampler_overshoots():
    picture = tile(torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2))
    assert picture.flatten().tolist() == [0, 1]


def test_image_grid_labels_rows_and_columns():
    figure = image_grid(torch.zeros(6, 1, 8, 8), columns=3, row_labels=["a", "b"], column_labels=["1", "2", "3"])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]
    # A label stands at the middle of its image: pixels 0..7, then a gap of 1.
    assert list(axes.get_xticks()) == [3.5, 12.5, 21.5] and list(axes.get_yticks()) == [3.5, 12.5]
    matplotlib.pyplot.close(figure)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 2, 8, 8), (0, 1, 8, 8)])
def test_tile_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="images must have shape"):
        tile(torch.zeros(shape))


def test_image_grid_refuses_the_wrong_number_of_labels():
    with pytest.raises(ValueError, match="row_labels has 3 entries; the grid has 2"):
        image_grid(torch.zeros(4, 1, 8, 8), columns=2, row_labels=["a", "b", "c"])


# Source ----------------------------------------------------------------------------------------------------------


def test_show_source_is_a_highlighted_block_of_the_real_source():
    source = show_source(GaussianDiffusion.q_posterior)
    first, *code = source._repr_markdown_().splitlines()
    assert first == "```python" and code[-1] == "```"
    assert code[0] == "# GaussianDiffusion.q_posterior, in ddpm_edu/diffusion.py"
    shown = ast.dump(ast.parse("\n".join(code[1:-1])))
    assert shown == ast.dump(ast.parse(textwrap.dedent(inspect.getsource(GaussianDiffusion.q_posterior))))
    assert repr(source) == "\n".join(code[:-1])


def test_show_source_takes_properties_class_methods_and_several_at_once():
    text = repr(show_source(NoiseSchedule.T, NoiseSchedule.linear, NoiseSchedule))
    assert text.count("# NoiseSchedule") == 3 and "@property\ndef T(self)" in text and "@classmethod\ndef linear(cls" in text


def test_show_source_can_leave_the_docstring_out():
    full, short = repr(show_source(NoiseSchedule.linear)), repr(show_source(NoiseSchedule.linear, doc=False))
    assert '"""' in full and '"""' not in short
    function = ast.parse(full).body[0]
    function.body = function.body[1:]
    assert ast.dump(function) == ast.dump(ast.parse(short).body[0])


def test_a_source_with_backticks_gets_a_longer_fence():
    def awkward():
        return "```"

    assert show_source(awkward)._repr_markdown_().startswith("````python\n")


@pytest.mark.parametrize("bad", [print, 3, "q_posterior", len])
def test_show_source_refuses_what_has_no_source(bad):
    with pytest.raises(TypeError, match="show_source"):
        show_source(bad)


def test_show_source_refuses_nothing():
    with pytest.raises(TypeError, match="at least one"):
        show_source()
