"""One training loop and one evaluation, for every method, base and task.

Source: the plain PyTorch loop; answering by the most probable choice is Brown et al. 2020, section 2.4, and naming the
nearest class is the zero-shot use of sentence encoders in Reimers and Gurevych 2019.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from peft_lessons.bases import Base, TextClassifier, is_decoder
from peft_lessons.methods.core import penalty, require_attachment, trained_parameters
from peft_lessons.prompting import answer_logits, score_choices
from peft_lessons.tasks import IGNORED, Task, pad_left, token_ids

Loss: TypeAlias = Callable[[Base, Task, dict[str, list[str]]], Tensor]


@dataclass
class History:
    """What `fit` did: the loss of each step, and how it was run."""

    lr: float
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    def __repr__(self) -> str:
        end = f", loss {self.losses[0]:.3f} -> {self.losses[-1]:.3f}" if self.losses else ""
        return f"History({len(self.losses)} steps, lr {self.lr:g}{end}{', interrupted' if self.interrupted else ''})"


def fit(
    model: Base,
    task: Task,
    steps: int = 100,
    *,
    lr: float | None = None,
    batch_size: int = 16,
    weight_decay: float = 0.0,
    l2_sp: float = 0.0,
    dropout: float | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> History:
    """Train what the attached method trains, with AdamW and a learning rate that falls linearly to zero.

    An encoder without a classification head gets one for the task. Two calls with the same seed on one machine give
    the same weights. Interrupting the kernel ends training and keeps what has been learned.

    Args:
        model: a base from `load_base` with a method attached.
        task: from `load_task`; only its training split is read.
        steps: optimizer steps.
        lr: the first step's learning rate; the method's own default where not given.
        batch_size: sentences a step.
        weight_decay: AdamW's, on every trained tensor: a pull toward zero.
        l2_sp: strength of a pull toward the pretrained weights, l2_sp / 2 · Σ (w - w0)² in the loss, for methods that
            train weights of the base.
        dropout: the rate of every dropout layer while training; each layer's own where not given.
        loss: called as loss(model, task, rows) with a batch of rows of the training split; gives one number to
            minimise, such as `TFewLoss()`. The cross-entropy of `loss_of` where not given.
        seed: for the new head, the order of the sentences and dropout.
        progress: whether to show a progress bar.
        on_step: called with the number of steps done, after each, in evaluation mode: for curves over training.

    Returns:
        The learning curve.

    Raises:
        RuntimeError: nothing is attached, or the adapter is merged.
        ValueError: steps or batch_size below 1, an lr that is no number or below 0, a loss that is a class, a head made
            for other answers, a task that the model or the loss cannot do, dropout outside [0, 1) or in a model without
            dropout layers, a negative weight_decay or l2_sp, or l2_sp where no weight of the base is trained.

    Source: AdamW, Loshchilov and Hutter 2019; linear decay as in Devlin et al. 2018; L2-SP, Li et al. 2018, equation 2.
    """
    state = require_attachment(model)
    if state.merged:
        raise RuntimeError("The adapter is merged into the weights: unmerge(model) before training it further.")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps is {steps} and batch_size is {batch_size}; both must be at least 1.")
    if not weight_decay >= 0 or not l2_sp >= 0:
        raise ValueError(f"weight_decay is {weight_decay!r} and l2_sp is {l2_sp!r}; both must be at least 0.")
    if l2_sp and not state.originals:
        raise ValueError(f"{type(state.method).__name__} trains no weight of the base, so l2_sp has nothing to pull.")
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout!r}; it is a probability, at least 0 and below 1.")
    if dropout and not any(isinstance(module, nn.Dropout) for module in model.modules()):
        raise ValueError("This model has no dropout layer, so dropout would do nothing: leave it out.")
    lr = type(state.method).lr if lr is None else lr
    if not isinstance(lr, Real) or not 0 <= lr < math.inf:
        raise ValueError(f"lr is {lr!r}; a learning rate is a finite number, at least 0.")
    if isinstance(loss, type):
        raise ValueError(f"loss is the class {loss.__name__}; make one: loss={loss.__name__}().")
    if not is_decoder(model):
        _prepare_head(model, task, seed)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in trained_parameters(model).items():
        groups.setdefault(lr * state.method.lr_scale(name), []).append(parameter)
    rates = [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]
    optimizer = torch.optim.AdamW(rates, weight_decay=weight_decay)
    starts = [(model.get_parameter(n), w.to(model.device)) for n, w in state.originals.items()] if l2_sp else []
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    history, begun = History(lr), time.perf_counter()
    with _seeded(seed, model.device), _dropout(model, dropout):
        batches = _batches(len(task.train), batch_size, seed)
        try:
            for step in tqdm(range(steps), disable=not progress, desc=type(state.method).__name__):
                model.train()
                main = (loss or loss_of)(model, task, task.train[next(batches)])
                extra = penalty(model)
                total = main if extra is None else main + extra
                for weight, start in starts:
                    total = total + l2_sp / 2 * (weight - start).square().sum()
                total.backward()
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                history.losses.append(main.item())
                model.eval()
                if on_step is not None:
                    on_step(step + 1)
        except KeyboardInterrupt:
            history.interrupted = True
            print(f"Interrupted after {len(history.losses)} of {steps} steps; the model keeps what it has learned.")
        finally:
            model.eval()
            optimizer.zero_grad()
    history.seconds = time.perf_counter() - begun
    return history


def loss_of(model: Base, task: Task, rows: dict[str, list[str]]) -> Tensor:
    """Mean cross-entropy of a batch of rows: over classes for an encoder, over answer tokens for a decoder."""
    if isinstance(model, TextClassifier):
        batch = task.encode_for_encoder(rows, model.tokenizer)
        return model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss
    logits, labels = answer_logits(model, task.encode_for_decoder(rows, model.tokenizer))
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)


def evaluate(
    model: Base,
    task: Task,
    split: str = "test",
    *,
    length_normalized: bool = False,
    batch_size: int = 64,
    progress: bool = False,
) -> float:
    """Share of right answers, between 0 and 1.

    An encoder answers with its classification head; a decoder with the most probable of the task's choices or, where
    the task has none, with what it writes, and that must equal the whole answer. With `length_normalized` the most
    probable choice is that with the highest log-probability a token, as in T-Few.

    Raises:
        RuntimeError: an encoder that has no classification head yet (see `zero_shot`).
        ValueError: no such split, a head made for other answers, or `length_normalized` where no choices are scored.
    """
    rows = task.split(split)
    answers = predict(
        model, task, rows["text"], length_normalized=length_normalized, batch_size=batch_size, progress=progress
    )
    return sum(a == b for a, b in zip(answers, rows["answer"], strict=True)) / len(answers)


@torch.no_grad()
def predict(
    model: Base,
    task: Task,
    texts: list[str],
    *,
    length_normalized: bool = False,
    batch_size: int = 64,
    progress: bool = False,
) -> list[str]:
    """The model's answer to each text; see `evaluate`.

    Raises:
        RuntimeError: an encoder that has no classification head yet.
        ValueError: a head made for other answers, or `length_normalized` where no choices are scored.
    """
    texts = list(texts)
    if length_normalized and (task.choices is None or not is_decoder(model)):
        raise ValueError("length_normalized is for choices that a decoder scores; leave it out here.")
    if not is_decoder(model):
        if model.choices is None:
            raise RuntimeError("This encoder has no classification head yet: attach a method and fit it first.")
        if model.choices != task.choices:
            raise ValueError(_other_head(model, task))
        return _classify(model, texts, model.choices, batch_size, progress)
    if task.choices is not None:
        prompts = [task.prompt(text) for text in texts]
        scores = score_choices(
            model,
            model.tokenizer,
            prompts,
            task.choices,
            length_normalized=length_normalized,
            batch_size=batch_size,
            progress=progress,
        )
        return [task.choices[i] for i in scores.argmax(-1).tolist()]
    return _write(model, task, texts, batch_size, progress)


@torch.no_grad()
def zero_shot(model: Base, task: Task, split: str = "test") -> float:
    """Share of right answers, between 0 and 1, of the base as it is, without any training.

    A decoder answers as in `evaluate`. An encoder gives the choice whose name lies nearest to the text by cosine, as
    sentence encoders are used without training.

    Raises:
        ValueError: an encoder and a task without choices.
    """
    if is_decoder(model):
        return evaluate(model, task, split)
    if task.choices is None:
        raise ValueError(f'"{task.name}" is a generation task; an encoder can only classify. Use a decoder.')
    rows = task.split(split)
    names = F.normalize(_embed(model, list(task.choices)), dim=-1)
    texts = F.normalize(_embed(model, list(rows["text"])), dim=-1)
    found = (texts @ names.T).argmax(-1).tolist()
    return sum(task.choices[i] == answer for i, answer in zip(found, rows["answer"], strict=True)) / len(found)


def _classify(
    model: TextClassifier, texts: list[str], choices: tuple[str, ...], batch_size: int, progress: bool
) -> list[str]:
    answers: list[str] = []
    for start in tqdm(range(0, len(texts), batch_size), disable=not progress, desc="evaluating"):
        part = texts[start : start + batch_size]
        batch = model.tokenizer(part, padding=True, truncation=True, return_tensors="pt").to(model.device)
        chosen = model(batch["input_ids"], batch["attention_mask"]).logits.argmax(-1)
        answers += [choices[i] for i in chosen.tolist()]
    return answers


def _write(model: PreTrainedModel, task: Task, texts: list[str], batch_size: int, progress: bool) -> list[str]:
    """Greedy answers up to the newline, no longer than the longest answer of the training split."""
    tokenizer = model.tokenizer
    longest = max(len(token_ids(tokenizer, task.completion(a), start=False)) for a in set(task.train["answer"]))
    newline = token_ids(tokenizer, "\n", start=False)[-1]
    written: list[str] = []
    for start in tqdm(range(0, len(texts), batch_size), disable=not progress, desc="writing"):
        prompts = [token_ids(tokenizer, task.prompt(text)) for text in texts[start : start + batch_size]]
        batch = {name: tensor.to(model.device) for name, tensor in pad_left(prompts, tokenizer).items()}
        ids = model.generate(
            **batch, max_new_tokens=longest, do_sample=False, eos_token_id=newline, pad_token_id=tokenizer.pad_token_id
        )
        for row in tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True):
            written.append(row.split("\n")[0].strip())
    return written


def _embed(model: TextClassifier, texts: list[str], batch_size: int = 64) -> Tensor:
    parts = []
    for start in range(0, len(texts), batch_size):
        batch = model.tokenizer(texts[start : start + batch_size], padding=True, truncation=True, return_tensors="pt")
        batch = batch.to(model.device)
        parts.append(model.embed(batch["input_ids"], batch["attention_mask"]).float().cpu())
    return torch.cat(parts)


def _prepare_head(model: TextClassifier, task: Task, seed: int) -> None:
    if task.choices is None:
        raise ValueError(f'"{task.name}" is a generation task; an encoder can only classify. Use a decoder.')
    if model.choices is None:
        model.set_head(task.choices, seed)
    elif model.choices != task.choices:
        raise ValueError(_other_head(model, task))


def _other_head(model: TextClassifier, task: Task) -> str:
    mine, theirs = ", ".join(model.choices or ()), ", ".join(task.choices or ("free text",))
    return f'The head answers with {mine}; "{task.name}" needs {theirs}: detach(model) first.'


def _batches(n: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of row numbers: every row once, in a new order, before any row again."""
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < batch_size:
            waiting += torch.randperm(n, generator=generator).tolist()
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed dropout inside, and leave the caller's random numbers alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _dropout(model: nn.Module, rate: float | None) -> Iterator[None]:
    """Give every dropout layer this rate inside; None leaves each its own."""
    before = {module: module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    try:
        if rate is not None:
            for module in before:
                module.p = rate
        yield
    finally:
        for module, p in before.items():
            module.p = p
