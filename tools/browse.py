"""A real browser and the servers it looks at, for the tests and the bench; all stay on this machine.

The browser is Debian's chromium (or any in PATH), driven by playwright, with an empty profile and no name but 127.0.0.1
known to it. PEFT_LESSONS_SCREENSHOTS names a folder to leave pictures in.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from check_notebooks import ROOT, tags, text
from playwright import sync_api as playwright

TOKEN = "a-token-for-this-test"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage"
).split() + ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
MINUTES = 8  # far more than a lesson may take: it ends the wait for a page that hangs

# All cells as the page holds them: what has been executed, and what stands under it.
CELLS = """() => jupyterapp.shell.currentWidget.content.model.sharedModel.cells
    .filter(cell => cell.cell_type === 'code' && cell.source.trim())
    .map(cell => ({source: cell.source, metadata: cell.metadata, count: cell.execution_count,
                   outputs: cell.getOutputs()}))"""
READY = """async () => {
    const panel = jupyterapp.shell.currentWidget;
    let step = 'the application';
    const steps = async () => {
        await jupyterapp.restored; step = 'the notebook';
        await panel.context.ready; step = 'the kernel';
        await panel.sessionContext.ready; step = 'clearing the outputs';
        await jupyterapp.commands.execute('notebook:clear-all-cell-outputs'); step = '';
    };
    await Promise.race([steps(), new Promise(done => setTimeout(done, 120000))]);
    return step;
}"""
# Every cell has been run to its end, or one has failed and the rest never will be.
ENDED = """() => {
    const cells = jupyterapp.shell.currentWidget.content.model.sharedModel.cells
        .filter(cell => cell.cell_type === 'code' && cell.source.trim());
    const failed = cell => cell.getOutputs().some(output => output.output_type === 'error')
        && !(cell.metadata.tags || []).includes('raises-exception');
    return cells.some(failed) || cells.every(cell => cell.execution_count && cell.executionState !== 'running');
}"""
# From a key to the frame that shows the last change it caused.
STOPWATCH = """box => {
    window.watch = {pressed: 0, shown: 0};
    document.addEventListener('keydown', () => { watch.pressed = performance.now(); watch.shown = 0; }, true);
    const seen = () => requestAnimationFrame(() => { watch.shown = performance.now(); });
    new MutationObserver(seen).observe(box, {subtree: true, childList: true, characterData: true});
}"""


@contextmanager
def lab() -> Iterator[tuple[str, Path]]:
    """JupyterLab on 127.0.0.1, with a token, folders of its own, and a copy of the lessons: its address and them."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        home = Path(name)
        lessons = home / "notebooks"
        shutil.copytree(ROOT / "notebooks", lessons, ignore=shutil.ignore_patterns(".*", "assignments"))
        page = home / "jupyter_config_dir" / "labconfig" / "page_config.json"
        page.parent.mkdir(parents=True)  # no question about news over the page
        page.write_text(json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}))
        options = [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={lessons}", "--allow-root"]
        options += ["--LabApp.expose_app_in_browser=True", "--ServerApp.port_retries=0", "--ip=127.0.0.1"]
        with _serving("jupyterlab", options, home, "api/status") as url:
            yield url, lessons


@contextmanager
def voila(notebook: Path) -> Iterator[str]:
    """One notebook as a page without code cells, by voila on 127.0.0.1: its address."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        with _serving(
            "voila", [str(notebook), f"--token={TOKEN}", "--Voila.ip=127.0.0.1"], Path(name), "voila/static/voila.js"
        ) as url:
            yield f"{url}/?token={TOKEN}"


@contextmanager
def formgrader(course: Path) -> Iterator[str]:
    """nbgrader's form for a course folder, with the options of `make formgrader`, on 127.0.0.1: its address."""
    planned = subprocess.run(["make", "-n", "formgrader"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    options = [word for word in shlex.split(planned.replace("\\\n", " ")) if word.startswith("--")]
    with _serving("jupyterlab", [*options, f"--IdentityProvider.token={TOKEN}"], course, "api/status") as url:
        yield f"{url}/formgrader?token={TOKEN}"


@contextmanager
def _serving(module: str, options: list[str], home: Path, path: str) -> Iterator[str]:
    """Run a server on a free port until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        place: str(home / place.lower())
        for place in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "IPYTHONDIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
            "PEFT_LESSONS_HOME",
        )
    }
    command = [sys.executable, "-m", module, "--no-browser", f"--port={port}", *options]
    log = (home / "server.log").open("w+")
    process = subprocess.Popen(command, env=env, cwd=home, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for_server(process, f"http://127.0.0.1:{port}/{path}", home / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def wait_for_server(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return when the server answers with the token; fail with its log when it ends or never does."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            request = urllib.request.Request(url, headers={"Authorization": f"token {TOKEN}"})
            with urllib.request.urlopen(request, timeout=10):
                return
        except urllib.error.HTTPError as error:
            raise AssertionError(f"the server refuses its own token: {error}") from error
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server did not start:\n" + log.read_text()[-3000:])


@contextmanager
def browser_page() -> Iterator[Any]:
    """A page of a browser with an empty profile."""
    assert CHROMIUM, "CI needs chromium: tools/browser.sh installs it as root on Debian and Ubuntu"
    flags = FLAGS + (["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, playwright.sync_playwright() as player:
        size = {"width": 1280, "height": 1000}
        browser = player.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=flags, viewport=size
        )
        page = browser.pages[0]
        page.set_default_timeout(60_000 * MINUTES)
        yield page
        browser.close()


def run_all(page: Any, url: str, name: str) -> list[dict[str, Any]]:
    """Open a notebook, run all its cells, and give back what the page holds when the last has ended."""
    page.goto(f"{url}/doc/tree/{name}?token={TOKEN}&reset")
    page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext")
    if waiting_for := page.evaluate(READY):
        screenshot(page, f"{Path(name).name}-not-ready")
        said = [dialog.inner_text() for dialog in page.locator(".jp-Dialog").all()]
        raise AssertionError(f"JupyterLab hangs at {waiting_for}; it says {said}")
    assert all(cell["count"] is None for cell in page.evaluate(CELLS)), "outputs of an earlier run are still there"
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    try:
        page.wait_for_function(ENDED, polling=250, timeout=60_000 * MINUTES)
    except playwright.TimeoutError:
        screenshot(page, f"{Path(name).name}-not-ended")
        waiting = [text(cell["source"])[:60] for cell in page.evaluate(CELLS) if not cell["count"]]
        raise AssertionError(f"after {MINUTES} minutes {len(waiting)} cells have not ended: {waiting[:3]}") from None
    return page.evaluate(CELLS)


def errors(cells: list[dict[str, Any]]) -> list[str]:
    """The errors under cells that are not meant to raise."""
    return [
        f"{text(cell['source'])[:60]!r}: {output['ename']}: {output['evalue']}"
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "error" and "raises-exception" not in tags(cell)
    ]


def write_notebook(path: Path, *sources: str) -> None:
    """A notebook of these code cells, never run."""
    cells = [
        {"cell_type": "code", "id": f"c{n}", "source": s, "metadata": {}, "outputs": [], "execution_count": None}
        for n, s in enumerate(sources)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells}))


def control(page: Any, label: str, explorer: int = 0) -> Any:
    """The input (a slider's handle, a box, a list or a button) of the control with this label that shows."""
    inside = shown(page, explorer)
    if label == "Reset":
        return inside.get_by_role("button", name="Reset")
    named = page.locator("label", has_text=re.compile(rf"^\s*{re.escape(label)}\s*$"))
    shows = inside.locator(".widget-inline-hbox").filter(has=named, visible=True)  # methods share names of fields
    return shows.locator("[role=slider], input, select")


def shown(page: Any, explorer: int = 0) -> Any:
    """One of the page's explorers."""
    return page.locator(".peft-explorer").nth(explorer)


def sees(page: Any, *words: str, explorer: int = 0) -> None:
    """Wait until an explorer says all of this."""
    for word in words:
        playwright.expect(shown(page, explorer)).to_contain_text(word, timeout=20_000)


def types(page: Any, label: str, text: str, *, mouse: bool) -> None:
    """Put text into a box of the first explorer: reached by a click, or by focus as Tab gives it."""
    box = control(page, label)
    if mouse:
        box.click(click_count=3)
    else:
        box.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def redraw_latency(page: Any, label: str, says: str, moves: int = 15, explorer: int = 0) -> list[float]:
    """Milliseconds from an arrow key on a slider to the frame that shows the last change of the answer.

    Args:
        page: with an explorer on it.
        label: the slider's.
        says: what the answer says of its value, such as "Rank {:,} keeps": an older answer does not end a move.
        moves: how many times the key is pressed.
        explorer: which of the page's.

    Returns:
        One number a move.
    """
    box = shown(page, explorer)
    box.evaluate(STOPWATCH)
    slider = control(page, label, explorer)
    slider.focus()
    taken = []
    for _ in range(moves):
        page.keyboard.press("ArrowRight")
        sees(page, says.format(int(float(slider.get_attribute("aria-valuenow")))), explorer=explorer)
        page.wait_for_function("() => watch.shown && performance.now() - watch.shown > 150", timeout=20_000)
        taken.append(page.evaluate("() => watch.shown - watch.pressed"))
    return taken


def redraw_in_lab(code: str, label: str, says: str, moves: int = 15) -> list[float]:
    """`redraw_latency` in JupyterLab, on a notebook of one cell that shows an explorer: for the bench.

    Args:
        code: the cell, whose last expression is the explorer.
        label: of the slider that is moved.
        says: what the answer says of its value.
        moves: how many times.
    """
    with lab() as (url, lessons), browser_page() as page:
        write_notebook(lessons / "bench.ipynb", code)
        run_all(page, url, "bench.ipynb")
        page.locator(".peft-explorer").first.wait_for()
        return redraw_latency(page, label, says, moves)


def screenshot(page: Any, name: str) -> None:
    """Leave a picture where PEFT_LESSONS_SCREENSHOTS says."""
    if folder := os.environ.get("PEFT_LESSONS_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png")
