"""A page for each submission, and an index: plain HTML that needs no network and no script.

All text of a student is escaped; the notebook on the page is the graded one, of which only sources, text outputs and
PNG pictures are left (see repair.py and results.py), and nbconvert cleans it once more.
"""

import html
import json
from pathlib import Path
from typing import Any

import bleach
import nbformat
from nbconvert.exporters import HTMLExporter
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.preprocessors import ClearHiddenTests
from traitlets.config import Config

from .course import Course, Refused
from .grade import marks, write_marks

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# What stays of prose: nbconvert's own list knows no headings and no paragraphs.
TAGS = set("a abbr b blockquote br code dd del details div dl dt em h1 h2 h3 h4 h5 h6 hr i img li ol p pre".split())
TAGS |= set("span strong sub summary sup table tbody td th thead tr ul".split())
# A link of the notebook to a file beside it leads nowhere from a page that was sent to a student.
ATTRIBUTES = {"a": lambda _, name, value: name == "href" and value.startswith("https://"), "img": ["src", "alt"]}
ATTRIBUTES["*"] = ["class"]
STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #111; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { overflow-wrap: anywhere; min-width: 4rem; }
th, td { border: 1px solid #767676; padding: .3rem .6rem; text-align: left; vertical-align: top; }
pre { background: #f4f4f4; padding: .5rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
img { max-width: 100%; }
a { color: #003d99; }
.prompt { color: #595959; font-size: .8rem; }
section { border-top: 2px solid #767676; margin-top: 2rem; }
"""


def page(title: str, body: str) -> str:
    """A whole page; its policy lets no script run, whatever the body holds."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><main>\n<h1>{html.escape(title)}</h1>\n{body}\n</main></body></html>\n"
    )


def table(header: list[str], rows: list[list[str]], caption: str) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    lines = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    top = f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>"
    return f"<table>{top}\n<tbody>{lines}</tbody></table>"


def feedback(course: Course) -> Path:
    """Write all pages and the index; returns the index.

    Raises:
        Refused: nothing has been graded.
    """
    if not (course.folder / "collected.json").exists():
        raise Refused(f"Nothing has been graded in {course.folder}: run `make grade SUBMISSIONS=...` first.")
    write_marks(course)
    rows, top = [], course.folder / "feedback"
    for row in marks(course):
        student, assignment = row["student"], row["assignment"]
        shown = [html.escape(student), html.escape(assignment or "no assignment")]
        if assignment in course.sources:
            path = top / student / assignment / f"{assignment}.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_submission(course, row), encoding="utf-8")
            link = f"{html.escape(student)}/{assignment}/{assignment}.html"
            shown = [shown[0], f'<a href="{link}">{shown[1]}</a>']
        rows.append([*shown, _marks(row), html.escape(row["late"]), html.escape(row["notes"])])
    index = top / "index.html"
    index.parent.mkdir(exist_ok=True)
    header = ["student", "assignment", "points", "late", "notes"]
    index.write_text(page("Feedback", table(header, rows, "All submissions, for the instructor")), encoding="utf-8")
    return index


def _marks(row: dict[str, Any]) -> str:
    if "total" not in row:
        return ""
    waiting = ", more to be graded by hand" if row.get("needs manual grading") else ""
    return f"{row['total']:g} of {row['max']:g} points{waiting}"


def _submission(course: Course, row: dict[str, Any]) -> str:
    """The page of one submission."""
    student, assignment = row["student"], row["assignment"]
    path = course.record(student, assignment)
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    body = f"<p>{html.escape(student)}: <strong>{_marks(row)}</strong></p>\n"
    notes = [note for note in row["notes"].split("; ") if note]
    if notes:
        body += "<h2>What happened</h2>\n<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>\n"
    lines = []
    for e in record.get("exercises", []):
        found = [e["problem"]] if e["problem"] else [f"{f['name']}: {f['wrong'] or 'right'}" for f in e["findings"]]
        listed = "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in found) + "</ul>"
        lines.append([html.escape(e["exercise"]), f"{row.get(e['exercise'], e['points']):g} of {e['most']:g}", listed])
    lines += _by_hand(course, student, assignment)
    if lines:
        body += "<h2>Exercises</h2>\n" + table(["exercise", "points", "what was found"], lines, "Marks by exercise")
    graded = course.folder / "autograded" / student / assignment / f"{assignment}.ipynb"
    if graded.exists() and record.get("exercises"):
        body += f"<section><h2>The notebook as it was graded</h2>\n{_notebook(graded)}</section>"
    return page(f"Feedback on {assignment}", body)


def _by_hand(course: Course, student: str, assignment: str) -> list[list[str]]:
    """The marks and comments given in formgrader, also a comment beside an answer that tests have graded."""
    with Gradebook(course.db_url, "course") as gradebook:
        try:
            notebook = gradebook.find_submission_notebook(assignment, assignment, student)
        except MissingEntry:
            return []
        comments = {comment.name: comment.comment or "" for comment in notebook.comments}
        graded = {grade.name for grade in notebook.grades}
        beside = [c for c in notebook.comments if c.manual_comment and c.name not in graded]
        return [[html.escape(c.name), "", html.escape(c.manual_comment)] for c in beside] + [
            [
                html.escape(grade.name),
                "to be graded by hand" if grade.needs_manual_grade else f"{grade.score:g} of {grade.max_score:g}",
                html.escape(comments.get(grade.name, "")),
            ]
            for grade in notebook.grades
            if grade.name in comments
        ]


def _notebook(path: Path) -> str:
    """A graded notebook as HTML without a page around it, and without the hidden tests."""
    config = Config()
    config.HTMLExporter.template_name = "basic"
    config.HTMLExporter.sanitize_html = True
    config.HTMLExporter.exclude_anchor_links = True
    config.HTMLExporter.embed_images = False
    notebook, _ = ClearHiddenTests().preprocess(nbformat.read(path, as_version=4), {})
    exporter = HTMLExporter(config=config)
    exporter.register_filter("clean_html", lambda text: bleach.clean(str(text), TAGS, ATTRIBUTES))
    body, _ = exporter.from_notebook_node(notebook)
    return body
