"""What the base can do in context: accuracy against the number of demonstrations, on what was held out.

    python data/base/recipe/evaluate.py            writes evaluation.json and the tables of the model card
    python data/base/recipe/evaluate.py --n 100    the same with fewer prompts a cell, printed only

Each cell is a set of binary tasks. A prompt has k demonstrations, half of each class in random order, and one query;
the query is never one of the demonstrations. The answer is whichever of the two labels has the more probable first
token. Chance is 50 %.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import documents as docs
import torch
import world as w

SHOTS = (0, 1, 2, 4, 8, 16)
Source = Callable[[Random], str]
BASE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cell:
    """A set of binary tasks: how inputs, labels and format are drawn, and how many demonstrations carry a wrong label.

    `sources` gives one source of inputs for each class, then, if queries come from elsewhere, one more for each.
    """

    sources: Callable[[Random], list[Source]]
    labels: Callable[[Random], list[str]] = lambda rng: rng.sample(w.HELD_OUT_LABELS, 2)
    fmt: Callable[[Random], docs.Format] = lambda rng: docs.ARROW
    header: bool = False
    wrong: float = 0.0


def sentiment(domains: dict, adjectives: tuple[list[str], list[str]] = (w.POSITIVE, w.NEGATIVE), verbs: float = 0.15):
    def draw(rng: Random) -> list[Source]:
        nouns = rng.choice(list(domains.values()))
        return [lambda r, p=p: w.review(r, nouns, p, adjectives, verbs) for p in (True, False)]

    return draw


def unrepeated_adjectives(rng: Random) -> list[Source]:
    """Held-out adjectives, of which ten a side are for the demonstrations and five for the query."""
    nouns = rng.choice(list(w.DOMAINS.values()))
    split = [rng.sample(side, len(side)) for side in HELD]
    shown, kept = tuple(side[5:] for side in split), tuple(side[:5] for side in split)
    return [lambda r, p=p, a=a: w.review(r, nouns, p, a, 0) for a in (shown, kept) for p in (True, False)]


def category(categories: dict) -> Callable[[Random], list[Source]]:
    def draw(rng: Random) -> list[Source]:
        return [lambda r, c=c: r.choice(c) for c in rng.sample(list(categories.values()), 2)]

    return draw


def family(name: str) -> Callable[[Random], list[Source]]:
    """A held-out family: one clause tells the classes apart, another is about a random slot of the trained world."""
    groups, forms = w.HELD_OUT_FAMILIES[name]

    def draw(rng: Random) -> list[Source]:
        others = rng.sample(list(w.SLOTS), 3)

        def source(values):
            return lambda r: w.join_clauses(
                r, w.with_articles(r.choice(forms).format(r.choice(values))), r.sample(others, r.randint(0, 1))
            )

        return [source(values) for values in groups]

    return draw


def trained_slots(rng: Random) -> list[Source]:
    return docs.sources_for_slots(rng, docs.S4, 2)


HELD = (w.HELD_OUT_POSITIVE, w.HELD_OUT_NEGATIVE)
NATURAL = lambda rng: list(w.NATURAL_LABELS[0])  # noqa: E731
PSEUDO = lambda rng: rng.sample(w.HELD_OUT_PSEUDOWORDS, 2)  # noqa: E731
NEW_DOMAIN = sentiment(w.HELD_OUT_DOMAINS)

CELLS = {
    "new labels": Cell(NEW_DOMAIN),
    "new labels, named in a header": Cell(NEW_DOMAIN, header=True),
    "pseudo-word labels": Cell(NEW_DOMAIN, PSEUDO),
    "pseudo-word labels, named in a header": Cell(NEW_DOMAIN, PSEUDO, header=True),
    "held-out categories": Cell(category(w.HELD_OUT_CATEGORIES)),
    "held-out adjectives": Cell(sentiment(w.DOMAINS, HELD, verbs=0)),
    "held-out adjectives, the query's not shown": Cell(unrepeated_adjectives),
    "held-out adjectives, held-out domain": Cell(sentiment(w.HELD_OUT_DOMAINS, HELD, verbs=0)),
    **{
        f"held-out format {name}": Cell(sentiment(w.DOMAINS), fmt=lambda rng, f=f: f)
        for name, f in docs.HELD_OUT_FORMATS.items()
    },
    **{f"held-out family {name}": Cell(family(name)) for name in w.HELD_OUT_FAMILIES},
    "natural labels": Cell(NEW_DOMAIN, NATURAL),
    "natural labels, half wrong": Cell(NEW_DOMAIN, NATURAL, wrong=0.5),
    "natural labels, all wrong": Cell(NEW_DOMAIN, NATURAL, wrong=1.0),
    "new labels, half wrong": Cell(NEW_DOMAIN, wrong=0.5),
    "new labels, all wrong": Cell(NEW_DOMAIN, wrong=1.0),
    "trained categories": Cell(category(w.CATEGORIES)),
    "trained slot families": Cell(trained_slots),
    "trained grammar families": Cell(docs.sources_for_grammar),
}


def make_prompt(rng: Random, cell: Cell, k: int, first_token: Callable[[str], int]) -> tuple[str, list[str], int]:
    """A prompt with k demonstrations, its two labels, and the index of the right one."""
    sources = cell.sources(rng)
    while True:
        labels = cell.labels(rng)
        if first_token(labels[0]) != first_token(labels[1]):
            break
    if len(set(labels) & {*w.NATURAL_LABELS[0]}) == 0:
        rng.shuffle(labels)
    fmt = cell.fmt(rng)
    classes = ([0, 1] * math.ceil(k / 2))[:k] if rng.random() < 0.5 else ([1, 0] * math.ceil(k / 2))[:k]
    n_wrong = math.floor(cell.wrong * k + rng.random())  # with one demonstration and one half, a coin
    wrong = set(rng.sample(range(k), min(k, n_wrong)))
    flipped = [i in wrong for i in range(k)]
    demos = list(zip(classes, flipped, strict=True))
    rng.shuffle(demos)
    text = "Labels: " + ", ".join(rng.sample(labels, 2)) + "\n" if cell.header else ""
    shown = set()
    for i, flip in demos:
        x = sources[i](rng)
        shown.add(x)
        text += "".join(part for part, _ in fmt.demonstration(x, labels[1 - i if flip else i], docs.TEXT))
    target = rng.randrange(2)
    tries = [sources[target - 2](rng) for _ in range(30)]
    query = next((x for x in tries if x not in shown), tries[0])  # a trained family may have one sentence a class
    gap = "" if not text or text.endswith("\n") else " "
    return text + gap + fmt.query(query), labels, target


def has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices natively; without it float32 is faster."""
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


@torch.no_grad()
def accuracy(
    model, encode: Callable[[str], list[int]], bos: int, cell: Cell, k: int, n: int, seed
) -> tuple[float, int]:
    """Percent right over n prompts, and the longest prompt in tokens."""
    rng = Random(f"{seed}-{k}")
    first_token = lambda label: encode(" " + label)[0]  # noqa: E731
    prompts = [make_prompt(rng, cell, k, first_token) for _ in range(n)]
    rows = [([bos, *encode(text)], labels, target) for text, labels, target in prompts]
    rows.sort(key=lambda row: len(row[0]))
    right = 0
    for start in range(0, n, 50):
        batch = rows[start : start + 50]
        width = max(len(ids) for ids, _, _ in batch)
        ids = torch.tensor([row + [bos] * (width - len(row)) for row, _, _ in batch])
        hidden = model.model(input_ids=ids.to(model.device)).last_hidden_state  # right padding: causal, so harmless
        last = torch.tensor([len(row) - 1 for row, _, _ in batch])
        logits = model.lm_head(hidden[torch.arange(len(batch)), last]).float()
        pairs = torch.tensor([[first_token(label) for label in labels] for _, labels, _ in batch])
        chosen = logits.cpu().gather(1, pairs).argmax(1)
        right += sum(int(c) == target for c, (_, _, target) in zip(chosen, batch, strict=True))
    return 100 * right / n, len(rows[-1][0])


def evaluate(model, encode, bos: int, n: int, cells=CELLS, shots=SHOTS, seed: int = 1) -> dict:
    """Accuracy in percent for each cell and each number of demonstrations."""
    model.eval()
    table = {}
    for name, cell in cells.items():
        scores = {k: accuracy(model, encode, bos, cell, k, n, f"{seed}-{name}") for k in shots}
        table[name] = {
            "accuracy": {str(k): round(score, 1) for k, (score, _) in scores.items()},
            "longest_prompt": max(length for _, length in scores.values()),
        }
    model.train()
    return table


def print_table(table: dict) -> None:
    for name, row in table.items():
        print(
            f"{name:40s}"
            + "".join(f"{score:7.1f}" for score in row["accuracy"].values())
            + f"  {row['longest_prompt']}"
        )


def main() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=BASE, help="folder of the model to evaluate")
    parser.add_argument("--n", type=int, default=None, help="prompts a cell; without it 500, and the files are written")
    parser.add_argument("--run", help="evaluate at 16 shots only and add it under this name to the card's runs.json")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    n, shots, bf16 = args.n or 500, (16,) if args.run else SHOTS, has_bf16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        table = evaluate(model, encode, tokenizer.bos_token_id, n, shots=shots, seed=args.seed)
    print_table(table)
    arithmetic = "bfloat16 autocast" if bf16 else "float32"
    result = {"prompts_per_cell": n, "seed": args.seed, "shots": list(shots), "arithmetic": arithmetic, "cells": table}
    if args.run:
        path = BASE / "runs.json"
        runs = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(runs | {args.run: result}, indent=1) + "\n")
    elif args.n is None:
        (args.base / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
        from card import write_card

        write_card(args.base)


if __name__ == "__main__":
    main()
