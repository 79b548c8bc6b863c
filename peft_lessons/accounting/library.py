"""Model shapes by name, and their tables: shipped where they are common, else built once and kept.

A shape is a transformers configuration file without weights, `data/shapes/NAME.json`; its tables are
`data/tables/NAME.npz`. Tables built later go into the user's own folder, `PEFT_LESSONS_HOME` where that is set.

Source: the sizes are those of the models' published config.json files; the parameter counts they lead to are tested.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache, lru_cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_data_dir
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from peft_lessons.accounting.building import build_table
from peft_lessons.accounting.optimizers import Tensor2D
from peft_lessons.accounting.setups import Setup
from peft_lessons.accounting.tables import Answer, Table
from peft_lessons.bases import DATA

SHAPES, TABLES = DATA / "shapes", DATA / "tables"
FORMAT = 2  # of the files; one more whenever the columns of a table change
_version = lru_cache(version)  # reads a file each time
_at_hand: dict[Path, Table] = {}  # kept tables that this process has read


@cache
def _shape_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in SHAPES.glob("*.json")))


def shape_names() -> list[str]:
    """The names of the shipped shapes."""
    return list(_shape_names())


def load_shape(source: str | Path | Mapping[str, Any] | PretrainedConfig) -> PretrainedConfig:
    """A model's configuration: no weights.

    Args:
        source: a shipped name, the path of a config.json or of a folder with one, its content, or a configuration.

    Raises:
        FileNotFoundError: neither a name nor a file; the message lists the names.
        ValueError: the file holds no configuration of a transformers model.

    Source: see the module.
    """
    if isinstance(source, PretrainedConfig):
        return source
    if isinstance(source, Mapping):
        return _from_fields(source, "This configuration")
    path = SHAPES / f"{source}.json"
    if not path.exists():
        path = Path(source) / "config.json" if Path(source).is_dir() else Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f'There is no shape "{source}" and no such file; the shapes are {", ".join(shape_names())}.'
        )
    try:
        content = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} is no JSON file: {error}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no configuration: it must be one JSON object.")
    return _from_fields(content, path.name)


def _from_fields(content: Mapping[str, Any], name: str) -> PretrainedConfig:
    kind = content.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"{name} names the model type {kind!r}, which transformers does not know.")
    try:
        return AutoConfig.for_model(**content)
    except Exception as error:  # each configuration class has checks of its own
        raise ValueError(f"{name} is no valid {kind} configuration: {error}") from None


def load_table(
    source: str | PretrainedConfig, setup: Setup, on_trace: Callable[[int, int], None] | None = None
) -> Table:
    """The table of a model and a setup: shipped, kept from before, or built now in about a second, and kept.

    Args:
        source: what `load_shape` takes.
        setup: the choices; optimizer, rank and alpha do not matter.
        on_trace: called with the number of traces done and of all, while the table is built.

    Raises:
        ValueError: the setup does not fit the model.
        FileNotFoundError: no such shape.

    Source: see `tables`.
    """
    table = table_at_hand(source, setup)
    if table is not None:
        return table
    config, key = load_shape(source), setup_key(setup)
    path = _kept(source, key)
    table = _at_hand[path] = build_table(config, setup, on_trace)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(write_tables({key: table}))
        temporary.replace(path)
    except OSError:  # a disk that is full or read-only costs a second next time
        pass
    return table


def predict_memory(
    source: str | PretrainedConfig,
    setup: Setup,
    batch: int,
    length: int,
    on_trace: Callable[[int, int], None] | None = None,
) -> Answer:
    """What one training step of a model holds, by its table: the model's own layers, the setup's rank and optimizer.

    Args:
        source: what `load_shape` takes.
        setup: every other choice.
        batch: sequences in a batch.
        length: tokens in a sequence.
        on_trace: as in `load_table`.

    Raises:
        ValueError: the setup does not fit the model, or batch or length is below 1.
        FileNotFoundError: no such shape.

    Source: see `tables`.
    """
    table, rank = load_table(source, setup, on_trace), getattr(setup.method, "r", 1)
    return table.evaluate(load_shape(source).num_hidden_layers, batch, length, rank, setup.optimizer)


def table_at_hand(source: str | PretrainedConfig, setup: Setup) -> Table | None:
    """The table of a model and a setup if it is shipped or kept, else None."""
    key = setup_key(setup)
    if isinstance(source, str) and key in (shipped := _shipped(source)):
        return shipped[key]
    path = _kept(source, key)
    if path not in _at_hand and path.exists():
        try:
            _at_hand[path] = read_tables(path.read_bytes())[key]
        except (OSError, ValueError, KeyError):  # broken: it will be built anew
            return None
    return _at_hand.get(path)


def setup_key(setup: Setup) -> str:
    """What a table depends on: neither optimizer, nor rank, nor the size of a number that is not zero."""
    method = {f.name: getattr(setup.method, f.name) for f in fields(setup.method) if f.name not in ("r", "alpha")}
    content = {f.name: getattr(setup, f.name) for f in fields(setup) if f.name not in ("method", "optimizer")}
    content["method"] = {"name": type(setup.method).__name__} | {
        k: bool(v) if isinstance(v, float) else v for k, v in method.items()
    }
    return json.dumps(content, sort_keys=True)


def _kept(source: str | PretrainedConfig, key: str) -> Path:
    shape = (
        _shape_json(source)
        if isinstance(source, str) and source in _shape_names()
        else load_shape(source).to_json_string(use_diff=False)
    )
    home = os.environ.get("PEFT_LESSONS_HOME") or user_data_dir("peft_lessons")
    made_by = [FORMAT, _version("torch"), _version("transformers"), shape, key]
    return Path(home) / "tables" / f"{hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:24]}.npz"


@lru_cache
def _shape_json(name: str) -> str:
    return load_shape(name).to_json_string(use_diff=False)


@lru_cache(maxsize=16)
def _shipped(name: str) -> dict[str, Table]:
    path = TABLES / f"{name}.npz"
    return read_tables(path.read_bytes()) if path.exists() else {}


def write_tables(tables: Mapping[str, Table]) -> bytes:
    """Tables by key, as the bytes of one npz file without code in it."""
    arrays: dict[str, np.ndarray] = {}
    about = []
    for i, (key, table) in enumerate(tables.items()):
        places = list(dict.fromkeys(table.places))
        whole = np.concatenate([table.moments, table.stages])
        arrays[f"changes{i}"] = np.diff(whole, axis=0, prepend=0)  # mostly zeros, which compress
        arrays[f"places{i}"] = np.array([places.index(p) for p in table.places], dtype=np.int16)
        rest = {"key": key, "places": places, "columns": table.columns.tolist(), "sections": table.sections}
        about.append(rest | {"trained": table.trained, "n_layers": table.n_layers})
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    file = BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def read_tables(content: bytes) -> dict[str, Table]:
    """The tables of a file of `write_tables`.

    Raises:
        ValueError: it is none.
    """
    try:
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            return {entry["key"]: _read(arrays, i, entry) for i, entry in enumerate(about)}
    except Exception as error:  # zip, JSON and array errors alike: not a file of tables
        raise ValueError(f"This is no file of tables: {error}") from None


def _read(arrays: Any, i: int, entry: Mapping[str, Any]) -> Table:
    whole = arrays[f"changes{i}"].cumsum(0)
    n = len(arrays[f"places{i}"])
    return Table(
        columns=np.array(entry["columns"]),
        moments=whole[:n],
        places=tuple(entry["places"][k] for k in arrays[f"places{i}"]),
        sections=tuple(entry["sections"]),
        stages=whole[n:],
        trained=tuple(tuple(Tensor2D(*t) for t in part) for part in entry["trained"]),
        n_layers=entry["n_layers"],
    )
