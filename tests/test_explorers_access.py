"""All explorers, as the book stores them, for readers without a mouse, without a screen, or with a phone."""

import re
from html.parser import HTMLParser

import pytest
from chapters import chapters

VOID = {
    "input",
    "br",
    "img",
    "line",
    "path",
    "rect",
    "circle",
    "polyline",
    "polygon",
    "use",
    "image",
    "stop",
    "hr",
    "meta",
    "link",
}


class Element:
    def __init__(self, name: str, attributes: dict, parent):
        self.name, self.attributes, self.parent, self.text = name, attributes, parent, ""

    def get(self, name: str) -> str:
        return self.attributes.get(name) or ""

    def above(self, name: str):
        """The nearest element of that name that this one is in."""
        found = self.parent
        while found is not None and found.name != name:
            found = found.parent
        return found


class Page(HTMLParser):
    """Every element of some HTML, in order; each knows its parent and all text inside it."""

    def __init__(self, source: str):
        super().__init__()
        self.elements: list[Element] = []
        self.at = None
        self.feed(source)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append(Element(name, dict(attributes), self.at))
        if name not in VOID:
            self.at = self.elements[-1]

    def handle_startendtag(self, name, attributes):
        self.elements.append(Element(name, dict(attributes), self.at))

    def handle_endtag(self, name):
        at = self.at
        while at is not None and at.name != name:
            at = at.parent
        if at is not None:
            self.at = at.parent

    def handle_data(self, data):
        at = self.at
        while at is not None:
            at.text += data
            at = at.parent

    def all(self, *names: str) -> list[Element]:
        return [element for element in self.elements if element.name in names]


def explorers():
    for chapter in chapters():
        found = [
            "".join(output.data["text/html"])
            for cell in chapter.cells
            for output in cell.get("outputs", [])
            if "ddpm-explorer" in "".join(output.get("data", {}).get("text/html", ""))
        ]
        assert found, f"{chapter} has no explorer"
        for k, source in enumerate(found):
            yield pytest.param(Page(source), id=f"{chapter.path.stem}-{k}")


ALL = list(explorers())


def spoken(page: Page, element: Element) -> str:
    """The name that a screen reader says, by aria-labelledby, aria-label, or its label."""
    ids = {e.get("id"): e for e in page.elements if e.get("id")}
    if element.get("aria-labelledby"):
        return " ".join(ids[k].text.strip() for k in element.get("aria-labelledby").split())
    if element.get("aria-label"):
        return element.get("aria-label").strip()
    inside = element.above("label")
    labels = [inside] if inside else []
    labels += [e for e in page.all("label") if element.get("id") and e.get("for") == element.get("id")]
    return " ".join(label.text.strip() for label in labels)


@pytest.mark.parametrize("page", ALL)
def test_the_whole_has_a_name(page):
    roots = [e for e in page.elements if "ddpm-explorer" in e.get("class").split()]
    assert len(roots) == 1 and roots[0].get("role") in ("group", "figure", "region")
    assert len(spoken(page, roots[0])) > 10


@pytest.mark.parametrize("page", ALL)
def test_every_control_is_the_browser_s_own_and_has_a_label(page):
    """Native controls take keyboard and touch by themselves; nothing is made to work by a mouse alone."""
    controls = page.all("input", "select", "button", "textarea")
    assert controls
    for control in controls:
        name = spoken(page, control) or control.text.strip()
        assert re.search(r"\w", name), f"a control without a label: {control.attributes}"
        assert "disabled" not in control.attributes and not control.get("tabindex").startswith("-")
        if control.get("type") == "radio":
            group = control.above("fieldset")
            assert group and any(e.above("fieldset") is group and e.text.strip() for e in page.all("legend"))
        if control.get("type") == "range":
            assert float(control.get("min")) < float(control.get("max"))
    assert not [e for e in page.elements if any(k.startswith(("onmouse", "onpointer", "onclick")) for k in e.attributes)]


@pytest.mark.parametrize("page", ALL)
def test_every_picture_has_a_role_and_a_description_or_is_decoration(page):
    pictures = [e for e in page.all("svg", "canvas") if e.get("aria-hidden") != "true" and not e.above("svg")]
    assert pictures
    for picture in pictures:
        assert picture.get("role") == "img", picture.attributes
        assert len(spoken(page, picture)) > 15, f"too short to describe a picture: {spoken(page, picture)!r}"
    for picture in page.all("img"):
        assert picture.get("alt").strip()


@pytest.mark.parametrize("page", ALL)
def test_what_changes_is_said(page):
    live = [e for e in page.elements if e.get("aria-live")]
    assert live and all(e.get("aria-live") == "polite" for e in live)
    assert any(re.search(r"\d", e.text) for e in live), "the read-out starts empty"


@pytest.mark.parametrize("page", ALL)
def test_names_of_parts_are_unique_and_lead_somewhere(page):
    ids = [e.get("id") for e in page.elements if e.get("id")]
    assert len(ids) == len(set(ids))
    for e in page.elements:
        for attribute in ("aria-labelledby", "aria-describedby", "for"):
            assert set(e.get(attribute).split()) <= set(ids), (attribute, e.attributes)


@pytest.mark.parametrize("page", ALL)
def test_controls_are_as_tall_as_a_finger_needs_and_colours_follow_the_page(page):
    style = "".join(e.text for e in page.all("style"))
    tall = re.findall(r"\.ddpm-(?:slider input|choice label)\{[^}]*?(?:min-)?height:([\d.]+)rem", style)
    assert tall and all(float(rem) * 16 >= 24 for rem in tall)  # WCAG 2.2: 24 px
    assert re.search(r"\.ddpm-explorer\{[^}]*color:inherit[^}]*background:none", style)
