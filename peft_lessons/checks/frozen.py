"""Proves, by hash, which weights of a model moved and which did not.

A method is what it leaves alone: training a twentieth of the numbers means nothing if the others drift a little. The
check takes any model before and after any training, the package's or a learner's.

Source: SHA-256 is FIPS 180-4; the idea of comparing bits and not closeness is that of every checksum.
"""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from peft_lessons.checks.report import Check, Report


def fingerprint(model: nn.Module | Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of the bits of every tensor of a model, by name; the layers inside a wrapped one keep their names.

    Source: see the module.
    """
    return {name: _hash(tensor) for name, tensor in _tensors(model).items()}


def check_frozen(
    before: nn.Module | Mapping[str, Tensor],
    after: nn.Module | Mapping[str, Tensor],
    allowed: Iterable[str] | Mapping[str, Tensor | None],
) -> Report:
    """Hold a model after training against the same before: what may move moved, and nothing else did.

    Args:
        before: a copy of the model, or of its `state_dict()`, from before the training.
        after: the trained model, wrapped, merged or plain. What a method added to it is not looked at.
        allowed: names of the weights that may move; or name -> a truth for each entry, (d_out, d_in) as the tensor
            lies in the model, where only these entries may, and None where all may.

    Returns:
        A `Report` of four lines: tensors that are gone, that moved and should not, that should have moved, and entries
        beside a mask.

    Raises:
        KeyError: a name in `allowed` that the model does not have.

    Source: see the module.
    """
    old, new = _tensors(before), _tensors(after)
    masks = allowed if isinstance(allowed, Mapping) else dict.fromkeys(allowed)
    if unknown := [name for name in masks if name not in old]:
        raise KeyError(f"{unknown[0]} is no weight of this model, so it cannot be allowed to move.")
    gone = [name for name in old if name not in new or new[name].shape != old[name].shape]
    here = [name for name in old if name not in gone]
    drifted = [name for name in here if name not in masks and _hash(old[name]) != _hash(new[name])]
    still = [name for name in here if name in masks and _hash(old[name]) == _hash(new[name])]
    spilled = [n for n in here if (mask := masks.get(n)) is not None and _hash(old[n][~mask]) != _hash(new[n][~mask])]
    n_frozen = sum(name not in masks for name in here)
    return Report(
        (
            _check(f"{len(old)} tensors: there", gone, old, new, "is gone, or has another shape"),
            _check(f"{n_frozen} frozen: same hash", drifted, old, new, "moved, and should be frozen"),
            _check(f"{len(masks)} allowed: moved", still, old, new, "did not move, and should"),
            _check("beside the masks", spilled, old, new, "moved in an entry that its mask leaves out"),
        )
    )


def _check(name: str, wrong: list[str], old: Mapping[str, Tensor], new: Mapping[str, Tensor], what: str) -> Check:
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    both = [n for n in wrong if n in new and new[n].shape == old[n].shape]
    far = max((float((old[n].double() - new[n].double()).abs().max()) for n in both), default=0.0)
    return Check(name, not wrong, far, (), f"{wrong[0]} {what}{more}." if wrong else "")


def _tensors(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor by the name that it has in the plain model: a wrapped layer lies in its module as `base`."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    return {name.replace(".base.", "."): tensor.detach().cpu() for name, tensor in state.items()}


def _hash(tensor: Tensor) -> str:
    flat = tensor.contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
