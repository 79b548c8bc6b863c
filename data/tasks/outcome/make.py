"""Write the three splits of the `outcome` task from the phrases in `phrases.json`.

Most sentences hold a state that counts and one that does not: how things stand now and how they stood before, or how
they are and how somebody says they are. One of the two is a problem, the other is its opposite. The answer is `open`
when the state that counts is the problem, and `solved` when it is the other. Each frame is used for both answers, and
so is each phrase, so neither tells the answer alone. Some frames hold only the state that counts.

    python make.py [FOLDER]        # FOLDER defaults to the folder of this file
"""

import json
import random
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PHRASES = json.loads((HERE / "phrases.json").read_text(encoding="utf-8"))
SIZES = {"train": 1000, "validation": 300, "test": 480}
SEED = 1


def label_phrases(split: str) -> list[str]:
    """Every phrase of a split that says how things stand, in both tenses, with its subject."""
    topics = PHRASES["topics"][split]
    phrases = [topic["subject"] for topic in topics]
    for topic in topics:
        for predicate in topic["solved"] + topic["open"]:
            phrases += [in_tense(predicate, past=False), in_tense(predicate, past=True)]
    return phrases


def frames(split: str) -> list[str]:
    """Every sentence pattern of a split, openings included."""
    return PHRASES["frames"][split] + PHRASES["openings"][split]


def in_tense(predicate: str, past: bool) -> str:
    """Pick a tense: "drips/dripped all night" -> "drips all night" or "dripped all night"."""
    return re.sub(r"([\w'-]+)/([\w'-]+)", r"\2" if past else r"\1", predicate)


def sentence(split: str, answer: str, rng: random.Random) -> str:
    """One text of a split with the given answer."""
    topic = rng.choice(PHRASES["topics"][split])
    frame = rng.choice(PHRASES["frames"][split])
    other = "open" if answer == "solved" else "solved"
    counts, passed = rng.choice(topic[answer]), rng.choice(topic[other])
    # The second mention is usually a pronoun, as people write.
    second = topic["pronoun"] if rng.random() < 0.9 else topic["subject"]
    now_first = not re.search(r"{(old|claim)}.*{now}", frame)
    now_subject, other_subject = (topic["subject"], second) if now_first else (second, topic["subject"])
    text = frame.format(
        now=f"{now_subject} {in_tense(counts, past=False)}",
        old=f"{other_subject} {in_tense(passed, past=True)}",
        claim=f"{other_subject} {in_tense(passed, past=False)}",
    )
    opening = f"{rng.choice(PHRASES['openings'][split])} " if rng.random() < 0.2 else ""
    return capitalise(f"{opening}{text}.")


def capitalise(text: str) -> str:
    """Capital letters at the start of each sentence."""
    return re.sub(r"(^|[.!?] )([a-z])", lambda match: match[1] + match[2].upper(), text)


def rows(split: str) -> list[dict[str, str]]:
    """All rows of a split, without repeats, the answers taking turns before a shuffle."""
    rng = random.Random(f"{SEED} {split}")
    found: dict[str, str] = {}
    while len(found) < SIZES[split]:
        answer = ("solved", "open")[len(found) % 2]
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
