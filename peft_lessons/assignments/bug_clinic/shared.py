"""What the clinic's cases have in common: small models with adapters on them, and the verdict on a detector.

Source: peft 0.21.2 wraps the models; they are transformers' own, of two blocks and random weights.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from peft_lessons.assignments.given import random_model

Item = TypeVar("Item")
LLAMA_TARGETS = ["q_proj", "v_proj"]


@contextmanager
def apart(seed: int) -> Iterator[None]:
    """Random numbers from a seed, given back afterwards, and peft's warnings about transformers kept quiet."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield


def small_model(seed: int = 0, kind: str = "llama") -> PreTrainedModel:
    """A decoder of two blocks with random weights: "llama", "gpt2", "gpt_neox", "opt", "phi" or "bert"."""
    return random_model(torch.Generator().manual_seed(seed), kind)


def small_batch(seed: int = 0, rows: int = 4, length: int = 8) -> dict[str, Tensor]:
    """Random token ids for `small_model`, and labels to predict."""
    ids = torch.randint(3, 32, (rows, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def small_lora(seed: int = 0, kind: str = "llama", **config: Any) -> Any:
    """A `small_model` that peft wrapped with a LoRA which has learned something: its B is not zero."""
    chosen: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": LLAMA_TARGETS, "task_type": "CAUSAL_LM"}
    return with_adapter(small_model(seed, kind), LoraConfig(**(chosen | config)), seed)


def with_adapter(model: nn.Module, config: PeftConfig, seed: int) -> Any:
    """The model, wrapped by peft in place, with random numbers in all that the adapter has."""
    with apart(seed):
        wrapped = get_peft_model(model, config)
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.3)
    return wrapped.eval()


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """LoRA's own parameters by name."""
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


def tuner_layers(model: nn.Module) -> dict[str, BaseTunerLayer]:
    """The layers that peft has wrapped, by their path in the unwrapped model."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    return {name.removeprefix("base_model.model."): module for name, module in found.items()}


def base_hash(model: nn.Module) -> str:
    """sha256 of the base's weights, whatever peft has put around them."""
    digest, found = hashlib.sha256(), {}
    for name, tensor in model.state_dict().items():
        if ".lora_" not in name:
            found[name.removeprefix("base_model.model.").replace(".base_layer.", ".")] = tensor
    for name in sorted(found):
        digest.update(name.encode() + found[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def shuffled(items: Iterable[Item], seed: int) -> list[Item]:
    """The items in an order drawn from the seed, so that no order of ill and sound runs can be learned by heart."""
    found = list(items)
    return [found[i] for i in torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()]


def each(*steps: Callable[[], None]) -> None:
    """Take every step, also after one that fails, and then raise the first failure: a half answer counts as half.

    Raises:
        Exception: the first that a step raised; one that is not merely unwritten comes before the others.
    """
    failed: list[Exception] = []
    for step in steps:
        try:
            step()
        except Exception as error:  # the learner's own code may raise anything
            failed.append(error)
    if failed:
        raise min(failed, key=lambda error: isinstance(error, NotImplementedError))


def told_apart(ill: Sequence[bool], said: Sequence[object]) -> str:
    """What is wrong with a detector that said this about runs of which some are ill; "" where it is right."""
    if any(not isinstance(s, bool) for s in said) or len(said) != len(ill):
        return "for each run the answer is True or False."
    missed = sum(i and not s for i, s in zip(ill, said, strict=True))
    alarms = sum(bool(s) and not i for i, s in zip(ill, said, strict=True))
    if not missed and not alarms:
        return ""
    if len(set(said)) == 1:
        return f"it says {said[0]} of every run, so it tells nothing apart."
    parts = [f"{missed} of {sum(ill)} ill runs are missed"] * bool(missed)
    parts += [f"{alarms} of {len(ill) - sum(ill)} sound runs are called ill"] * bool(alarms)
    return " and ".join(parts) + "."


def same_names(found: Sequence[object], expected: Sequence[str]) -> str:
    """What is wrong with a list of names that must be these, in any order; "" where it is right."""
    if missing := sorted(set(expected) - set(map(str, found))):
        return f"{len(missing)} of {len(set(expected))} are not found, such as {missing[0]}."
    if extra := sorted(set(map(str, found)) - set(expected)):
        return f"{extra[0]} is named, and there is nothing wrong with it."
    return ""
