"""Which weights to train: at random, by size, by Fisher information, or by how far full fine-tuning moves them.

Each function looks at the plain base, and most at a task, and returns the positions for `SparseUpdate(masks=...)`:
path -> (k,), row by row in W (d_out, d_in). `learner_nodes` does the same for `FAR`. They leave the model as it was.

Fisher information of one weight, the empirical kind:    F = 1/N Σ_n (∂ log p(y_n | x_n) / ∂ W)²

with the true label y_n. The square is of each sample's gradient; the square of the batch's gradient is another number,
and near zero where training has converged. The paper's equation takes the expectation over labels drawn from the model
instead; the authors' runs use the true ones ("label-square").

Source: Sung, Nair and Raffel 2021, "Training Neural Networks with Fixed Sparse Masks" (FishMask); Ansell et al. 2021,
"Composable Sparse Fine-Tuning for Cross-Lingual Transfer" (LT-SFT), whose candidates are all weights of the model, here
those of its linear layers; Vucetic et al. 2022, "Efficient Fine-Tuning of BERT Models on the Edge" (FAR).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_lessons.bases import Base, is_decoder
from peft_lessons.methods.attaching import attach, detach
from peft_lessons.methods.core import active
from peft_lessons.methods.selective.layers import FullFineTuning
from peft_lessons.methods.selective.sparse import check_share, random_entries, top_entries
from peft_lessons.methods.targets import Linear, Targets, blocks, find_targets, matrix, refuse_quantized
from peft_lessons.tasks import Task
from peft_lessons.training import fit, loss_of

_TRIAL = "trial of a mask"  # the name under which full fine-tuning is attached for a while


def random_masks(
    model: nn.Module, keep: float = 0.005, *, target_modules: Targets = "all-linear", seed: int = 0
) -> dict[str, Tensor]:
    """A random share of each matrix: the baseline that every other mask has to beat.

    Raises:
        ValueError: keep outside (0, 1], or a target that is not there.
    """
    check_share("keep", keep)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {path: random_entries(layer, keep) for path, layer in find_targets(model, target_modules).items()}


def magnitude_masks(
    model: nn.Module, keep: float = 0.005, *, target_modules: Targets = "all-linear"
) -> dict[str, Tensor]:
    """The weights that are largest in the base, over all targets together; no data is looked at.

    Raises:
        ValueError: keep outside (0, 1], or a target that is not there.
    """
    layers = find_targets(model, target_modules)
    return top_entries({path: matrix(layer).detach().abs() for path, layer in layers.items()}, keep)


def fisher_masks(
    model: Base,
    task: Task,
    keep: float = 0.005,
    *,
    n_samples: int = 256,
    target_modules: Targets = "all-linear",
    seed: int = 0,
) -> dict[str, Tensor]:
    """FishMask: the weights with the largest empirical Fisher information, over all targets together.

    Args:
        model: a base with nothing attached or switched on.
        task: the first `n_samples` of its training split, in an order drawn from the seed, are read.
        keep: the share of all the targets' entries, above 0 and at most 1.
        n_samples: sentences, each with a forward and a backward pass of its own; 1,024 in the paper.
        target_modules: see `find_targets`.
        seed: for the order, and for an encoder's classification head.

    Raises:
        RuntimeError: a method is switched on.
        ValueError: keep outside (0, 1], n_samples below 1, a target that is not there, or in four bits.
    """
    check_share("keep", keep)
    return top_entries(fisher(model, task, n_samples=n_samples, target_modules=target_modules, seed=seed), keep)


def fisher(
    model: Base, task: Task, *, n_samples: int = 256, target_modules: Targets = "all-linear", seed: int = 0
) -> dict[str, Tensor]:
    """The diagonal of the empirical Fisher information: path -> one number for each entry of W, (d_out, d_in).

    An encoder has no head yet, so it gets the fresh one that `fit` with the same seed begins with, as in the authors'
    runs: what the gradient asks for is what the first training steps would ask for. It is taken off again.

    Args, Raises: see `fisher_masks`.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples is {n_samples}; at least one sentence is needed.")
    layers = find_targets(model, target_modules)
    refuse_quantized(model, list(layers))
    weights: list[Any] = [layer.weight for layer in layers.values()]
    total = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))[:n_samples].tolist()
    with _ready(model, task, weights, seed):
        for row in order:
            gradients = torch.autograd.grad(loss_of(model, task, task.train[[row]]), weights)
            for summed, gradient in zip(total, gradients, strict=True):
                summed += gradient.float().square()
    means = (summed / len(order) for summed in total)
    return {path: upright(layer, mean) for (path, layer), mean in zip(layers.items(), means, strict=True)}


def lottery_masks(
    model: Base,
    task: Task,
    keep: float = 0.005,
    *,
    steps: int = 50,
    lr: float | None = None,
    target_modules: Targets = "all-linear",
    seed: int = 0,
) -> dict[str, Tensor]:
    """LT-SFT: fine-tune everything, keep the weights that moved most, over all targets together, and rewind.

    The training that `SparseUpdate` then gets begins from the base again: the first one is spent on the choice alone.

    Args:
        model: a base with nothing attached or switched on.
        task: its training split is read.
        keep: the share of all the targets' entries, above 0 and at most 1.
        steps: of full fine-tuning.
        lr: its learning rate; the default of `FullFineTuning` where not given.
        target_modules: see `find_targets`.
        seed: for the head, the order of the sentences and dropout.

    Raises:
        RuntimeError: a method is switched on.
        ValueError: keep outside (0, 1], steps below 1, or a target that is not there.
    """
    check_share("keep", keep)
    layers = find_targets(model, target_modules)
    moved = _movement(model, task, [f"{path}.weight" for path in layers], steps, lr, seed)
    return top_entries({path: upright(layer, moved[f"{path}.weight"]) for path, layer in layers.items()}, keep)


def learner_nodes(
    model: Base, task: Task, share: float = 0.05, *, steps: int = 20, lr: float | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """FAR's priming: fine-tune everything for a few steps, keep the rows of each feed-forward layer that moved most.

    Movement is the L1 distance of a row of W, with its bias, from the base; every layer keeps the same share.

    Args:
        model: a base with nothing attached or switched on.
        task: its training split is read.
        share: of each layer's output nodes, above 0 and at most 1.
        steps: of full fine-tuning.
        lr: its learning rate; the default of `FullFineTuning` where not given.
        seed: for the head, the order of the sentences and dropout.

    Returns:
        path -> numbers of nodes, (k,), for `FAR(nodes=...)`.

    Raises:
        RuntimeError: a method is switched on.
        ValueError: share outside (0, 1], or steps below 1.
    """
    check_share("share", share)
    layers = find_targets(model, [path for block in blocks(model) for path in block.ffn])
    names = [f"{path}.{name}" for path, layer in layers.items() for name, _ in layer.named_parameters()]
    moved = _movement(model, task, names, steps, lr, seed)
    found = {}
    for path, layer in layers.items():
        rows = upright(layer, moved[f"{path}.weight"]).sum(1)
        if layer.bias is not None:
            rows = rows + moved[f"{path}.bias"]
        found[path] = rows.topk(max(1, round(share * len(rows)))).indices.sort().values
    return found


def upright(layer: Linear, scores: Tensor) -> Tensor:
    """Numbers in the shape of the layer's weight as (d_out, d_in), whichever way round the layer keeps it."""
    return scores.T if isinstance(layer, Conv1D) else scores


def _movement(model: Base, task: Task, names: list[str], steps: int, lr: float | None, seed: int) -> dict[str, Tensor]:
    """How far full fine-tuning moves these weights; the model is rewound."""
    _require_plain(model)
    attach(model, FullFineTuning(), name=_TRIAL)
    try:
        fit(model, task, steps, lr=lr, seed=seed, progress=False)
    finally:
        tuned = detach(model, _TRIAL).state
    return {name: (tuned[name] - model.get_parameter(name).cpu()).abs() for name in names}


@contextmanager
def _ready(model: Base, task: Task, weights: list[nn.Parameter], seed: int) -> Iterator[None]:
    """Gradients for these weights inside, and a fresh head on an encoder; afterwards everything as it was."""
    _require_plain(model)
    before = [weight.requires_grad for weight in weights]
    try:
        if not is_decoder(model):
            model.set_head(task.choices, seed)
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, flag in zip(weights, before, strict=True):
            weight.requires_grad_(flag)
        if not is_decoder(model):
            model.set_head(None)


def _require_plain(model: nn.Module) -> None:
    if active(model) is not None:
        raise RuntimeError("Weights are chosen on the plain base: detach(model), or switch(model, None), first.")
