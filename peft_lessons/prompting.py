"""Prompts for a decoder: demonstrations in front of a question, and the scores of the answers it could give.

Source: few-shot prompts and answers ranked by probability as in Brown et al. 2020, "Language Models are Few-Shot
Learners".
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random

import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_lessons.tasks import IGNORED, Task, pad_left, token_ids

Examples = list[tuple[str, str]]  # (text, label)


def draw_examples(task: Task, n: int, *, seed: int, split: str = "train") -> Examples:
    """n different examples of a split, as many of each answer as n allows, in random order.

    Where n is no multiple of the number of answers, chance decides which answers come once more.

    Raises:
        ValueError: the task has no choices, or the split holds too few examples of one.
    """
    if task.choices is None:
        raise ValueError(f'"{task.name}" is a generation task; examples are drawn by answer, and it has no choices.')
    rng, rows = Random(seed), task.split(split)
    by_answer: dict[str, Examples] = {choice: [] for choice in task.choices}
    for text, answer in zip(rows["text"], rows["answer"], strict=True):
        by_answer[answer].append((text, answer))
    wanted = rng.sample(task.choices, len(task.choices)) * math.ceil(n / len(task.choices))
    drawn: Examples = []
    for choice in task.choices:
        count = wanted[:n].count(choice)
        if count > len(by_answer[choice]):
            raise ValueError(
                f'The {split} split of "{task.name}" has {len(by_answer[choice])} examples of "{choice}", '
                f"and {count} were asked for."
            )
        drawn += rng.sample(by_answer[choice], count)
    return rng.sample(drawn, n)


def train_on(task: Task, examples: Examples) -> Task:
    """The same task with these (text, label) pairs alone as its training split."""
    texts, answers = zip(*examples, strict=True)
    return replace(task, train=Dataset.from_dict({"text": texts, "answer": answers}))


def mislabel(examples: Examples, choices: Sequence[str], share: float, *, seed: int) -> Examples:
    """The same examples in the same order, a share of them, drawn at random, under another of the labels.

    Args:
        examples: (text, label) pairs.
        choices: the labels there are.
        share: how many get a wrong label, between 0 and 1, rounded to whole examples.
        seed: for which ones, and which wrong label where there are several.

    Raises:
        ValueError: the share is not between 0 and 1.

    Source: the experiment of Min et al. 2022, "Rethinking the Role of Demonstrations".
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share!r}; it is a part of the examples, between 0 and 1.")
    rng = Random(seed)
    wrong = set(rng.sample(range(len(examples)), round(share * len(examples))))
    return [
        (text, rng.choice([choice for choice in choices if choice != label]) if i in wrong else label)
        for i, (text, label) in enumerate(examples)
    ]


def rename_labels(task: Task, labels: Sequence[str]) -> Task:
    """The same task with its answers called by other words, given in the order of `task.choices`.

    Raises:
        ValueError: not one different word for each choice.
    """
    if task.choices is None or len(set(labels)) != len(labels) or len(labels) != len(task.choices):
        raise ValueError(f'"{task.name}" has the answers {task.choices}; give one different word for each.')
    names = dict(zip(task.choices, labels, strict=True))

    def renamed(rows: Dataset) -> Dataset:
        return Dataset.from_dict({"text": rows["text"][:], "answer": [names[answer] for answer in rows["answer"]]})

    parts = {split: renamed(task.split(split)) for split in ("train", "validation", "test")}
    return replace(task, choices=tuple(labels), **parts)


def few_shot_prompt(
    demonstrations: Iterable[tuple[str, str]], query: str, *, template: str = "{text} -> {label}", header: str = ""
) -> str:
    """Worked examples, one a line, and the query with its label left open.

    Args:
        demonstrations: (text, label) pairs, in the order shown.
        query: the text to label.
        template: one example, with `{text}` and, at its end, `{label}`.
        header: what stands above the examples, such as "Labels: good, bad"; nothing where empty.

    Raises:
        ValueError: the template lacks `{text}`, or does not end with `{label}`.

    Source: the prompt form of Brown et al. 2020, "Language Models are Few-Shot Learners".
    """
    if "{text}" not in template or not template.endswith("{label}"):
        raise ValueError(f'The template must hold {{text}} and end with {{label}}; "{template}" does not.')
    lines = [header] if header else []
    lines += [template.format(text=text, label=label) for text, label in demonstrations]
    lines.append(template.format(text=query, label="").rstrip(" "))
    return "\n".join(lines)


@torch.no_grad()
def score_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    choices: Sequence[str],
    *,
    length_normalized: bool = False,
    batch_size: int = 64,
    ending: str = "\n",
    progress: bool = False,
) -> Tensor:
    """Log-probability of each choice after each prompt, (n_prompts, n_choices), on the CPU.

    A choice is scored as a space, its words and `ending`, so that a choice which begins another cannot win by being
    shorter. The largest in a row is the model's answer ("rank classification"). With `length_normalized` each is
    divided by the choice's number of tokens, so that long choices are not ranked down for their length.

    Raises:
        ValueError: fewer than two choices, or a prompt and its choice are longer than the model's context.

    Source: Brown et al. 2020, section 2.4; the same with length normalisation in Liu et al. 2022, section 3.2.
    """
    if len(choices) < 2:
        raise ValueError(f"score_choices compares answers: give at least two choices, not {list(choices)}.")
    tails = [token_ids(tokenizer, f" {choice}{ending}", start=False) for choice in choices]
    rows = [(head, tail) for head in (token_ids(tokenizer, prompt) for prompt in prompts) for tail in tails]
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(len(head) + len(tail) for head, tail in rows)
    if limit is not None and longest > limit:
        raise ValueError(f"A prompt has {longest} tokens; this model reads at most {limit}. Use fewer demonstrations.")
    scores = []
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))  # similar lengths together: less padding
    for start in tqdm(range(0, len(rows), batch_size), disable=not progress, desc="scoring"):
        part = [rows[i] for i in order[start : start + batch_size]]
        batch = pad_left(
            [head + tail for head, tail in part],
            tokenizer,
            labels=[[IGNORED] * len(head) + tail for head, tail in part],
        )
        scores.append(answer_log_probability(model, batch))
    result = torch.empty(len(rows))
    result[torch.tensor(order)] = torch.cat(scores)
    result = result.view(len(prompts), len(choices))
    return result / torch.tensor([len(tail) for tail in tails]) if length_normalized else result


def answer_log_probability(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Summed log-probability of each row's labelled tokens, (batch,), on the CPU, from a left-padded batch."""
    logits, labels = answer_logits(model, batch)
    picked = torch.log_softmax(logits.float(), -1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (picked * (labels != IGNORED)).sum(-1).cpu()


def answer_logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits that predict the labelled tokens, (batch, n, vocabulary), and those labels, (batch, n).

    Answers end at the right edge, so only the last n + 1 positions go through the output layer: with a large
    vocabulary that is most of the memory of a step.
    """
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    labels, mask = batch["labels"], batch["attention_mask"]
    n = int((labels != IGNORED).any(0).sum())
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    output = model(
        input_ids=batch["input_ids"], attention_mask=mask, position_ids=positions, logits_to_keep=n + 1, use_cache=False
    )
    return output.logits[:, :-1], labels[:, -n:]
