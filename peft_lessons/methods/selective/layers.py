"""Training weights that the model already has: all of them, or the head alone."""

import copy
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peft_lessons.methods.core import Method
from peft_lessons.methods.targets import output_layer


@dataclass(frozen=True)
class FullFineTuning(Method):
    """Every weight is trained; the yardstick. `detach` gives the base back from a copy kept in CPU memory.

    Source: the common practice since Devlin et al. 2018, "BERT".
    """

    peft_type: ClassVar[str] = "FULL"
    lr: ClassVar[float] = 1e-4

    def trains(self, model: nn.Module) -> list[str]:
        return [name for name, _ in model.named_parameters()]


@dataclass(frozen=True)
class Head(Method):
    """The output layer alone: a linear probe of the frozen base.

    On an encoder that is the classification head, which `fit` makes for the task. On a decoder it is a copy of the
    language-model head, untied from the input embeddings.

    Source: the linear probe of Alain and Bengio 2016; Donahue et al. 2014 for its use in transfer.
    """

    peft_type: ClassVar[str] = "HEAD"
    lr: ClassVar[float] = 1e-2

    def replacements(self, model: nn.Module) -> dict[str, nn.Module]:
        head = output_layer(model)
        if head is None or hasattr(model, "set_head"):
            return {}
        name = next(name for name, module in model.named_modules() if module is head)
        return {name: copy.deepcopy(head).requires_grad_(True)}
