"""Chapters are plain markdown, the same in Colab, on GitHub and here; this Sphinx extension gives the book the rest.

- `> [!NOTE]` and its kin become admonitions;
- every `\\tag{5.3}` becomes an anchor `eq-5-3`, every "Eq. (5.3)" a link to it, across pages; a tag used twice and a
  reference to no equation are warnings;
- in a chapter's summary the number leads to the index of all equations, and back from there;
- a picture without alt text is a warning; a picture from another server is replaced by its alt text, so that a page
  of the book asks nobody for anything.
"""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)

ALERT = re.compile(r"\[!(NOTE|TIP|WARNING|IMPORTANT|CAUTION)\]\s*")
TAG = re.compile(r"\\tag\{(\d+\.\d+)\}")
NUMBER = re.compile(r"\((\d+\.\d+)\)")
REFERENCE = re.compile(r"\bEqs?\.\s*\(\d+\.\d+\)(?:\s*(?:,|-|–|and|or|to|,\s*and)\s*\(\d+\.\d+\))*")
ONE = re.compile(r"(?:Eqs?\.\s*)?\((\d+\.\d+)\)")
UNTOUCHED = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.reference, nodes.title,
             nodes.comment, addnodes.pending_xref)  # fmt: skip


class Equations(SphinxTransform):
    default_priority = 400

    def apply(self) -> None:
        merge_text(self.document)
        for quote in list(self.document.findall(nodes.block_quote)):
            admonish(quote)
        for block in list(self.document.findall(nodes.math_block)):
            self.anchor_tags(block)
        for math in self.document.findall(nodes.math):
            if TAG.search(math.astext()):
                logger.warning("a tagged $$ … $$ must stand on lines of its own: %s", math.astext(), location=math)
        for row in list(self.document.findall(nodes.row)):
            self.link_row(row)
        for text in list(self.document.findall(nodes.Text)):
            self.link_references(text)
        for image in list(self.document.findall(nodes.image)):
            check_image(image)

    def anchor_tags(self, block: nodes.math_block) -> None:
        """An anchor for every tag. Marked `nowrap`: Sphinx's own wrapping would put the tag inside a split."""
        tags = TAG.findall(block.astext())
        for tag in tags:
            self.define(f"eq-{tag.replace('.', '-')}", block, f"Eq. ({tag})")
        if tags and not block.get("nowrap"):
            block.children = [nodes.Text(r"\[" + block.astext() + r"\]")]
            block["nowrap"] = True

    def define(self, label: str, node: nodes.Element, what: str) -> None:
        labels = self.env.get_domain("std").anonlabels  # Sphinx keeps them in step when pages change
        if label in self.document.ids or labels.get(label, (self.env.docname,))[0] != self.env.docname:
            logger.warning("%s is tagged twice; also in %s", what, labels[label][0], location=node)
            return
        labels[label] = (self.env.docname, label)
        node["ids"].append(label)
        self.document.ids[label] = node

    def link_row(self, row: nodes.row) -> None:
        """A table row that begins with (5.3) leads to the index; in the index it is an anchor and leads to the equation."""
        number = NUMBER.fullmatch(row[0].astext().strip())
        if not number:
            return
        text = next(iter(row[0].findall(nodes.Text)))
        suffix, index = number.group(1).replace(".", "-"), self.config.equation_index
        if self.env.docname == index:
            self.define(f"index-{suffix}", row[0], f"The index entry of Eq. ({number.group(1)})")
        target = f"index-{suffix}" if index and self.env.docname != index else f"eq-{suffix}"
        text.parent.replace(text, self.link(target, text.astext()))

    def link_references(self, text: nodes.Text) -> None:
        ancestor = text.parent
        while ancestor is not None:
            if isinstance(ancestor, UNTOUCHED):
                return
            ancestor = ancestor.parent
        content, new, end = text.astext(), [], 0
        for group in REFERENCE.finditer(content):
            for one in ONE.finditer(content, group.start(), group.end()):
                new += [nodes.Text(content[end : one.start()]), self.link("eq-" + one[1].replace(".", "-"), one[0])]
                end = one.end()
        if new:
            text.parent.replace(text, [*new, nodes.Text(content[end:])])

    def link(self, target: str, text: str) -> addnodes.pending_xref:
        shown = nodes.inline(text, text, classes=["equation-link"])
        link = addnodes.pending_xref(text, shown, refdomain="std", reftype="ref", reftarget=target, refexplicit=True)
        link["refdoc"], link["refwarn"] = self.env.docname, True
        return link


def merge_text(document: nodes.document) -> None:
    """Join neighbouring texts: a line break in the source must not hide "Eq." from its number."""
    for parent in {id(t.parent): t.parent for t in document.findall(nodes.Text)}.values():
        merged: list[nodes.Node] = []
        for child in parent.children:
            if merged and isinstance(child, nodes.Text) and isinstance(merged[-1], nodes.Text):
                merged[-1] = nodes.Text(merged[-1].astext() + child.astext())
            else:
                merged.append(child)
        if len(merged) < len(parent.children):
            parent[:] = merged


def admonish(quote: nodes.block_quote) -> None:
    first = quote[0] if len(quote) else None
    if not (isinstance(first, nodes.paragraph) and len(first) and isinstance(first[0], nodes.Text)):
        return
    if kind := ALERT.match(first[0].astext()):
        first[0] = nodes.Text(first[0].astext()[kind.end() :])
        box = getattr(nodes, kind[1].lower())("", *(quote.children if first.astext().strip() else quote.children[1:]))
        quote.replace_self(box)


def check_image(image: nodes.image) -> None:
    alt = image.get("alt", "").strip()
    if not alt or alt == image["uri"]:
        logger.warning("a picture has no alt text (in a notebook: cell metadata mystnb.image.alt)", location=image)
    if image["uri"].startswith(("http:", "https:")):
        image.replace_self(nodes.inline(alt, alt))


def missing(app, env, node, contnode):
    if node.get("reftarget", "").startswith(("eq-", "index-")) and "equation-link" in contnode.get("classes", ()):
        where = "the index has no entry for" if node["reftarget"].startswith("index-") else "there is no equation"
        logger.warning("%s %s", where, contnode.astext(), location=node)
        return contnode


def tidy_page(app, pagename, templatename, context, doctree) -> None:
    """The themes leave the colour mode unset, and load the scripts of a live kernel (twice), which no page uses."""
    context["default_mode"] = "auto"
    scripts = context.get("script_files", [])
    context["script_files"] = [s for s in scripts if "thebe" not in f"{s} {getattr(s, 'attributes', '')}"]


def setup(app):
    app.add_config_value("equation_index", "", "env")
    app.add_transform(Equations)
    app.connect("missing-reference", missing, priority=100)
    app.connect("html-page-context", tidy_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
