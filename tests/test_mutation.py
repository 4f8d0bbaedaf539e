"""The results of the general mutation test fit the sources."""

import mutation
import pytest

FOUND = mutation.results()


def tried(module):
    if not FOUND.get(module):
        pytest.skip(f"no edit of {module} was tried yet: `make mutation` does")
    return FOUND[module]


@pytest.mark.parametrize("module", mutation.MODULES)
def test_nine_of_ten_functions_are_as_they_were_when_their_mutants_were_tried(module):
    present = mutation.functions(module)
    changed = [f.name for f in present if tried(module).get(f.name, {}).get("source") != f.digest]
    assert len(changed) <= 0.1 * len(present), "`make mutation` tries the functions that changed"


@pytest.mark.parametrize("module", mutation.MODULES)
def test_nine_of_ten_mutants_are_noticed(module):
    noticed, total = mutation.rates({module: tried(module)})[module]
    assert noticed >= 0.9 * total > 20


def test_only_survivors_are_explained():
    assert not mutation.survivors(FOUND)[1], "entries of survivors.yml that a test notices"


def test_an_edit_is_the_one_it_says_and_leaves_messages_and_docstrings_alone():
    by_name = {function.name: function for function in mutation.functions("gaussian")}
    edits = {m.operator: m.edit()["new"] for m in mutation.mutants(by_name["Gaussian.log_prob"])}
    line = "return -0.5 * ((x - self.mean) ** 2 / var + torch.log(2 * math.pi * var))"
    assert edits["ReplaceBinaryOperator_Add_Sub"] == line.replace("var + torch", "var - torch")
    assert edits["ReplaceUnaryOperator_Delete_USub"] == line.replace("-0.5", "0.5")
    assert edits["DropCheck"] == "pass" and edits["DropKeyword"].startswith("common_shape(x=real(x")
    for function in by_name.values():
        assert not [m for m in mutation.mutants(function) if "got " in m.edit()["old"] or '"""' in m.edit()["old"]]


def test_the_digest_of_a_function_is_of_what_it_does(tmp_path, monkeypatch):
    def digest(text):
        (tmp_path / "m.py").write_text(text, encoding="utf-8")
        monkeypatch.setattr(mutation, "path_of", lambda module: tmp_path / "m.py")
        return mutation.functions("m")[0].digest

    plain = digest("def f(x):\n    return x + 1\n")
    assert digest('def f(x):\n    """Says something."""\n\n    return (x + 1)  # and more\n') == plain
    assert digest("def f(x):\n    return x + 2\n") != plain
