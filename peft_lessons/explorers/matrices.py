"""The matrices that the rank explorer lists: two examples, a model's weights, or one's own."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peft_lessons.accounting.budgets import Products, Spent, krona_at, lora_at, phm_at
from peft_lessons.accounting.spectrum import Spectrum, as_matrix, spectrum
from peft_lessons.explorers.picture import heat_map

PREPARED = 200_000  # entries: about half a second


class Matrix:
    """One matrix, taken apart when it is first looked at.

    Args:
        given: two-dimensional, (d_out, d_in).
    """

    def __init__(self, given: Any):
        self._given = given

    @property
    def shape(self) -> tuple[int, int]:
        """d_out and d_in."""
        d_out, d_in = np.shape(self._given)
        return d_out, d_in

    @cached_property
    def W(self) -> Tensor:
        """The matrix, (d_out, d_in), in double precision."""
        return as_matrix(self._given)

    @cached_property
    def spectrum(self) -> Spectrum:
        """Its singular values."""
        return spectrum(self.W)

    @cached_property
    def products(self) -> Products:
        """Its nearest Kronecker products, found at once unless the matrix is large: then a slider need not wait."""
        found = Products(self.W)
        if self.W.numel() <= PREPARED:
            found.prepare()
        return found

    @cached_property
    def limit(self) -> float:
        """The darkest colour: 99 % of the entries are no larger."""
        sizes = self.W.abs().flatten().numpy()
        return float(np.quantile(sizes, 0.99)) or float(sizes.max())

    @cached_property
    def picture(self) -> str:
        """The matrix itself, as HTML."""
        return heat_map(self.W.numpy(), title="W", limit=self.limit)

    def spend(self, budget: int) -> dict[str, Spent | None]:
        """What each method makes of a budget; None where it cannot."""
        return {
            "LoRA": lora_at(self.spectrum, budget),
            "KronA": krona_at(self.products, budget),
            "PHM": phm_at(self.products, budget),
        }


def examples() -> dict[str, Matrix]:
    """Lesson 07's 10 × 10 matrix of rank 1, and a random one of the shape that a much copied slide takes."""
    b = torch.tensor([1.0, 2, -1, 0, 3, 1, -2, 2, 0, 1])
    a = torch.tensor([2.0, -1, 0, 1, 3, -2, 1, 0, 2, 1])
    return {
        "10 × 10 from 20 numbers": Matrix(torch.outer(b, a)),
        "512 × 64, random": Matrix(np.random.default_rng(0).standard_normal((512, 64))),
    }


def listed(source: Any) -> tuple[str, dict[str, Matrix]]:
    """A source's label, and its matrices by name; a model's embeddings come last.

    Args:
        source: a model, whose two-dimensional weights are meant; a mapping of names to matrices; or one matrix.

    Raises:
        ValueError: a model has no weight matrix, or a matrix is none; the message names it.
        TypeError: it is neither model, mapping nor matrix.
    """
    if isinstance(source, nn.Module):
        config = getattr(source, "config", None)
        label = (getattr(config, "_name_or_path", "") or type(source).__name__).rstrip("/").split("/")[-1]
        weights = [(name, p) for name, p in source.named_parameters() if p.dim() == 2 and p.is_floating_point()]
        tables = {id(module.weight) for module in source.modules() if isinstance(module, nn.Embedding)}
        found = {name: Matrix(p) for name, p in sorted(weights, key=lambda pair: id(pair[1]) in tables)}
        if not found:
            raise ValueError(f"{label} has no two-dimensional weight to show.")
        return label, found
    if isinstance(source, Mapping):
        for name, matrix in source.items():
            try:
                as_matrix(matrix)
            except ValueError as error:
                raise ValueError(f'"{name}": {error}') from None
        if not source:
            raise ValueError("The mapping has no matrix in it; give at least one name and matrix.")
        return "your matrices", {str(name): Matrix(m) for name, m in source.items()}
    if isinstance(source, Tensor | np.ndarray | list):
        return listed({"matrix": source})
    raise TypeError(
        f"A source is {type(source).__name__}; a model, a mapping of names to matrices or a matrix is right."
    )
