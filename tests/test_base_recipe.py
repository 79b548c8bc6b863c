"""What is called held out in the pretraining of the shipped base is held out, and its corpus is deterministic."""

import re
import sys
from pathlib import Path
from random import Random

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "data" / "base" / "recipe"
N_DOCUMENTS = 4000


@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(RECIPE))
    try:
        import documents
        import make_tasks
        import tokens
        import world

        yield {"documents": documents, "world": world, "make_tasks": make_tasks, "tokens": tokens}
    finally:
        sys.path.remove(str(RECIPE))


@pytest.fixture(scope="module")
def task_documents(recipe) -> list[list[tuple[str, int]]]:
    """Few-shot documents of the last stages' mix, some of them without delimiters."""
    docs, rng = recipe["documents"], Random(11)
    return [docs.task_document(rng, docs.S4, 12, bare=i % 8 == 0) for i in range(N_DOCUMENTS)]


def text_of(document) -> str:
    return "".join(text for text, _ in document)


def test_no_held_out_word_in_any_task_document(recipe, task_documents):
    w = recipe["world"]
    held = w.HELD_OUT_WORDS | set(w.HELD_OUT_PSEUDOWORDS) | set(w.HELD_OUT_CATEGORIES)
    used = set(re.findall(r"[a-z]+", " ".join(map(text_of, task_documents))))
    assert not held & used
    assert len(used) > 1000  # the documents do range over the lexicon


def test_held_out_words_are_the_five_kinds(recipe):
    w = recipe["world"]
    held_families = {x for groups, _ in w.HELD_OUT_FAMILIES.values() for g in groups for x in g}
    for words in (w.HELD_OUT_LABELS, w.HELD_OUT_POSITIVE, w.HELD_OUT_NEGATIVE, held_families):
        assert set(words) <= w.HELD_OUT_WORDS
    assert not w.HELD_OUT_WORDS & set(w.TASK_WORDS)
    assert all(w.pseudoword(Random(i)) not in w.HELD_OUT_PSEUDOWORDS for i in range(2000))


def test_no_held_out_format_in_any_task_document(recipe, task_documents):
    docs = recipe["documents"]
    for document in task_documents:
        text = text_of(document)
        pieces = set(text.replace("\n", " ").replace(":", " : ").split())
        assert not pieces & set(docs.HELD_OUT_MARKS), text
    for fmt in docs.HELD_OUT_FORMATS.values():
        assert fmt not in docs.FORMATS


def test_held_out_words_do_occur_in_plain_text(recipe):
    w, docs, rng = recipe["world"], recipe["documents"], Random(5)
    used = set(re.findall(r"[a-z]+", " ".join(text_of(docs.plain_document(rng)) for _ in range(6000))))
    assert w.HELD_OUT_WORDS <= used
    assert not used & set(w.HELD_OUT_PSEUDOWORDS)


def test_pseudowords_occur_nowhere(recipe):
    w, docs, rng = recipe["world"], recipe["documents"], Random(6)
    text = " ".join(text_of(docs.repeat_document(rng, 24)) for _ in range(500))
    assert not set(text.split()) & set(w.HELD_OUT_PSEUDOWORDS)


def test_generation_is_deterministic(recipe):
    docs = recipe["documents"]
    for mix in (docs.S1, docs.S2, docs.S3, docs.S4):
        first, second = ([docs.document(rng, mix, 12) for _ in range(50)] for rng in (Random("s"), Random("s")))
        assert first == second


def test_shipped_tokenizer_is_the_recipe_s(recipe, task_documents):
    from tokenizers import Tokenizer

    w, tokens = recipe["world"], recipe["tokens"]
    shipped = Tokenizer.from_file(str(ROOT / "data" / "base" / "tokenizer.json"))
    encoder = tokens.Encoder(shipped)
    assert tokens.build_tokenizer().get_vocab() == shipped.get_vocab()
    assert all(len(shipped.encode(word).ids) == 1 for word in w.LEXICON)
    for document in task_documents[:200]:
        assert encoder.segments(document)[0][1:-1] == shipped.encode(text_of(document)).ids


def test_task_files_are_what_the_recipe_makes(recipe):
    make_tasks = recipe["make_tasks"]
    import json

    for name, parts in make_tasks.make_all().items():
        folder = ROOT / "data" / "tasks" / name
        assert json.loads((folder / "task.json").read_text()) == make_tasks.DESCRIPTIONS[name]
        for split, rows in parts.items():
            lines = (folder / f"{split}.jsonl").read_text().splitlines()
            assert [json.loads(line) for line in lines] == rows
        texts = [row["text"] for rows in parts.values() for row in rows]
        assert len(set(texts)) == len(texts)
