"""Run notebooks from top to bottom and write their outputs: python tools/execute_notebooks.py [NOTEBOOK ...]

Keeps outputs and execution counts; takes out widget views and state, times, and the version of the Python that ran
them, so that a second run on the same machine changes nothing but what the lesson itself draws anew.
"""

import os
import re
import sys
import time
from pathlib import Path

import nbformat
from check_notebooks import ROOT, lessons
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"}
PROGRESS = re.compile(r"\d+%\|")
WIDGET = "application/vnd.jupyter.widget-view+json"


def clean(notebook: NotebookNode) -> NotebookNode:
    """Take out what belongs to one run or one machine, in place."""
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info=LANGUAGE)
    for cell in notebook.cells:
        for key in ("execution", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            for output in cell.outputs:
                if output.get("data", {}).pop(WIDGET, None) and PROGRESS.search(output.data.get("text/plain", "")):
                    output.data["text/plain"] = "[progress bar]"  # as displayed it reads 0 %; nbval knows this text
    return notebook


def execute(path: Path) -> float:
    """Run one notebook in a fresh kernel, in its own folder, and write it back; returns the seconds it took.

    Raises:
        CellExecutionError: a cell failed; the file is left as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,  # in how many pieces text came is chance
        resources={"metadata": {"path": path.parent}},
    )
    client.execute()
    nbformat.write(clean(notebook), path)
    return time.perf_counter() - start


def main(names: list[str]) -> int:
    """Run every notebook named, or all; 1 when one failed."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # they appear only where the cache is cold
    failed = 0
    for path in [Path(name).resolve() for name in names] or lessons():
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        try:
            print(f"{shown}: {execute(path):.0f} s", flush=True)
        except CellExecutionError as error:
            print(f"{shown}: failed\n{error}", file=sys.stderr)
            failed += 1
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
