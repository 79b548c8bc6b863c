"""Every lesson keeps the rules of tools/check_notebooks.py, and every rule is seen to fail on a bad notebook.

That the cells still give what stands under them is nbval's part: `make test` runs it on the same files.
"""

import ast
import importlib
import inspect
import json
import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import check_notebooks as rules
import execute_notebooks
import nbformat
import pytest

LESSONS = rules.lessons()


@pytest.fixture(scope="module")
def package() -> dict[str, set[str]]:
    return rules.package_definitions()


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_lesson(rule: rules.Rule, path: Path) -> None:
    assert not rule(json.loads(path.read_text(encoding="utf-8")))


def test_lessons_are_numbered_and_named() -> None:
    for path in LESSONS:
        if path.parent.name == "notebooks":
            assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem), path.name


def test_exercises_are_named_after_their_lesson() -> None:
    names = []
    for path in LESSONS:
        for _, cell in rules.code_cells(json.loads(path.read_text(encoding="utf-8"))):
            for call in ast.walk(ast.parse(rules.text(cell["source"]))):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "check_answer":
                    assert isinstance(call.args[0], ast.Constant), f"{path.stem}: {ast.unparse(call)}"
                    names.append(call.args[0].value)
                    assert names[-1].startswith(f"{path.stem.partition('_')[0]}."), f"{path.stem}: {names[-1]}"
    assert names and len(names) == len(set(names))


@pytest.mark.parametrize(
    "path", [*LESSONS, *rules.ROOT.glob("*.md"), *rules.ROOT.glob("data/**/*.md")], ids=lambda path: path.stem
)
def test_links_lead_somewhere(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(written)["cells"]
        written = "\n".join(rules.text(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\((?!https?:|mailto:|attachment:|#)([^)#\s]+)", written)
    assert not [link for link in links if not (path.parent / link).exists()]


# ---- the rules themselves, each on the smallest notebook that breaks it ----


def code(source: str, *outputs: dict[str, Any], count: int | None = 1, **metadata: Any) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "source": source,
        "outputs": list(outputs),
        "execution_count": count,
        "metadata": metadata,
    }


def notebook(*cells: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": {"kernelspec": {"name": "python3"}} | metadata}


def markdown(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def stream(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": [text]}


def picture(**metadata: Any) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {"image/png": "iVBO"}, "metadata": metadata}


ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["ValueError: no"]}
IGNORED = {"tags": ["nbval-ignore-output"]}
SEVEN = [code("1", count=n) for n in range(3, 10)]
TWO_DEFINED = "def double(x):\n    return 2 * x"

GOOD = notebook(
    markdown("# A lesson\n![a plot](plot.png) <img src='x.png' alt='a map'>"),
    code("# not compared: a time of this machine\nprint(3.2)", stream("3.2\n"), count=1, **IGNORED),
    code("print(True)", stream("True\n"), count=2),
    *SEVEN,
    code("raise ValueError('no')", ERROR, count=10, tags=["raises-exception"]),
    code("show(fig, alt='It rises.')", picture(**{"image/png": {"alt": "It rises."}}), count=11),
    code('def double(x: int) -> int:\n    """Twice x."""\n    return 2 * x', count=12, tags=["core:double"]),
    code("", count=None),
    language_info={"name": "python"},
)

BAD = [
    (rules.executed, notebook(code("1", count=None)), "not all executed"),
    (rules.executed, notebook(code("1", count=2), code("2", count=1)), "in order"),
    (rules.executed, notebook(code("1", count=1), code("2", count=5)), "in order"),
    (rules.executed, notebook(markdown("text only")), "no code cell"),
    (rules.no_errors, notebook(code("f()", ERROR)), "shows an error: ValueError"),
    (rules.no_errors, notebook(code("f()", tags=["raises-exception"])), "raises nothing"),
    (rules.compared, notebook(code("# not compared: a time\nf()", **IGNORED), code("1")), "only 1 of 2"),
    (rules.compared, notebook(code("f()", **IGNORED), code("1"), *SEVEN), "does not begin with '# not compared:"),
    (rules.compared, notebook(code("# not compared:\nf()", **IGNORED), code("1"), *SEVEN), "does not begin with"),
    (rules.compared, notebook(*SEVEN, code("# not compared: a time\nf()", **IGNORED)), "no compared cell follows"),
    (
        rules.compared,
        notebook(*[code("# not compared: a time\nf()", **IGNORED)] * 2, *SEVEN, *SEVEN),
        "no compared cell follows",
    ),
    (rules.known_tags, notebook(code("f()", tags=["nbval-skip"])), "nbval-skip"),
    (rules.known_tags, notebook(code("f()", tags=["nbval-raises-exception"])), "not allowed"),
    (rules.known_tags, notebook(code("# NBVAL_SKIP\nf()")), "by a comment"),
    (rules.alt_text, notebook(markdown("![](plot.png)")), "no alt text"),
    (rules.alt_text, notebook(markdown("<img src='plot.png'>")), "no alt text"),
    (rules.alt_text, notebook(markdown("<img src='plot.png' alt=''>")), "no alt text"),
    (rules.alt_text, notebook(code("plot()", picture())), "without alt text"),
    (rules.alt_text, notebook(code("plot()", picture(**{"image/png": {"alt": " "}}))), "without alt text"),
    (rules.nothing_hidden, notebook(code("f()", jupyter={"source_hidden": True})), "hidden"),
    (rules.nothing_hidden, notebook(code("f()", jupyter={"outputs_hidden": True})), "hidden"),
    (rules.nothing_hidden, notebook(code("f()", tags=["hide-input"])), "hidden"),
    (rules.nothing_hidden, notebook(code("f()", collapsed=True)), "hidden"),
    (rules.no_star_imports, notebook(code("from peft_lessons import *")), "star import"),
    (rules.no_machine_paths, notebook(code("open('" + "/ho" + "me/me/x')")), "path of one machine"),
    (rules.no_machine_paths, notebook(code("f()", stream("saved in " + "/tm" + "p/x\n"))), "path of one machine"),
    (rules.no_machine_paths, notebook(code("f()", ERROR | {"traceback": ["C:\\Users\\me"]})), "path of one machine"),
    (rules.clean_metadata, notebook(code("f()"), widgets={"state": {}}), "'widgets'"),
    (rules.clean_metadata, notebook(code("f()"), language_info={"version": "3.11.7"}), "Python version"),
    (rules.clean_metadata, notebook(code("f()"), kernelspec={"name": "mine"}), "not python3"),
    (rules.clean_metadata, notebook(code("f()", execution={"iopub.execute_input": "2020"})), "times of execution"),
    (
        rules.clean_metadata,
        notebook(
            code(
                "f()",
                {
                    "output_type": "display_data",
                    "metadata": {},
                    "data": {"application/vnd.jupyter.widget-view+json": {}},
                },
            )
        ),
        "widget's view",
    ),
    (rules.core_cells, notebook(code(TWO_DEFINED.replace("2", "3"), tags=["core:double"])), "not the package's double"),
    (rules.core_cells, notebook(code("triple = 3", tags=["core:double"])), "does not define it"),
    (rules.core_cells, notebook(code("def triple(x): ...", tags=["core:triple"])), "no such definition"),
]


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_passes(rule: Any) -> None:
    extra = (
        [{name: {tree} for name, tree in rules.definitions(TWO_DEFINED).items()}] if rule is rules.core_cells else []
    )
    assert rule(GOOD, *extra) == []


@pytest.mark.parametrize(("rule", "bad", "words"), BAD, ids=[f"{b[0].__name__}-{n}" for n, b in enumerate(BAD)])
def test_a_bad_notebook_is_found(rule: Any, bad: dict[str, Any], words: str) -> None:
    extra = (
        [{name: {tree} for name, tree in rules.definitions(TWO_DEFINED).items()}] if rule is rules.core_cells else []
    )
    assert words in " ".join(rule(bad, *extra))


def test_every_rule_is_seen_to_fail() -> None:
    assert {rule for rule, _, _ in BAD} == set(rules.RULES)


@pytest.mark.parametrize(
    ("lesson", "same"),
    [
        ("@dataclass(frozen=True)\nclass A:\n    r = 8\n    x: None\n", False),  # a field and an attribute differ
        ("@dataclass(frozen=True)\nclass A:\n    r: float = 8\n    x: str\n", True),
        ('@dataclass(frozen=True)\nclass A:\n    "Why."\n    r: int = 8\n    x: int\n', True),
        ("@dataclass\nclass A:\n    r: int = 8\n    x: int\n", False),
        ("@dataclass(frozen=True)\nclass A:\n    r: int = 4\n    x: int\n", False),
    ],
)
def test_only_docstrings_and_annotations_may_differ(lesson: str, same: bool) -> None:
    package = "@dataclass(frozen=True)\nclass A:\n    r: int = 8\n    x: int\n"
    assert (rules.definitions(lesson) == rules.definitions(package)) is same


def test_make_notebooks_takes_out_what_belongs_to_one_run() -> None:
    def shown(text: str) -> dict[str, Any]:
        data = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": text}
        return {"output_type": "display_data", "data": data, "metadata": {}}

    made = code("fit()", shown("LoRA:   0%|          | 0/30 [00:00<?, ?it/s]"), shown("IntSlider(value=0)"))
    made["metadata"] = {"execution": {"iopub.execute_input": "2020"}, "collapsed": False, "tags": ["core:x"]}
    bad = notebook(made, widgets={"state": {}}, language_info={"name": "python", "version": "3.11.7"})
    assert len(rules.clean_metadata(bad)) == 4
    good = execute_notebooks.clean(nbformat.from_dict(bad))
    assert rules.clean_metadata(good) == []
    cell = good["cells"][0]
    assert [output["data"] for output in cell["outputs"]] == [
        {"text/plain": "[progress bar]"},
        {"text/plain": "IntSlider(value=0)"},
    ]
    assert cell["metadata"] == {"tags": ["core:x"]} and cell["execution_count"] == 1


# ---- the package's public docstrings ----

MODULES = ["", ".methods", ".checks", ".prompting", ".figures"]
MODULES += [f".accounting.{path.stem}" for path in sorted((rules.ROOT / "peft_lessons/accounting").glob("[a-z]*.py"))]
MODULES += [f".explorers.{name}" for name in ("base", "picture", "rank", "svg")]
MODULES += [f".explorers.{name}" for name in ("memory", "memory_controls", "memory_parts")]


def public(module: ModuleType) -> list[tuple[str, Any]]:
    """The classes and functions that a module offers: its `__all__`, or what it defines without an underscore."""
    own = [
        n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__
    ]
    names = getattr(module, "__all__", own)
    return [(n, v) for n in names if inspect.isclass(v := getattr(module, n)) or inspect.isfunction(v)]


def docstring_complaints(name: str, thing: Any, doc_of_module: str) -> list[str]:
    """What a public docstring lacks: itself, the errors raised in its own code, a source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    assert isinstance(tree, ast.ClassDef | ast.FunctionDef)
    doc = ast.get_docstring(tree)
    if not doc:
        return [f"{name} has no docstring"]
    found = []
    all_docs = [ast.get_docstring(n) or "" for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    if any(isinstance(node, ast.Raise) for node in ast.walk(tree)) and not any("Raises:" in doc for doc in all_docs):
        found.append(f"{name} raises, and its docstring has no 'Raises:'")
    if not any(re.search(r"^\s*Source:", text, re.MULTILINE) for text in (doc, doc_of_module)):
        found.append(f"neither the docstring of {name} nor its module's has a line 'Source:'")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_public_docstrings(module: str) -> None:
    found = importlib.import_module("peft_lessons" + module)
    assert public(found), f"peft_lessons{module} offers nothing: it needs an __all__"
    complaints = []
    for name, thing in public(found):
        home = inspect.getmodule(thing)
        complaints += docstring_complaints(name, thing, (home and home.__doc__) or "")
    assert not complaints, "\n".join(complaints)


def test_a_bad_docstring_is_found() -> None:
    def bare() -> None: ...

    def silent() -> None:
        """It may raise."""
        raise ValueError("no")

    def good() -> None:
        """It may raise.

        Raises:
            ValueError: always.

        Source: here.
        """
        raise ValueError("no")

    assert docstring_complaints("bare", bare, "") == ["bare has no docstring"]
    assert len(docstring_complaints("silent", silent, "")) == 2
    assert docstring_complaints("good", good, "") == []
