"""Make the decoder's tasks in data/tasks: reviews, records and verdict. Deterministic; run again, it writes the same.

python data/base/recipe/make_tasks.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import world as w

TASKS = Path(__file__).resolve().parents[2] / "tasks"
Row = dict[str, str]

RECORD_FORMS = (
    "{who} {past} the {metal} {noun} in the {place}",
    "{who} did not {verb} the {metal} {noun} in the {place}",
    "in the {place} , {who} {past} a {metal} {noun}",
    "in the {place} , {who} did not {verb} a {metal} {noun}",
    "the {metal} {noun} was in the {place} and {who} {past} it",
    "the {metal} {noun} was in the {place} and {who} did not {verb} it",
)
RECORD_KINDS = ("tool", "utensil", "container", "jewel", "toy", "stationery")
VERDICT_LABELS = ("lantern", "pebble")  # praise, blame; neither is ever an answer in pretraining


def record(rng: Random) -> Row:
    """A sentence about who did what, and its record: who, verb, whether it happened, metal, thing, kind, place."""
    people, places = w.HELD_OUT_FAMILIES["gender"][0], w.HELD_OUT_FAMILIES["inside or outside"][0]
    kind = rng.choice(RECORD_KINDS)
    noun = rng.choice(w.CATEGORIES[kind])
    who, place = rng.choice(people[0] + people[1]), rng.choice(places[0] + places[1])
    metal, (verb, past) = rng.choice(w.CATEGORIES["metal"]), rng.choice(list(w.VERBS.items()))
    form = rng.choice(RECORD_FORMS)
    text = w.with_articles(form.format(who=who, past=past, verb=verb, metal=metal, noun=noun, place=place))
    happened = "no" if "did not" in form else "yes"
    return {"text": text, "answer": f"{who}, {verb}, {happened}, {metal}, {noun}, {kind}, {place}"}


def opinion(rng: Random, labels: tuple[str, str]) -> Row:
    """A review sentence about a hotel or a concert and the label of its side."""
    positive = rng.random() < 0.5
    nouns = rng.choice(list(w.HELD_OUT_DOMAINS.values()))
    return {"text": w.review(rng, nouns, positive), "answer": labels[0 if positive else 1]}


def splits(draw: Callable[[Random], Row], sizes: dict[str, int], seed: str) -> dict[str, list[Row]]:
    """Rows for each split; no text occurs twice, within a split or across splits."""
    rng, seen, result = Random(seed), set(), {}
    for name, size in sizes.items():
        rows: list[Row] = []
        while len(rows) < size:
            row = draw(rng)
            if row["text"] not in seen:
                seen.add(row["text"])
                rows.append(row)
        result[name] = rows
    return result


def make_all() -> dict[str, dict[str, list[Row]]]:
    """Every task with its splits."""
    return {
        "reviews": splits(
            lambda r: opinion(r, ("positive", "negative")), {"train": 512, "validation": 256, "test": 1024}, "reviews"
        ),
        "records": splits(record, {"train": 512, "validation": 128, "test": 256}, "records"),
        "verdict": splits(
            lambda r: opinion(r, VERDICT_LABELS), {"train": 64, "validation": 128, "test": 512}, "verdict"
        ),
    }


DESCRIPTIONS: dict[str, dict] = {
    "reviews": {"template": "{text} ->", "choices": ["positive", "negative"]},
    "records": {"template": "{text} ->"},
    "verdict": {"template": "{text} ->", "choices": list(VERDICT_LABELS)},
}


def main() -> None:
    for name, parts in make_all().items():
        folder = TASKS / name
        folder.mkdir(parents=True, exist_ok=True)
        for split, rows in parts.items():
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "task.json").write_text(json.dumps(DESCRIPTIONS[name], indent=2) + "\n")


if __name__ == "__main__":
    main()
