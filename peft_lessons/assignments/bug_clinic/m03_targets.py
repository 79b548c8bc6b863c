"""M3. target_modules copied from another family of models: refused where no name fits, silent where one does.

Source: huggingface/peft issues 758 and 1206, hiyouga/LlamaFactory issue 3597; still so in peft 0.21.2.
"""

from collections.abc import Callable, Iterator

import torch
from peft import LoraConfig
from transformers import PreTrainedModel

from peft_lessons.assignments.bug_clinic.shared import each, same_names, small_model, tuner_layers, with_adapter
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import KINDS
from peft_lessons.assignments.told import Told
from peft_lessons.methods.targets import is_linear

NAMES = (
    "q_proj k_proj v_proj o_proj out_proj dense query key value query_key_value c_attn c_proj c_fc fc1 fc2 proj attn"
)
ATTENTION = {
    "llama": ("q_proj", "v_proj"),
    "gpt2": ("c_attn",),
    "gpt_neox": ("query_key_value",),
    "phi": ("q_proj", "v_proj"),
    "bert": ("query", "value"),
}


def asked(seed: int) -> Iterator[tuple[PreTrainedModel, list[str]]]:
    """A model of each family, and names of which some fit it; one of them is a path's last part but not a layer."""
    names, g = NAMES.split(), torch.Generator().manual_seed(seed)
    for kind in KINDS:
        yield small_model(seed, kind), [names[i] for i in torch.randperm(len(names), generator=g)[:9].tolist()]
    yield (
        small_model(seed),
        ["q_proj", "model.layers.1.self_attn.v_proj", "layers.7.self_attn.v_proj", "down_proj", "mlp"],
    )


def ask_targets(seed: int, told: Told, find: Callable[..., list[str]], targets_for: Callable[[str], list[str]]) -> None:
    def found() -> None:
        told["missing"] = [[str(name) for name in find(model, names)] for model, names in asked(seed)]

    def mended() -> None:
        told["targets"] = {kind: [str(name) for name in targets_for(kind)] for kind in ATTENTION}

    each(found, mended)


def missing(seed: int, told: Told) -> str:
    for (model, names), found in zip(asked(seed), told["missing"], strict=True):
        paths = [path for path, module in model.named_modules() if is_linear(module)]
        lacks = [n for n in names if not any(path == n or path.endswith(f".{n}") for path in paths)]
        if wrong := same_names(found, lacks):
            return f"in {model.config.model_type}: {wrong}"
    return ""


def attention(seed: int, told: Told) -> str:
    for kind, wanted in ATTENTION.items():
        model = small_model(seed, kind)
        meant = [path for path, _ in model.named_modules() if path.rpartition(".")[2] in wanted]
        named = told["targets"].get(kind) or ["nothing"]
        try:
            adapted = list(tuner_layers(with_adapter(model, LoraConfig(target_modules=named), seed)))
        except ValueError as error:
            return f"{kind}: peft says {str(error)[:120]}"
        if lacks := sorted(set(meant) - set(adapted)):
            return f"{kind}: {lacks[0]} has no adapter."
        if extra := sorted(set(adapted) - set(meant)):
            return f"{kind}: {extra[0]} has an adapter too: which other layers end in that name?"
    return ""


Exercise(
    "bug_clinic.m03_targets",
    int,
    ask_targets,
    (Property("finds the names that fit nothing", 2, missing), Property("adapts query and value alone", 2, attention)),
)
