"""Training weights that the model already has: all of them, the head, the top blocks, or attention."""

import copy
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peft_lessons.methods.core import Method
from peft_lessons.methods.targets import blocks, output_layer, refuse_quantized


@dataclass(frozen=True)
class FullFineTuning(Method):
    """Every weight is trained; the yardstick. `detach` gives the base back from a copy kept in CPU memory.

    Raises:
        ValueError: weights are in four bits (when attached).

    Source: the common practice since Devlin et al. 2018, "BERT".
    """

    peft_type: ClassVar[str] = "FULL"
    lr: ClassVar[float] = 1e-4

    def trains(self, model: nn.Module) -> list[str]:
        refuse_quantized(model)
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


@dataclass(frozen=True)
class TopLayers(Method):
    """The last k transformer blocks, every weight in them. Embeddings and a final norm after the blocks stay frozen.

    No gradient is needed below the first block that is trained, so the backward pass ends there.

    Args:
        k: how many blocks, at least 1.

    Raises:
        ValueError: k below 1, or (when attached) more than the model has, or weights in four bits.

    Source: Donahue et al. 2014, "DeCAF"; Lee, Tang and Lin 2019, "What Would Elsa Do?", for how many suffice in BERT.
    """

    peft_type: ClassVar[str] = "TOP_LAYERS"
    lr: ClassVar[float] = 1e-4

    k: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k is {self.k!r}; it is a number of blocks, at least 1.")

    def trains(self, model: nn.Module) -> list[str]:
        found = blocks(model)
        if self.k > len(found):
            raise ValueError(f"k is {self.k}; this model has {len(found)} transformer blocks.")
        refuse_quantized(model, [block.path for block in found[-self.k :]])
        top = [f"{block.path}." for block in found[-self.k :]]
        return [name for name, _ in model.named_parameters() if name.startswith(tuple(top))]


@dataclass(frozen=True)
class AttentionTuning(Method):
    """Every weight and bias of the attention layers: the projections to query, key, value and output.

    Args:
        cross_only: of an encoder-decoder, train the attention of the decoder to the encoder alone.

    Raises:
        ValueError: `cross_only` for a model without cross-attention, or weights in four bits (when attached).

    Source: Gheini, Ren and May 2021, "Cross-Attention is All You Need"; Touvron et al. 2022, "Three Things Everyone
    Should Know About Vision Transformers", for attention alone.
    """

    peft_type: ClassVar[str] = "ATTENTION"
    lr: ClassVar[float] = 3e-4

    cross_only: bool = False

    def trains(self, model: nn.Module) -> list[str]:
        found = blocks(model)
        layers = [] if self.cross_only else [path for block in found for path in block.attention]
        layers += [path for block in found for path in block.cross_attention]
        if not layers:
            raise ValueError("This model has no cross-attention; AttentionTuning() trains its self-attention.")
        refuse_quantized(model, layers)
        return [f"{path}.{name}" for path in layers for name, _ in model.get_submodule(path).named_parameters()]
