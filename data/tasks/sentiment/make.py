"""Write the three splits of the `sentiment` task from the phrases in `phrases.json`.

A text says one or two things about a topic. It is `positive` or `negative` when one of them is an opinion, and
`neutral` when it only states facts. Facts also stand beside opinions, so a fact alone does not tell the answer.

    python make.py [FOLDER]        # FOLDER defaults to the folder of this file
"""

import json
import random
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PHRASES = json.loads((HERE / "phrases.json").read_text(encoding="utf-8"))
CHOICES = ("positive", "neutral", "negative")
SIZES = {"train": 999, "validation": 300, "test": 480}
SEED = 1


def label_phrases(split: str) -> list[str]:
    """Every opinion and every fact of a split."""
    topics = PHRASES["topics"][split].values()
    return [phrase for topic in topics for answer in CHOICES for phrase in topic[answer]]


def frames(split: str) -> list[str]:
    """Every sentence pattern of a split, but for the bare phrase."""
    patterns = PHRASES["frames"]["one"][split] + PHRASES["frames"]["two"][split]
    return [pattern for pattern in patterns if pattern != "{a}"]


def sentence(split: str, answer: str, rng: random.Random) -> str:
    """One text of a split with the given answer."""
    name, topic = rng.choice(list(PHRASES["topics"][split].items()))
    if rng.random() < 0.35:
        return capitalise(rng.choice(PHRASES["frames"]["one"][split]).format(topic=name, a=rng.choice(topic[answer])))
    companion = "neutral" if rng.random() < 0.6 else answer
    first, second = rng.choice(topic[answer]), rng.choice(topic[companion])
    while first == second:
        second = rng.choice(topic[companion])
    if rng.random() < 0.5:
        first, second = second, first
    return capitalise(rng.choice(PHRASES["frames"]["two"][split]).format(topic=name, a=first, b=second))


def capitalise(text: str) -> str:
    """A full stop at the end, and a capital letter at the start of each sentence."""
    return re.sub(r"(^|[.?] )([a-z])", lambda match: match[1] + match[2].upper(), text + ".")


def rows(split: str) -> list[dict[str, str]]:
    """All rows of a split, without repeats, the answers taking turns before a shuffle."""
    rng = random.Random(f"{SEED} {split}")
    found: dict[str, str] = {}
    while len(found) < SIZES[split]:
        answer = CHOICES[len(found) % 3]
        found.setdefault(sentence(split, answer, rng), answer)
    made = [{"text": text, "answer": answer} for text, answer in found.items()]
    rng.shuffle(made)
    return made


def main(folder: Path) -> None:
    """Write `train.jsonl`, `validation.jsonl` and `test.jsonl` into a folder."""
    for split in SIZES:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(split)]
        (folder / f"{split}.jsonl").write_bytes("".join(lines).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
