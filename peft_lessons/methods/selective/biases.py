"""BitFit: train the biases, and nothing else.

    y = W x + b        b: (d_out,), trained; W: (d_out, d_in), frozen

Every bias of the base: of linear layers and of layer norms. A BERT of L layers, width d and feed-forward width f, with
its pooler, has L (7d + f) + 2d of them: 102,912 in the base size (0.094 %), 272,384 in the large one.

Llama, T5 and most models since are built without biases, where this method is nothing at all. Reported as weaker than
other methods on T0-3B and GPT-3 (Lialin et al. 2023, section 9.1).

Source: Ben-Zaken, Goldberg and Ravfogel 2021, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based
Masked Language-models"; Cai et al. 2020, "TinyTL", for the memory that frozen W saves.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peft_lessons.methods.core import Method
from peft_lessons.methods.targets import output_layer


@dataclass(frozen=True)
class BitFit(Method):
    """Every bias of the base; the head's is not among them.

    Raises:
        ValueError: the model has no biases (when attached).

    Source: see the module.
    """

    peft_type: ClassVar[str] = "BITFIT"
    lr: ClassVar[float] = 3e-3

    def trains(self, model: nn.Module) -> list[str]:
        head = output_layer(model) or getattr(model, "classifier", None)
        of_head = set() if head is None else set(head.parameters())
        found = [n for n, p in model.named_parameters() if n.rpartition(".")[2] == "bias" and p not in of_head]
        if not found:
            raise ValueError(
                "This model has no biases, so BitFit would train nothing: models such as Llama and T5 are built "
                "without. NormTuning() and LoRA() work on them."
            )
        return found
