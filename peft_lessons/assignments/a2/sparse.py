"""A sparse update: exactly k entries, chosen over all matrices together, and no other entry touched.

Source: the fixed sparse masks of Sung, Nair and Raffel 2021, and of Ansell et al. 2021, which keep what moved furthest.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, seeded
from peft_lessons.assignments.told import Told

SHAPES = {"q": (5, 7), "v": (4, 6), "down": (3, 8)}


@dataclass(frozen=True)
class Scores:
    """Changes of several matrices, a few of them equal in size; weights, a mask, and values to add."""

    changes: dict[str, Tensor]
    ties: dict[str, Tensor]
    k: int
    weight: Tensor
    mask: Tensor
    values: Tensor


@seeded
def draw_scores(g: torch.Generator) -> Scores:
    changes = {name: torch.randn(shape, generator=g) for name, shape in SHAPES.items()}
    changes["v"] *= 3  # most of the largest are here: no share for each matrix
    ties = {name: torch.randint(1, 4, shape, generator=g).float() for name, shape in SHAPES.items()}
    ties["q"] *= -1
    k = int(torch.randint(9, 15, (), generator=g))
    mask = torch.zeros(30, dtype=torch.bool)
    mask[torch.randperm(30, generator=g)[:8]] = True
    weight, values = torch.randn(5, 6, generator=g), torch.randn(8, generator=g) + 3
    return Scores(changes, ties, k, weight, mask.view(5, 6), values)


def ask_sparse(
    given: Scores,
    told: Told,
    choose: Callable[[dict[str, Tensor], int], dict[str, Tensor]],
    update: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    for kind, scores in (("changes", given.changes), ("ties", given.ties)):
        for k in (given.k, 2 * given.k):
            masks = choose({name: tensor.clone() for name, tensor in scores.items()}, k)
            for name in SHAPES:
                told[f"{kind} {k} {name}"] = masks[name]
    weight = given.weight.clone()
    told["updated"] = update(weight, given.mask.clone(), given.values.clone())
    told["weight"] = weight


def _masks(told: Told, kind: str, k: int) -> dict[str, Tensor]:
    found = {name: told.tensor(f"{kind} {k} {name}") for name in SHAPES}
    for name, shape in SHAPES.items():
        if tuple(found[name].shape) != shape or bool(((found[name] != 0) & (found[name] != 1)).any()):
            raise ValueError(f"the mask of {name} must be {shape} truths")
    return {name: tensor.bool() for name, tensor in found.items()}


def largest(given: Scores, told: Told) -> str:
    for k in (given.k, 2 * given.k):
        found = torch.cat([mask.flatten() for mask in _masks(told, "changes", k).values()])
        flat = torch.cat([given.changes[name].flatten() for name in SHAPES])
        if torch.equal(found, _top(flat.abs(), k)):
            continue
        if torch.equal(found, _top(flat, k)):
            return "an entry that fell far has moved far as well."
        if torch.equal(found, _top(-flat.abs(), k)):
            return "these are the entries that moved least."
        each = [int(mask.sum()) for mask in _masks(told, "changes", k).values()]
        return f"the masks hold {each} entries, and these are not the {k} largest of all matrices together."
    return ""


def _top(flat: Tensor, k: int) -> Tensor:
    return torch.zeros(len(flat), dtype=torch.bool).index_fill(0, flat.topk(k).indices, True)


def exactly(given: Scores, told: Told) -> str:
    for k in (given.k, 2 * given.k):
        masks = _masks(told, "ties", k)
        if (n := sum(int(mask.sum()) for mask in masks.values())) != k:
            return f"where entries tie, {n} are chosen for {k}."
        flat = torch.cat([given.ties[name].abs().flatten() for name in SHAPES])
        chosen = torch.cat([mask.flatten() for mask in masks.values()])
        if flat[chosen].min() < flat[~chosen].max():
            return "where entries tie, a smaller one is chosen and a larger one is not."
    return ""


def updated(given: Scores, told: Told) -> str:
    found, right = told.tensor("updated"), given.weight.double()
    right[given.mask] += given.values.double()
    if close(found, right):
        return ""
    turned = given.weight.clone().double()
    turned.T[given.mask.T] += given.values.double()
    replaced = given.weight.clone().double()
    replaced[given.mask] = given.values.double()
    if close(found, turned):
        return "the values run along the rows of the weight, not down its columns."
    return (
        "the values stand in the weight's place: add them." if close(found, replaced) else "W + ΔW is something else."
    )


def untouched(given: Scores, told: Told) -> str:
    if wrong := updated(given, told):
        return wrong
    rest = ~given.mask
    same = torch.equal(told.tensor("updated")[rest], given.weight.double()[rest])
    if not same:
        return "an entry outside the mask is not what it was, to the bit."
    kept = torch.equal(told.tensor("weight"), given.weight.double())
    return "" if kept else "the weight handed in was changed; return a new one."


Exercise(
    "a2.sparse",
    draw_scores,
    ask_sparse,
    (
        Property("the k largest of all", 2, largest),
        Property("exactly k, ties or not", 1, exactly),
        Property("the update", 1, updated),
        Property("and nothing beside it", 1, untouched),
    ),
)
