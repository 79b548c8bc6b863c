"""The method for a case: what fits its memory and disk, may be served as it must, and is no worse than can be told.

    on disk, the adapters apart      base_bytes + tenants · stored_bytes
    on disk, merged                  tenants · base_bytes, for every tenant has a model of its own

Source: the constraints are those that users bring (peft issue 2310 asks for such a guide); merging is Hu et al. 2021,
section 4.1.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told

Option = dict[str, Any]
BASE = 90_000_000
MERGEABLE = {
    "LoRA": True,
    "KronA": True,
    "(IA)3": True,
    "BitFit": True,
    "top layer": True,
    "full fine-tuning": True,
    "Houlsby": False,
    "Compacter": False,
    "prefix tuning": False,
    "prompt tuning": False,
}
RULES = (  # for each a case that turns on it
    *("memory", "memory exactly", "disk", "disk exactly", "tenants", "base", "merged", "cannot", "only merged"),
    *("beside", "margin", "share", "stored"),
)


@dataclass(frozen=True)
class Case:
    """Options, and what is needed: bytes of memory and disk, tenants, whether to merge, and the margin."""

    options: list[Option]
    needs: dict[str, Any]

    def fits(self, option: Option, broken: str = "") -> bool:
        """Whether an option does what is needed; a rule may be broken, as people break it."""
        needs = self.needs
        tenants = 1 if broken == "tenants" else needs["tenants"]
        merged = needs["merged"] and broken != "merged"
        base = 0 if broken == "base" else BASE
        disk = tenants * BASE if merged and broken != "copies" else base + tenants * option["stored_bytes"]
        if merged and broken == "beside":
            disk += tenants * option["stored_bytes"]
        return (
            (broken == "memory" or option["peak_bytes"] + (broken == "memory exactly") <= needs["memory"])
            and (broken == "disk" or disk + (broken == "disk exactly") <= needs["disk"])
            and (option["mergeable"] or broken == "cannot" or not (merged or broken == "only merged"))
        )

    def right(self, broken: str = "") -> str | None:
        """The name of the right option, or of what comes out when a rule is broken; None where none fits."""
        fitting = [option for option in self.options if self.fits(option, broken)]
        if not fitting:
            return None
        best = max(option["accuracy"] for option in fitting)
        margin = self.needs["margin"] * {"margin": 0, "share": best}.get(broken, 1)
        near = [option for option in fitting if option["accuracy"] >= best - margin]
        cost = "peak_bytes" if broken == "stored" else "stored_bytes"
        return min(near, key=lambda option: option[cost])["name"]


@seeded
def draw_cases(g: torch.Generator) -> list[Case]:
    """For each rule a case that turns on it; two in which nothing fits; one for the baseline."""
    rng = random.Random(int(torch.randint(2**31, (), generator=g)))
    found = [_first(partial(_decides, rule), rng) for rule in RULES]
    found += [_first(partial(_forbids, rule), rng) for rule in ("copies", "memory")]
    found.append(_first(lambda case: case.right() == "zero-shot", rng))
    return found


def _decides(rule: str, case: Case) -> bool:
    return case.right() not in (None, "zero-shot", case.right(rule))


def _forbids(rule: str, case: Case) -> bool:
    return case.right() is None and case.right(rule) is not None


def _first(good: Callable[[Case], bool], rng: random.Random) -> Case:
    while not good(case := _case(rng)):
        pass
    return case


def _case(rng: random.Random) -> Case:
    names = rng.sample(sorted(MERGEABLE), 7)
    options: list[Option] = [
        {
            "name": name,
            "accuracy": rng.randrange(7200, 8600) / 1e4,
            "peak_bytes": rng.randrange(300, 1200) * 10**6,
            "stored_bytes": BASE if name == "full fine-tuning" else round(10 ** rng.uniform(4, 7.2)),
            "mergeable": MERGEABLE[name],
        }
        for name in names
    ]
    accuracy = rng.choice((0.45, 0.81))
    zero = {"name": "zero-shot", "accuracy": accuracy, "peak_bytes": 150 * 10**6, "stored_bytes": 0, "mergeable": True}
    options.append(zero)
    rng.shuffle(options)
    tenants, merged = rng.choice((1, 5, 40, 300)), rng.random() < 0.4
    needs: dict[str, Any] = {
        "memory": rng.randrange(100, 1300) * 10**6,
        "disk": round(BASE * rng.choice((0.5, 1.2, 3, 10, 60, 400))),
        "tenants": tenants,
        "base_bytes": BASE,
        "merged": merged,
        "margin": rng.choice((0.00505, 0.01005, 0.02005)),  # no difference is exactly this
    }
    if rng.random() < 0.3:  # what one of them takes, to the byte
        chosen = rng.choice(options)
        needs["memory"] = chosen["peak_bytes"]
        needs["disk"] = tenants * BASE if merged else BASE + tenants * chosen["stored_bytes"]
    return Case(options, needs)


def ask_cases(given: list[Case], told: Told, choose: Callable[[list[Option], dict[str, Any]], str | None]) -> None:
    told["chosen"] = [choose([dict(option) for option in case.options], dict(case.needs)) for case in given]


def _chosen(given: list[Case], told: Told) -> Iterator[tuple[Case, Option]]:
    """Each case in which something fits and was chosen, with the option.

    Raises:
        ValueError: what was chosen is no name of an option, or nothing was chosen anywhere.
    """
    if not any(told["chosen"]):
        raise ValueError("nothing was chosen, whatever the case")
    for case, name in zip(given, told["chosen"], strict=True):
        if case.right() is not None and name is not None:
            option = next((option for option in case.options if option["name"] == name), None)
            if option is None:
                raise ValueError(f"{name!r} is no name of an option")
            yield case, option


def _says(case: Case, option: Option) -> str:
    return f"{case.needs}: {option['name']}"


def memory(given: list[Case], told: Told) -> str:
    for case, option in _chosen(given, told):
        if option["peak_bytes"] > case.needs["memory"]:
            return f"{_says(case, option)} needs {option['peak_bytes']:,} bytes to be trained."
    return ""


def disk(given: list[Case], told: Told) -> str:
    for case, option in _chosen(given, told):
        merged, tenants = case.needs["merged"], case.needs["tenants"]
        held = tenants * BASE if merged else BASE + tenants * option["stored_bytes"]
        if held > case.needs["disk"]:
            return f"{_says(case, option)} takes {held:,} bytes on disk for all tenants, the base included."
    return ""


def merged(given: list[Case], told: Told) -> str:
    for case, option in _chosen(given, told):
        if case.needs["merged"] and not option["mergeable"]:
            return f"{_says(case, option)} cannot be merged."
    return ""


def the_right_one(given: list[Case], told: Told) -> str:
    for case, name in zip(given, told["chosen"], strict=True):
        if case.right() is not None and name is None:
            return f"{case.needs}: nothing was chosen, though something fits."
    for case, option in _chosen(given, told):
        if option["name"] == case.right():
            continue
        if not case.fits(option):
            return f"{_says(case, option)} does not fit."
        best = max(o["accuracy"] for o in case.options if case.fits(o))
        if option["accuracy"] < best - case.needs["margin"]:
            return f"{_says(case, option)} is further below the best that fits than the margin."
        return f"{_says(case, option)} is near the best, but so is one that stores less."
    return ""


def says_none(given: list[Case], told: Told) -> str:
    for case, name in zip(given, told["chosen"], strict=True):
        if case.right() is None and name is not None:
            return f"{case.needs}: nothing fits, so None is right."
    for _ in _chosen(given, told):  # an answer that is always None has not looked
        pass
    return ""


Exercise(
    "a6.choose",
    draw_cases,
    ask_cases,
    (
        Property("within the memory", 1, memory),
        Property("within the disk, for all tenants", 1, disk),
        Property("merged where that is needed", 1, merged),
        Property("none that stores less is as good", 3, the_right_one),
        Property("None where nothing fits", 1, says_none),
    ),
)
