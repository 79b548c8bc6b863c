"""T-Few's three losses on the choices of a question.

    p_t(c) = p(token t of choice c | question, tokens before t)        score(c) = 1/len(c) Σ_t log p_t(c)

    L_LM = -1/len Σ_t log p_t(y), over the tokens of all right choices y of the batch
    L_UL = -1/len Σ_t log(1 - p_t(c) + 0.01), over the tokens of all wrong choices c of the batch
    L_LN = -log [exp score(y) / Σ_c exp score(c)], its mean over the questions

The 0.01 keeps L_UL finite where a wrong token is certain. T-Few's code also sums log(1 + 0.01) for each position that
is no wrong token: a constant without gradient, left out here.

Source: Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
section 3.2, as coded in r-three/t-few; unlikelihood is Welleck et al. 2019, "Neural Text Generation with Unlikelihood
Training".
"""

from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from peft_lessons.bases import Base, is_decoder
from peft_lessons.prompting import answer_logits
from peft_lessons.tasks import IGNORED, Task


@dataclass(frozen=True)
class TFewLoss:
    """The loss of T-Few for `fit`: every choice of a row goes through the model, in one batch.

    Args:
        lm: weight of the language-modelling loss on the right choice.
        unlikelihood: weight of the unlikelihood of the wrong choices.
        length_normalized: weight of the choice by score; rank with it too: `evaluate(..., length_normalized=True)`.

    Raises:
        ValueError: a weight is negative or all are 0, or (when called) a model or task without choices to score.

    Source: Liu et al. 2022, section 3.2; all weights are 1 there.
    """

    lm: float = 1.0
    unlikelihood: float = 1.0
    length_normalized: float = 1.0

    def __post_init__(self) -> None:
        if not all(0 <= weight < float("inf") for weight in astuple(self)) or not any(astuple(self)):
            raise ValueError(f"The weights are {astuple(self)}; none may be below 0, and one must be above it.")

    def __call__(self, model: Base, task: Task, rows: dict[str, list[str]]) -> Tensor:
        logits, labels = choice_logits(model, task, rows)
        right = task.choice_numbers(rows["answer"]).to(logits.device)
        terms = zip(astuple(self), t_few_losses(logits, labels, right), strict=True)
        return torch.stack([weight * loss for weight, loss in terms if weight]).sum()


def t_few_losses(logits: Tensor, labels: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L_LM, L_UL and L_LN of a batch of questions.

    Args:
        logits: for each token of each choice, (questions, choices, tokens, vocabulary).
        labels: the tokens, (questions, choices, tokens); `IGNORED` where a choice is shorter than the longest.
        right: which choice is right, (questions,).

    Source: see the module.
    """
    log_p = torch.log_softmax(logits.float(), -1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    is_token = labels != IGNORED  # (questions, choices, tokens)
    is_right = F.one_hot(right, labels.shape[1]).bool().unsqueeze(-1)  # (questions, choices, 1)
    score = (log_p * is_token).sum(-1) / is_token.sum(-1)  # (questions, choices)
    lm = -log_p[is_token & is_right].mean()
    unlikelihood = -torch.log(1 - log_p[is_token & ~is_right].exp() + 0.01).mean()
    return lm, unlikelihood, F.cross_entropy(score, right)


def choice_logits(model: Base, task: Task, rows: dict[str, list[str]]) -> tuple[Tensor, Tensor]:
    """Logits and labels of every choice behind every row's prompt, as `t_few_losses` takes them.

    Raises:
        ValueError: an encoder, or a task without two choices.
    """
    if not is_decoder(model):
        raise ValueError("T-Few compares the probabilities of written choices; an encoder writes none. Leave loss out.")
    if task.choices is None or len(task.choices) < 2:
        raise ValueError(f'T-Few compares written choices; "{task.name}" has not two of them. Leave loss out.')
    texts = [text for text in rows["text"] for _ in task.choices]
    every = {"text": texts, "answer": [*task.choices] * len(rows["text"])}
    logits, labels = answer_logits(model, task.encode_for_decoder(every, model.tokenizer))
    shape = len(rows["text"]), len(task.choices)
    return logits.unflatten(0, shape), labels.unflatten(0, shape)
