"""The configurations that `measure_memory.py` measures: models, and how they are fine-tuned."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import BertConfig, GPT2Config, LlamaConfig, PretrainedConfig, Qwen2Config

from peft_lessons.accounting.setups import Setup
from peft_lessons.bases import load_base
from peft_lessons.methods import FullFineTuning, Head, LoRA

SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
FULL = FullFineTuning()
ATTENTION, ALL_LINEAR = LoRA(r=8), LoRA(r=8, target_modules="all-linear")
DROPOUT = LoRA(r=8, dropout=0.05, target_modules="all-linear")


def llama(d_model: int, d_ff: int, n_layers: int, heads: tuple[int, int], vocabulary: int, **more: Any) -> LlamaConfig:
    """A Llama with grouped queries: `heads` of queries, and of keys and values."""
    return LlamaConfig(
        hidden_size=d_model,
        intermediate_size=d_ff,
        num_hidden_layers=n_layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        vocab_size=vocabulary,
        tie_word_embeddings=False,
        **SPECIAL | more,
    )


CONFIGS = {
    "small llama": lambda: llama(256, 688, 4, (8, 4), 4000),
    "deep llama": lambda: llama(192, 512, 12, (6, 2), 300),
    "wide llama": lambda: llama(640, 1728, 2, (10, 5), 300),
    "small qwen": lambda: Qwen2Config(
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=6000,
        tie_word_embeddings=True,
        **SPECIAL,
    ),
    "small gpt2": lambda: GPT2Config(n_embd=256, n_layer=4, n_head=4, n_positions=512, vocab_size=4000, **SPECIAL),
    "small bert": lambda: BertConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4, vocab_size=4000, **SPECIAL
    ),
    "160M": lambda: llama(768, 2048, 12, (12, 4), 32000),
    "1B": lambda: llama(2048, 8192, 16, (32, 8), 128256),
    "8B": lambda: llama(4096, 14336, 32, (32, 8), 128256, max_position_embeddings=8192),
}


def config_of(model: str) -> PretrainedConfig:
    """The configuration of a model by name, the shipped bases' too."""
    if model in CONFIGS:
        return CONFIGS[model]()
    return load_base(model, device="cpu")[0].config


@dataclass(frozen=True)
class Case:
    """One configuration; `why` says where a known difference comes from."""

    model: str
    setup: Setup
    batch: int
    length: int
    why: str = ""

    @property
    def bytes_per_value(self) -> float:
        """Of the weights, as rules of thumb count them."""
        return {"float32": 4.0, "bfloat16": 2.0, "nf4": 0.5}[self.setup.weights]

    @property
    def label(self) -> str:
        """Everything that differs from float32 AdamW with the kernel PyTorch chooses."""
        s = self.setup
        method = type(s.method).__name__.replace("FineTuning", "")
        if isinstance(s.method, LoRA):
            method = f"LoRA r={s.method.r} {s.method.target_modules}" + (" dropout" if s.method.dropout else "")
            method += " (float32)" if s.adapters == "float32" and s.weights != "float32" else ""
        parts = [self.model, method, s.weights, s.optimizer]
        parts += [s.attention] if s.attention != "flash" else []
        parts += [
            name for name in ("checkpointing", "padding", "keep_output", "autocast", "upcast") if getattr(s, name)
        ]
        parts += [s.logits] if s.logits != "kept" else []
        return ", ".join([*parts, f"{self.batch} x {self.length}"])


def _on_cpu(model: str, method: Any, batch: int, length: int, why: str = "", **choices: Any) -> Case:
    choices.setdefault("weights", "float32")
    return Case(model, Setup(method=method, device="cpu", **choices), batch, length, why)


SCRATCH = (
    "temporaries: on a CPU, bitsandbytes' 8-bit step holds five float32 copies of a parameter (both states decoded, "
    "the gradient, and twice the square root of the second state) inside one operation; its CUDA kernel needs none"
)
COUNTERS = (
    "optimizer states: a scalar of 4 bytes a parameter counts the steps; it stays on the CPU when a GPU trains, so the "
    "trace leaves it out"
)
COPIES = (
    "activations, loss and temporaries, away from the peak: autograd drops some of autocast's copies at another moment "
    "than a trace sees, also where the trace runs on the real model"
)
STATISTICS = (
    "activations: with bfloat16 weights LayerNorm keeps its mean and deviation in bfloat16 on a CPU, and in float32 on "
    "CUDA and in the trace; oneDNN's scratch is inside its operations"
)


def cpu() -> Iterator[Case]:
    """Small models, every choice that a CPU has."""
    bf16, small, gpt2, bert = {"weights": "bfloat16"}, "small llama", "small gpt2", "small bert"
    yield _on_cpu(small, FULL, 4, 128)
    yield _on_cpu(small, FULL, 8, 64, optimizer="adamw_foreach")
    yield _on_cpu(small, FULL, 2, 256, optimizer="adamw_fused")
    yield _on_cpu(small, FULL, 1, 256, optimizer="adamw_8bit", why=SCRATCH)
    yield _on_cpu(small, FULL, 16, 256, optimizer="adamw_8bit", why=SCRATCH)
    yield _on_cpu(small, FULL, 4, 128, optimizer="sgd")
    yield _on_cpu(small, FULL, 4, 128, optimizer="sgd_momentum")
    yield _on_cpu(small, FULL, 4, 128, optimizer="adafactor", why=COUNTERS)
    yield _on_cpu(small, FULL, 8, 128, checkpointing=True)
    yield _on_cpu(small, FULL, 8, 128, checkpointing=True, attention="eager")
    yield _on_cpu(small, FULL, 4, 128, keep_output=True)
    yield _on_cpu(small, FULL, 4, 128, padding=True)
    yield _on_cpu(small, FULL, 4, 128, **bf16)
    yield _on_cpu(small, FULL, 4, 256, optimizer="adamw_foreach", **bf16)
    yield _on_cpu(small, Head(), 8, 128, optimizer="sgd_momentum")
    yield _on_cpu(small, ATTENTION, 4, 128)
    yield _on_cpu(small, ATTENTION, 2, 384, attention="eager")
    yield _on_cpu(small, ATTENTION, 4, 256, attention="math")
    yield _on_cpu(small, ALL_LINEAR, 4, 128)
    yield _on_cpu(small, ALL_LINEAR, 4, 128, logits="chunked")
    yield _on_cpu(small, LoRA(r=64, target_modules="all-linear"), 4, 128, optimizer="adamw_foreach")
    yield _on_cpu(small, DROPOUT, 4, 128)
    yield _on_cpu(small, DROPOUT, 8, 128, checkpointing=True)
    yield _on_cpu(small, ALL_LINEAR, 4, 256, **bf16)
    yield _on_cpu(small, ALL_LINEAR, 4, 256, adapters="bfloat16", **bf16)
    yield _on_cpu(small, ALL_LINEAR, 8, 256, adapters="bfloat16", checkpointing=True, **bf16)
    yield _on_cpu(small, ALL_LINEAR, 4, 256, weights="nf4", adapters="bfloat16")
    for method in (FULL, ALL_LINEAR):  # few words, so that the peak is inside a layer's backward
        yield _on_cpu("deep llama", method, 2, 256)
        yield _on_cpu("deep llama", method, 16, 128, checkpointing=True)
        yield _on_cpu("wide llama", method, 8, 128, **bf16)
    for optimizer in ("adamw", "adamw_foreach", "adafactor"):  # few tokens, so that it is in the optimizer's step
        yield _on_cpu("wide llama", FULL, 1, 128, optimizer=optimizer, why=COUNTERS)
    yield _on_cpu("small qwen", FULL, 4, 128)
    yield _on_cpu("small qwen", DROPOUT, 4, 256, optimizer="adafactor", why=COUNTERS)
    yield _on_cpu("small qwen", ALL_LINEAR, 4, 256, padding=True, keep_output=True, **bf16)
    yield _on_cpu(gpt2, FULL, 4, 128)
    yield _on_cpu(gpt2, FULL, 4, 128, attention="eager", optimizer="sgd_momentum")
    yield _on_cpu(gpt2, ALL_LINEAR, 4, 128)
    yield _on_cpu(gpt2, ALL_LINEAR, 4, 128, weights="nf4")
    yield _on_cpu(gpt2, ALL_LINEAR, 8, 128, checkpointing=True, keep_output=True)
    yield _on_cpu(bert, FULL, 8, 128)
    yield _on_cpu(bert, FULL, 8, 128, padding=True, optimizer="adamw_foreach")
    yield _on_cpu(bert, ALL_LINEAR, 8, 128)
    yield _on_cpu(bert, ATTENTION, 8, 256, attention="eager", checkpointing=True)
    yield _on_cpu(bert, Head(), 8, 128, why=COUNTERS)
    yield _on_cpu("tiny", FULL, 8, 128)
    yield _on_cpu("tiny", ALL_LINEAR, 16, 64)
    yield _on_cpu("tiny", ALL_LINEAR, 16, 64, checkpointing=True)
    yield _on_cpu("minilm", FULL, 16, 64)
    yield _on_cpu("minilm", ATTENTION, 16, 64, padding=True)
    yield _on_cpu("minilm", ATTENTION, 16, 128, checkpointing=True, adapters="bfloat16", why=STATISTICS, **bf16)
    for method in (FULL, ALL_LINEAR):
        yield _on_cpu(small, method, 4, 128, autocast=True, why=COPIES)
        yield _on_cpu(gpt2, method, 8, 128, autocast=True, checkpointing=True, why=COPIES)
        yield _on_cpu(bert, method, 8, 128, autocast=True, why=COPIES)


def _on_cuda(model: str, method: Any, batch: int, length: int, **choices: Any) -> Case:
    choices = {"weights": "bfloat16", "adapters": "bfloat16"} | choices
    return Case(model, Setup(method=method, device="cuda", **choices), batch, length)


def cuda() -> Iterator[Case]:
    """Random weights up to 8B: sizes, methods, types, kernels, optimizers, checkpointing, batch and length."""
    fused, fp32 = {"optimizer": "adamw_fused"}, {"weights": "float32", "adapters": "float32"}
    for optimizer in ("adamw", "adamw_foreach", "adamw_fused", "adamw_8bit", "sgd_momentum", "adafactor"):
        yield _on_cuda("160M", FULL, 4, 1024, optimizer=optimizer)
    for attention in ("flash", "efficient", "math", "eager"):
        yield _on_cuda("160M", ALL_LINEAR, 4, 1024, attention=attention, **fused)
        yield _on_cuda("160M", ALL_LINEAR, 4, 512, attention=attention, **fused, **fp32)
    for options in ({"padding": True}, {"keep_output": True}, {"logits": "chunked"}, {"checkpointing": True}):
        yield _on_cuda("160M", ALL_LINEAR, 8, 1024, **fused, **options)
        yield _on_cuda("1B", ALL_LINEAR, 4, 1024, **fused, **options)
    for batch, length in ((1, 512), (8, 1024), (2, 4096)):
        yield _on_cuda("1B", FULL, batch, length, **fused)
        yield _on_cuda("1B", ALL_LINEAR, batch, length, **fused)
    yield _on_cuda("1B", FULL, 4, 1024, optimizer="adamw_foreach")
    yield _on_cuda("1B", FULL, 4, 1024, optimizer="adamw_8bit")
    yield _on_cuda("1B", FULL, 4, 1024, checkpointing=True, **fused)
    yield _on_cuda("1B", FULL, 2, 512, **fused, **fp32)
    yield _on_cuda("1B", ALL_LINEAR, 4, 1024, adapters="float32", **fused)
    yield _on_cuda("1B", DROPOUT, 4, 1024, **fused)
    yield _on_cuda("1B", ALL_LINEAR, 4, 1024, weights="nf4", **fused)
    yield _on_cuda("1B", Head(), 4, 1024, **fused)
    for method in (FULL, ALL_LINEAR):
        yield _on_cuda("1B", method, 2, 512, autocast=True, **fused, **fp32)
    yield _on_cuda("1B", ALL_LINEAR, 2, 512, autocast=True, checkpointing=True, **fused, **fp32)
    yield _on_cuda("8B", ALL_LINEAR, 1, 1024, **fused)
    yield _on_cuda("8B", ALL_LINEAR, 1, 1024, adapters="float32", **fused)
    yield _on_cuda("8B", ATTENTION, 4, 2048, checkpointing=True, **fused)
    yield _on_cuda("8B", ALL_LINEAR, 4, 2048, checkpointing=True, logits="chunked", **fused)
    yield _on_cuda("8B", DROPOUT, 1, 2048, **fused)
    yield _on_cuda("8B", ALL_LINEAR, 1, 2048, weights="nf4", checkpointing=True, **fused)
    yield _on_cuda("8B", ALL_LINEAR, 1, 512, weights="nf4", **fused)
    yield _on_cuda("8B", FULL, 1, 1024, checkpointing=True, **fused)
    yield _on_cuda("8B", FULL, 1, 1024, optimizer="adamw_8bit")


CASES = {"cpu": list(cpu()), "cuda": list(cuda())}
