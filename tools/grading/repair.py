"""From what a student handed in to the notebook that is run: their answers in the assignment's own frame.

Test cells and read-only cells are always the assignment's; a deleted one comes back, and so does a deleted answer
cell, as its stub. Of the student's file only sources are taken, never metadata, outputs or attachments, and text loses
its HTML and its `javascript:` links, so that nothing of theirs runs in the browser of whoever looks at it later.
"""

import json
import re

import nbformat
from nbformat import NotebookNode
from nbgrader.utils import is_locked, is_solution

MOST_CELLS = 500
MOST_CHARACTERS = 200_000  # of one cell
TAG = re.compile(r"<(?=[a-zA-Z/!?])")
LINK = re.compile(r"\](?=\s*[(:]\s*<?(?!https?://)[^\s)]*[:&])")  # to anything but the web, however it is spelt


class Broken(Exception):
    """A file that cannot be graded; the message says why, without a full stop."""


def read(data: bytes) -> NotebookNode:
    """The notebook in a student's file.

    Raises:
        Broken: there is none in it.
    """
    try:
        text = data.decode("utf-8-sig")
        if not text.strip():
            raise Broken("the file is empty")
        notebook = json.loads(text)
    except UnicodeDecodeError:
        raise Broken("the file is not a notebook: it holds something other than text") from None
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) or "Unterminated" in error.msg
        why = "it is cut off" if cut and text.lstrip().startswith("{") else "it is not JSON"
        raise Broken(f"the file is not a notebook: {why} (line {error.lineno})") from None
    except RecursionError:
        raise Broken("the file is not a notebook: it is nested too deeply") from None
    try:
        found = nbformat.reads(json.dumps(notebook), as_version=4)
        cells = [(c.cell_type, c.source, c.metadata.get("nbgrader", {})) for c in found.cells]
        sane = all(isinstance(source, str) and isinstance(grader, dict) for _, source, grader in cells)
    except Exception as error:  # whatever nbformat makes of a stranger's file
        raise Broken(f"the file is not a notebook: {type(error).__name__}") from None
    if not sane or not cells:
        raise Broken("the file is a notebook without cells" if not cells else "the file's cells are not a notebook's")
    if len(cells) > MOST_CELLS or any(len(source) > MOST_CHARACTERS for _, source, _ in cells):
        raise Broken(f"the notebook has more than {MOST_CELLS} cells or {MOST_CHARACTERS} characters in a cell")
    return found


def repaired(handed_in: NotebookNode, frame: NotebookNode, released: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """The notebook to run, and what was done to the student's, a clause each.

    Args:
        handed_in: the student's.
        frame: the assignment's with stubs and hidden tests.
        released: what the student was given.
    """
    named = {_name(cell): cell for cell in frame.cells if _name(cell)}
    given = {_name(cell) or cell.id: cell for cell in released.cells}
    ids = {cell.id: name for name, cell in named.items()}  # where an editor has lost nbgrader's metadata
    names = [_name(cell) or ids.get(cell.get("id"), "") for cell in handed_in.cells]
    last = {name: place for place, name in enumerate(names)}
    notes, cells, own = [], [], 0
    for place, (name, cell) in enumerate(zip(names, handed_in.cells, strict=True)):
        if name in named:
            if last[name] != place:
                notes.append(f"cell {name} is there twice: the last one counts")
                continue
            kept = nbformat.from_dict(named[name])
            if is_solution(kept):
                kept.source = cell.source if kept.cell_type == "code" else _text(cell.source, given[name].source)
            elif cell.source.rstrip() != given[name].source.rstrip():
                kind = "test cell" if not is_locked(kept) or kept.metadata.nbgrader.get("grade") else "read-only cell"
                notes.append(f"{kind} {name} was changed: the original was run")
            cells.append(kept)
        else:
            known = given.get(cell.get("id"))
            own += known is None
            cells.append(_own(cell, known, f"own-{place}"))
    cells, missing = _completed(cells, frame, named)
    if own:
        notes.append(f"{own} cell{'s' * (own > 1)} of the student's own, run with the rest")
    result = nbformat.from_dict(frame)
    result.cells = cells
    there = {cell.get("id") for cell in handed_in.cells} | {cell.source.strip() for cell in handed_in.cells}
    for cell in frame.cells:
        if cell.cell_type == "code" and not _name(cell) and not {cell.id, cell.source.strip()} & there:
            notes.append(f"the cell that begins {cell.source.strip().splitlines()[0][:60]!r} was deleted")
    return result, missing + notes


def _name(cell: NotebookNode) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id") or "")


def _text(source: str, given: str) -> str:
    """A student's prose without HTML and without links that run something; what was given is left as it is."""
    return source if source.strip() == given.strip() else LINK.sub("&#93;", TAG.sub("&lt;", source))


def _own(cell: NotebookNode, known: NotebookNode | None, name: str) -> NotebookNode:
    """A cell outside the frame: the student's own, or one that was theirs to change."""
    if cell.cell_type == "code":
        made = nbformat.v4.new_code_cell(cell.source)
    else:
        made = nbformat.v4.new_markdown_cell(_text(cell.source, known.source if known is not None else ""))
    made.id = name
    if known is not None:
        made.id, made.metadata = known.id, nbformat.from_dict(known.metadata)
    return made


def _completed(
    cells: list[NotebookNode], frame: NotebookNode, named: dict[str, NotebookNode]
) -> tuple[list[NotebookNode], list[str]]:
    """Put back the frame's cells that are missing, each behind the one that stood before it."""
    notes, before = [], ""
    for cell in frame.cells:
        name = _name(cell)
        if not name:
            continue
        if not any(_name(c) == name for c in cells):
            place = next((at + 1 for at, c in enumerate(cells) if _name(c) == before), 0 if not before else len(cells))
            cells = [*cells[:place], nbformat.from_dict(named[name]), *cells[place:]]
            if is_solution(cell):
                notes.append(f"answer cell {name} was deleted: it counts as not attempted")
            elif cell.metadata.nbgrader.get("grade"):
                notes.append(f"test cell {name} was deleted: the original was put back")
            else:
                notes.append(f"read-only cell {name} was deleted: the original was put back")
        before = name
    return cells, notes
