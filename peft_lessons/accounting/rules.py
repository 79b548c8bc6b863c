"""What public rules of thumb say about the memory of training, so that they can be put beside what a step really holds.

    N parameters, P bytes a value, s tokens a sequence, b sequences, h = d_model, a heads, L layers

None of them knows which weights are trained, which kernels run or how large the vocabulary is. Each is written as at
its source; accelerate's is accelerate's own function.

Source: each rule names its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import nn
from transformers import PretrainedConfig

from peft_lessons.accounting.step import CATEGORIES

COVERS: dict[str, tuple[str, ...]] = {  # what a rule says it counts -> the categories to put beside it
    "the peak": CATEGORIES,
    "model states": ("weights", "gradients", "optimizer states"),
    "activations": ("activations",),
}


@dataclass(frozen=True)
class Inputs:
    """What rules of thumb ask for.

    Args:
        n_parameters: all of the model's, N.
        bytes_per_value: of the weights, P: 4, 2, or 0.5 in 4 bits.
        batch: sequences, b.
        length: tokens in each, s.
        d_model: h.
        n_layers: L.
        n_heads: a.
        checkpointing: whether layers are computed again in the backward pass.
    """

    n_parameters: int
    bytes_per_value: float
    batch: int
    length: int
    d_model: int
    n_layers: int
    n_heads: int
    checkpointing: bool = False

    @property
    def tokens(self) -> int:
        """Tokens in a batch."""
        return self.batch * self.length

    @property
    def weights(self) -> float:
        """Bytes of the weights."""
        return self.n_parameters * self.bytes_per_value


def inputs_of(
    model: nn.Module, batch: int, length: int, bytes_per_value: float | None = None, checkpointing: bool = False
) -> Inputs:
    """What the rules ask for, of a transformers model on any device, meta included.

    Args:
        model: with a transformers configuration.
        batch: sequences in a batch.
        length: tokens in a sequence.
        bytes_per_value: of the weights; that of the first parameter where not given.
        checkpointing: whether layers are computed again in the backward pass.

    Raises:
        ValueError: the configuration does not say how many layers, heads and features there are.
    """
    config: Any = getattr(model, "config", PretrainedConfig())
    sizes = [getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")]
    if not all(isinstance(size, int) for size in sizes):
        raise ValueError("The model's configuration lacks hidden_size, num_hidden_layers or num_attention_heads.")
    n = sum(p.numel() for p in model.parameters())
    first = next(model.parameters()).element_size() if bytes_per_value is None else bytes_per_value
    d_model, n_layers, n_heads = (int(size) for size in sizes if size is not None)
    return Inputs(n, first, batch, length, d_model, n_layers, n_heads, checkpointing)


def accelerate_adam(inputs: Inputs) -> float:
    """accelerate's "Training using Adam": the largest of four parts of a step, 16 N in float32 and 8 N in 16 bits.

    Source: accelerate 1.15, `commands/estimate.py`, `estimate_training_usage`, called here; `accelerate
    estimate-memory` shows the maximum. It knows neither batch nor length.
    """
    from accelerate.commands.estimate import estimate_training_usage

    precision = "float32" if inputs.bytes_per_value == 4 else "bfloat16"
    return max(estimate_training_usage(4 * inputs.n_parameters, precision).values())


def train_memory_activations(inputs: Inputs) -> float:
    """Activations of the Hugging Face blog: (4.6894e-4 N + 1.8494e6) values a token.

    Source: "Visualize and understand GPU memory in PyTorch", huggingface/blog, `train_memory.md`, "Activations": a
    straight line through the sums of module outputs of several models.
    """
    return (4.6894e-4 * inputs.n_parameters + 1.8494e6) * inputs.tokens * inputs.bytes_per_value


def train_memory(inputs: Inputs) -> float:
    """The Hugging Face blog's total: weights + two states + the largest of gradients, temporaries and activations.

    Source: huggingface/blog, `train_memory.md`, "Total Memory". (Its text adds gradients and temporaries before it
    takes the maximum; its summary, which is used here, does not.)
    """
    return 3 * inputs.weights + max(inputs.weights, train_memory_activations(inputs))


def transformer_math_activations(inputs: Inputs) -> float:
    """Activations of EleutherAI's calculator: s b h L (34 + 5 a s / h), and s b h L · 34 with checkpointing.

    Source: EleutherAI/cookbook, `calc/calc_transformer_mem.py`, with its two bytes a value.
    """
    attention = 0.0 if inputs.checkpointing else 5 * inputs.n_heads * inputs.length / inputs.d_model
    return inputs.tokens * inputs.d_model * inputs.n_layers * (34 + attention)


def transformer_math(inputs: Inputs) -> float:
    """EleutherAI's calculator on one GPU: 2 N weights, 4 N gradients, 12 N states, and activations; N as counted.

    Source: EleutherAI/cookbook, `calc/calc_transformer_mem.py` with its defaults, mixed precision among them; in full
    precision its weights take 4 N.
    """
    model = 4 if inputs.bytes_per_value == 4 else 2
    return (model + 4 + 12) * inputs.n_parameters + transformer_math_activations(inputs)


def korthikanti(inputs: Inputs) -> float:
    """Activations of a layer without recomputation, s b h (34 + 5 a s / h) bytes, times L.

    For GPT layers with full attention, GELU, dropout and 16-bit values.

    Source: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4.1.
    """
    linear = 34 + 5 * inputs.n_heads * inputs.length / inputs.d_model
    return inputs.tokens * inputs.d_model * linear * inputs.n_layers


def zero_states(inputs: Inputs) -> float:
    """Mixed-precision Adam: 2 N + 2 N + 12 N = 16 N bytes.

    Source: Rajbhandari et al. 2019, "ZeRO", section 3.1.
    """
    return 16 * inputs.n_parameters


def deepspeed_zero2(inputs: Inputs) -> float:
    """DeepSpeed's estimator on one GPU, nothing offloaded: 4 N + 16 N bytes.

    Source: DeepSpeed's documentation, "Memory Requirements", ZeRO-2, "4 * params + 16 * params / (total number of
    gpus)"; in its code `estimate_zero2_model_states_mem_needs`.
    """
    return 4 * inputs.n_parameters + 16 * inputs.n_parameters


def twelve_times(inputs: Inputs) -> float:
    """The lower end of "12-20 times more GPU memory than the model weights".

    Source: Lialin et al. 2023, "Scaling Down to Scale Up", section 3.1, which gives no derivation.
    """
    return 12 * inputs.weights


def twenty_times(inputs: Inputs) -> float:
    """The upper end of "12-20 times more GPU memory than the model weights".

    Source: Lialin et al. 2023, "Scaling Down to Scale Up", section 3.1, which gives no derivation.
    """
    return 20 * inputs.weights


def inference_rule(inputs: Inputs) -> float:
    """Weights times 1.2: a rule for inference, often taken for training.

    Source: Anthony, Biderman and Schoelkopf 2023, "Transformer Math 101", EleutherAI, "Total Inference Memory".
    """
    return 1.2 * inputs.weights


@dataclass(frozen=True)
class Rule:
    """A rule of thumb by name, and what it says it counts, one of `COVERS`."""

    name: str
    covers: str
    bytes_of: Callable[[Inputs], float]


RULES: tuple[Rule, ...] = (
    Rule("accelerate estimate-memory", "the peak", accelerate_adam),
    Rule("Hugging Face blog train_memory", "the peak", train_memory),
    Rule("EleutherAI calculator", "the peak", transformer_math),
    Rule("12 x weights", "the peak", twelve_times),
    Rule("20 x weights", "the peak", twenty_times),
    Rule("1.2 x weights", "the peak", inference_rule),
    Rule("ZeRO 16 N", "model states", zero_states),
    Rule("DeepSpeed zero2 estimator", "model states", deepspeed_zero2),
    Rule("Korthikanti sbh(34 + 5as/h)", "activations", korthikanti),
)


@dataclass(frozen=True)
class Verdict:
    """A rule's bytes beside what a step holds of the same."""

    rule: str
    covers: str
    says: float
    holds: int

    @property
    def ratio(self) -> float:
        """What the rule says over what the step holds."""
        return self.says / self.holds if self.holds else float("inf")


class Step(Protocol):
    """A traced or measured step, or a table's curve."""

    def live(self) -> np.ndarray:
        """Bytes held at each moment, (moments, categories)."""


def judge(inputs: Inputs, step: Step) -> list[Verdict]:
    """Every rule beside a traced or measured step.

    Args:
        inputs: what the rules ask for.
        step: the step of the same model, batch and length.

    Returns:
        One verdict a rule, in the order of `RULES`. A rule for a part of the memory is held against the largest that
        those categories reach together in the step.
    """
    live = step.live()
    held = {
        covers: int(live[:, [CATEGORIES.index(part) for part in parts]].sum(1).max())
        for covers, parts in COVERS.items()
    }
    return [Verdict(rule.name, rule.covers, rule.bytes_of(inputs), held[rule.covers]) for rule in RULES]


def rules_table(verdicts: list[Verdict]) -> str:
    """One line a rule: what it says, what the step holds, and their ratio."""
    lines = [f"{'rule of thumb':<32}  {'counts':<12}  {'says, MB':>11}  {'holds, MB':>11}  {'ratio':>6}"]
    for v in verdicts:
        lines.append(f"{v.rule:<32}  {v.covers:<12}  {v.says / 1e6:>11,.1f}  {v.holds / 1e6:>11,.1f}  {v.ratio:>6.2f}")
    return "\n".join(lines)
