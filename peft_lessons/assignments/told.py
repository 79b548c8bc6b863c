"""What a learner's code told when it was asked: plain data by name, on its way from one process to another.

Tensors travel as safetensors and the rest as JSON, never as pickle: reading what a stranger wrote runs nothing.

Source: the reason is the warning on top of Python's own documentation of `pickle`.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

Value: TypeAlias = "Tensor | str | float | int | bool | None | list[Value] | dict[str, Value]"
MOST_BYTES = 32 * 2**20
TENSORS, OTHERS = "told.safetensors", "told.json"


class Untold(KeyError):
    """A judge asked for something that the learner's code never came to tell."""


class Told:
    """Plain data by name: tensors, numbers, strings, truths, lists and dictionaries of these but tensors.

    `attempted` is whether there was an answer at all, `error` the exception that ended the asking, or "".
    """

    def __init__(self) -> None:
        self.attempted = False
        self.error = ""
        self.tensors: dict[str, Tensor] = {}
        self.others: dict[str, Value] = {}

    def __setitem__(self, name: str, value: object) -> None:
        """Write down a copy.

        Raises:
            TypeError: it is no plain data.
        """
        if isinstance(value, Tensor):
            self.tensors[name] = value.detach().cpu().contiguous().clone()
        else:
            self.others[name] = _plain(value, name)

    def __getitem__(self, name: str) -> Any:
        """What was told under a name.

        Raises:
            Untold: nothing was.
        """
        if name in self.tensors:
            return self.tensors[name]
        if name in self.others:
            return self.others[name]
        raise Untold(name)

    def __bool__(self) -> bool:
        return bool(self.tensors or self.others)

    def tensor(self, name: str) -> Tensor:
        """A tensor that was told, in float64.

        Raises:
            Untold: nothing was told under this name.
            TypeError: it is no tensor.
        """
        value = self[name]
        if not isinstance(value, Tensor):
            raise TypeError(f"a {type(value).__name__} where a tensor is right")
        return value.double()

    def save(self, folder: Path) -> None:
        """Write it below a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TENSORS).write_bytes(save(self.tensors))
        others = {"attempted": self.attempted, "error": self.error, "others": self.others}
        (folder / OTHERS).write_text(json.dumps(others), encoding="utf-8")

    def apart(self) -> "Told":
        """The same as another process would read it, with nothing in it of a learner's own types."""
        with TemporaryDirectory() as folder:
            self.save(Path(folder))
            return Told.load(Path(folder))

    @classmethod
    def load(cls, folder: Path) -> "Told":
        """Read what `save` wrote, which may come from a stranger.

        Raises:
            ValueError: it is missing, too large or not of this form.
        """
        parts = []
        for name in (TENSORS, OTHERS):
            file = folder / name
            if file.is_symlink() or not file.is_file() or file.stat().st_size > MOST_BYTES:
                raise ValueError(f"{name} is missing, no plain file, or larger than {MOST_BYTES} bytes.")
            parts.append(file.read_bytes())
        told = cls()
        try:
            told.tensors = load(parts[0])
            found = json.loads(parts[1])
            told.attempted, told.error = found["attempted"] is True, str(found["error"])[:500]
            told.others = {str(name): _plain(value, str(name)) for name, value in found["others"].items()}
        except (SafetensorError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"what was told is not of the form expected ({type(error).__name__}).") from None
        return told


def _plain(value: object, name: str) -> Value:
    if isinstance(value, Tensor | np.generic) and value.ndim == 0:
        value = value.item()  # one number, of torch's or NumPy's
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 1:
        value = value.tolist()  # numbers in a row, as people who compute with arrays keep them
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | range):
        return [_plain(v, name) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v, name) for k, v in value.items()}
    raise TypeError(f"{name} came back as a {type(value).__name__}; a tensor, number, text or list of these is right")
