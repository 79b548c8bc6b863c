"""A real browser opens the first lesson in JupyterLab, runs all of it, and sees no error and the final figure.

Needs Debian's chromium (or any in PATH); the test is skipped without one, but not in CI. The browser, the server and
the kernel stay on this machine: every other name is unknown to all three. PEFT_LESSONS_SCREENSHOTS names a folder to
leave a picture of the page in.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from check_notebooks import tags, text

playwright = pytest.importorskip("playwright.sync_api")

TOKEN = "a-token-for-this-test"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage"
).split() + ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
MINUTES = 8  # far more than a lesson may take: it ends the wait for a page that hangs

pytestmark = [
    pytest.mark.timeout(60 * MINUTES + 240),
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"), reason="no chromium here: `make browser` may install it"
    ),
]

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


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[tuple[str, Path]]:
    """JupyterLab on 127.0.0.1, with a token, folders of its own, and a copy of the first lesson."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, socket.socket() as free:
        home = Path(name)
        lessons = home / "notebooks"
        shutil.copytree(root / "notebooks", lessons, ignore=shutil.ignore_patterns(".*", "assignments"))
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        places = (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "IPYTHONDIR",
            "JUPYTERLAB_SETTINGS_DIR",
        )
        env = os.environ | {place: str(home / place.lower()) for place in places}
        env["JUPYTERLAB_WORKSPACES_DIR"] = str(home / "workspaces")
        page = home / "jupyter_config_dir" / "labconfig" / "page_config.json"
        page.parent.mkdir(parents=True)  # no question about news over the page
        page.write_text(json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}))
        command = [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            f"--port={port}",
        ]
        command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={lessons}"]
        command += ["--LabApp.expose_app_in_browser=True", "--ServerApp.port_retries=0"]
        log = (home / "server.log").open("w+")
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for_server(process, f"http://127.0.0.1:{port}", home / "server.log")
            yield f"http://127.0.0.1:{port}", lessons
        finally:
            process.terminate()
            process.wait(30)
            log.close()


def wait_for_server(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return when the server answers with the token; fail with its log when it ends or never does."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            request = urllib.request.Request(f"{url}/api/status", headers={"Authorization": f"token {TOKEN}"})
            with urllib.request.urlopen(request, timeout=10):
                return
        except urllib.error.HTTPError as error:
            raise AssertionError(f"the server refuses its own token: {error}") from error
        except OSError:
            time.sleep(0.2)
    raise AssertionError("JupyterLab did not start:\n" + log.read_text()[-3000:])


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
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
        screenshot(page, f"{name}-not-ready")
        said = [dialog.inner_text() for dialog in page.locator(".jp-Dialog").all()]
        raise AssertionError(f"JupyterLab hangs at {waiting_for}; it says {said}")
    assert all(cell["count"] is None for cell in page.evaluate(CELLS)), "outputs of an earlier run are still there"
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    try:
        page.wait_for_function(ENDED, polling=250)
    except playwright.TimeoutError:
        screenshot(page, f"{name}-not-ended")
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


def screenshot(page: Any, name: str) -> None:
    """Leave a picture where PEFT_LESSONS_SCREENSHOTS says."""
    if folder := os.environ.get("PEFT_LESSONS_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_the_first_lesson(server: tuple[str, Path], page: Any) -> None:
    url, _ = server
    cells = run_all(page, url, "00_start_here.ipynb")
    try:
        assert not errors(cells)
        assert cells and all(cell["count"] for cell in cells), "cells were left out"
        figures = [
            output
            for cell in cells
            for output in cell["outputs"]
            if any(kind.startswith("image/") for kind in output.get("data", {}))
        ]
        assert figures, "there is no figure"
        alt = figures[-1]["metadata"]["image/png"]["alt"]
        assert len(alt) > 20
        # Not only in the page's memory: the last picture is on the page, loaded, and has a size.
        picture = page.locator(".jp-OutputArea-output img").last
        picture.scroll_into_view_if_needed()
        page.wait_for_function("image => image.complete && image.naturalWidth > 100", arg=picture.element_handle())
    finally:
        screenshot(page, "00_start_here")


def test_a_lesson_with_an_error_is_seen_to_fail(server: tuple[str, Path], page: Any) -> None:
    url, lessons = server
    sources = ["print('fine')", "1 / 0", "print('never reached')"]
    cells = [
        {"cell_type": "code", "id": f"c{n}", "source": s, "metadata": {}, "outputs": [], "execution_count": None}
        for n, s in enumerate(sources)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells}
    (lessons / "bad.ipynb").write_text(json.dumps(notebook))
    found = errors(run_all(page, url, "bad.ipynb"))
    assert len(found) == 1 and "ZeroDivisionError" in found[0]
