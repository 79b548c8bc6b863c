"""What a training step holds over time: storages with a birth, a death and a purpose, and sums over them.

Traced (`trace`) and measured (`measure`) steps are both told in this way, so that they can be compared.

Source: the categories are the "model states" of ZeRO (Rajbhandari et al. 2019), activations and temporaries, with the
loss apart, because its logits are as large as the vocabulary.
"""

from dataclasses import dataclass, field

import numpy as np

CATEGORIES = ("weights", "gradients", "optimizer states", "activations", "loss", "temporaries")
STAGES = ("forward", "loss", "backward", "optimizer step")


@dataclass
class Storage:
    """One piece of memory: when it was there, what it was for, and what made it."""

    n_bytes: int
    category: str
    op: str
    born: int  # number of the event; -1 for what is there before the step
    died: int | None = None  # None for what is there after it


@dataclass
class StepMemory:
    """Live bytes over one training step, by category.

    Event i is the birth or death of a storage; `places[i]` says in which stage and module of the step it happened.
    """

    storages: list[Storage]
    places: list[str]
    marks: dict[str, int] = field(default_factory=dict)  # stage -> number of events before it begins

    def live(self) -> np.ndarray:
        """Live bytes after each event, (n_events + 1, n_categories); row 0 is before the step."""
        change = np.zeros((len(self.places) + 1, len(CATEGORIES)), dtype=np.int64)
        for storage in self.storages:
            column = CATEGORIES.index(storage.category)
            change[storage.born + 1, column] += storage.n_bytes
            if storage.died is not None:
                change[storage.died + 1, column] -= storage.n_bytes
        return change.cumsum(0)

    @property
    def peak(self) -> int:
        """The largest number of bytes held at a time."""
        return int(self.live().sum(1).max())

    @property
    def peak_place(self) -> str:
        """Where in the step the peak is."""
        return self.place(int(self.live().sum(1).argmax()))

    def place(self, row: int) -> str:
        """Where in the step row `row` of `live()` is."""
        return self.places[row - 1] if row else "before the step"

    def at_peak(self) -> dict[str, int]:
        """Bytes by category at the peak."""
        live = self.live()
        return by_category(live[live.sum(1).argmax()])

    def before(self, stage: str) -> dict[str, int]:
        """Bytes by category when a stage of `STAGES` begins; "end" is after the last.

        Raises:
            KeyError: the step has no such stage.
        """
        return by_category(self.live()[len(self.places) if stage == "end" else self.marks[stage]])

    def largest(self, n: int = 10) -> list[tuple[str, str, int, int]]:
        """What is alive at the peak, added up by category and operation: (category, op, how many, bytes)."""
        peak = int(self.live().sum(1).argmax()) - 1
        found: dict[tuple[str, str], list[int]] = {}
        for s in self.storages:
            if s.born <= peak and (s.died is None or s.died > peak):
                found.setdefault((s.category, s.op), []).append(s.n_bytes)
        rows = [(category, op, len(sizes), sum(sizes)) for (category, op), sizes in found.items()]
        return sorted(rows, key=lambda row: -row[-1])[:n]


def by_category(row: np.ndarray) -> dict[str, int]:
    """Bytes by category from a row of numbers."""
    return {category: round(float(n)) for category, n in zip(CATEGORIES, row, strict=True)}
