"""The linter: the house form passes, and each way of breaking the promise is named."""

import copy
import re

import execute
import lint
import nbformat
import pytest
import sides
from chapters import Chapter, badge, bootstrap, chapters, pages
from conftest import write_chapter


@pytest.fixture(scope="module")
def good(tiny):
    return nbformat.read(tiny, as_version=4)


@pytest.fixture
def faults(good, tmp_path):
    """faults(change) -> what the linter says of the tiny chapter after `change(nb)`."""

    def faults_(change=lambda nb: None, name: str = "05_tiny.ipynb") -> list[str]:
        nb = copy.deepcopy(good)
        change(nb)
        nbformat.write(nb, tmp_path / name)
        chapter = Chapter(tmp_path / name)
        return list(lint.lint(chapter, {e.tag for e in chapter.equations}))

    return faults_


def cell(nb, text: str):
    return next(c for c in nb.cells if text in c.source)


def swap(text: str, old: str, new: str):
    """A change: in the first cell that holds `text`, write `new` for `old`."""

    def change(nb):
        assert old in cell(nb, text).source
        cell(nb, text).source = cell(nb, text).source.replace(old, new)

    return change


def test_the_house_form_passes(faults):
    assert faults() == []


def test_every_chapter_of_the_book_passes():
    book = chapters()
    known = {e.tag for chapter in book for e in chapter.equations}
    assert [f"{c.path.name}: {fault}" for c in [*book, *pages()] for fault in lint.lint(c, known)] == []


CALL = 'check("5.2", schedule.alpha_bars, logs.exp(), atol=1e-12, by="recursion")'


@pytest.mark.parametrize(
    "change, expected",
    [
        (swap("5.1}", "5.1}", "5.3}"), r"equation \(5.3\) stands where \(5.1\) is due"),
        (swap("5.2}", "5.2}", "5.1}"), r"equation \(5.1\) stands where \(5.2\) is due"),
        (swap("5.1}", "5.1}", "4.1}"), r"equation \(4.1\) stands where \(5.1\) is due"),
        (swap("From Eq. (5.1)", "(5.1)", "(9.1)"), r"Eq. \(9.1\) does not exist"),
        (swap("From Eq. (5.1)", "Eq. (5.1)", "Eqs. (5.1), (5.2) and (5.7)"), r"Eq. \(5.7\) does not exist"),
        (swap("logs =", "logs =", "# as in Eq. (7.1)\nlogs ="), r"Eq. \(7.1\) does not exist"),
        (swap(CALL, CALL, ""), r"equation \(5.2\) has no check"),
        (swap(CALL, '"5.2", schedule', '"5.9", schedule'), r"check\('5.9', …\) names an equation that this chapter"),
        (swap(CALL, '"5.2", schedule', "tag, schedule"), "must name its equation as a plain string"),
        (swap(CALL, ', by="recursion"', ""), "must say by='…'"),
        (swap(CALL, 'by="recursion"', 'by="magic"'), "by='magic' is not a known route"),
        (swap(CALL, 'by="recursion"', 'by="quadrature"'), r"says \(5.2\) is checked by recursion; its cells use quadrature"),
        (swap('refute("5.2"', 'refute("5.2"', 'refute("5.8"'), r"refute\('5.8', …\) names an equation that this chapter"),
        (swap("| recursion |", "| recursion |", "| definition |"), r"calls \(5.2\) a definition, yet it is checked"),
        (swap("| definition |", "| definition |", "| quadrature |"), r"equation \(5.1\) has no check"),
        (swap("## Summary", "| (5.2) | one factor", "| (5.3) | one factor"), "must list every equation once, in order"),
        (swap("## Summary", "NoiseSchedule.alphas", "NoiseSchedule.gammas"), "`NoiseSchedule.gammas`, is not in ddpm_edu"),
        (swap("## Summary", "| Source |", "| From |"), "the summary table's columns must be"),
        (swap("## Summary", "## Summary", "## The end"), "there is no section '## Summary'"),
        (swap("# 5. A", "# 5. A", "# 6. A"), r"must begin with the title '# 5\. …'"),
        (swap("# 5. A", "05_tiny.ipynb", "04_tiny.ipynb"), "Colab badge is missing or points elsewhere"),
        (swap("import ddpm_edu\n", "-q git", "git"), "the first code cell must have the tag remove-cell"),
        (swap("Exercise 5.3.", "Exercise 5.3.", "Exercise 5.4."), "exercises must be numbered 5.1, 5.2"),
        (swap("Exercise 5.3.", "**Exercise 5.3.**", "Exercise"), "there are 2 exercises"),
        (swap("Solution 5.2", "Solution 5.2", "Answer"), "exercise 5.2 has no '<details> … Solution 5.2"),
        (swap("Solution 5.2", "</summary>\n\n", "</summary>\n"), "a blank line after it"),
        (swap("grade_5_1(", "grade_5_1(", "print("), "exercise 5.1 has no grader call"),
        (swap("\\tag{5.1}", " \\tag", " \\\\ b \\tag"), r"a line break in \$\$"),
        (swap("\\tag{5.1}", "A definition:\n\n", "A definition:\n"), "needs a blank line before and after"),
        (swap("\\tag{5.1}", "A definition", "A \\tag{5.1} definition"), r"a \\tag stands outside"),
        (swap("align*", "align*", "align"), r"use \\begin\{align\*\} with \\tag"),
        (swap("logs =", "logs =", "def long(a):\n    a\n    a\n    a\n    a\n    a\n\n\nlogs ="), "long has 6 lines"),
        (swap("logs =", "logs =", "logs = ="), "is not Python"),
        (lambda nb: cell(nb, "Exercise 5.3.").metadata.clear() or nb.cells.remove(cell(nb, "IPython")), "there is no explorer"),
    ],
)
def test_each_fault_is_named(faults, change, expected):
    said = faults(change)
    assert any(re.search(expected, fault) for fault in said), said


def test_a_long_function_is_fine_where_writing_it_is_the_exercise(faults):
    body = "def f(x):\n" + "    x\n" * 8
    assert faults(swap("grade_5_1 =", "def f(x): ...", body)) == []


D = "from ddpm_edu import GaussianDiffusion\nd = GaussianDiffusion(schedule)\npost = lambda k: d.q_posterior(x, x, k)\n"
LAWS = "from ddpm_edu.gaussian import FullGaussian, Gaussian\nfrom ddpm_edu.oracles import GaussianMixture\n"
POST, SAME = "both sides call GaussianDiffusion.q_posterior anew", "both sides are the same expression"
SIDES = [  # (code before, got, want, what the linter says or None)
    ("", "schedule.alpha_bars", "schedule.alpha_bars", SAME),
    ("a = schedule.snr", "a", "schedule.snr", SAME),
    ("a, b = schedule.snr, schedule.snr", "a", "b", SAME),
    (D + "q = d.q_posterior(x, x, 3)\nr = d.q_posterior(x, x, 3, 2)", "q.mean", "r.mean", POST),
    (D + "q = d.q_posterior(x, x, 3)", "q.mean", "float(d.q_posterior(x, x, 3, 2).mean)", POST),
    (D + "q = d.q_marginal(x, 3)", "q.mean", "d.q_posterior(x, x, 3).mean", None),
    ("import torch.distributions as td", "g.log_prob(x)", "td.Normal(0, 1).log_prob(x)", None),
    ("from torch.distributions import Normal\nn = Normal(0, 1)", "g.kl(x)", "n.kl(x)", None),
    ("", "g.kl(x)", "h.kl(x)", "both sides call kl anew"),
    ("", "g.no_function_of_the_package(x)", "h.no_function_of_the_package(x)", None),
    ("", "schedule.alpha_bars[3]", "schedule.alphas[1:4].prod()", None),
    # the same expression under other names
    ("a = schedule.snr\nb = a\nc = 1 * b", "c", "float(a)", SAME),
    ("a = [schedule.snr[k] for k in (1, 2)]", "sum(a)", "sum([schedule.snr[k] for k in (1, 2)])", SAME),
    ("a = schedule.snr.clone()", "torch.as_tensor(a) + 0", "schedule.snr.detach()", SAME),
    ("a = schedule.snr", "a[1] + a[2]", "schedule.snr[1] + schedule.snr[2]", SAME),
    ("a = schedule.snr\nb = a\na = schedule.alphas", "a", "b", None),  # the name has moved on
    # deep inside an expression
    (D, "1 + 2 * post(3).mean", "d.q_posterior(x, x, 3, 2).mean * 3 - 1", POST),
    (D, "sum(d.q_posterior(x, x, k).mean for k in (1, 2))", "torch.cat([post(3).mean])", POST),
    # lists that are filled, and items that are set
    (D + "a, b = [], []\nfor k in (2, 3):\n    a.append(post(k).mean)\n    b.append(post(k).var)", "sum(a)", "sum(b)", POST),
    (D + "a = []\nfor k in (2, 3):\n    a.append(post(k).mean)", "sum(a)", "torch.ones(2)", None),
    (D + "a, b = torch.zeros(2), {}\na[0] = post(2).mean\nb['y'] = post(2).mean", "a", "b['y']", POST),
    (D + "a = b = 0\na += post(2).mean\nb = b + post(2).mean", "a", "b", POST),
    # functions of the chapter, loops over pairs, functions handed over
    (D + "def g(k):\n    y = d.q_posterior(x, x, k)\n    return y.var", "post(2)", "g(2)", POST),
    (D, "post(2)", "post(3)", POST),
    (D + "def at(k):\n    return lambda y: d.q_posterior(y, y, k).mean", "at(2)(x)", "at(3)(x)", POST),
    (D, "torch.vmap(post)(x)", "sum(map(post, (1, 2)))", POST),
    (D + "for a, b in ((post(2).mean, 1.0),): y, z = a, b", "y", "z", None),
    (D + "for a, b in ((post(2).mean, post(3).mean),): pass", "a", "b", POST),
    (D + "for a, b in zip([post(2).mean], [post(3).mean]): pass", "a", "b", POST),
    # one call, seen from both sides, is common data; so are the law and the states
    (D + "q = d.q_posterior(x, x, 3)", "q.mean", "q.var + 1", None),
    (D, "d.q_sample(x, 3, x)", "2 * d.q_sample(x, 2, x)", None),
    (LAWS + "m = GaussianMixture([1.0], [0.0], [1.0])", "m.log_prob(x)", "2 * m.log_prob(-x)", None),
    # a classmethod makes an object, and two classes may share a method's name
    ("", "NoiseSchedule.linear(3).betas", "NoiseSchedule.quadratic(3).betas", None),
    (LAWS + "g, f = Gaussian(x, x), FullGaussian(x, x)", "g.kl(g)", "f.kl(f)", None),
    (LAWS + "g, f = Gaussian(x, x), Gaussian(x, 2 * x)", "g.kl(f)", "f.kl(g)", "both sides call Gaussian.kl anew"),
]


@pytest.mark.parametrize("before, got, want, expected", SIDES)
def test_the_two_sides_of_a_check_are_two_routes(faults, before, got, want, expected):
    call = f'{before}\ncheck("5.2", {got}, {want}, atol=1e-12, by="recursion")'
    said = [fault for fault in faults(swap(CALL, CALL, call)) if "both sides" in fault]
    assert bool(said) == (expected is not None), said
    assert expected is None or expected in said[0]


def test_not_even_a_premise_when_it_is_the_code_of_the_equation(faults):
    before = "from ddpm_edu.oracles import GaussianMixture\nm = GaussianMixture([1.0], [0.0], [1.0])"
    call = f'{before}\ncheck("5.2", m.log_prob(x), m.log_prob(-x), atol=1e-12, by="recursion")'

    def change(nb):
        swap(CALL, CALL, call)(nb)
        swap("## Summary", "`NoiseSchedule.alpha_bars`", "`GaussianMixture.log_prob`")(nb)

    assert any("GaussianMixture.log_prob, the code of this equation, anew" in fault for fault in faults(change))


def test_names_are_followed_from_cell_to_cell(faults):
    def change(nb):
        swap("import torch", "from ddpm_edu.check", "a = NoiseSchedule.linear(10).alpha_bars\nfrom ddpm_edu.check")(nb)
        swap(CALL, CALL, 'check("5.2", NoiseSchedule.linear(10).alpha_bars, a, atol=1e-12, by="recursion")')(nb)

    assert any("both sides are the same expression" in fault for fault in faults(change))


def test_a_check_that_nothing_runs_is_named(faults):
    said = faults(swap(CALL, CALL, f"def f():\n    {CALL}"))
    assert any("stands in code that nothing runs" in fault for fault in said), said


def test_what_may_be_asked_on_both_sides_is_a_short_list_and_each_entry_is_needed():
    used: set[tuple[str, str]] = set()
    for chapter in [*chapters(), *pages()]:
        assert list(sides.faults(chapter, used)) == []
    assert set(sides.SHARED) == used
    assert len(sides.SHARED) <= 30 and all(len(reason.split()) >= 2 for reason in sides.SHARED.values())


def test_monte_carlo_and_symbolic_checks_have_their_routes(faults):
    def change(nb):
        swap(CALL, CALL, CALL + '\ncheck_mean("5.2", a, b)\ncheck_symbolic("5.2", c, d)\ncheck_distribution("5.2", e, f)')(nb)

    assert any("its cells use Monte Carlo, recursion, sympy" in fault for fault in faults(change))

    def listed(nb):
        change(nb)
        swap("## Summary", "| recursion |", "| sympy, recursion, Monte Carlo |")(nb)

    assert faults(listed) == []


@pytest.mark.parametrize(
    "output, expected",
    [
        ({"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}, "is an error, ValueError"),
        ({"output_type": "stream", "name": "stderr", "text": "UserWarning: x"}, "stderr: UserWarning: x"),
        ({"output_type": "stream", "name": "stdout", "text": "<f at 0x7f0e50443240>"}, "an address or a path"),
        ({"output_type": "display_data", "data": {"image/png": "aGk="}, "metadata": {}}, "no alt text"),
    ],
)
def test_stored_outputs_are_looked_at(faults, output, expected):
    said = faults(lambda nb: cell(nb, "logs =").outputs.append(nbformat.from_dict(output)))
    assert len(said) == 1 and expected in said[0]


def test_alt_text_satisfies(faults):
    def change(nb):
        picture = {"output_type": "display_data", "data": {"image/png": "aGk="}, "metadata": {}}
        cell(nb, "logs =").outputs.append(nbformat.from_dict(picture))
        cell(nb, "logs =").metadata["mystnb"] = {"image": {"alt": "A line that rises"}}

    assert faults(change) == []


def test_a_chapter_without_outputs_is_told_to_run(faults):
    def change(nb):
        for c in nb.cells:
            if c.cell_type == "code":
                c.outputs = []

    assert any("no cell has a stored output" in fault for fault in faults(change))


def test_the_command_reports_and_fails(good, tmp_path, capsys):
    path = tmp_path / "05_tiny.ipynb"
    path.write_text(execute.text(good), encoding="utf-8")
    assert lint.main([str(path)]) == 0
    assert capsys.readouterr().out == "1 notebook(s), 2 equations, 1 checks: no faults\n"
    path.write_text(execute.text(good).replace("5.1}", "5.4}"), encoding="utf-8")
    assert lint.main([str(path)]) == 1
    assert "05_tiny.ipynb: equation (5.4) stands where (5.1) is due" in capsys.readouterr().out


# The notebooks of the back matter ---------------------------------------------------------------------------------

PAGE = [
    ("markdown", f"# Questions\n\n{badge('faq.ipynb')}", {}),
    ("code", bootstrap(), {"tags": ["remove-cell"]}),
    ("code", "import torch\n\nfrom ddpm_edu import NoiseSchedule\nfrom ddpm_edu.check import check, refute", {}),
    ("markdown", "## Clean data\n\n### What is the signal at 0?", {}),
    ("markdown", "One, by Eq. (4.8).", {}),
    ("code", 'check("4.8", NoiseSchedule.linear(10).alpha_bars[0], 1.0, atol=1e-12, by="closed form")\nprint(1)', {}),
    ("markdown", "### And at the end?\n\nMore on this in Chapter 4.", {}),
    ("code", "print(float(NoiseSchedule.linear(10).alpha_bars[-1] > 0))", {}),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("notebooks") / "faq.ipynb"
    execute.run(write_chapter(path, PAGE))
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda nb: None, None),
        (swap("### And", "### And at the end?", "### The end"), None),  # a plain heading asks nothing
        (swap("One, by", "One, by Eq. (4.8)", "One"), r"'What is the signal at 0\?' says neither Eq. \(…\) nor Chapter …"),
        (swap("One, by", "(4.8)", "(4.99)"), r"Eq. \(4.99\) does not exist"),
        (swap("One, by", "One,", "$$ a = 1 \\tag{4.33} $$"), "a page of the back matter has no numbered equations"),
        (swap("check(", 'check("4.8"', 'check("4.99"'), "names an equation that this book does not have"),
        (swap("check(", 'by="closed form"', 'by="magic"'), "by='magic' is not a known route"),
        (swap("# Questions", "faq.ipynb", "other.ipynb"), "Colab badge is missing or points elsewhere"),
        (swap("# Questions", "# Questions", "Questions"), "the first cell must begin with the title '# …'"),
        (lambda nb: cell(nb, "alpha_bars[-1]").outputs.clear(), r"no number is printed under the question 'And at the end\?'"),
        (lambda nb: nb.cells.remove(cell(nb, "check(")), "no number is printed under the question 'What is the signal"),
    ],
)
def test_a_page_of_questions(page, tmp_path, change, expected):
    nb = copy.deepcopy(page)
    change(nb)
    nbformat.write(nb, tmp_path / "faq.ipynb")
    said = list(lint.lint(Chapter(tmp_path / "faq.ipynb"), {"4.8"}))
    assert (said == []) if expected is None else any(re.search(expected, fault) for fault in said), said
