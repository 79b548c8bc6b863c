"""An adapter on disk, in the two files that Hugging Face peft reads.

Source: peft 0.21, `PeftModel.from_pretrained`, which is what judges it.
"""

import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, random_model, seeded
from peft_lessons.assignments.told import Told
from peft_lessons.methods.targets import find_targets

ASKED = ("peft_type", "r", "lora_alpha", "target_modules")
SAYS_NOTHING = ("task_type", "inference_mode", "base_model_name_or_path", "revision", "lora_dropout", "peft_version")


@dataclass(frozen=True)
class Saved:
    """A model, and factors for some of its layers: what there is to save."""

    model: PreTrainedModel
    r: int
    alpha: float
    factors: dict[str, tuple[Tensor, Tensor]]

    @property
    def names(self) -> list[str]:
        """The layers' last names, which is what peft's configuration calls them by."""
        return sorted({path.rpartition(".")[2] for path in self.factors})


@seeded
def draw_saved(g: torch.Generator) -> Saved:
    model, r = random_model(g, "llama"), int(torch.randint(2, 5, (), generator=g))
    layers = find_targets(model, ["q_proj", "v_proj", "down_proj"])
    factors = {
        path: (torch.randn(r, layer.in_features, generator=g), torch.randn(layer.out_features, r, generator=g))
        for path, layer in layers.items()
    }
    return Saved(model, r, 3.0 * r, factors)


def ask_saved(given: Saved, told: Told, save: Callable[..., None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save(folder, given.factors, given.r, given.alpha)
        names = sorted(file.name for file in Path(folder).iterdir())
        told["files"] = names
        if "adapter_config.json" in names:
            told["config"] = json.loads((Path(folder) / "adapter_config.json").read_text())
        if "adapter_model.safetensors" in names:
            for name, tensor in load_file(Path(folder) / "adapter_model.safetensors").items():
                told[f"tensor {name}"] = tensor


def _tensors(told: Told) -> dict[str, Tensor]:
    return {name.removeprefix("tensor "): t for name, t in told.tensors.items() if name.startswith("tensor ")}


def two_files(given: Saved, told: Told) -> str:
    lacking = {"adapter_config.json", "adapter_model.safetensors"} - set(told["files"])
    return f"{sorted(lacking)[0]} is not there." if lacking else ""


def tensor_names(given: Saved, told: Told) -> str:
    found = _tensors(told)
    for path, (A, B) in given.factors.items():
        for kind, factor in (("lora_A", A), ("lora_B", B)):
            mine = [n for n, t in found.items() if t.shape == factor.shape and torch.equal(t, factor)]
            if not mine:
                return f"{kind} of {path} is in no tensor of the file."
            if mine[0] != f"base_model.model.{path}.{kind}.weight":
                return f"{kind} of {path} is called {mine[0]}: look at a file that peft wrote."
    return "" if len(found) == 2 * len(given.factors) else "the file holds more than A and B of each layer."


def configuration(given: Saved, told: Told) -> str:
    if "adapter_config.json" not in told["files"]:
        return "adapter_config.json is not there."
    config = told["config"]
    if not isinstance(config, dict):
        return "adapter_config.json holds no dictionary."
    right = {"peft_type": "LORA", "r": given.r, "lora_alpha": given.alpha}
    for field, value in right.items():
        if config.get(field) != value:
            return f"{field} is {config.get(field)!r:.80} in adapter_config.json."
    named = config.get("target_modules")
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        return f"target_modules is {named!r:.200}, where a list of names is right."
    meant = {path for path in given.factors if any(path == n or path.endswith(f".{n}") for n in named)}
    if meant != set(given.factors):
        return f"target_modules is {named!r:.200}, which does not name all the layers."
    others = LoraConfig().to_dict().keys() - {*ASKED, *SAYS_NOTHING}
    more = [field for field in sorted(others & config.keys()) if config[field] != LoraConfig().to_dict()[field]]
    return f"{more[0]} is {config[more[0]]!r:.80}, which changes what peft loads." if more else ""


def peft_loads(given: Saved, told: Told) -> str:
    """Judged by peft, which gets no field but those asked for: others are patterns to search, or code to import."""
    if wrong := configuration(given, told):
        return wrong
    ids = torch.arange(6).view(1, 6)
    with tempfile.TemporaryDirectory() as folder:
        save_file(_tensors(told), Path(folder) / "adapter_model.safetensors")
        asked = {field: told["config"][field] for field in ASKED}
        (Path(folder) / "adapter_config.json").write_text(json.dumps(asked))
        with warnings.catch_warnings():  # of peft's, about transformers
            warnings.simplefilter("ignore")
            try:
                theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_config(given.model.config), folder)
            except (RuntimeError, ValueError, LookupError) as error:
                return f"peft cannot load it: {error!s:.200}"
    theirs.base_model.model.load_state_dict(_renamed(given), strict=False)
    with torch.no_grad():
        found = theirs.eval()(input_ids=ids).logits
        for path, (A, B) in given.factors.items():
            given.model.get_submodule(path).weight += given.alpha / given.r * B @ A
        expected = given.model.eval()(input_ids=ids).logits
    return "" if close(found, expected) else "peft loads the folder, but the model computes something else with it."


def _renamed(given: Saved) -> dict[str, Tensor]:
    """The base's weights by the names that they have inside peft's layers."""
    wrapped = {f"{path}.weight": f"{path}.base_layer.weight" for path in given.factors}
    return {wrapped.get(name, name): tensor for name, tensor in given.model.state_dict().items()}


Exercise(
    "a3.save",
    draw_saved,
    ask_saved,
    (
        Property("peft's two files", 1, two_files),
        Property("every tensor, by peft's name", 2, tensor_names),
        Property("the configuration", 1, configuration),
        Property("peft loads it, with the same output", 2, peft_loads),
    ),
)
