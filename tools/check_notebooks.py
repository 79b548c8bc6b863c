"""The rules a committed notebook keeps, beyond running: python tools/check_notebooks.py [NOTEBOOK ...]

Each rule is a function from a notebook (as JSON) to complaints, one sentence each. `tests/test_notebooks.py` holds
every lesson to them; lesson authors can run them alone, in a second.
"""

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Notebook = dict[str, Any]
Cell = dict[str, Any]
Rule = Callable[[Notebook], list[str]]

IGNORED = "nbval-ignore-output"
NBVAL_TAGS = {IGNORED, "raises-exception"}  # skipping a cell or only checking it is a way around the comparison
HIDDEN_TAGS = {"hide", "hidden", "hide-cell", "hide-input", "hide-output", "remove-cell", "remove-input", "remove_cell"}
MACHINE_PATH = re.compile(
    r"(?<![\w.~*])(/(home|root|tmp|opt|work|Users|usr/local|private|var/folders)/\w|[A-Z]:\\+Users)"
)
COMPARED_SHARE = 0.85


def text(value: str | list[str] | None) -> str:
    """A notebook's multi-line string, which may be a list of lines, as one string."""
    return value if isinstance(value, str) else "".join(value or [])


def tags(cell: Cell) -> set[str]:
    """A cell's tags."""
    return set(cell["metadata"].get("tags", []))


def code_cells(notebook: Notebook) -> Iterator[tuple[str, Cell]]:
    """Every code cell that holds code, with a name for complaints."""
    for position, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code" and text(cell["source"]).strip():
            yield f"cell {position} ({text(cell['source']).strip().splitlines()[0][:50]!r})", cell


def executed(notebook: Notebook) -> list[str]:
    """Every code cell has been executed, in order, from 1 on: nbval passes a notebook that was never run."""
    counts = [cell.get("execution_count") for _, cell in code_cells(notebook)]
    if not counts:
        return ["there is no code cell"]
    if counts != list(range(1, len(counts) + 1)):
        return [f"cells were not all executed once, in order: execution counts {counts}"]
    return []


def no_errors(notebook: Notebook) -> list[str]:
    """No error outputs, except in cells that raise on purpose; and those do raise."""
    found = []
    for name, cell in code_cells(notebook):
        errors = [output["ename"] for output in cell["outputs"] if output["output_type"] == "error"]
        if errors and "raises-exception" not in tags(cell):
            found.append(f"{name} shows an error: {errors[0]}")
        if not errors and "raises-exception" in tags(cell):
            found.append(f"{name} is tagged raises-exception and raises nothing")
    return found


def compared(notebook: Notebook) -> list[str]:
    """At least 85 % of code cells are compared; an ignored one says why, and a compared one follows it."""
    cells = list(code_cells(notebook))
    ignored = [IGNORED in tags(cell) for _, cell in cells]
    found = []
    if cells and 1 - sum(ignored) / len(cells) < COMPARED_SHARE:
        found.append(f"only {len(cells) - sum(ignored)} of {len(cells)} code cells are compared; 85 % are needed")
    for position, (name, cell) in enumerate(cells):
        if not ignored[position]:
            continue
        if not re.match(r"#[ \t]*not compared:[ \t]*\S", text(cell["source"]).lstrip()):
            found.append(f"{name} is not compared and does not begin with '# not compared: <reason>'")
        if position + 1 == len(cells) or ignored[position + 1]:
            found.append(f"{name} is not compared, and no compared cell follows it to hold its finding")
    return found


def known_tags(notebook: Notebook) -> list[str]:
    """Of nbval's tags only the two that the course allows; the others switch the comparison off."""
    found = []
    for name, cell in code_cells(notebook):
        of_nbval = {tag for tag in tags(cell) if tag.lower().replace("_", "-").startswith(("nbval", "raises"))}
        found += [f"{name} has the tag {tag}, which is not allowed" for tag in sorted(of_nbval - NBVAL_TAGS)]
        if re.search(r"^\s*#\s*(NBVAL_|PYTEST_VALIDATE_)", text(cell["source"]), re.MULTILINE):
            found.append(f"{name} steers nbval by a comment; use a tag")
    return found


def alt_text(notebook: Notebook) -> list[str]:
    """Every image in the text and every figure has alternative text."""
    found = []
    for position, cell in enumerate(notebook["cells"]):
        source = text(cell["source"])
        if cell["cell_type"] == "markdown":
            images = re.findall(r"!\[\s*\]", source)
            images += [tag for tag in re.findall(r"<img\b[^>]*>", source) if not re.search(r"alt=[\"'][^\"']*\w", tag)]
            found += [f"cell {position}: the image {image} has no alt text" for image in images]
    for name, cell in code_cells(notebook):
        for output in cell["outputs"]:
            for kind in output.get("data", {}):
                if kind.startswith("image/") and not output["metadata"].get(kind, {}).get("alt", "").strip():
                    found.append(f"{name} shows a figure without alt text: use peft_lessons.figures.show(fig, alt=...)")
    return found


def nothing_hidden(notebook: Notebook) -> list[str]:
    """No hidden or collapsed cells."""
    found = []
    for position, cell in enumerate(notebook["cells"]):
        data = cell["metadata"]
        folded = data.get("collapsed") or any(
            data.get("jupyter", {}).get(f"{part}_hidden") for part in ("source", "outputs")
        )
        if folded or tags(cell) & HIDDEN_TAGS or data.get("hide_input"):
            found.append(f"cell {position} is hidden")
    return found


def no_star_imports(notebook: Notebook) -> list[str]:
    """Every name a reader meets can be looked up."""
    found = []
    for name, cell in code_cells(notebook):
        if re.search(r"^\s*from\s+\S+\s+import\s+\*", text(cell["source"]), re.MULTILINE):
            found.append(f"{name} has a star import")
    return found


def no_machine_paths(notebook: Notebook) -> list[str]:
    """No path of the machine it was made on, in sources or in outputs."""
    found = []
    for position, cell in enumerate(notebook["cells"]):
        parts = [text(cell["source"])]
        for output in cell.get("outputs", []):
            parts += [text(output.get("text")), output.get("evalue", ""), "\n".join(output.get("traceback", []))]
            parts += [
                text(v) for k, v in output.get("data", {}).items() if k.startswith("text/") or k == "image/svg+xml"
            ]
        hit = MACHINE_PATH.search("\n".join(parts))
        if hit:
            found.append(f"cell {position} has a path of one machine: {hit.group()}...")
    return found


def clean_metadata(notebook: Notebook) -> list[str]:
    """No widget state, no times, no version of whatever machine ran it: `make notebooks` takes them out."""
    data = notebook["metadata"]
    found = [f"the notebook's metadata has {key!r}" for key in sorted(set(data) - {"kernelspec", "language_info"})]
    if data.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3")
    if "version" in data.get("language_info", {}):
        found.append("the metadata name a Python version")
    for name, cell in code_cells(notebook):
        if "execution" in cell["metadata"]:
            found.append(f"{name} holds times of execution")
        if any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in cell["outputs"]):
            found.append(f"{name} holds a widget's view, which shows nothing without its state")
    return found


class _Bare(ast.NodeTransformer):
    """Take docstrings and annotations off a syntax tree."""

    def _body(self, node: Any) -> Any:
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node

    visit_ClassDef = _body

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._body(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        node.annotation = ast.Constant(None)  # kept as a node: a dataclass has a field here, annotated or not
        return node


def definitions(source: str) -> dict[str, str]:
    """Each class and function of a module's top level, as a syntax tree without docstrings and annotations."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = ast.dump(_Bare().visit(node))
    return found


def package_definitions(package: Path = ROOT / "peft_lessons") -> dict[str, set[str]]:
    """Every definition in the package, by name; a name may be defined in more than one file."""
    found: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        for name, tree in definitions(path.read_text(encoding="utf-8")).items():
            found.setdefault(name, set()).add(tree)
    return found


def core_cells(notebook: Notebook, package: dict[str, set[str]] | None = None) -> list[str]:
    """A cell tagged `core:NAME` defines NAME just as the package does."""
    package = package_definitions() if package is None else package
    found = []
    for name, cell in code_cells(notebook):
        for wanted in sorted(tag.removeprefix("core:") for tag in tags(cell) if tag.startswith("core:")):
            # magics are no Python; a cell with one cannot be core
            here = definitions(text(cell["source"]))
            if wanted not in package:
                found.append(f"{name} is tagged core:{wanted}, and the package has no such definition")
            elif wanted not in here:
                found.append(f"{name} is tagged core:{wanted} and does not define it")
            elif here[wanted] not in package[wanted]:
                found.append(f"{name}: {wanted} is not the package's {wanted}")
    return found


RULES: tuple[Rule, ...] = (
    executed,
    no_errors,
    compared,
    known_tags,
    alt_text,
    nothing_hidden,
    no_star_imports,
    no_machine_paths,
    clean_metadata,
    core_cells,
)


def lessons() -> list[Path]:
    """Every notebook of the course but the assignments' sources, what students get of them, and Jupyter's copies."""
    folder = ROOT / "notebooks"
    parts = {path: path.relative_to(folder).parts for path in sorted(folder.rglob("*.ipynb"))}
    left_out = {"release", "source"}
    return [path for path, p in parts.items() if not left_out & set(p) and not any(x.startswith(".") for x in p)]


def main(names: list[str]) -> int:
    """Print every complaint; 1 when there is one."""
    bad = 0
    for path in [Path(name) for name in names] or lessons():
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for rule in RULES:
            for complaint in rule(notebook):
                print(f"{path.name}: {complaint}")
                bad += 1
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
