"""Demonstrations: balanced, reproducible, wrong as often as asked, under other names."""

from collections import Counter

import pytest
from datasets import Dataset

from peft_lessons.prompting import draw_examples, mislabel, rename_labels, train_on
from peft_lessons.tasks import Task

CHOICES = ("good", "bad", "so-so")


def rows(n: int, prefix: str) -> Dataset:
    return Dataset.from_dict(
        {"text": [f"{prefix} {i}" for i in range(n)], "answer": [CHOICES[i % 3] for i in range(n)]}
    )


TASK = Task("toy", rows(30, "train"), rows(9, "validation"), rows(12, "test"), CHOICES)
FREE = Task("free", rows(3, "a"), rows(3, "b"), rows(3, "c"))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 6, 7, 16, 30])
def test_drawn_examples_are_balanced_different_and_true(n):
    drawn = draw_examples(TASK, n, seed=4)
    assert len(drawn) == len(set(drawn)) == n
    counts = Counter(label for _, label in drawn)
    assert all(n // 3 <= counts[choice] <= -(-n // 3) for choice in CHOICES)
    assert set(drawn) <= set(zip(TASK.train["text"], TASK.train["answer"], strict=True))


def test_a_task_of_the_drawn_examples_alone():
    drawn = draw_examples(TASK, 5, seed=1)
    few = train_on(TASK, drawn)
    assert list(zip(few.train["text"], few.train["answer"], strict=True)) == drawn
    assert (few.name, few.choices, few.test) == (TASK.name, TASK.choices, TASK.test) and len(TASK.train) == 30


def test_drawing_obeys_its_seed_and_split():
    assert draw_examples(TASK, 6, seed=1) == draw_examples(TASK, 6, seed=1)
    assert draw_examples(TASK, 6, seed=1) != draw_examples(TASK, 6, seed=2)
    assert all(text.startswith("test ") for text, _ in draw_examples(TASK, 6, seed=1, split="test"))


def test_one_left_over_and_the_order_are_chance():
    ones = Counter(draw_examples(TASK, 1, seed=seed)[0][1] for seed in range(60))
    assert set(ones) == set(CHOICES)
    firsts = Counter(draw_examples(TASK, 3, seed=seed)[0][1] for seed in range(60))
    assert set(firsts) == set(CHOICES)


def test_drawing_refuses_in_a_sentence():
    with pytest.raises(ValueError, match="no choices"):
        draw_examples(FREE, 2, seed=0)
    with pytest.raises(ValueError, match='4 examples of "good", and 5 were asked for'):
        draw_examples(TASK, 15, seed=0, split="test")


@pytest.mark.parametrize(("share", "expected"), [(0, 0), (0.25, 4), (0.5, 8), (1, 16)])
def test_mislabel_changes_labels_and_nothing_else(share, expected):
    right = draw_examples(TASK, 16, seed=0)
    wrong = mislabel(right, CHOICES, share, seed=3)
    assert [text for text, _ in wrong] == [text for text, _ in right]
    assert sum(a != b for a, b in zip(right, wrong, strict=True)) == expected
    assert {label for _, label in wrong} <= set(CHOICES)
    assert wrong == mislabel(right, CHOICES, share, seed=3)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_mislabel_refuses_a_share_that_is_none(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        mislabel([], CHOICES, share, seed=0)


def test_renaming_keeps_texts_order_and_meaning():
    new = rename_labels(TASK, ("ant", "bee", "cat"))
    assert new.choices == ("ant", "bee", "cat") and new.template == TASK.template
    names = dict(zip(CHOICES, new.choices, strict=True))
    for split in ("train", "validation", "test"):
        assert new.split(split)["text"][:] == TASK.split(split)["text"][:]
        assert new.split(split)["answer"][:] == [names[answer] for answer in TASK.split(split)["answer"]]
    drawn = [(text, names[label]) for text, label in draw_examples(TASK, 7, seed=5)]
    assert draw_examples(new, 7, seed=5) == drawn


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "b"), ("a", "b", "c", "d")])
def test_renaming_refuses_in_a_sentence(labels):
    with pytest.raises(ValueError, match="one different word for each"):
        rename_labels(TASK, labels)


def test_renaming_refuses_a_task_without_choices():
    with pytest.raises(ValueError, match="one different word for each"):
        rename_labels(FREE, ("a", "b"))
