"""Norm tuning: train the gains of the normalisation layers, and their biases where they have some.

    y = g ⊙ (x - mean) / sd + b        g, b: (d_model,)        LayerNorm
    y = g ⊙ x / rms                    g: (d_model,)           RMSNorm

Two vectors a LayerNorm, one an RMSNorm: (2L + 1) d_model numbers in a Llama of L layers. What is stored are the new
values, not differences.

Source: Zhao et al. 2023, "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning"; the file format
is Hugging Face peft's `LNTuningConfig`.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peft_lessons.methods.core import Method
from peft_lessons.methods.targets import Targets, fits, norms


@dataclass(frozen=True)
class NormTuning(Method):
    """The weights of the normalisation layers.

    Args:
        target_modules: "norms" for all of them, or names and patterns as in `find_targets`.

    Raises:
        ValueError: the model has no norms with weights, or none of a name (when attached).

    Source: see the module.
    """

    peft_type: ClassVar[str] = "LN_TUNING"
    lr: ClassVar[float] = 3e-3
    file_suffixes: ClassVar[dict[str, str]] = {"weight": "ln_tuning_layers.weight", "bias": "ln_tuning_layers.bias"}

    target_modules: Targets = "norms"

    def trains(self, model: nn.Module) -> list[str]:
        found = norms(model)
        wanted = [self.target_modules] if isinstance(self.target_modules, str) else list(self.target_modules)
        for target in wanted if wanted != ["norms"] else ():
            if not any(fits(target, path) for path in found):
                names = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in found))
                raise ValueError(f'No normalisation layer of this model is called "{target}"; it has {names}.')
        chosen = [path for path in found if wanted == ["norms"] or any(fits(target, path) for target in wanted)]
        return [f"{path}.{name}" for path in chosen for name, _ in found[path].named_parameters()]
