"""What follows from a table: which cards a step fits, the longest and largest that fit, and what to change first.

Source: the sizes are those printed on the cards. cuBLAS's workspace is PyTorch's `CublasHandlePool.cpp`: 8,519,680
bytes, and 32 MiB on Hopper. The CUDA context's upper end, 1,343 MB with its kernels, is Hugging Face's "Model training
anatomy"; its lower end is what current CUDA, which loads kernels when they are needed, commonly takes. Neither end of
that was measured here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from transformers import PretrainedConfig

from peft_lessons.accounting.kernels import choose_kernel
from peft_lessons.accounting.library import load_shape, load_table, table_at_hand
from peft_lessons.accounting.setups import Setup
from peft_lessons.accounting.tables import Table
from peft_lessons.methods.reparameterized.lora import LoRA

CARDS = (8, 16, 24, 48, 80, 141)  # GB
GB = 10**9
MiB, GiB = 2**20, 2**30
STEP = 8  # lengths are padded to a multiple of it
LONGEST, LARGEST = 2**20, 2**16


@dataclass(frozen=True)
class Range:
    """Bytes from `low` to `high`, and why."""

    low: int
    high: int
    text: str


def overhead() -> Range:
    """What a GPU's memory holds beside the step's own tensors.

    Returns:
        The CUDA context with its kernels and cuBLAS's workspace. What the allocator holds back in unused parts of its
        segments depends on the history of the process and is not in it.
    """
    return Range(
        300 * MiB + 8519680,
        1343 * MiB + 32 * MiB,
        "CUDA context and kernels (0.3 to 1.3 GiB) and cuBLAS's workspace (8 to 32 MiB); unused parts of the "
        "allocator's segments come on top and depend on what ran before",
    )


def fits(peak: int) -> dict[int, str]:
    """Whether a step fits each of `CARDS`: "yes" with the most overhead, "perhaps" with the least, or "no".

    Args:
        peak: bytes of the step.
    """
    more = overhead()
    words = {}
    for card in CARDS:
        room = card * GB - peak
        words[card] = "yes" if room >= more.high else "perhaps" if room >= more.low else "no"
    return words


def longest(
    table: Table, layers: int, batch: int, rank: int, optimizer: str, card: int, limit: int | None = None
) -> int:
    """The longest sequence, a multiple of eight, with which the step fits a card with the most overhead; 0 for none.

    Args:
        table: of the model and setup.
        layers: of the model.
        batch: sequences in a batch.
        rank: of the method, where it has one.
        optimizer: one of `OPTIMIZERS`.
        card: GB.
        limit: the model's number of positions.
    """
    room = card * GB - overhead().high
    most = (limit or LONGEST) // STEP
    return STEP * _most(lambda n: table.peak(layers, batch, STEP * n, rank, optimizer) <= room, most)


def largest_batch(table: Table, layers: int, length: int, rank: int, optimizer: str, card: int) -> int:
    """The largest batch with which the step fits a card with the most overhead; 0 for none. Arguments as `longest`."""
    room = card * GB - overhead().high
    return _most(lambda n: table.peak(layers, n, length, rank, optimizer) <= room, LARGEST)


def _most(good: Callable[[int], bool], limit: int) -> int:
    """The largest number up to a limit that is good, when every smaller one is; 0 for none."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class Suggestion:
    """One change, and the peak that it leads to."""

    change: str
    peak: int


def suggestions(
    source: str | PretrainedConfig, setup: Setup, layers: int, batch: int, length: int, rank: int
) -> list[Suggestion]:
    """What single changes would save, the largest saving first.

    Only changes whose tables are at hand are tried, so that the answer is instant; what saves nothing is left out.

    Args:
        source: what `load_shape` takes.
        setup: as it is.
        layers: of the model.
        batch: sequences in a batch.
        length: tokens in a sequence.
        rank: of the method, where it has one.
    """
    now = load_table(source, setup).peak(layers, batch, length, rank, setup.optimizer)
    found = []
    for change, other, size in _changes(setup, batch, length):
        table = table_at_hand(source, other)
        if table is not None and table.n_layers in (None, layers):
            found.append(Suggestion(change, table.peak(layers, *size, rank, other.optimizer)))
    return sorted((s for s in found if s.peak < now), key=lambda s: s.peak)


def _changes(setup: Setup, batch: int, length: int) -> Iterator[tuple[str, Setup, tuple[int, int]]]:
    size = (batch, length)
    fields: dict[str, tuple[str, object]] = {
        "checkpointing": ("turn gradient checkpointing on (slower by about one forward pass)", True),
        "logits": ("compute the loss in chunks", "chunked"),
        "adapters": ("keep the adapter in bfloat16 (small steps are then rounded away)", "bfloat16"),
        "padding": ("pack sequences instead of padding them", False),
        "keep_output": ("do not hold the model's output", False),
        "upcast": ("leave out the upcast of the k-bit preparation", False),
        "attention": ("use flash attention", "flash"),
    }
    for field, (text, value) in fields.items():
        if getattr(setup, field) != value and not (field == "logits" and setup.keep_output):
            yield text, replace(setup, **{field: value}), size  # type: ignore[arg-type]
    if setup.weights == "float32":
        yield "load the weights in bfloat16", replace(setup, weights="bfloat16", autocast=False), size
    if setup.weights == "bfloat16" and isinstance(setup.method, LoRA):
        yield "load the base in 4 bits (QLoRA)", replace(setup, weights="nf4"), size
    if not isinstance(setup.method, LoRA) and setup.weights != "nf4":
        lora = replace(setup, method=LoRA(target_modules="all-linear"))
        yield "train LoRA on all linear layers instead", lora, size
    if setup.optimizer.startswith("adamw") and "8bit" not in setup.optimizer:
        yield "use 8-bit AdamW", replace(setup, optimizer="adamw_8bit"), size
    if setup.optimizer == "adamw_foreach":
        yield "use the fused AdamW", replace(setup, optimizer="adamw_fused"), size
    if batch > 1:
        yield f"halve the batch to {batch // 2} (and accumulate gradients)", setup, (batch // 2, length)
    if length > 2 * STEP:
        shorter = max(STEP, length // 2 // STEP * STEP)
        yield f"shorten the sequences to {shorter}", setup, (batch, shorter)


def silent_switches(source: str | PretrainedConfig, setup: Setup) -> list[str]:
    """What happens with this setup without anybody asking for it, one sentence each.

    Args:
        source: what `load_shape` takes.
        setup: the choices.
    """
    config = load_shape(source)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    runs = choose_kernel(
        setup.attention,
        device=setup.device,
        dtype=setup.product_dtype,
        grouped=kv_heads != heads and not setup.padding,
        bias=setup.padding or config.model_type == "t5",
        head_dim=head_dim,
    )
    found = []
    if runs not in (setup.attention, "cpu"):
        float32 = setup.product_dtype == torch.float32
        why = "a mask" if setup.padding else "float32" if float32 else "its position bias"
        if head_dim > 256 and why == "its position bias" and config.model_type != "t5":
            why = "heads of more than 256 numbers"
        if setup.attention == "efficient":
            why = "grouped queries"
        elif runs == "math":
            why += " and grouped queries"
        cost = "keeps length × length probabilities" if runs == "math" else "adds a bias of length × length a layer"
        text = f"PyTorch does not run {setup.attention} attention here: because of {why} it falls back to {runs}"
        found.append(text + (f", which {cost}." if runs == "math" or setup.padding else "."))
    narrow = setup.dtype.itemsize == 2 and not setup.autocast and not setup.upcast
    if isinstance(setup.method, LoRA) and setup.adapters == "float32" and narrow:
        found.append(
            "The adapter is in float32 (peft's default), so each of its layers keeps a float32 copy of its input."
        )
    if setup.optimizer == "adamw_foreach":
        found.append("AdamW's foreach version, PyTorch's default on CUDA, holds a square root of every trained tensor.")
    if setup.keep_output:
        found.append(
            "`out` holds the last step's logits, and its key-value cache, while the next step computes its own."
        )
    if setup.upcast:
        found.append("The k-bit preparation makes embeddings, norms and output layer float32, and so all activations.")
    if setup.method.__class__.__name__ == "Head" and not setup.weights == "nf4" and config.tie_word_embeddings:
        found.append("The trained head is a copy: it was tied to the embeddings, which stay as they are.")
    return found
