"""The playground computes what the package computes, and works: in a headless browser, on the built page.

Each function of book/assets/playground/diffusion.js is held to the one of ddpm_edu whose name it carries.
"""

import base64
import json
import math
import re

import numpy as np
import playground
import pytest
import torch
from test_browser import HTML, PATIENCE, browser, pytestmark, site  # noqa: F401

from ddpm_edu import GaussianDiffusion, NoiseSchedule, data, guidance, samplers, unet, weights
from ddpm_edu.guidance import guided
from ddpm_edu.samplers import ddim
from ddpm_edu.steering import inpaint
from ddpm_edu.unet import time_embedding

PAGE = "book/playground.html"
PATH = weights.shipped("playground")
CARD = json.loads(PATH.with_suffix(".json").read_text())
T, CLASSES = CARD["config"]["T"], CARD["network"]["classes"]
SCHEDULE = NoiseSchedule.cosine(T)
DIFFUSION = GaussianDiffusion(SCHEDULE)
WALK = """({x_T, y, scale, steps, eta, seed, known}) => {
  const noise = diffusion.normals(seed), alpha_bars = diffusion.cosine(playgroundWeights.T);
  const eps_model = y < 0 ? (x, t) => net(x, t) : diffusion.guided(net, y, scale);
  const visited = diffusion.steps(playgroundWeights.T, steps);
  return [...diffusion.ddim(alpha_bars, eps_model, Float64Array.from(x_T), visited, eta, noise, known)]
    .map(({t, x_t, x_0_hat}) => [t, [...x_t], [...x_0_hat]]);
}"""


def normals(seed: int):
    """The page's random numbers once more, from their description."""

    def mix(h: int) -> int:
        h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
        h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
        return h ^ h >> 16

    state = mix(seed)
    while True:
        uniforms = []
        for _ in range(2):
            state = (state + 0x9E3779B9) % 2**32
            uniforms.append((mix(state) + 0.5) / 2**32)
        yield math.floor(math.sqrt(-2 * math.log(uniforms[0])) * math.cos(2 * math.pi * uniforms[1]) * 2**20 + 0.5) / 2**20


def draws(stream, n: int = 64) -> torch.Tensor:
    return torch.tensor([next(stream) for _ in range(n)], dtype=torch.float32).reshape(-1, 1, 8, 8)


def like_images(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64).reshape(-1, 1, 8, 8)


@pytest.fixture(scope="module")
def network():
    return weights.load(PATH)[0]


def opened(browser, url, wrong, **options):  # noqa: F811
    context = browser.new_context(**{"viewport": {"width": 1000, "height": 1400}, **options})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(f"script error: {e}"))
    page.on("requestfailed", lambda r: wrong.append(f"failed request: {r.url}"))
    base = url[: url.index("book/")]

    def gate(route):
        if route.request.url.startswith(base):
            return route.continue_()
        wrong.append(f"a request to elsewhere: {route.request.url}")
        return route.abort()

    page.route("**/*", gate)
    page.goto(url, wait_until="load")
    return page


def part(page, name: str):
    return page.locator(f'#playground [data-part="{name}"]')


def done(page) -> str:
    """Wait for the walk to end; what the page says of it."""
    page.wait_for_function("document.querySelector('#playground [data-part=status]').textContent.startsWith('Done')")
    return part(page, "status").inner_text()


def stop(page) -> None:
    """Stop a walk that is under way. Asked and clicked in one piece: in between, the walk could end, and "Stop" be "Sample"."""
    part(page, "run").evaluate("button => { if (button.textContent === 'Stop') button.click(); }")


def slide(page, name: str, value) -> None:
    """Move a slider, as a hand does: input events on the way, one change at the end."""
    part(page, name).evaluate(
        "(e, v) => { e.value = v; for (const k of ['input', 'change']) e.dispatchEvent(new Event(k, {bubbles: true})); }", value
    )


def greys(page, name: str) -> np.ndarray:
    """The 64 grey levels of a picture, 0..255."""
    pixels = part(page, name).evaluate("e => [...e.getContext('2d').getImageData(0, 0, 8, 8).data]")
    pixels = np.array(pixels).reshape(64, 4)
    assert (pixels[:, 0] == pixels[:, 1]).all() and (pixels[:, 1] == pixels[:, 2]).all() and (pixels[:, 3] == 255).all()
    return pixels[:, 0]


def shows(page, name: str, x: torch.Tensor) -> bool:
    want = (x.double().clamp(-1, 1).flatten().numpy() + 1) / 2 * 255
    return np.abs(greys(page, name) - want).max() <= 1


@pytest.fixture(scope="module")
def page(browser, site):  # noqa: F811
    """The page, opened once; whatever goes wrong on it until the last test is an error."""
    wrong: list[str] = []
    page = opened(browser, site + PAGE, wrong)
    done(page)
    page.evaluate("() => { window.net = diffusion.unet(diffusion.unpack(playgroundWeights)); }")
    yield page
    page.context.close()
    assert not wrong, "\n".join(wrong)


# The same numbers as Python --------------------------------------------------------------------------------------------


def test_a_forward_pass_is_pytorchs(page, network):
    t = torch.tensor([1, 2, 10, 50, 100, 250, 333, 500, 750, 900, T - 1, T])
    y = torch.tensor([CLASSES, *range(CLASSES), CLASSES])  # every class, and "not told" at both ends
    eps = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x_t = DIFFUSION.q_sample(data.load("digits")[torch.arange(12)], t, eps)
    golden = """({x, t, y}) => x.map((x, k) => [...net(Float64Array.from(x), t[k], y[k])])"""
    got = like_images(page.evaluate(golden, {"x": x_t.flatten(1).tolist(), "t": t.tolist(), "y": y.tolist()}))
    with torch.no_grad():
        want = network(x_t, t, y)
        exact = network.double()(x_t.double(), t, y)
        network.float()
    assert float((got - want).abs().max()) < 1e-5
    assert float((got - exact).abs().max()) < 1e-6  # PyTorch in the page's own precision
    untold = page.evaluate("x => [...net(Float64Array.from(x), 500)]", x_t[0].flatten().tolist())
    with torch.no_grad():
        assert torch.allclose(like_images(untold), network(x_t[:1], torch.tensor([500])).double(), atol=1e-5)


def test_schedule_steps_and_embedding(page):
    for n in (10, 100, T):
        got = page.evaluate("n => [...diffusion.cosine(n)]", n)
        np.testing.assert_allclose(got, NoiseSchedule.cosine(n).alpha_bars, rtol=1e-12)
    for n in (1, 2, 3, 7, 20, 50, 333, 999, T):
        assert page.evaluate("([T, n]) => diffusion.steps(T, n)", [T, n]) == SCHEDULE.steps(n)
    assert page.evaluate("diffusion.steps(470, 50)") == NoiseSchedule.cosine(470).steps(50)
    for t in (1, 77, T):
        got = page.evaluate("t => [...diffusion.time_embedding(t, 20, 1)]", t)
        np.testing.assert_allclose(got, time_embedding(torch.tensor([t]), 20)[0], atol=2e-7)


def test_one_step(page):
    """q_sample, x0_from_eps and q_ddim at the same numbers; at η = 1 it is the posterior."""
    generator = torch.Generator().manual_seed(1)
    x, e = (torch.randn(1, 64, generator=generator, dtype=torch.float64) for _ in range(2))
    call = """([name, ...rest]) => [...diffusion[name](diffusion.cosine(1000),
      ...rest.map((v) => Array.isArray(v) ? Float64Array.from(v) : v))]"""
    for t in (1, 400, 999):
        for name, arguments in (("q_sample", (x, t, e)), ("x0_from_eps", (x, e, t))):
            plain = [v.flatten().tolist() if isinstance(v, torch.Tensor) else v for v in arguments]
            want = getattr(DIFFUSION, name)(*arguments).flatten()
            np.testing.assert_allclose(page.evaluate(call, [name, *plain]), want, rtol=1e-9, atol=1e-9)
    for t, s in ((1000, 980), (500, 499), (300, 20), (20, 0), (1, 0)):
        for eta in (0, 0.3, 1):
            p = page.evaluate("a => diffusion.q_ddim(diffusion.cosine(1000), ...a)", [t, s, eta])
            laws = [DIFFUSION.q_ddim(x, e, t, s, eta)] + [DIFFUSION.q_posterior(x, e, t, s)] * (eta == 1)
            for q in laws:
                np.testing.assert_allclose(p["of_x_0"] * x + p["of_x_t"] * e, q.mean, rtol=1e-9, atol=1e-9)
                np.testing.assert_allclose(p["sigma2"], float(q.var), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [0, 1, 2.5])
def test_guidance(page, network, scale):
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        want = guided(network, torch.tensor([8]), scale)(x, torch.tensor([600]))
    got = page.evaluate(
        "([x, scale]) => [...diffusion.guided(net, 8, scale)(Float64Array.from(x), 600)]", [x.flatten().tolist(), scale]
    )
    assert torch.allclose(like_images(got), want.double(), atol=1e-5)


def test_random_numbers(page):
    """As described, the same for a seed, others for another seed, and normal."""
    got = {seed: page.evaluate("s => Array.from({length: 4000}, diffusion.normals(s))", seed) for seed in (0, 1, 2, 2**32 - 1)}
    for seed, values in got.items():
        stream = normals(seed)
        assert values == [next(stream) for _ in values]
        z = np.array(values)
        assert abs(z.mean()) < 4 / 4000**0.5 and abs(z.var() - 1) < 4 * (2 / 4000) ** 0.5
        assert abs((z**4).mean() - 3) < 4 * (96 / 4000) ** 0.5
        assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 4 / 4000**0.5
    assert abs(np.corrcoef(np.array(list(got.values()))) - np.eye(4)).max() < 4 / 4000**0.5


def walked(page, x_T: torch.Tensor, **arguments):
    arguments = {"scale": 1, "steps": 50, "eta": 0, "seed": 0, "known": None, **arguments}
    return page.evaluate(WALK, {"x_T": x_T.flatten().tolist(), **arguments})


def same_walk(got, want) -> None:
    want = list(want)
    assert [t for t, _, _ in got] == [step.t for step in want]
    for (_, x_t, x_0_hat), step in zip(got, want):
        assert torch.allclose(like_images(x_t), step.x_t.double(), rtol=0, atol=1e-3)
        assert torch.allclose(like_images(x_0_hat), step.x_0_hat.double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("y, scale", [(3, 1), (8, 2), (-1, 1)])
def test_fifty_moves_of_ddim_are_pythons(page, network, y, scale):
    x_T = draws(normals(10 + y))
    eps_model = network if y < 0 else guided(network, torch.tensor([y]), scale)
    same_walk(walked(page, x_T, y=y, scale=scale), ddim(DIFFUSION, eps_model, x_T, 50, clip=1.0))


@pytest.fixture
def pages_noise(monkeypatch):
    """From now on the package's samplers draw what the page draws."""

    def use(seed: int) -> None:
        stream = normals(seed)
        monkeypatch.setattr(torch, "randn", lambda *shape, **options: draws(stream))

    return use


@pytest.mark.parametrize("eta", [0.5, 1])
def test_noise_in_each_move(page, network, pages_noise, eta):
    x_T = draws(normals(4))
    pages_noise(9)
    eps_model = guided(network, torch.tensor([5]), 1)
    same_walk(walked(page, x_T, y=5, steps=20, eta=eta, seed=9), ddim(DIFFUSION, eps_model, x_T, 20, eta, clip=1.0))


@pytest.mark.parametrize("eta", [0, 1])
def test_inpainting_is_replacement(page, network, pages_noise, eta):
    x_T, x_0 = draws(normals(5)), data.load("digits")[torch.arange(1)]
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :4, :] = True
    known = {"x_0": x_0.flatten().tolist(), "mask": mask.flatten().tolist()}
    got = walked(page, x_T, y=2, steps=15, eta=eta, seed=6, known=known)
    pages_noise(6)
    eps_model = guided(network, torch.tensor([2]), 1)
    want = inpaint(DIFFUSION, eps_model, x_T, x_0, mask, steps=15, sampler=ddim, eta=eta, clip=1.0)
    same_walk(got, want)
    assert torch.equal(like_images(got[-1][1])[mask], x_0.double()[mask])


def test_every_function_carries_a_name_of_the_package(page):
    """What the script offers is found under the same name in ddpm_edu, but for what has no place there."""
    homes = [NoiseSchedule, GaussianDiffusion, unet, guidance, samplers]
    known = {name.lower() for home in homes for name in vars(home)}
    assert set(page.evaluate("Object.keys(diffusion)")) - known == {"unpack", "estimate", "normals"}


def test_fifty_moves_take_less_than_three_seconds(page):
    """Seconds of the page's own thread: whatever else the machine is doing does not count."""
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable")

    def spent() -> float:
        return next(m["value"] for m in client.send("Performance.getMetrics")["metrics"] if m["name"] == "ThreadTime")

    x_T, seconds = draws(normals(1)), []
    for _ in range(3):
        before = spent()
        walked(page, x_T, y=3)
        seconds.append(spent() - before)
    client.detach()
    print(f"50 moves: {min(seconds):.2f} s of the page's thread")
    assert 0.01 < min(seconds) < 3, seconds


def test_what_the_text_says_of_eta(page):
    """Without noise on the way, ten moves and fifty give almost the same picture; with noise they do not."""
    for seed in (1, 2, 3):
        for eta in (0, 1):
            few, many = (
                like_images(walked(page, draws(normals(seed)), y=3, steps=n, eta=eta, seed=seed)[-1][1]) for n in (10, 50)
            )
            assert (float((few - many).norm()) < 1) == (eta == 0)


# The page itself -------------------------------------------------------------------------------------------------------


def reset(page) -> None:
    stop(page)
    page.locator("#playground input[value=noise]").check()
    digit(page, "3")
    for name, k in (("moves", 2), ("eta", 0), ("scale", 1), ("t", 500), ("level", 16)):
        slide(page, name, k)
    stop(page)
    page.locator("#playground input[value=draw]").check()
    part(page, "clear").click()


def digit(page, which: str) -> None:
    page.locator(f"#playground input[name=pg-digit][value='{which}']").check()


def sample(page) -> str:
    stop(page)
    part(page, "run").click()
    return done(page)


def test_controls_do_what_they_say(page, network):
    """Digit, moves, guidance and seed, from the page's controls to the pixels of its pictures."""
    reset(page)
    slide(page, "moves", 3)
    slide(page, "scale", 2)
    part(page, "seed").fill("7")
    digit(page, "8")
    told = sample(page)
    x_T = draws(normals(7))
    want = list(ddim(DIFFUSION, guided(network, torch.tensor([8]), 2), x_T, 20, clip=1.0))
    assert "a 8" in told and "20 moves" in told
    assert shows(page, "x_t", want[-1].x_t) and shows(page, "x_0_hat", want[-1].x_t)
    part(page, "next").click()
    assert part(page, "seed").input_value() == "8"
    done(page)
    assert not shows(page, "x_t", want[-1].x_t)
    digit(page, "any")
    assert "any digit" in done(page) and part(page, "scale").is_disabled()
    want = list(ddim(DIFFUSION, network, draws(normals(8)), 20, clip=1.0))
    assert shows(page, "x_t", want[-1].x_t)


def test_noise_on_the_way_changes_the_picture(page):
    reset(page)
    sample(page)
    before = greys(page, "x_0_hat")
    slide(page, "eta", 1)
    done(page)
    assert part(page, "eta-shown").inner_text() == "1" and (greys(page, "x_0_hat") != before).any()


def test_the_slider_goes_back_through_the_walk(page, network):
    reset(page)
    part(page, "seed").fill("2")
    sample(page)
    want = list(ddim(DIFFUSION, guided(network, torch.tensor([3]), 1), draws(normals(2)), 10, clip=1.0))
    track = part(page, "time")
    assert track.get_attribute("max") == "10" and part(page, "time-shown").inner_text() == "t = 0"
    track.focus()
    for k in (9, 8, 7):
        track.press("ArrowLeft")
        assert part(page, "time-shown").inner_text() == track.get_attribute("aria-valuetext") == f"t = {want[k].t}"
        assert shows(page, "x_t", want[k].x_t) and shows(page, "x_0_hat", want[k].x_0_hat)
    track.press("Home")
    assert shows(page, "x_t", want[0].x_t)


def test_a_run_can_be_stopped(page):
    reset(page)
    slide(page, "moves", 7)
    page.wait_for_function("document.querySelector('#playground [data-part=time]').max > 3")
    assert part(page, "run").inner_text() == "Stop"
    part(page, "run").click()
    assert part(page, "run").inner_text() == "Sample" and part(page, "status").inner_text() == "Stopped."
    before = part(page, "time").get_attribute("max")
    page.wait_for_timeout(300)
    assert part(page, "time").get_attribute("max") == before and int(before) < T


def cell(page, row: int, column: int):
    return page.locator("#playground [role=gridcell]").nth(8 * row + column)


def test_draw_noise_and_denoise(page, network):
    """With the mouse: a stroke; its noised picture at once, another t; the walk from there."""
    reset(page)
    grid = part(page, "grid")
    grid.scroll_into_view_if_needed()
    box = grid.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 3.5 / 8, box["y"] + box["height"] * 1.5 / 8)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 3.5 / 8, box["y"] + box["height"] * 6.5 / 8, steps=30)
    page.mouse.up()
    x_0 = -torch.ones(1, 1, 8, 8)
    x_0[..., 1:7, 3] = 1
    assert cell(page, 4, 3).get_attribute("aria-label") == "row 5, column 4: grey 16 of 16"
    assert cell(page, 0, 3).get_attribute("aria-label") == "row 1, column 4: grey 0 of 16"
    part(page, "seed").fill("3")
    page.locator("#playground input[value=drawing]").check()
    eps = draws(normals(3))
    for t in (500, 100):
        slide(page, "t", t)
        x_t = DIFFUSION.q_sample(x_0, t, eps)
        first, *_ = ddim(DIFFUSION, guided(network, torch.tensor([3]), 1), x_t, [t, 0], clip=1.0)
        assert shows(page, "x_t", x_t) and shows(page, "x_0_hat", first.x_0_hat)
        assert part(page, "time-shown").inner_text() == f"t = {t}" and f"t = {t}" in part(page, "status").inner_text()
    assert "from your drawing at t = 100, 10 moves" in sample(page)
    visited = [10 * k for k in range(10, -1, -1)]
    *_, last = ddim(DIFFUSION, guided(network, torch.tensor([3]), 1), x_t, visited, clip=1.0)
    assert shows(page, "x_t", last.x_t)


def test_draw_with_the_keyboard(page):
    reset(page)
    slide(page, "level", 5)
    page.locator("#playground input[value=draw]").focus()
    cell(page, 0, 0).focus()
    for key in ("ArrowDown", "ArrowRight", " ", "ArrowRight", "Enter", "ArrowUp", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "row 1, column 3: grey 0 of 16"
    for column in (1, 2):
        assert cell(page, 1, column).get_attribute("aria-label") == f"row 2, column {column + 1}: grey 5 of 16"
    cell(page, 1, 1).focus()
    page.keyboard.press(" ")  # the same grey again takes it away
    assert "grey 0" in cell(page, 1, 1).get_attribute("aria-label")
    assert page.locator("#playground [role=gridcell][tabindex='0']").count() == 1


def test_inpaint_the_marked_part(page):
    """A sample is copied into the drawing, its lower half marked and made anew: the upper half stays, to the grey level."""
    reset(page)
    slide(page, "moves", 3)
    page.locator("#playground input[value=part]").check()
    assert "Mark the part" in part(page, "status").inner_text()
    page.locator("#playground input[value=noise]").check()
    done(page)
    want = np.round(greys(page, "x_0_hat") / 255 * 16)
    part(page, "take").click()
    labels = [c.get_attribute("aria-label") for c in page.locator("#playground [role=gridcell]").all()]
    assert np.abs([int(re.search(r"grey (\d+)", label)[1]) for label in labels] - want).max() <= 1
    kept = np.array([int(re.search(r"grey (\d+)", label)[1]) for label in labels])
    page.locator("#playground input[value=mark]").check()
    for row in range(4, 8):
        for column in range(8):
            cell(page, row, column).focus()
            page.keyboard.press(" ")
    assert "to be made anew" in cell(page, 7, 7).get_attribute("aria-label")
    page.locator("#playground input[value=part]").check()
    done(page)
    digit(page, "0")
    assert "around your drawing" in done(page)
    made = greys(page, "x_0_hat")
    assert np.abs(made[:32] - kept[:32] / 16 * 255).max() <= 1
    assert np.abs(made[32:] - kept[32:] / 16 * 255).max() > 60


def test_touch_on_a_phone(browser, site):  # noqa: F811
    wrong: list[str] = []
    page = opened(browser, site + PAGE, wrong, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    done(page)
    grid = part(page, "grid")
    grid.scroll_into_view_if_needed()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cell(page, 2, 5).tap()
    assert cell(page, 2, 5).get_attribute("aria-label") == "row 3, column 6: grey 16 of 16"
    assert cell(page, 2, 4).get_attribute("aria-label") == "row 3, column 5: grey 0 of 16"
    assert grid.evaluate("e => getComputedStyle(e).touchAction") == "none"  # a stroke draws, it does not scroll
    small = [e.bounding_box() for e in page.locator("#playground button").all()]
    assert all(box["height"] >= 32 for box in small)
    page.context.close()
    assert not wrong


def test_everything_has_a_name(page):
    """What a screen reader says of each control is not empty; the pictures and the status are announced."""
    nameless = """() => [...document.querySelectorAll('#playground :is(input, button, canvas, [role=grid], [role=gridcell])')]
      .filter((e) => !(e.getAttribute('aria-label') || e.textContent || [...e.labels].map((l) => l.textContent).join()).trim())
      .map((e) => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.locator("#playground [aria-live=polite]").count() == 1
    assert page.locator("#playground [role=grid] > [role=row] > [role=gridcell]").count() == 64


# Where it comes from, and what it costs --------------------------------------------------------------------------------


def test_it_works_from_a_file(browser):  # noqa: F811
    """No server: the page is opened from the disk, where nothing may be fetched."""
    wrong: list[str] = []
    page = opened(browser, (HTML / PAGE).as_uri(), wrong)
    assert "a 3" in done(page)
    page.context.close()
    assert not wrong


def test_weights_come_with_this_page_alone(browser, site):  # noqa: F811
    sizes: dict[str, dict[str, int]] = {}
    for path in (PAGE, "book/equations.html"):
        context = browser.new_context()
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        sizes[path] = {}
        page.on("response", lambda r, path=path: sizes[path].update({r.url: len(r.body())}))
        page.goto(site + path, wait_until="load")
        if path == PAGE:
            done(page)
        context.close()
    of_weights = {
        path: [n for url, n in all_.items() if "playground" in url and url.endswith(".js")] for path, all_ in sizes.items()
    }
    assert len(of_weights[PAGE]) == 3 and of_weights["book/equations.html"] == []
    assert max(of_weights[PAGE]) <= 1_000_000
    # The weights have their own limit of 1 MB; the rest is held to what every page is, fonts and MathJax apart.
    rest = sum(n for url, n in sizes[PAGE].items() if not re.search(r"mathjax|font|\.woff|weights\.js", url))
    assert rest <= 1_500_000, rest


def test_without_javascript_it_says_so(browser, site):  # noqa: F811
    page = opened(browser, site + PAGE, [], java_script_enabled=False)
    assert "switched off" in page.locator("#playground noscript").inner_text()
    page.context.close()


def test_the_script_holds_the_checkpoint():
    """The built file is the shipped file, number for number."""
    stored = json.loads((HTML / playground.SCRIPT).read_text().removeprefix("window.playgroundWeights = ").rstrip(";\n"))
    assert len(base64.b64decode(stored["data"])) == 2 * CARD["parameters"]
    values = np.frombuffer(base64.b64decode(stored["data"]), "<f2")
    at = 0
    state = weights.load(PATH)[0].state_dict()
    assert [name for name, _ in stored["tensors"]] == sorted(state)
    for name, shape in stored["tensors"]:
        n = math.prod(shape)
        np.testing.assert_array_equal(values[at : at + n].reshape(shape).astype(np.float32), state[name])
        at += n
    assert (stored["T"], stored["network"]) == (T, CARD["network"])


def test_the_numbers_on_the_page_are_the_cards(page):
    text = " ".join(page.locator("article").inner_text().split())
    config = CARD["config"]
    for said in (
        f"{CARD['parameters']:,} parameters",
        f"{config['steps']:,} steps on {CARD['data']['images']:,} digits with the {config['schedule']} schedule",
        f"in {round(CARD['wall_seconds'] / 60)} minutes",
        f"For {config['label_drop']:.0%}".replace("%", " %"),
        f"a file of {round(PATH.stat().st_size / 1000)} kB",
    ):
        assert said in text
    assert "{{" not in text


@pytest.mark.parametrize("part_", ["network", "schedule", "precision"])
def test_another_network_is_refused(tmp_path, part_):
    """One that the script would compute wrongly is not written for it."""
    network, card = weights.load(PATH)
    config = dict(card["config"], schedule="linear") if part_ == "schedule" else card["config"]
    if part_ == "network":
        network = unet.UNet(**{**network.config, "heads": 2})
    weights.save(
        tmp_path / "other.safetensors", network, {"config": config}, torch.float32 if part_ == "precision" else torch.float16
    )
    with pytest.raises(ValueError, match={"network": "heads = 2", "schedule": "linear", "precision": "float16"}[part_]):
        playground.pack(tmp_path / "other.safetensors")
