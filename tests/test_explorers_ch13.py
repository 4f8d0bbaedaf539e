"""Chapter 13's explorer: precision and recall, counted by hand from the points that it shows."""

import pytest
from explorer_pages import at_position, numbers

from ddpm_edu.explorers.ch13 import precision_recall_explorer


@pytest.fixture(scope="module")
def explorer():
    return precision_recall_explorer()


def shares(points, others, k):
    """Which of `points` lie in a ball around one of `others`, by loops."""

    def far(a, b):
        return ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5

    radius = [sorted(far(a, b) for j, b in enumerate(others) if j != i)[k - 1] for i, a in enumerate(others)]
    return [any(far(p, b) <= r for b, r in zip(others, radius)) for p in points]


@pytest.mark.parametrize("position", [(2, 2, 1), (0, 0, 0), (3, 4, 2)])
def test_colours_and_read_out_are_those_of_the_balls(explorer, position):
    modes, spread, k = (slider.values[p] for slider, p in zip(explorer.sliders, position))
    missed, reached, inside, outside = (
        [(float(x), float(y)) for x, y in zip(mark.x, mark.y)] for mark in explorer.draw(modes, spread, k).panels[0].marks
    )
    real, samples = missed + reached, inside + outside
    assert len(real) == len(samples) == 40
    assert shares(samples, real, k) == [True] * len(inside) + [False] * len(outside)
    assert shares(real, samples, k) == [False] * len(missed) + [True] * len(reached)
    values = numbers(at_position(explorer.to_html(), position))
    assert float(values["precision"]) == pytest.approx(len(inside) / 40, abs=0.006)
    assert float(values["recall"]) == pytest.approx(len(reached) / 40, abs=0.006)


def test_what_the_caption_says(explorer):
    def at(*position):
        return {name: float(text) for name, text in numbers(at_position(page, position)).items()}

    page = explorer.to_html()
    good, dropped, strayed = at(3, 2, 1), at(1, 2, 1), at(3, 4, 1)
    assert dropped["recall"] < 0.5 < 0.8 < dropped["precision"] and strayed["precision"] < 0.5 < strayed["recall"]
    assert good["Fréchet distance"] < good["real against real, 95 % below"] < dropped["Fréchet distance"]
    for name in ("precision", "recall"):
        assert at(2, 3, 0)[name] <= at(2, 3, 1)[name] <= at(2, 3, 2)[name]
    assert at(3, 0, 1)["precision"] == 1 and at(3, 0, 1)["recall"] < 0.2
