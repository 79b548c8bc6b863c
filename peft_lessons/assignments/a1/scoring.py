"""The log-probability of every answer after every prompt: whole answers, whatever is padded.

Source: rank classification as in Brown et al. 2020, section 2.4; the oracle is `score_choices` of the package.
"""

import copy
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import fresh_base
from peft_lessons.assignments.told import Told
from peft_lessons.bases import DATA
from peft_lessons.prompting import draw_examples, few_shot_prompt, rename_labels, score_choices
from peft_lessons.tasks import Task, load_task, token_ids

FAR_OFF = 1e-4
UNNAMED = "these are not the log-probabilities: compare one by hand, as above."
SHORT = ("lantern", "pebble", "velvet", "anchor", "feather", "compass")  # one token each, and the newline
WHOLE = (("glorp", "glorp glorp", "snive"), ("good", "good enough", "so good"), ("mixed", "positively", "bad"))


@functools.cache
def tokenizer() -> Any:
    """That of the course's decoder."""
    return AutoTokenizer.from_pretrained(DATA / "base", padding_side="left")


@functools.cache
def bare_tokenizer() -> Any:
    """The same, but that it puts no space in front of a text of its own accord."""
    found = copy.deepcopy(tokenizer())
    backend = json.loads(found.backend_tokenizer.to_str())
    backend["normalizer"]["normalizers"] = [n for n in backend["normalizer"]["normalizers"] if n["type"] != "Prepend"]
    found._tokenizer = type(found.backend_tokenizer).from_str(json.dumps(backend))
    return found


def tiny_gpt2(vocab: int, g: torch.Generator) -> GPT2LMHeadModel:
    """A random decoder of two blocks with a learned vector for each position: it notices where a token stands."""
    config = GPT2Config(
        vocab_size=vocab, n_positions=160, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.4)
    return model


@functools.cache
def reviews() -> Task:
    return load_task("reviews")


@dataclass(frozen=True)
class Scores:
    """Prompts, answers and models to score them with, all from a seed."""

    seed: int

    @cached_property
    def model(self) -> GPT2LMHeadModel:
        """A random one."""
        return tiny_gpt2(len(tokenizer()), torch.Generator().manual_seed(self.seed))

    @cached_property
    def decoder(self) -> Any:
        """The course's."""
        return fresh_base("tiny")

    @cached_property
    def short(self) -> tuple[str, ...]:
        """Two answers of one token."""
        return tuple(SHORT[(self.seed + i) % len(SHORT)] for i in (0, 2))

    @cached_property
    def long(self) -> tuple[str, ...]:
        """Answers of several tokens and lengths, of which one can begin another."""
        return WHOLE[self.seed % len(WHOLE)]

    @cached_property
    def prompts(self) -> list[str]:
        """Prompts of zero to four examples about reviews: of different lengths."""
        queries = draw_examples(reviews(), 6, seed=self.seed, split="test")
        shots = [draw_examples(reviews(), k, seed=self.seed + k) for k in (0, 2, 4, 1, 0, 3)]
        return [few_shot_prompt(shown, text) for shown, (text, _) in zip(shots, queries, strict=True)]

    @cached_property
    def new_words(self) -> list[str]:
        """Prompts in which two made-up words stand for praise and blame."""
        task = rename_labels(reviews(), self.new_labels)
        queries = draw_examples(task, 6, seed=self.seed + 1, split="test")
        shots = [draw_examples(task, k, seed=self.seed + k) for k in (4, 8, 4, 6, 8, 4)]
        return [few_shot_prompt(shown, text) for shown, (text, _) in zip(shots, queries, strict=True)]

    @property
    def new_labels(self) -> tuple[str, str]:
        """The two words, of different numbers of tokens."""
        return ("glorp", "snive") if self.seed % 2 else ("snive", "trask")

    @cached_property
    def questions(self) -> dict[str, tuple[Any, list[str], tuple[str, ...]]]:
        """Name -> model, prompts and answers."""
        return {
            "short": (self.model, self.prompts[2:3], self.short),
            "whole": (self.model, self.prompts[1:2], self.long),
            "spaces": (self.model, self.prompts[1:2], self.long),
            "several": (self.model, self.prompts, self.long),
            "decoder": (self.decoder, self.new_words, self.new_labels),
        }

    def tokenizer(self, name: str) -> Any:
        """The one to ask a question with."""
        return bare_tokenizer() if name == "spaces" else tokenizer()

    def right(self, name: str) -> Tensor:
        """The scores that are asked for."""
        model, prompts, choices = self.questions[name]
        return score_choices(model, self.tokenizer(name), prompts, choices).double()


def ask_scores(given: Scores, told: Told, score: Callable[..., Tensor]) -> None:
    for name, (model, prompts, choices) in given.questions.items():
        found = score(model, given.tokenizer(name), list(prompts), list(choices))
        told[name] = found if isinstance(found, Tensor) else torch.tensor(found)


def one_prompt(given: Scores, told: Told) -> str:
    return _judged(given, told, "short")


def whole_answers(given: Scores, told: Told) -> str:
    wrong = _judged(given, told, "whole")
    if wrong == UNNAMED and not _judged(given, told, "short"):
        return "right for answers of one length, and not for longer ones: all tokens? And what do padded places do?"
    if not wrong and _judged(given, told, "spaces"):
        return "right only where the tokenizer itself puts a space in front, as the course's does; others do not."
    return wrong


def several_prompts(given: Scores, told: Told) -> str:
    wrong = _judged(given, told, "several")
    if not wrong or _judged(given, told, "whole"):
        return wrong
    return "right for a prompt alone, and not beside shorter and longer ones: what do the padded places do?"


def decoder_scores(given: Scores, told: Told) -> str:
    return _judged(given, told, "decoder")


def decoder_answers(given: Scores, told: Told) -> str:
    found, right = told.tensor("decoder"), given.right("decoder")
    if found.shape != right.shape:
        return f"the scores are {tuple(found.shape)}, not a row for each prompt and a column for each answer."
    same = bool(found.isfinite().all()) and torch.equal(found.argmax(-1), right.argmax(-1))
    return "" if same else "the highest score in a row is not the decoder's answer."


def _judged(given: Scores, told: Told, name: str) -> str:
    found, right = told.tensor(name), given.right(name)
    if found.shape != right.shape:
        return f"the scores are {tuple(found.shape)}, not a row for each prompt and a column for each answer."
    if _near(found, right):
        return ""
    return _mistake(given, name, found) or UNNAMED


def _near(found: Tensor, right: Tensor) -> bool:
    return bool((found - right).abs().max() < FAR_OFF)


def _mistake(given: Scores, name: str, found: Tensor) -> str:
    """The mistake that explains the scores, where it is one that people make."""
    model, prompts, choices = given.questions[name]
    logs = [[_Tokens(model, prompt, f" {choice}\n") for choice in choices] for prompt in prompts]
    other = [[_Tokens(model, prompt, f" {choice}") for choice in choices] for prompt in prompts]
    bare = [[_Tokens(model, prompt, f" {choice}\n", start=False) for choice in choices] for prompt in prompts]
    mistakes: dict[str, tuple[list[list[_Tokens]], Callable[[_Tokens], Tensor]]] = {
        "only the first token of an answer is scored, where its newline counts too": (logs, lambda t: t.answer[0]),
        "only the last token of an answer is scored": (logs, lambda t: t.answer[-1]),
        "this is the mean over an answer's tokens: add them up": (logs, lambda t: t.answer.mean()),
        "the prompt's own tokens are scored too": (logs, lambda t: t.everything.sum()),
        "logits are no log-probabilities": (logs, lambda t: t.raw.sum()),
        "these are probabilities, without the logarithm": (logs, lambda t: t.answer.sum().exp()),
        "the sign is turned: that is a loss": (logs, lambda t: -t.answer.sum()),
        "off by one place: the logits at a token are about the next one": (logs, lambda t: t.late.sum()),
        "the newline that ends an answer is not scored": (other, lambda t: t.answer.sum()),
        "only the first token of an answer is scored": (other, lambda t: t.answer[0]),
        "the beginning-of-sequence token is missing": (bare, lambda t: t.answer.sum()),
    }
    for says, (rows, value) in mistakes.items():
        if _near(found, torch.stack([torch.stack([value(t) for t in row]) for row in rows])):
            return f"{says}."
    return ""


class _Tokens:
    """A prompt and an answer read by a model: log-probabilities of the tokens, in float64."""

    def __init__(self, model: Any, prompt: str, tail: str, start: bool = True):
        head, end = token_ids(tokenizer(), prompt, start), token_ids(tokenizer(), tail, start=False)
        ids = torch.tensor([[*head, *end]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0].double()
        logs, n = logits.log_softmax(-1), len(end)
        follows = ids[0, 1:, None]
        self.everything = logs[:-1].gather(-1, follows).squeeze(-1)
        self.answer = self.everything[-n:]
        self.raw = logits[:-1].gather(-1, follows).squeeze(-1)[-n:]
        self.late = logs.gather(-1, ids[0, :, None]).squeeze(-1)[-n:]


Exercise(
    "a1.score",
    Scores,
    ask_scores,
    (
        Property("short answers to one prompt", 2, one_prompt),
        Property("whole answers", 2, whole_answers),
        Property("prompts of several lengths", 2, several_prompts),
        Property("the course's decoder", 1, decoder_scores),
        Property("its answers", 1, decoder_answers),
    ),
)
