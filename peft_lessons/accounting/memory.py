"""Training memory in closed form, for decoders of the Llama family: each term has a reason, and can be checked by hand.

    n = batch · length tokens    h d_model    f d_ff    q = n_heads · d_head    k = n_kv_heads · d_head    a n_heads
    L layers    V vocabulary    e bytes of an activation (2 or 4)    e_a bytes of an adapter's weight    r rank

    peak = the larger of   weights + states + stored activations + 12 n V       (the loss)
                           weights + gradients + states + the optimizer's needs (its step)

What is stored for the backward pass is exact, to the byte. A third peak, inside a layer's backward pass, is left to the
tables, which have all three.

Source: what autograd saves for each operation of transformers 5's `modeling_llama.py`; Korthikanti et al. 2022 count a
GPT layer in the same way. 12 n V: the log-probabilities in float32, their gradient, and the logits' gradient.
"""

from collections.abc import Iterator
from dataclasses import replace

from transformers import PretrainedConfig

from peft_lessons.accounting.explain import Term
from peft_lessons.accounting.optimizers import Tensor2D, code_bytes, state_bytes, tensor_of, update_bytes
from peft_lessons.accounting.setups import TYPES, Setup, build_on_meta
from peft_lessons.methods.reparameterized.lora import LoRA
from peft_lessons.methods.selective.layers import FullFineTuning

FAMILY = ("llama", "mistral", "qwen2")
INPUTS = {
    "q_proj": "h",
    "k_proj": "h",
    "v_proj": "h",
    "o_proj": "q",
    "gate_proj": "h",
    "up_proj": "h",
    "down_proj": "f",
}
TARGETS = {"attention": ("q_proj", "k_proj", "v_proj", "o_proj"), "all-linear": tuple(INPUTS)}


def closed_form(config: PretrainedConfig, setup: Setup, batch: int, length: int) -> list[Term]:
    """What a step holds, term by term: weights, gradients, states, what is stored for the backward pass, and the loss.

    Args:
        config: of a decoder of the Llama family.
        setup: full fine-tuning, or LoRA on at least one of q, k and v; flash attention, no padding, logits kept.
        batch: sequences in a batch.
        length: tokens in a sequence.

    Returns:
        The terms; those of a category add up to what it holds when the loss begins. "loss" is what it adds at its peak.

    Raises:
        ValueError: the model or the setup is another one.

    Source: see the module.
    """
    targets = _targets(config, setup)
    h, f, L, V = config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.vocab_size
    a, head = config.num_attention_heads, getattr(config, "head_dim", None) or h // config.num_attention_heads
    q, k = a * head, (config.num_key_value_heads or a) * head
    n, e = batch * length, setup.dtype.itemsize
    sizes = {"h": h, "q": q, "f": f}
    parameters = _parameters(config, setup)
    trained = [tensor for tensor, is_trained in parameters if is_trained]
    weights = sum(tensor.n_bytes for tensor, _ in parameters)
    sums = {item: sum(t.n_bytes for t in trained if t.item == item) for item in {t.item for t in trained}}
    states = state_bytes(setup.optimizer, trained) + code_bytes(setup.optimizer, trained)
    everything = isinstance(setup.method, FullFineTuning)

    found = [
        Term("weights", "every weight at its own size, and RoPE's frequencies", weights + 4 * (head // 2) * 2),
        Term("gradients", "one for each trained number", sum(sums.values())),
        Term("optimizer states", f"states of {setup.optimizer}", states),
        Term("temporaries", f"the step of {setup.optimizer}", update_bytes(setup.optimizer, trained, sums)),
        Term("activations", "token ids, mask and labels: 3 · 8 n", 24 * n),
        Term("activations", "RoPE's cosines and sines: 2 e · length · d_head", 2 * e * length * head),
        Term("activations", "the last norm's output: e n h", e * n * h),
    ]
    # A frozen output layer does not keep its input; a trained one needs it for its gradient.
    loss = ("12 n V", 12 * n * V) if everything else ("12 n V, less the last norm's output", 12 * n * V - e * n * h)
    found.append(Term("loss", *loss))
    norms = 1 if setup.checkpointing else 2 * L + 1 if everything else 2 * L
    copy = "float32 copy of its input" if e == 2 else "input"
    found.append(
        Term("activations", f"each norm's {copy}, and 1/rms: norms · (4 n h + 4 n)", norms * (4 * n * h + 4 * n))
    )
    if everything:
        found.append(Term("activations", "each norm before its trained gain: norms · e n h", norms * e * n * h))
    if setup.checkpointing:
        found.append(Term("activations", "each layer's input: L e n h", L * e * n * h))
        found.append(Term("activations", "positions: 8 · length", 8 * length))
        return found
    attention = L * (e * n * (2 * q + 2 * k) + 4 * n * a + (24 if setup.device == "cuda" else 0))
    found.append(Term("activations", "queries, keys, values, output, log-sums: L (e n (2 q + 2 k) + 4 n a)", attention))
    found.append(Term("activations", "gate, silu(gate), up: L · 3 e n f", L * 3 * e * n * f))
    if everything:
        found.append(
            Term(
                "activations",
                "inputs of q, k, v, of gate and up, and of down: L e n (2 h + f)",
                L * e * n * (2 * h + f),
            )
        )
    else:
        found += list(_lora(setup, targets, sizes, n, e, L))
    return found


_built: dict[str, list[tuple[Tensor2D, bool]]] = {}
STANDS_FOR_RANK = 7  # the side of no other matrix


def _parameters(config: PretrainedConfig, setup: Setup) -> list[tuple[Tensor2D, bool]]:
    """Every weight in the model's order, and whether it is trained; a model is built once for all ranks."""
    method, rank = setup.method, getattr(setup.method, "r", 1)
    if isinstance(method, LoRA):
        setup = replace(setup, method=replace(method, r=STANDS_FOR_RANK))
    key = config.to_json_string(use_diff=False) + repr(setup)
    if key not in _built:
        found = [(tensor_of(p), p.requires_grad) for p in build_on_meta(config, setup).parameters()]
        _built[key] = found
    if not isinstance(method, LoRA):
        return _built[key]
    sides = {STANDS_FOR_RANK: rank}
    return [
        (Tensor2D(sides.get(t.rows, t.rows), sides.get(t.columns, t.columns), t.item), is_trained)
        for t, is_trained in _built[key]
    ]


def _lora(setup: Setup, targets: tuple[str, ...], sizes: dict[str, int], n: int, e: int, L: int) -> Iterator[Term]:
    method, own = setup.method, TYPES[setup.adapters].itemsize
    assert isinstance(method, LoRA)
    widths = [sizes[INPUTS[t]] for t in targets]
    yield Term(
        "activations",
        f"A x of {len(targets)} modules: L · {len(targets)} · e_a n r",
        L * len(targets) * own * n * method.r,
    )
    if method.dropout:  # the first layer's q, k and v need no gradient of their input, so no mask
        byte, unit = (1, "n") if setup.device == "cuda" else (e, "e n")
        first = sum(sizes[INPUTS[t]] for t in {"q_proj", "k_proj", "v_proj"} & set(targets))
        size = byte * n * (L * sum(widths) - first)
        yield Term("activations", f"dropout's masks: (L Σ d_in - d_in of the first q, k, v) {unit}", size)
    if own != e:
        yield Term("activations", "each module's float32 copy of its input: L · Σ 4 n d_in", L * own * n * sum(widths))
    elif method.dropout:
        yield Term("activations", "each module's input after dropout: L · Σ e n d_in", L * e * n * sum(widths))
    else:  # q, k and v share an input, gate and up share one, and o's is attention's output, stored already
        groups = [{"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}]
        shared = sum(sizes[INPUTS[min(g)]] for g in groups if g & set(targets))
        yield Term("activations", "inputs of q, k, v, of gate and up, and of down: L e n · Σ d_in", L * e * n * shared)


def closed_peak(terms: list[Term]) -> int:
    """The larger of the loss's peak and the optimizer's, from the terms of `closed_form`."""
    held = {name: sum(t.n_bytes for t in terms if t.category == name) for name in {t.category for t in terms}}
    batch = next(t.n_bytes for t in terms if t.formula.startswith("token ids"))
    base = held["weights"] + held["optimizer states"]
    return base + max(held["activations"] + held["loss"] + 8, held["gradients"] + held["temporaries"] + batch)


def _targets(config: PretrainedConfig, setup: Setup) -> tuple[str, ...]:
    if config.model_type not in FAMILY:
        raise ValueError(f'The closed form is for {", ".join(FAMILY)}; "{config.model_type}" has tables only.')
    if setup.attention != "flash" or setup.padding or setup.logits != "kept" or setup.keep_output:
        raise ValueError("The closed form is for flash attention without padding, logits kept and the output dropped.")
    if setup.weights == "nf4" or (setup.weights == "float32" and setup.device == "cuda"):
        raise ValueError("The closed form is for bfloat16 weights, and for float32 on a CPU.")
    if isinstance(setup.method, FullFineTuning):
        return ()
    if not isinstance(setup.method, LoRA):
        raise ValueError(f"The closed form is for full fine-tuning and LoRA, not for {type(setup.method).__name__}.")
    names = setup.method.target_modules
    targets = TARGETS.get(names, (names,)) if isinstance(names, str) else tuple(names)
    if not set(targets) <= set(INPUTS) or not {"q_proj", "k_proj", "v_proj"} & set(targets):
        raise ValueError(f"The closed form is for targets among {', '.join(INPUTS)} with q_proj, k_proj or v_proj.")
    return targets
