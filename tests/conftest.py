"""What every test gets: no network beyond loopback, no home directory of the user's, one thread a process."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

OFFLINE = Path(__file__).parent / "offline"

# Set at import, before anything starts a child: kernels, servers and subprocesses inherit all of it.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # they appear only where the cache is cold
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
MADE_HOME = "PEFT_LESSONS_TEST_HOME" not in os.environ  # by the first process; its workers share it
if MADE_HOME:
    os.environ["PEFT_LESSONS_TEST_HOME"] = tempfile.mkdtemp(prefix="peft-lessons-")
os.environ["HF_HOME"] = os.environ["PEFT_LESSONS_TEST_HOME"]
os.environ["PEFT_LESSONS_HOME"] = os.path.join(os.environ["PEFT_LESSONS_TEST_HOME"], "peft_lessons")

if not hasattr(sys.modules.get("sitecustomize"), "cut_network"):  # this process started without it
    sys.path.insert(0, str(OFFLINE))
    sys.modules.pop("sitecustomize", None)
    import sitecustomize  # noqa: F401


def pytest_unconfigure() -> None:
    """Remove the home that was made for the tests."""
    if MADE_HOME:
        shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Path]]:
    """JupyterLab on this machine, and the folder that it serves: a copy of the notebooks."""
    from browse import lab

    with lab() as found:
        yield found


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """A page of a browser with an empty profile."""
    from browse import browser_page

    with browser_page() as found:
        found.set_default_timeout(60_000)
        yield found
