"""Where the two sides of a check come from: every call of the package behind each, followed through the whole chapter.

The reader runs through a chapter's code as Python would, once, and remembers for each name which calls of ddpm_edu its
value was made from: through assignments, loops, comprehensions, lists filled by `append`, items set one by one, and
functions that the chapter defines. A call that was made once and used on both sides is common data. A function that is
called anew for each side is refused, unless it only says what the equation is about, and is not what the summary table
names as the equation's own code; `SHARED` lists the rest, each with its reason.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from chapters import Chapter, Check, package

# What may stand on both sides of any check, since it says what the equation is about and not what the equation says.
# Even these may not where the summary table names them as the code of the equation that is checked.
PREMISES = {
    "routes": "instruments: grids and sums that hold no formula of a chapter",
    "oracles": "the data's own law, about which both sides speak",
    "Gaussian.log_prob": "the same, where data or noise are Gaussian",
    "LinearGaussianModel.log_joint": "the same, for a model of two variables",
    "SequenceLaw.entropy": "the same, for sequences",
    "GaussianDiffusion.q_sample": "the states at which two answers are compared",
    "VPSDE.alpha_bar": "the noise levels at which two answers are compared",
}
# Checks that ask one more function on both sides, and why they are two routes all the same. An entry that no check needs
# is a fault.
SHARED = {
    ("3.14", "LinearGaussianModel.log_joint"): "log p(x, z) at single z, against its integral over all z",
    ("5.16", "GaussianDiffusion.q_marginal"): "natural parameters, added, against the bend of the summed densities",
    ("6.21", "posterior_terms"): "one term at random, drawn, against moments by linear algebra over all paths",
    ("6.26", "GaussianDiffusion.q_step"): "the law integrated over the step before, against pairs that are drawn",
    ("8.14", "GaussianDiffusion.q_posterior"): "the distance of the means, against whole divergences by torch.distributions",
    ("8.14", "GaussianDiffusion.mean_from_eps"): "as q_posterior",
    ("8.15", "GaussianDiffusion.q_posterior"): "a formula for the minimum, against scipy's search for it",
    ("8.15", "GaussianDiffusion.mean_from_eps"): "as q_posterior",
    ("8.25", "GaussianDiffusion.sigma2_interpolated"): "a formula in its value, against the derivative of a divergence in v",
    ("8.26", "GaussianDiffusion.sigma2_interpolated"): "a formula in its value, against the derivative of a square in v",
    ("9.15", "bits_per_dim"): "the same picture in two units: what is claimed is the difference",
    ("9.20", "bits_per_dim"): "the unit of two sums that are made differently",
    ("10.2", "time_embedding"): "later steps from earlier ones: what is claimed is a relation between values",
    ("11.25", "train"): "one batch in pieces and in one: what is claimed is that both runs are the same",
    ("12.24", "Oracle.x_0_moments"): "the spread at two steps, against what moves between them",
    ("13.18", "kid"): "a statistic drawn, against all of its values counted",
    ("15.4", "GaussianMixture.score"): "two mixed derivatives: what is claimed is that they are equal",
    ("18.3", "GaussianDiffusion.q_marginal"): "the later marginal pushed back, against the earlier one",
    ("19.11", "GaussianDiffusion.sigma2_interpolated"): "a formula in its value, against the bend of a divergence in v",
    ("20.20", "Oracle.x_0_moments"): "an error at two levels, against the integral of its slope",
    ("21.1", "ClassOracle.log_prob_y"): "p(y | x_t), against its mean over p(x_0 | x_t)",
    ("21.4", "ClassOracle.log_prob_y"): "drawn labels, against entropy and divergence by quadrature",
    ("22.31", "whiten"): "a sampler run in whitened coordinates, against one run in the plain ones",
}
GROWS = {"append", "extend", "insert", "add", "update", "setdefault", "copy_", "add_", "fill_", "index_add_", "scatter_add_"}


@dataclass(frozen=True)
class Called:
    """One call of a public function of the package: `owner` is its class (or "?" where the class cannot be told)."""

    name: str
    owner: str
    place: tuple

    def same_function(self, other: Called) -> bool:
        return self.name == other.name and (self.owner == other.owner or "?" in (self.owner, other.owner))

    @property
    def premise(self) -> bool:
        """Whether it may stand on both sides; a method whose class cannot be told may when every class that has it may."""
        owners = OWNERS.get(self.name, {""}) if self.owner == "?" else {self.owner}
        modules = {str(getattr(package().get(owner or self.name), "__module__", "")).split(".")[-1] for owner in owners}
        return str(self) in PREMISES or modules <= set(PREMISES)

    def __str__(self) -> str:
        return self.name if self.owner in ("", "?") else f"{self.owner}.{self.name}"


@dataclass(frozen=True)
class Value:
    """What is known of a value: the calls behind it, the call (if one) whose answer it is, its class, whether foreign."""

    calls: frozenset[Called] = frozenset()
    kind: str = "?"  # the package class it is an instance of, "module", "class", "foreign", or "?"
    what: object = None  # a package function, class or module; the chapter's own function

    def __or__(self, other: Value) -> Value:
        if NOTHING in (self, other):
            return other if self == NOTHING else self
        same = self.kind == other.kind and self.what is other.what
        return Value(self.calls | other.calls, self.kind if same else "?", self.what if same else None)


NOTHING = Value()


@dataclass
class Reader:
    """Walks the cells of one chapter in order; `sides` yields each check with the values of its two sides."""

    names: dict[str, Value] = field(default_factory=dict)
    place: tuple = ()
    depth: int = 0
    found: dict[tuple, tuple[Value, Value]] = field(default_factory=dict)
    cell: int = 0
    forms: dict[str, ast.expr] = field(default_factory=dict)
    alike: set[tuple] = field(default_factory=set)

    # Statements ---------------------------------------------------------------------------------------------------

    def run(self, body: list[ast.stmt]) -> Value:
        answer = NOTHING
        for statement in body:
            answer = answer | self.do(statement)
        return answer

    def do(self, node: ast.stmt) -> Value:
        """Run one statement; the value is what it returns, if it is or holds a `return`."""
        answer = NOTHING
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self.bring(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self.names[node.name] = Value(kind="own", what=node)
        elif isinstance(node, ast.Assign):
            value = self.value(node.value)
            for target in node.targets:
                self.bind(target, value, node.value)
        elif isinstance(node, ast.AnnAssign) and node.value:
            self.bind(node.target, self.value(node.value), node.value)
        elif isinstance(node, ast.AugAssign):
            self.grow(node.target, self.value(node.value))
        elif isinstance(node, ast.Return):
            answer = self.value(node.value)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            # Twice, since what the body leaves behind comes in again from above.
            source = self.value(node.iter)
            for _ in range(2):
                self.spread(node.target, node.iter, source)
                answer = self.run([*node.body, *node.orelse])
        elif isinstance(node, (ast.If, ast.While)):
            self.value(node.test)
            before = dict(self.names)
            answer = self.run(node.body)
            after, self.names = self.names, before
            answer = answer | self.run(node.orelse)
            for name, value in after.items():
                self.names[name] = value | self.names[name] if name in self.names and self.names[name] != value else value
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                value = self.value(item.context_expr)
                if item.optional_vars:
                    self.bind(item.optional_vars, value)
            answer = self.run(node.body)
        elif isinstance(node, ast.Try):
            answer = self.run([*node.body, *(s for h in node.handlers for s in h.body), *node.orelse, *node.finalbody])
        elif isinstance(node, ast.ClassDef):
            self.run([s for s in node.body if not isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef))])
            self.names[node.name] = Value(frozenset(c for s in node.body for c in self.inside(s)))
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.value(child)
        return answer

    def inside(self, node: ast.AST) -> frozenset[Called]:
        """The calls in the body of a method: a class that a chapter defines stands for all that its methods ask."""
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return frozenset()
        own = replace(self, names=dict(self.names), forms=dict(self.forms), found={})
        return own.run(node.body).calls

    def bring(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            source = node.module or "" if isinstance(node, ast.ImportFrom) else alias.name
            name = (alias.asname or alias.name).split(".")[0]
            if source.split(".")[0] != "ddpm_edu":
                self.names[name] = Value(kind="foreign")
            else:
                what = package().get(alias.name.split(".")[-1]) if isinstance(node, ast.ImportFrom) else None
                self.names[name] = self.known(what) if what is not None else Value(kind="module")

    def known(self, what: object) -> Value:
        if inspect.ismodule(what):
            return Value(kind="module", what=what)
        return Value(kind="class" if inspect.isclass(what) else "function", what=what)

    def bind(self, target: ast.expr, value: Value, source: ast.expr | None = None) -> None:
        if isinstance(target, ast.Name):
            # What it stands for; without a source it is something new at each place.
            self.forms[target.id] = self.form(source) if source is not None else self.new(target)
            self.names[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            parts = source.elts if isinstance(source, (ast.Tuple, ast.List)) and len(source.elts) == len(target.elts) else None
            values = [self.value(p) for p in parts] if parts else [Value(value.calls)] * len(target.elts)
            for k, t in enumerate(target.elts):
                self.bind(t, values[k], parts[k] if parts else None)
        elif isinstance(target, ast.Starred):
            self.bind(target.value, value)
        else:
            self.grow(target, value)

    def spread(self, target: ast.expr, source: ast.expr, value: Value) -> None:
        """Bind a loop's names to the items of what it runs over; `zip` and `enumerate` hand each its own."""
        called = getattr(getattr(source, "func", None), "id", "")
        if isinstance(target, ast.Tuple) and called == "zip" and len(source.args) == len(target.elts):
            for t, s in zip(target.elts, source.args):
                self.spread(t, s, self.value(s))
        elif isinstance(target, ast.Tuple) and called == "enumerate" and len(target.elts) == 2:
            self.bind(target.elts[0], NOTHING)
            self.spread(target.elts[1], source.args[0], self.value(source.args[0]))
        elif isinstance(target, ast.Tuple) and isinstance(source, (ast.Tuple, ast.List)) and source.elts:
            rows = [e.elts for e in source.elts if isinstance(e, (ast.Tuple, ast.List)) and len(e.elts) == len(target.elts)]
            for k, t in enumerate(target.elts):
                items = [self.value(row[k]) for row in rows] if len(rows) == len(source.elts) else [value]
                self.bind(t, _either(items))
        elif isinstance(source, (ast.Tuple, ast.List)) and source.elts:
            self.bind(target, _either([self.value(e) for e in source.elts]))
        else:
            self.bind(target, Value(value.calls))

    def grow(self, target: ast.expr, value: Value) -> None:
        """A name whose value is changed in place also stands for what was put in."""
        while isinstance(target, (ast.Attribute, ast.Subscript, ast.Starred)):
            target = target.value
        if isinstance(target, ast.Name):
            old = self.names.get(target.id, NOTHING)
            self.names[target.id] = replace(old, calls=old.calls | value.calls)
            self.forms[target.id] = self.new(target)

    # Expressions --------------------------------------------------------------------------------------------------

    def form(self, node: ast.expr) -> ast.expr:
        """An expression with every name replaced by what it stands for, and without what changes no value."""
        tree = _Plain(self.forms).visit(copy.deepcopy(node))
        text = ast.dump(tree)
        return tree if len(text) < 5000 else ast.Name(hashlib.sha256(text.encode()).hexdigest(), ast.Load())

    def new(self, target: ast.Name) -> ast.expr:
        return ast.Name(f"{target.id}@{self.cell}.{target.lineno}.{target.col_offset}", ast.Load())

    def value(self, node: ast.AST | None) -> Value:
        if node is None or isinstance(node, ast.Constant):
            return NOTHING
        if isinstance(node, ast.Name):
            return self.names.get(node.id, NOTHING)
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.NamedExpr):
            value = self.value(node.value)
            self.bind(node.target, value)
            return value
        if isinstance(node, ast.Lambda):
            return Value(kind="own", what=node)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            outer, forms, self.names, self.forms = self.names, self.forms, dict(self.names), dict(self.forms)
            parts = []
            for part in node.generators:
                source = self.value(part.iter)
                self.spread(part.target, part.iter, source)
                parts += [self.value(test) for test in part.ifs]
            parts += [self.value(n) for n in ([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])]
            self.names, self.forms = outer, forms
            return Value(frozenset().union(*(p.calls for p in parts)))
        if isinstance(node, ast.IfExp):
            self.value(node.test)
            return _either([self.value(node.body), self.value(node.orelse)])
        if isinstance(node, ast.Subscript):
            value = self.value(node.value)  # an index chooses, it does not compute
            self.value(node.slice)
            return Value(value.calls, "foreign" if value.kind == "foreign" else "?")
        return Value(frozenset().union(*(self.value(child).calls for child in ast.iter_child_nodes(node))))

    def attribute(self, node: ast.Attribute) -> Value:
        value = self.value(node.value)
        if value.kind == "foreign":
            return value
        if value.kind == "module":
            what = vars(value.what).get(node.attr) if value.what is not None else package().get(node.attr)
            return self.known(what) if what is not None else NOTHING
        if value.kind == "class":
            member = getattr(value.what, node.attr, None)
            return Value(kind="method", what=member) if callable(member) else NOTHING
        kind = "?"
        owner = package().get(value.kind)
        if inspect.isclass(owner):
            note = getattr(owner, "__annotations__", {}).get(node.attr, "")
            member = inspect.getattr_static(owner, node.attr, None)
            if isinstance(member, property):
                note = getattr(member.fget, "__annotations__", {}).get("return", "")
            kind = _class_in(note)
        return Value(value.calls, kind)

    def call(self, node: ast.Call) -> Value:
        here = (*self.place, self.cell, node.lineno, node.col_offset)
        kind = node.func.id if isinstance(node.func, ast.Name) else ""
        if kind in ("check", "check_mean", "check_distribution", "check_symbolic", "refute") and len(node.args) >= 3:
            sides = self.value(node.args[1]), self.value(node.args[2])
            old = self.found.get((self.cell, node.lineno, node.col_offset), (NOTHING, NOTHING))
            self.found[self.cell, node.lineno, node.col_offset] = old[0] | sides[0], old[1] | sides[1]
            if ast.dump(self.form(node.args[1])) == ast.dump(self.form(node.args[2])):
                self.alike.add((self.cell, node.lineno, node.col_offset))
            return NOTHING
        arguments = [self.value(a) for a in (*node.args, *(k.value for k in node.keywords))]
        given = frozenset().union(*(a.calls for a in arguments))
        for a in arguments:  # a function handed over is called there
            given |= self.asked(a, here)
        if isinstance(node.func, ast.Attribute):
            owner = self.value(node.func.value)
            if node.func.attr in GROWS and owner.kind not in ("foreign", "module", "class"):
                self.grow(node.func.value, Value(given))
            if owner.kind not in ("foreign", "module", "class"):
                return self.method(node.func.attr, owner, given, here)
        target = self.value(node.func)
        if target.kind == "own":
            answer = self.own(target.what, node, arguments, here)  # which may be a function in its turn
            return Value(given | answer.calls, answer.kind, answer.what)
        if target.kind == "function":
            note = getattr(target.what, "__annotations__", {}).get("return", "")
            module = target.what.__module__.split(".")[-1]
            if module in ("check", "plots"):
                return Value(given)
            return Value(given | {Called(target.what.__name__, "", here)}, _class_in(note))
        if target.kind == "class":
            return Value(given, target.what.__name__)
        if target.kind == "method":  # a classmethod makes an object; Class.method(self, …) is that method
            owner = getattr(target.what, "__self__", None)
            if inspect.isclass(owner):
                return Value(given, owner.__name__)
            name = target.what.__qualname__.split(".")
            return Value(given | {Called(name[-1], name[-2] if len(name) > 1 else "?", here)})
        return Value(given | target.calls, "foreign" if target.kind == "foreign" else "?")

    def method(self, name: str, owner: Value, given: frozenset[Called], here: tuple) -> Value:
        cls = package().get(owner.kind)
        calls = owner.calls | given
        if inspect.isclass(cls):
            member = inspect.getattr_static(cls, name, None)
            if isinstance(member, (classmethod, staticmethod)):
                return Value(calls, owner.kind)
            if inspect.isfunction(member):
                note = getattr(member, "__annotations__", {}).get("return", "")
                return Value(calls | {Called(name, member.__qualname__.split(".")[0], here)}, _class_in(note, owner.kind))
            return Value(calls)
        if name in METHODS:
            return Value(calls | {Called(name, "?", here)}, METHODS[name])
        return Value(calls)

    def asked(self, value: Value, here: tuple) -> frozenset[Called]:
        """What a function handed over as an argument asks, when it is called."""
        if value.kind == "own":
            return value.calls | self.own(value.what, None, [], here).calls
        if value.kind == "function" and value.what.__module__.split(".")[-1] not in ("check", "plots"):
            return frozenset({Called(value.what.__name__, "", here)})
        return frozenset()

    def own(self, what: ast.AST, node: ast.Call | None, arguments: list[Value], here: tuple) -> Value:
        """A function of the chapter, read anew at each call."""
        if self.depth >= 6:
            return NOTHING
        spec = what.args
        names = dict(self.names)
        for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs):
            names[a.arg] = NOTHING
        named = [a.arg for a in (*spec.posonlyargs, *spec.args)]
        for default, arg in zip(reversed(spec.defaults), reversed(named)):
            names[arg] = self.value(default)
        if node is not None:
            for k, arg in enumerate(node.args):
                if k < len(named) and not isinstance(arg, ast.Starred):
                    names[named[k]] = arguments[k]
            for k, word in enumerate(node.keywords):
                if word.arg:
                    names[word.arg] = arguments[len(node.args) + k]
        for rest in (spec.vararg, spec.kwarg):
            if rest:
                names[rest.arg] = Value(frozenset().union(*(a.calls for a in arguments)))
        reader = Reader(names, here, self.depth + 1, self.found, self.cell, dict(self.forms), self.alike)
        return reader.value(what.body) if isinstance(what, ast.Lambda) else reader.run(what.body)


KEEPS = {"float", "double", "clone", "detach", "item", "tensor", "as_tensor", "asarray", "numpy", "contiguous", "cpu", "copy"}


class _Plain(ast.NodeTransformer):
    """Puts in what names stand for, and takes away float(…), .clone(), a factor 1 and the like."""

    def __init__(self, forms: dict[str, ast.expr]):
        self.forms = forms

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.forms.get(node.id, ast.Name(node.id, ast.Load()))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in KEEPS and len(node.args) + isinstance(node.func, ast.Attribute) >= 1:
            return self.visit(node.args[0] if node.args else node.func.value)
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        return self.visit(node.operand) if isinstance(node.op, ast.UAdd) else self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        left, right = (getattr(side, "value", None) for side in (node.left, node.right))
        one, zero = isinstance(node.op, (ast.Mult, ast.Div, ast.Pow)), isinstance(node.op, (ast.Add, ast.Sub))
        if isinstance(node.right, ast.Constant) and ((one and right == 1) or (zero and right == 0)):
            return self.visit(node.left)
        if isinstance(node.left, ast.Constant):
            if (isinstance(node.op, ast.Mult) and left == 1) or (isinstance(node.op, ast.Add) and left == 0):
                return self.visit(node.right)
        return self.generic_visit(node)


def _either(values: list[Value]) -> Value:
    answer = values[0]
    for value in values[1:]:
        answer = answer | value
    return answer


def _class_in(note: object, own: str = "?") -> str:
    """The package class that an annotation names, "?" if none: `-> Gaussian`."""
    name = str(note).strip("'\"")
    if re.fullmatch(r"\w+", name) and name != "Self":
        return name if inspect.isclass(package().get(name)) else "?"
    return own if name == "Self" else "?"


def _methods() -> dict[str, str]:
    """Public methods by plain name, each with the class of its answer where all that share the name agree."""
    found: dict[str, set[str]] = {}
    for cls in package().values():
        if inspect.isclass(cls):
            for name, member in vars(cls).items():
                if inspect.isfunction(member) and not name.startswith("_"):
                    note = getattr(member, "__annotations__", {}).get("return", "")
                    found.setdefault(name, set()).add(_class_in(note, cls.__name__))
    return {name: kinds.pop() if len(kinds) == 1 else "?" for name, kinds in found.items()}


METHODS = _methods()
OWNERS = {
    name: {c.__name__ for c in package().values() if inspect.isclass(c) and inspect.isfunction(vars(c).get(name))}
    for name in METHODS
}


def faults(chapter: Chapter, used: set[tuple[str, str]] | None = None) -> Iterator[tuple[Check, str]]:
    """Every check of a chapter whose two sides are not two routes; `used` collects the entries of SHARED that were needed."""
    reader = Reader()
    for reader.cell, tree in chapter.trees():
        reader.run(tree.body)
    credited = _credited(chapter)
    for check in chapter.checks:
        place = check.cell, check.call.lineno, check.call.col_offset
        if check.kind == "refute" or len(check.call.args) < 3:
            continue
        if place not in reader.found:
            yield check, "it stands in code that nothing runs, or that cannot be followed"
            continue
        if place in reader.alike:
            yield check, "both sides are the same expression"
            continue
        left, right = reader.found[place]
        for name, own in sorted(common(left, right, credited.get(check.tag, set())).items()):
            if (check.tag, name) in SHARED:
                (used if used is not None else set()).add((check.tag, name))
            else:
                role = ", the code of this equation," if own else ""
                yield check, f"both sides call {name}{role} anew; the second side needs another route"


def _credited(chapter: Chapter) -> dict[str, set[str]]:
    """For each tag the plain names of the functions that the summary table gives as its code."""
    try:
        rows = chapter.summary
    except ValueError:
        return {}
    return {row.tag: {name.split(".")[-1] for name in row.code} for row in rows}


def common(left: Value, right: Value, credited: set[str]) -> dict[str, bool]:
    """The functions called anew for each side that may not be, and whether each is the equation's own code."""
    return {
        str(max(a, b, key=lambda c: len(str(c)))): a.name in credited
        for a in left.calls - right.calls
        for b in right.calls - left.calls
        if a.same_function(b) and (a.name in credited or not (a.premise or b.premise))
    }
