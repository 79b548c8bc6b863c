"""The memory explorer's controls, made from what the package has: methods and their fields, the choices of a setup.

A method that joins `Method.registry` appears here with a control for each of its fields, and needs nothing else.

Source: the choices are those of `accounting.setups.Setup`.
"""

import ast
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin

import ipywidgets as widgets
from torch import nn
from transformers import PretrainedConfig

from peft_lessons.accounting.advice import CARDS, STEP
from peft_lessons.accounting.library import load_shape, shape_names
from peft_lessons.accounting.setups import CHOICES, CHUNKS, Setup
from peft_lessons.explorers.base import labelled
from peft_lessons.methods.core import Method

OWN = "a config.json of your own"
EXAMPLE = """{"model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12,
 "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 4096}"""
PAIRS = {"batch": 64, "length": 8192}  # typed numbers with a slider beside them -> the slider's end
RANKS = 256
TIPS = {
    "weights": "type of the base's weights and of activations; nf4 keeps linear layers in 4 bits",
    "adapters": "type of the weights that the method adds; peft's default is float32",
    "optimizer": "states and step; PyTorch's own default on CUDA is adamw_foreach, the Trainer's is adamw_fused",
    "attention": "the kernel asked for; what falls back in silence is said below",
    "logits": "all at once, as transformers computes them, or in eight parts",
    "checkpointing": "keep each layer's input only, and compute the layer again in the backward pass",
    "padding": "the batch has padding, so attention needs a mask",
    "keep_output": "`out = model(...)` stays alive until the next step replaces it",
    "autocast": "a forward pass under torch.autocast in bfloat16, as a Trainer with bf16=True runs it",
    "upcast": "with nf4: the rest in float32, as prepare_model_for_kbit_training makes it (which checkpoints too)",
}
SHAPE = "llama-3.1-8b"  # shown first
Source: TypeAlias = "str | PretrainedConfig"


def known_models(sources: tuple[Any, ...]) -> dict[str, Source]:
    """Label -> what `load_table` takes: the models given first, then the shipped shapes.

    Args:
        sources: configurations, their content, paths of config.json files, or models that have a configuration.

    Raises:
        ValueError: a source holds no configuration; FileNotFoundError: there is no such file.
    """
    found: dict[str, Source] = {}
    for source in sources:
        config = load_shape(getattr(source, "config", source) if isinstance(source, nn.Module) else source)
        where = getattr(config, "_name_or_path", "") or (source if isinstance(source, str | Path) else "")
        label = str(where).rstrip("/").removesuffix("/config.json").split("/")[-1] or config.model_type
        taken = sum(name.split(" (")[0] == label for name in found)
        found[f"{label} ({taken + 1})" if taken else label] = config
    return found | {name: name for name in shape_names() if name not in found}


def read_config(text: str) -> PretrainedConfig:
    """The configuration that was typed or pasted: the content of a config.json, its path, or a shape's name.

    Raises:
        ValueError: it holds none; FileNotFoundError: there is no such file.
    """
    if not text.strip():
        raise ValueError("There is no configuration yet: paste the content of a config.json, or type its path.")
    if not text.lstrip().startswith("{"):
        return load_shape(text.strip())
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"The configuration is no valid JSON: {error.msg} at {at}.") from None
    return load_shape(content)


def with_attention(config: PretrainedConfig) -> PretrainedConfig:
    """The same configuration.

    Raises:
        ValueError: it has no attention or no number of layers, so that there is nothing to predict by.
    """
    for name in ("num_attention_heads", "num_hidden_layers", "hidden_size"):
        number = getattr(config, name, None)
        if not isinstance(number, int) or number < 1:
            what = "is a model without attention" if name == "num_attention_heads" else f"has no {name}"
            raise ValueError(f'"{config.model_type}" {what}; the explorer is for transformers with attention.')
    return config


def positions(config: PretrainedConfig) -> int | None:
    """The longest sequence that a model can take; None where its positions are relative."""
    found = getattr(config, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def controls_of(models: Mapping[str, Source]) -> dict[str, widgets.DOMWidget]:
    """Every control by key, in the order of the page."""
    shown = SHAPE if list(models) == shape_names() else next(iter(models))
    made: dict[str, widgets.DOMWidget] = {
        "model": labelled(widgets.Dropdown, "model", "whose step is predicted", options=[*models, OWN], value=shown),
        "config": labelled(
            widgets.Textarea,
            "config.json",
            "the content of a config.json, or its path; taken over when you leave the field",
            value=EXAMPLE,
            rows=4,
            continuous_update=False,
            layout={"width": "46em"},
        ),
        "method": labelled(widgets.Dropdown, "method", "what is trained", options=sorted(methods()), value="LoRA"),
    }
    cards = [(f"{card} GB", card) for card in CARDS]
    tip = "the card whose room is asked about"
    made["card"] = labelled(widgets.Dropdown, "GPU memory", tip, options=cards, value=24)
    for name, method in methods().items():
        for field in hyperparameters(method):
            made |= _field_controls(name, field)
    chosen = {
        name: labelled(widgets.Dropdown, name, TIPS.get(name, name), options=list(options))
        for name, options in CHOICES.items()
        if name != "device"
    }
    made |= _paired("batch", "sequences in a batch", 1, 1) | {"optimizer": chosen.pop("optimizer")}
    made |= _paired("length", "tokens in a sequence, padding included", 1024, STEP) | chosen
    for field in fields(Setup):
        if field.type is bool:
            label = field.name.replace("_", " ")
            made[field.name] = labelled(widgets.Checkbox, label, TIPS.get(field.name, label), indent=False)
    return made


def methods() -> dict[str, type[Method]]:
    """Every method of the package by its name."""
    return {method.__name__: method for method in Method.registry.values()}


def hyperparameters(method: type[Method]) -> list[Field[Any]]:
    """A method's own fields; one that is left out of its `repr`, such as a mapping of masks, has no control."""
    return [field for field in fields(method) if field.init and field.repr]


def method_of(values: Mapping[str, Any]) -> Method:
    """The method that the controls say.

    Raises:
        ValueError: a hyperparameter that the method does not take.
    """
    name = values["method"]
    method = methods()[name]
    given = {field.name: _read(field.name, values[f"{name}_{field.name}"]) for field in hyperparameters(method)}
    return method(**given)


def setup_of(values: Mapping[str, Any]) -> Setup:
    """The setup that the controls say.

    Raises:
        ValueError: a choice that a method or setup does not take, or two that exclude each other.
    """
    method = method_of(values)
    chosen = {
        field.name: values[field.name] for field in fields(Setup) if field.name in values and field.name != "method"
    }
    if type(method).replacements is Method.replacements:  # it adds nothing that could have a type
        chosen["adapters"] = CHOICES["adapters"][0]
    return Setup(method, **chosen)


def check_sizes(config: PretrainedConfig, label: str, setup: Setup, length: int) -> None:
    """Refuse lengths that the model or the setup cannot have.

    Raises:
        ValueError: there are fewer positions, or the length cannot be cut into the loss's parts.
    """
    most = positions(config)
    if most is not None and length > most:
        raise ValueError(f"The length is {length:,}; {label} has {most:,} positions.")
    if setup.logits == "chunked" and length % CHUNKS:
        raise ValueError(f"A length of {length:,} cannot be cut into {CHUNKS} equal parts: pad it, or keep the logits.")


def _paired(name: str, tip: str, first: int, step: int) -> dict[str, widgets.DOMWidget]:
    """A slider for the usual sizes, and the number itself beside it."""
    slider = labelled(widgets.IntSlider, name, tip, min=step, max=PAIRS[name], step=step, value=first)
    return {f"{name}_slider": slider, name: labelled(widgets.IntText, f"{name}, typed", tip, value=first)}


def _field_controls(method: str, field: Field[Any]) -> dict[str, widgets.DOMWidget]:
    """The control of one hyperparameter, by its type; a rank gets a slider beside it."""
    hint = {"int": int, "float": float, "bool": bool}.get(str(field.type), field.type)  # written as words or not
    key, label, tip = f"{method}_{field.name}", field.name, f"{field.name} of {method}"
    first = field.default if field.default is not MISSING else None
    if first is None and field.default_factory is not MISSING:
        first = field.default_factory()
    if field.name == "target_modules":
        kind = {"options": ["attention", "all-linear"], "ensure_option": False}
        tip = f'{tip}: "attention", "all-linear", or names of linear layers with commas between'
        first = first if isinstance(first, str) else ", ".join(first or ["attention"])
        return {key: labelled(widgets.Combobox, label, tip, value=first, continuous_update=False, **kind)}
    if hint is bool:
        return {key: labelled(widgets.Checkbox, label, tip, value=bool(first), indent=False)}
    if get_origin(hint) is Literal:
        return {key: labelled(widgets.Dropdown, label, tip, options=list(get_args(hint)), value=first)}
    if hint is int:
        number = labelled(widgets.IntText, label, tip, value=1 if first is None else first)
        if field.name != "r":
            return {key: number}
        number.description = "r, typed"
        slider = labelled(widgets.IntSlider, label, tip, min=1, max=RANKS, value=number.value)
        return {f"{key}_slider": slider, key: number}
    if hint is float:
        return {key: labelled(widgets.FloatText, label, tip, value=first or 0.0)}
    text = "" if first is None else first if isinstance(first, str) else repr(first)
    return {key: labelled(widgets.Text, label, tip, value=text, continuous_update=False)}


def _read(name: str, value: Any) -> Any:
    """What a control's value means for a field: a list of names, a Python literal, or the value itself."""
    if not isinstance(value, str):
        return value
    if name == "target_modules":
        names = tuple(part.strip() for part in value.split(",") if part.strip())
        return names[0] if len(names) == 1 else names
    try:
        return ast.literal_eval(value) if value else None
    except (ValueError, SyntaxError):
        return value
