"""Write the tables of the model card from evaluation.json and training.json, so that no number is typed by hand.

    python data/base/recipe/card.py

Between `<!-- tables -->` and `<!-- /tables -->` in data/base/README.md everything is replaced; the rest is prose.
"""

import json
import re
from pathlib import Path

import documents as docs
import world as w

BASE = Path(__file__).resolve().parents[1]
GROUPS = {
    "Held out from every task document": ("new labels", "pseudo-word", "held-out categories", "held-out adjectives"),
    "Held-out prompt formats": ("held-out format",),
    "Held-out task families": ("held-out family",),
    "Wrong demonstrations": ("natural labels", "new labels, half", "new labels, all"),
    "Trained families, for comparison": ("trained",),
}


def table(header: list[str], rows: list[list]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    text = "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
    return text.replace("<", "&lt;")


def accuracy_tables(evaluation: dict) -> str:
    shots = [f"k = {k}" for k in evaluation["shots"]]
    left, parts = dict(evaluation["cells"]), []
    wrong = {name for name in left if name.endswith(" wrong")}
    for title, prefixes in GROUPS.items():
        chosen = [n for n in left if n.startswith(prefixes) and (title == "Wrong demonstrations" or n not in wrong)]
        rows = [[n, *left.pop(n)["accuracy"].values(), evaluation["cells"][n]["longest_prompt"]] for n in chosen]
        parts.append(f"**{title}** (accuracy in percent, chance 50)\n\n" + table(["", *shots, "longest, tokens"], rows))
    return "\n\n".join(parts)


def training_tables(training: dict) -> str:
    rows = []
    for stage in training["stages"]:
        gate = {k: v for k, v in stage.items() if k not in ("stage", "tokens", "cpu_minutes_so_far", "gate_passed")}
        rows.append(
            [
                stage["stage"],
                f"{stage['tokens'] / 1e6:.2f}",
                training["mixes"][stage["stage"]]["length"],
                stage["cpu_minutes_so_far"],
                ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in gate.items()) or "length only",
                "yes" if stage["gate_passed"] else "no, left at its limit",
            ]
        )
    facts = [
        ["parameters", f"{training['parameters']:,}"],
        ["tokens read", f"{training['tokens'] / 1e6:.1f} million, generated as needed"],
        ["time", f"{training['cpu_minutes']} minutes on one CPU core"],
        ["arithmetic", "bfloat16 autocast" if training["bf16_autocast"] else "float32"],
        ["seed", training["seed"]],
        ["learning rate", training["learning_rate"]],
        ["tokens a step", training["batch_tokens"]],
    ]
    stages = table(["stage", "million tokens", "row length", "minutes so far", "at the gate", "gate passed"], rows)
    return table(["", ""], facts) + "\n\n" + stages


def world_table() -> str:
    """How much of each thing task documents use, and how much is held out from them."""
    adjectives = f"{len(w.POSITIVE)} + {len(w.NEGATIVE)}"
    held_adjectives = f"{len(w.HELD_OUT_POSITIVE)} + {len(w.HELD_OUT_NEGATIVE)}"
    rows = [
        ["label words", f"{len(w.TASK_WORDS)}, and made-up words", f"{len(w.HELD_OUT_LABELS)}"],
        ["made-up label words", "any other", len(w.HELD_OUT_PSEUDOWORDS)],
        ["word categories", len(w.CATEGORIES), f"{len(w.HELD_OUT_CATEGORIES)}: {', '.join(w.HELD_OUT_CATEGORIES)}"],
        ["adjectives of praise + blame", adjectives, held_adjectives],
        ["review domains", len(w.DOMAINS), f"{len(w.HELD_OUT_DOMAINS)}: {', '.join(w.HELD_OUT_DOMAINS)}"],
        ["sentence slots", len(w.SLOTS), f"{len(w.HELD_OUT_FAMILIES)}: {', '.join(w.HELD_OUT_FAMILIES)}"],
        ["prompt formats", f"{len(docs.FORMATS)}, and random ones", f"{len(docs.HELD_OUT_FORMATS)}"],
    ]
    return "### What task documents use\n\n" + table(["", "used", "held out"], rows)


def write_card(base: Path = BASE) -> None:
    """Replace the tables in `base`/README.md."""
    evaluation = json.loads((base / "evaluation.json").read_text())
    training = json.loads((base / "training.json").read_text())
    note = (
        f"{evaluation['prompts_per_cell']} prompts a number, so its standard deviation is at most "
        f"{50 / evaluation['prompts_per_cell'] ** 0.5:.1f} points; evaluation seed {evaluation['seed']}, "
        f"computed in {evaluation['arithmetic']}."
    )
    parts = [
        world_table(),
        "### Training",
        training_tables(training),
        "### Evaluation",
        note,
        accuracy_tables(evaluation),
    ]
    tables = "\n\n".join(parts)
    runs = base / "runs.json"
    if runs.exists():
        tables += "\n\n" + runs_table(json.loads(runs.read_text()) | {"shipped": evaluation})
    card = base / "README.md"
    text, n = re.subn(
        r"(<!-- tables -->\n).*(<!-- /tables -->)",
        lambda match: match[1] + "\n" + tables + "\n" + match[2],
        card.read_text(),
        flags=re.DOTALL,
    )
    assert n == 1, "the card must have exactly one pair of table marks"
    card.write_text(text)


def runs_table(runs: dict) -> str:
    """Accuracy at 16 shots for each run that was measured."""
    cells = list(runs["shipped"]["cells"])
    rows = [[cell, *(run["cells"][cell]["accuracy"]["16"] for run in runs.values())] for cell in cells]
    header = [f"{name}, {run['prompts_per_cell']} prompts" for name, run in runs.items()]
    return "### Runs measured\n\nAccuracy in percent at 16 shots.\n\n" + table(["", *header], rows)


if __name__ == "__main__":
    write_card()
