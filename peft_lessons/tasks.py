"""Tasks: text in, answer out, in three fixed splits: the course's own, from `data/tasks`, or any Hub dataset.

Source: each task's card, `data/tasks/NAME/README.md`; Hub datasets are read by Hugging Face datasets 5.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from datasets import Dataset, load_dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from peft_lessons.bases import DATA

SPLITS = ("train", "validation", "test")
IGNORED = -100  # the label that cross-entropy leaves out


@dataclass(frozen=True)
class Task:
    """Sentences and their answers. Learning rates are chosen on `validation`; `test` is for the final number.

    `choices` are the possible answers of a classification task, None for free generation. A decoder reads
    `template` filled with the text and continues with a space, the answer and a newline.
    """

    name: str
    train: Dataset
    validation: Dataset
    test: Dataset
    choices: tuple[str, ...] | None = None
    template: str = "{text} ->"

    def split(self, name: str) -> Dataset:
        """A split by name.

        Raises:
            ValueError: there is no such split.
        """
        if name not in SPLITS:
            raise ValueError(f'There is no split "{name}"; a task has {", ".join(SPLITS)}.')
        return getattr(self, name)

    def prompt(self, text: str) -> str:
        """What a decoder reads."""
        return self.template.format(text=text)

    @staticmethod
    def completion(answer: str) -> str:
        """What a decoder is to continue with; the newline ends it."""
        return f" {answer}\n"

    def encode_for_encoder(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
        """Rows -> `input_ids` and `attention_mask`, (batch, length) each, and `labels`, (batch,).

        Raises:
            ValueError: the task has no choices, or an answer is not among them.
        """
        if self.choices is None:
            raise ValueError(f'"{self.name}" is a generation task; an encoder can only classify. Use a decoder.')
        labels = self.choice_numbers(rows["answer"])
        batch = tokenizer(rows["text"], padding=True, truncation=True, return_tensors="pt")
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}

    def choice_numbers(self, answers: Sequence[str]) -> Tensor:
        """The place of each answer among the choices, (batch,).

        Raises:
            ValueError: an answer is not among them.
        """
        choices = self.choices or ()
        unknown = sorted(set(answers) - set(choices))
        if unknown:
            raise ValueError(f'"{unknown[0]}" is not among the answers of "{self.name}": {", ".join(choices)}.')
        return torch.tensor([choices.index(answer) for answer in answers])

    def encode_for_decoder(self, rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
        """Rows -> `input_ids`, `attention_mask` and `labels`, (batch, length) each, padded on the left.

        Labels are `IGNORED` everywhere but on the answer, which ends at the right edge.
        """
        prompts = [token_ids(tokenizer, self.prompt(text)) for text in rows["text"]]
        answers = [token_ids(tokenizer, self.completion(answer), start=False) for answer in rows["answer"]]
        return pad_left(
            [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)],
            tokenizer,
            labels=[[IGNORED] * len(p) + a for p, a in zip(prompts, answers, strict=True)],
        )


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, start: bool = True) -> list[int]:
    """Token ids of a text; with `start`, behind the tokenizer's beginning-of-sequence token where it has one."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [tokenizer.bos_token_id, *ids] if start and tokenizer.bos_token_id is not None else ids


def pad_left(
    sequences: list[list[int]], tokenizer: PreTrainedTokenizerBase, labels: list[list[int]] | None = None
) -> dict[str, Tensor]:
    """Ragged token ids (and labels) -> tensors (batch, longest), padded on the left so that the ends line up."""
    longest = max(map(len, sequences))

    def fill(rows: list[list[int]], value: int) -> Tensor:
        return torch.tensor([[value] * (longest - len(row)) + row for row in rows])

    batch = {
        "input_ids": fill(sequences, tokenizer.pad_token_id),
        "attention_mask": fill([[1] * len(row) for row in sequences], 0),
    }
    return batch | ({} if labels is None else {"labels": fill(labels, IGNORED)})


def majority(task: Task, split: str = "test") -> float:
    """Accuracy, between 0 and 1, of always giving the training split's most frequent answer."""
    commonest = Counter(task.train["answer"]).most_common(1)[0][0]
    answers = task.split(split)["answer"]
    return sum(answer == commonest for answer in answers) / len(answers)


def load_task(
    name: str,
    *,
    text: str | None = None,
    answer: str | None = None,
    subset: str | None = None,
    splits: tuple[str, str, str] = SPLITS,
    choices: Sequence[str] | None = None,
    template: str = "{text} ->",
) -> Task:
    """Load a task: one of the course's by name, or any Hub dataset (or local folder) by id and column names.

    Args:
        name: a folder of `data/tasks`, such as "sentiment", or a dataset id.
        text: the dataset's input column (Hub datasets only, like the arguments below).
        answer: its answer column: class labels or strings.
        subset: its configuration, where it has several.
        splits: which of its splits are for training, validation and test.
        choices: the possible answers, where the column holds text and the task is classification.
        template: how a decoder sees the text.

    Raises:
        FileNotFoundError: no such task (the message lists the course's), or no such dataset within reach.
        ValueError: column names or splits are missing or wrong; the message lists what is there.
    """
    folder = DATA / "tasks" / name
    if (folder / "task.json").exists():
        card: dict[str, Any] = json.loads((folder / "task.json").read_text())
        with _no_bars():
            data = {split: Dataset.from_json(str(folder / f"{split}.jsonl")) for split in SPLITS}
        choices = tuple(card["choices"]) if "choices" in card else None
        return Task(name, data["train"], data["validation"], data["test"], choices, card["template"])
    mine = ", ".join(sorted(path.parent.name for path in (DATA / "tasks").glob("*/task.json")))
    if text is None or answer is None:
        raise FileNotFoundError(
            f'The course has no task "{name}", but {mine}. For a dataset of the Hub give text=COLUMN and answer=COLUMN.'
        )
    try:
        data = load_dataset(name, subset)
    except (FileNotFoundError, ConnectionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise FileNotFoundError(f'The dataset "{name}" cannot be had: {reason}') from None
    missing = [split for split in splits if split not in data]
    if missing:
        raise ValueError(
            f'{name} has no split "{missing[0]}"; it has {", ".join(data)}. Pass splits=(train, validation, test).'
        )
    columns = data[splits[0]].column_names
    for argument, column in (("text", text), ("answer", answer)):
        if column not in columns:
            raise ValueError(f'{name} needs {argument}=COLUMN; its columns are {", ".join(columns)}, not "{column}".')
    names = getattr(data[splits[0]].features[answer], "names", None)
    train, validation, test = (_tidy(data[split], text, answer, names) for split in splits)
    if not isinstance(train["answer"][0], str):
        raise ValueError(
            f'The answers in "{answer}" are {type(train["answer"][0]).__name__}, not class labels or text.'
        )
    known = tuple(choices or names or ())
    return Task(name, train, validation, test, choices=known or None, template=template)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Small local files need no progress bar, and a first reading should look like every other."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _tidy(data: Dataset, text: str, answer: str, names: list[str] | None) -> Dataset:
    """Two columns, `text` and `answer`, with class labels spelled out."""

    def row(example: dict[str, Any]) -> dict[str, Any]:
        value = example[answer]
        return {"text": example[text], "answer": names[value] if names else value}

    return data.map(row, remove_columns=data.column_names)
