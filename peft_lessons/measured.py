"""Results measured before, with the hardware, versions and command that made them, from `data/measured`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean
from typing import Any

from peft_lessons.bases import DATA


@dataclass(frozen=True)
class Measured:
    """A study: `about` says how it was made; each of `runs` is one training run and its accuracy on one split."""

    name: str
    about: dict[str, Any]
    runs: list[dict[str, Any]]

    def select(self, **wanted: Any) -> list[dict[str, Any]]:
        """The runs whose fields have these values.

        Raises:
            LookupError: no run has; the message lists the values of the first field that does not fit.
        """
        found = self.runs
        for field, value in wanted.items():
            fitting = [run for run in found if run.get(field) == value]
            if not fitting:
                known = sorted({str(run.get(field)) for run in found})
                raise LookupError(f"{self.name} has no run with {field}={value!r}; there it is {', '.join(known)}.")
            found = fitting
        return found

    def best_lr(self, **wanted: Any) -> float:
        """The learning rate with the highest mean accuracy on validation; the smaller one where two are equal."""
        runs = self.select(split="validation", **wanted)
        rates = sorted({run["lr"] for run in runs})
        return max(rates, key=lambda lr: (mean(run["accuracy"] for run in runs if run["lr"] == lr), -lr))

    def test_accuracy(self, **wanted: Any) -> list[float]:
        """Test accuracy of every seed, in the order of the seeds, at the learning rate chosen on validation."""
        runs = self.select(split="test", **wanted)
        if any(run["split"] == "validation" for run in self.select(**wanted)):
            rate = self.best_lr(**wanted)
            runs = [run for run in runs if run["lr"] == rate]
        return [run["accuracy"] for run in sorted(runs, key=lambda run: run["seed"])]


def load_measured(name: str) -> Measured:
    """Load a study of `data/measured` by name.

    Raises:
        FileNotFoundError: there is none of that name; the message lists those there are.
    """
    file = DATA / "measured" / f"{name}.json"
    if not file.exists():
        known: Iterable[str] = sorted(path.stem for path in file.parent.glob("*.json"))
        raise FileNotFoundError(f'There is no study "{name}" in data/measured; there are {", ".join(known)}.')
    content = json.loads(file.read_text())
    return Measured(name, content["about"], content["runs"])
