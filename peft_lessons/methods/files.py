"""Adapters on disk, in Hugging Face peft's own two files: `adapter_config.json` and `adapter_model.safetensors`.

Source: peft 0.21, `peft.utils.save_and_load`; the names were checked by loading in both directions.
"""

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from peft_lessons.methods.attaching import attach
from peft_lessons.methods.core import Adapter, Method, adapter_tensors, require_attachment
from peft_lessons.methods.targets import linear_layers

HEAD = "classifier."  # the same name here, in transformers and in the file
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(model: nn.Module, folder: str | Path) -> Path:
    """Write the attached adapter, with its classification head, so that `load_adapter` and peft can read it.

    LoRA loads with `PeftModel.from_pretrained(base, folder)`. Methods that peft does not have (`Head`,
    `FullFineTuning`) use the same two files under their own `peft_type`, which peft refuses by name.

    Args:
        model: a model with a method attached, merged or not.
        folder: made where it does not exist; files of the same names are replaced.

    Returns:
        The folder.

    Raises:
        RuntimeError: nothing is attached.
    """
    state = require_attachment(model)
    method = state.method
    tensors = {
        _file_name(method, name): tensor.detach().cpu().contiguous()
        for name, tensor in method.to_file(adapter_tensors(model), state.added).items()
    }
    classifies, base = hasattr(model, "set_head"), cast(Any, model).config
    config = {
        "peft_type": method.peft_type,
        "task_type": "SEQ_CLS" if classifies else _task_type(model),
        "base_model_name_or_path": getattr(base, "_name_or_path", None),
        "inference_mode": True,
        **method.config(),
        **method.file_fields(state.added),
    }
    if "target_modules" in config:
        trained = dict.fromkeys(name.rpartition(".")[0] for name in state.originals)
        for field, paths in method.file_targets(state.added).items():
            config[field] = short_names(model, paths or list(trained))
        if any(module.transposed for module in state.wrapped().values()):
            config["fan_in_fan_out"] = True  # False is peft's default, and not all its methods know the field
    metadata = {"format": "pt"}
    if classifies and model.choices is not None:
        config["modules_to_save"] = ["classifier"]
        metadata["choices"] = json.dumps(model.choices)  # peft's configuration has no place for the answers' names
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, folder / WEIGHTS, metadata=metadata)
    return folder


def _task_type(model: Any) -> str:
    """What peft calls the model: one that makes no text is, to it, a source of features whatever its head."""
    if not model.can_generate():
        return "FEATURE_EXTRACTION"
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def load_adapter(model: nn.Module, folder: str | Path, *, choices: Sequence[str] | None = None) -> nn.Module:
    """Attach an adapter from a folder that `save_adapter` or peft wrote.

    Args:
        model: the base, with nothing attached.
        folder: with `adapter_config.json` and `adapter_model.safetensors`; pickle files are not read.
        choices: the names of the head's answers, in order, for a file from peft, which does not keep them.

    Returns:
        The same model, with the adapter attached and trainable.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: broken files, a method that is not in the course, or tensors that do not fit; the model is left
            as it was.
        RuntimeError: something is attached already.
    """
    adapter, base = read_adapter(folder)
    adapter.state = adapter.method.from_file(adapter.state, model)
    if choices is not None:
        adapter.choices = tuple(choices)
    mine = getattr(model.config, "_name_or_path", None)
    attach(model, adapter)
    if base and mine and base != mine:
        warnings.warn(
            f"This adapter was trained on {base}; the model is {mine}. The shapes fit, the weights may not.",
            stacklevel=2,
        )
    return model


def read_adapter(folder: str | Path) -> tuple[Adapter, str | None]:
    """The adapter in a folder, its tensors as the file has them, and the name of its base; see `load_adapter`.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: broken files, or a method that is not in the course.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder} has no {name}: an adapter is a folder with {CONFIG} and {WEIGHTS}.")
    try:
        config = json.loads((folder / CONFIG).read_text())
        kind = config["peft_type"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError(f"{folder / CONFIG} is not a peft configuration: it must be JSON with a peft_type.") from None
    if kind not in Method.registry:
        raise ValueError(f"{folder} holds {kind}; the course reads {', '.join(sorted(Method.registry))}.")
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, safe_open is no mapping
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is not a whole safetensors file: {error}.") from None
    state = {_parameter_name(Method.registry[kind], key): tensor for key, tensor in tensors.items()}
    try:
        method = Method.registry[kind].from_config(config, state)
    except KeyError as error:
        raise ValueError(f"{folder / CONFIG} lacks {error}, which {kind} needs.") from None
    return Adapter(method, state, _choices(state, metadata)), config.get("base_model_name_or_path")


def short_names(model: nn.Module, paths: list[str]) -> list[str]:
    """The shortest names that mean exactly these layers to peft: last names, names in a block, or whole paths."""
    layers = [*linear_layers(model), *paths]
    for shorten in (r"^.*\.", r"^.*\.\d+\."):
        names = list(dict.fromkeys(re.sub(shorten, "", path) for path in paths))
        meant = {path for path in layers for name in names if path == name or path.endswith(f".{name}")}
        if meant - {f"{path}.base" for path in paths} == set(paths):
            return names
    return paths


def _choices(state: dict[str, Tensor], metadata: dict[str, str]) -> tuple[str, ...] | None:
    """The head's answers; numbers where the file came from peft, which does not keep their names."""
    if "choices" in metadata:
        return tuple(json.loads(metadata["choices"]))
    if "classifier.weight" in state:
        return tuple(str(i) for i in range(len(state["classifier.weight"])))
    return None


def _file_name(method: Method, parameter: str) -> str:
    prefix = method.file_prefix if "." in parameter else ""
    for ours, theirs in method.file_suffixes.items():
        if parameter.endswith(f".{ours}") and not parameter.startswith(HEAD):
            return prefix + parameter.removesuffix(ours) + theirs
    return prefix + parameter


def _parameter_name(method: type[Method], key: str) -> str:
    name = key.removeprefix(method.file_prefix)
    for ours, theirs in method.file_suffixes.items():
        if name.endswith(f".{theirs}") and not name.startswith(HEAD):
            return name.removesuffix(theirs) + ours
    return name
