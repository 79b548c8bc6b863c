"""One way to fine-tune one model: every choice that changes memory, and the model on meta tensors that it means.

Source: the choices are those of transformers 5, peft 0.21 and PyTorch 2.13, each where it is made.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from peft_lessons.accounting.autocast import MetaAutocast, recompute
from peft_lessons.accounting.kernels import KERNELS, attention_name, kernels
from peft_lessons.accounting.optimizers import OPTIMIZERS
from peft_lessons.accounting.step import StepMemory
from peft_lessons.accounting.trace import model_loss, trace_step
from peft_lessons.bases import TextClassifier
from peft_lessons.methods.attaching import attach
from peft_lessons.methods.core import Method, require_attachment
from peft_lessons.methods.quantizing import quantize
from peft_lessons.methods.reparameterized.lora import LoRA
from peft_lessons.methods.targets import is_linear, linear_layers, output_layer

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CHOICES = {  # field of `Setup` -> what it can be
    "weights": ("bfloat16", "float32", "nf4"),
    "adapters": ("float32", "bfloat16"),
    "optimizer": tuple(OPTIMIZERS),
    "attention": KERNELS,
    "logits": ("kept", "chunked"),
    "device": ("cuda", "cpu"),
}
CHUNKS = 8  # parts of the sequence in which a chunked loss runs


@dataclass(frozen=True)
class Setup:
    """Every choice that changes what a training step holds, but model, batch and length.

    Args:
        method: how to fine-tune.
        weights: type of the base's weights and of the activations; "nf4" keeps linear layers in 4 bits and computes in
            bfloat16.
        adapters: type of the weights that the method adds; peft's default is float32 whatever the base is.
        optimizer: one of `OPTIMIZERS`; "adamw" goes from tensor to tensor, "adamw_foreach" is PyTorch's default on
            CUDA, "adamw_fused" that of transformers' `Trainer`.
        attention: the kernel asked for; see `choose_kernel` for the one that runs.
        logits: "kept" as transformers does, or "chunked": computed in eight parts, and each again for its gradient.
        checkpointing: keep each layer's input only, and compute the layer again in the backward pass.
        padding: the batch has padding, so that attention needs a mask.
        keep_output: `out = model(...)` stays alive until the next step's replaces it.
        autocast: run the forward pass under `torch.autocast` in bfloat16, as a `Trainer` with `bf16=True` does.
        upcast: with "nf4", what peft's `prepare_model_for_kbit_training` does to the rest: float32. (It turns
            checkpointing on as well, by default; that is a switch of its own here.)
        device: whose kernels run, "cuda" or "cpu".

    Raises:
        ValueError: a choice that does not exist, or two that exclude each other.

    Source: the switches are those of transformers 5, peft 0.21 and PyTorch 2.13.
    """

    method: Method = LoRA()
    weights: str = "bfloat16"
    adapters: str = "float32"
    optimizer: str = "adamw"
    attention: str = "flash"
    logits: str = "kept"
    checkpointing: bool = False
    padding: bool = False
    keep_output: bool = False
    autocast: bool = False
    upcast: bool = False
    device: str = "cuda"

    def __post_init__(self) -> None:
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} is {getattr(self, field)!r}; it can be {', '.join(choices)}.")
        if not isinstance(self.method, Method):
            raise ValueError(f"method is {self.method!r}; it must be a method such as LoRA(r=8).")
        if self.upcast and self.weights != "nf4":
            raise ValueError('upcast is about 4-bit models: it needs weights="nf4".')
        if self.logits == "chunked" and self.keep_output:
            raise ValueError("A chunked loss never has the whole output, so there is nothing to keep.")

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights that are not quantised, and of activations where `autocast` and `upcast` are off."""
        return TYPES.get(self.weights, torch.bfloat16)

    @property
    def product_dtype(self) -> torch.dtype:
        """The type in which attention runs: autocast's, or that of the activations, which `upcast` makes float32."""
        return torch.bfloat16 if self.autocast else torch.float32 if self.upcast else self.dtype


def kind_of(config: PretrainedConfig) -> str:
    """ "decoder", "encoder" or "encoder-decoder".

    Raises:
        ValueError: transformers has no such model for text, or it has no attention.
    """
    if getattr(config, "num_attention_heads", None) is None:
        raise ValueError(f'"{config.model_type}" is no text model that transformers can train with attention.')
    if config.is_encoder_decoder and config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "encoder-decoder"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    raise ValueError(f'"{config.model_type}" is no text model that transformers can train with attention.')


def with_layers(config: PretrainedConfig, n_layers: int | None) -> PretrainedConfig:
    """The same configuration with another number of layers; an encoder-decoder gets as many of each."""
    if n_layers is None:
        return config
    fields = {k: v for k, v in config.to_dict().items() if k != "layer_types"}  # one entry a layer, made anew
    if fields.get("loss_type") is None:  # "not set", which transformers does not read back as such
        fields.pop("loss_type", None)
    if "num_decoder_layers" in fields:
        fields["num_decoder_layers"] = n_layers
    return type(config).from_dict(fields | {"num_hidden_layers": n_layers})


def build_on_meta(config: PretrainedConfig, setup: Setup, n_layers: int | None = None) -> nn.Module:
    """The model, with the method attached, in training mode, on meta tensors: shapes and no memory.

    Raises:
        ValueError: the method does not fit the model, or the model cannot be built.
    """
    name = attention_name(setup.attention, setup.device)
    config, kind = with_layers(copy.deepcopy(config), n_layers), kind_of(config)
    if setup.logits == "chunked" and kind != "decoder":
        raise ValueError(f"A chunked loss is for decoders; this is an {kind}.")
    config.use_cache = config.use_cache and not setup.checkpointing
    auto = {"decoder": AutoModelForCausalLM, "encoder": AutoModel, "encoder-decoder": AutoModelForSeq2SeqLM}[kind]
    with torch.device("meta"):
        extra = {"add_pooling_layer": False} if kind == "encoder" else {}
        model: Any = auto.from_config(config, dtype=torch.float32, attn_implementation=name, **extra)
    for parameter in model.parameters():  # afterwards: transformers would set the type for every thread meanwhile
        parameter.data = parameter.data.to(setup.dtype)
    if kind == "encoder":
        model = TextClassifier(model)
    if setup.weights == "nf4":
        if config.model_type == "t5":
            raise ValueError("T5 in 4 bits is not traced: transformers keeps its feed-forward output in float32 then.")
        round_frozen(model, setup.method, "torch")
        if setup.upcast:
            for parameter in model.parameters():
                parameter.data = parameter.data.float()
    attach(model, setup.method)
    if kind == "encoder":
        model.set_head(("no", "yes"))
    for module in require_attachment(model).added.values():
        if not is_linear(module):  # a copy of the output layer keeps its type
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(TYPES[setup.adapters])
    if getattr(model, "loss_type", "") is None:  # transformers' own default, without its warning
        model.loss_type = "ForCausalLM"
    if setup.checkpointing:
        inner = model.encoder if kind == "encoder" else model
        inner.activation_checkpointing_enable(
            {"use_reentrant": False, "preserve_rng_state": False, "context_fn": recompute}
        )
    return model.train()


def round_frozen(model: nn.Module, method: Method, backend: Literal["torch", "bitsandbytes"]) -> None:
    """Put in four bits, in place, every linear layer of a base that a method will leave frozen.

    Raises:
        ValueError: it leaves none.
    """
    trained = set(method.trains(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    if all(layer.weight.requires_grad for layer in linear_layers(model).values()):
        raise ValueError("4-bit weights cannot be trained: choose a method that leaves the base frozen.")
    quantize(model, backend=backend)


def batch_on_meta(config: PretrainedConfig, batch: int, length: int) -> dict[str, Tensor]:
    """A batch as a data loader hands it over: token ids, mask and labels, (batch, length) int64 each."""
    ids = {n: torch.empty(batch, length, dtype=torch.int64, device="meta") for n in ("input_ids", "attention_mask")}
    labels = (batch,) if kind_of(config) == "encoder" else (batch, length)
    return ids | {"labels": torch.empty(labels, dtype=torch.int64, device="meta")}


def chunked_loss(model: nn.Module, batch: dict[str, Tensor], chunks: int = CHUNKS) -> Tensor:
    """Mean cross-entropy of the next token, with never more than one part of the logits in memory.

    Each part of the sequence goes through the output layer on its own, and again when its gradient is due, because
    checkpointing keeps only its hidden states.

    Args:
        model: a transformers decoder.
        batch: `input_ids`, `labels` and what else the model takes, (batch, length) each.
        chunks: parts along the length.

    Raises:
        ValueError: the length cannot be cut into so many equal parts.

    Source: the chunked cross-entropy of torchtune, `CEWithChunkedOutputLoss`.
    """
    labels = batch["labels"]
    if labels.shape[1] % chunks:
        length = labels.shape[1]
        raise ValueError(f"A length of {length} cannot be cut into {chunks} equal parts: pad it to a multiple.")
    decoder: Any = model.get_decoder()  # type: ignore[operator]
    hidden = decoder(**{k: v for k, v in batch.items() if k != "labels"}).last_hidden_state
    following = F.pad(labels[:, 1:], (0, 1), value=-100)
    parts = zip(hidden.chunk(chunks, 1), following.chunk(chunks, 1), strict=True)
    head: Any = output_layer(model)
    again: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": recompute}
    losses = [checkpoint(_summed, head, h, y, **again) for h, y in parts]
    return torch.stack(losses).sum() / (following != -100).sum()


def _summed(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).flatten(0, 1).float(), labels.flatten(), reduction="sum")


def trace_setup(
    config: PretrainedConfig, setup: Setup, batch: int, length: int, n_layers: int | None = None
) -> StepMemory:
    """Trace one training step of a model that need not exist, on meta tensors.

    Args:
        config: of the transformers model.
        setup: every other choice.
        batch: sequences in a batch.
        length: tokens in a sequence.
        n_layers: another number of layers than the configuration's.

    Returns:
        Live bytes over the second step, forward to optimizer.

    Raises:
        ValueError: the setup does not fit the model, or batch or length is below 1.

    Source: see `trace_step`.
    """
    if batch < 1 or length < 1:
        raise ValueError(f"batch is {batch} and length is {length}; both must be at least 1.")
    model = build_on_meta(config, setup, n_layers)
    optimizer = OPTIMIZERS[setup.optimizer]([p for p in model.parameters() if p.requires_grad])
    return traced(model, config, setup, batch, length, optimizer)


def traced(
    model: nn.Module,
    config: PretrainedConfig,
    setup: Setup,
    batch: int,
    length: int,
    optimizer: torch.optim.Optimizer | None,
) -> StepMemory:
    """`trace_step` of a model from `build_on_meta`, with the setup's kernels and loss."""
    loss = chunked_loss if setup.logits == "chunked" else model_loss
    scalar = 0.0 if setup.padding else 1.0
    given = batch_on_meta(config, batch, length)
    with kernels(setup.device):
        if not setup.autocast:
            return trace_step(
                model, given, loss=loss, optimizer=optimizer, keep_output=setup.keep_output, scalar=scalar
            )
        with MetaAutocast(setup.device) as cast:
            return trace_step(
                model, given, loss=cast.around(loss), optimizer=optimizer, keep_output=setup.keep_output, scalar=scalar
            )
