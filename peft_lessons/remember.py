"""Small files in which the course remembers, on this machine alone: an explorer's controls, a learner's progress.

The files lie in the user's own data folder, or where the environment variable PEFT_LESSONS_HOME says. On a page
served by voila nothing is read or written: there the kernel's user is not the reader.

Source: the folder is that of `platformdirs.user_data_dir`.
"""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from platformdirs import user_data_dir


def load(folder: str, name: str | None) -> dict[str, Any]:
    """What was stored under a name, in a folder such as "explorers"; empty for no name, or where nothing can be read.

    Raises:
        ValueError: the name is not made of letters, digits, hyphens and underscores.
    """
    file = _file(folder, name)
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def store(folder: str, name: str | None, values: Mapping[str, Any]) -> None:
    """Write the values under a name, whole or not at all; a folder that cannot be written is no error.

    Raises:
        ValueError: the name is not made of letters, digits, hyphens and underscores.
    """
    file = _file(folder, name)
    if file is None:
        return
    part = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem}-")
        with open(handle, "w", encoding="utf-8") as written:
            json.dump(dict(values), written)
        os.replace(part, file)
    except (OSError, TypeError):
        if part:
            Path(part).unlink(missing_ok=True)


def _file(folder: str, name: str | None) -> Path | None:
    if name is None:
        return None
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"The name to remember under is {name!r}; letters, digits, hyphens and underscores are right.")
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):
        return None
    home = os.environ.get("PEFT_LESSONS_HOME") or user_data_dir("peft_lessons", appauthor=False)
    return Path(home) / folder / f"{name}.json"
