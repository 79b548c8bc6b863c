"""T-Few's losses: two choices by hand, the sums written out, wrong versions that must fail, and training with them."""

import math
from dataclasses import replace

import models
import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

from peft_lessons import attach, evaluate, fit
from peft_lessons.losses import TFewLoss, choice_logits, t_few_losses
from peft_lessons.methods import IA3, FullFineTuning
from peft_lessons.methods.core import trained_parameters
from peft_lessons.prompting import rename_labels, score_choices
from peft_lessons.tasks import IGNORED, token_ids
from peft_lessons.training import loss_of, predict

LENGTHS = ("good", "not at all a good one")  # choices of one word and of six


def by_hand():
    """Two questions of two choices: what the model gives each token, and which choice is right.

    Question 1: the right choice is "a b", p = 1/2 and 1/4; the wrong one is "c", p = 1/5.
    Question 2: the right choice is "c", p = 3/5; the wrong one is "b a", p = 1/10 and 3/10.
    """
    pad = [1 / 3, 1 / 3, 1 / 3]
    p = [
        [[[0.5, 0.3, 0.2], [0.25, 0.25, 0.5]], [pad, [0.2, 0.6, 0.2]]],
        [[[0.8, 0.1, 0.1], [0.3, 0.6, 0.1]], [pad, [0.1, 0.3, 0.6]]],
    ]
    labels = [[[0, 1], [IGNORED, 2]], [[1, 0], [IGNORED, 2]]]
    return torch.tensor(p).log() + 7, torch.tensor(labels), torch.tensor([0, 1])  # + 7: logits are not normalised


ln = math.log
ONE = (1.5 * ln(2), -ln(1 - 0.2 + 0.01), -ln(2**-1.5 / (2**-1.5 + 0.2)))
BOTH = (
    (ln(2) + ln(4) - ln(0.6)) / 3,
    -(ln(0.81) + ln(0.91) + ln(0.71)) / 3,
    (ONE[2] - ln(0.6 / (0.6 + (0.1 * 0.3) ** 0.5))) / 2,
)


def agrees(losses):
    """Whether an implementation gives the numbers worked out above."""
    logits, labels, right = by_hand()
    found = [*losses(logits[:1], labels[:1], right[:1]), *losses(logits, labels, right)]
    return torch.allclose(torch.stack(found), torch.tensor([*ONE, *BOTH]), atol=1e-6)


def test_two_choices_by_hand():
    assert agrees(t_few_losses)


def wrong_version(normalise=True, sign=1, of_right=False, epsilon=0.01, padding=False):
    """The losses with a mistake in them."""

    def losses(logits, labels, right):
        log_p = logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        real = (labels != IGNORED) | padding
        chosen = F.one_hot(right, 2).bool().unsqueeze(-1)
        score = (log_p * real).sum(-1) / (real.sum(-1) if normalise else 1)
        wrong = chosen if of_right else ~chosen
        unlikelihood = -torch.log(1 - log_p[real & wrong].exp() + epsilon).mean()
        return -log_p[real & chosen].mean(), unlikelihood, F.cross_entropy(sign * score, right)

    return losses


MUTANTS = {
    "no length normalisation": {"normalise": False},
    "score with the wrong sign": {"sign": -1},
    "unlikelihood of the right choice": {"of_right": True},
    "0.01 missing": {"epsilon": 0},
    "padding counted": {"padding": True},
}


@pytest.mark.parametrize("mistake", MUTANTS.values(), ids=MUTANTS.keys())
def test_wrong_versions_do_not_agree(mistake):
    assert agrees(wrong_version()) and not agrees(wrong_version(**mistake))


def drawn():
    """Random logits of four questions, three choices of one to three tokens, padded on the left."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(4, 3, 3, 11, generator=generator, requires_grad=True)
    labels = torch.randint(11, (4, 3, 3), generator=generator)
    for choice in range(3):
        labels[:, choice, : 2 - choice] = IGNORED
    return logits, labels, torch.tensor([2, 0, 1, 1])


def written_out(logits, labels, right):
    """The three sums of the module's docstring, token by token."""
    lm, unlikelihood, choice = [], [], []
    for question, answer in enumerate(right.tolist()):
        scores = []
        for c in range(labels.shape[1]):
            tokens = [t for t in range(labels.shape[2]) if labels[question, c, t] != IGNORED]
            p = [logits[question, c, t].softmax(-1)[labels[question, c, t]] for t in tokens]
            scores.append(sum(x.log() for x in p) / len(p))
            lm += [-x.log() for x in p] if c == answer else []
            unlikelihood += [] if c == answer else [-(1 - x + 0.01).log() for x in p]
        choice.append(-(scores[answer].exp() / sum(s.exp() for s in scores)).log())
    return [torch.stack(terms).mean() for terms in (lm, unlikelihood, choice)]


def test_losses_and_gradients_are_those_of_the_sums_written_out():
    inputs = drawn()
    for found, expected in zip(t_few_losses(*inputs), written_out(*inputs), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
        mine, truth = (torch.autograd.grad(loss, inputs[0], retain_graph=True)[0] for loss in (found, expected))
        assert truth.abs().max() > 1e-3 and torch.allclose(mine, truth, atol=1e-6)


def test_the_sum_over_all_positions_as_the_authors_code_has_it_is_the_same_up_to_a_constant():
    logits, labels, right = drawn()
    wrong = (labels != IGNORED) & ~F.one_hot(right, 3).bool().unsqueeze(-1)
    p = (
        logits.softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1) * wrong
    )  # 0 where it is no wrong token
    theirs = -torch.log(1 - p + 0.01).sum() / wrong.sum()
    constant = -ln(1.01) * (~wrong).sum() / wrong.sum()
    assert torch.allclose(t_few_losses(logits, labels, right)[1], theirs - constant, atol=1e-6)


def test_bfloat16_logits_are_counted_in_float32_and_a_certain_wrong_token_is_finite():
    logits, labels, right = by_hand()
    assert t_few_losses(logits.bfloat16(), labels, right)[0].dtype == torch.float32
    sure = torch.full_like(logits, -50).scatter(-1, labels.clamp(min=0).unsqueeze(-1), 50.0)
    assert torch.isclose(t_few_losses(sure, labels, right)[1], torch.tensor(-ln(0.01)), atol=1e-4)


@pytest.mark.parametrize("base", [models.llama, models.gpt2])
def test_every_choice_goes_through_the_model_with_its_own_prompt(base):
    model, task = base(), rename_labels(models.task(), LENGTHS)
    rows = task.train[:3]
    logits, labels = choice_logits(model, task, rows)
    longest = max(len(token_ids(model.tokenizer, task.completion(c), start=False)) for c in LENGTHS)
    assert labels.shape == (3, 2, longest) and logits.shape == (3, 2, longest, 300)
    for i, text in enumerate(rows["text"]):
        for c, choice in enumerate(LENGTHS):
            head = token_ids(model.tokenizer, task.prompt(text))
            tail = token_ids(model.tokenizer, task.completion(choice), start=False)
            assert labels[i, c].tolist() == [IGNORED] * (longest - len(tail)) + tail
            alone = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
            assert torch.allclose(logits[i, c, longest - len(tail) :], alone, atol=1e-5)


def test_the_weights_add_up_and_zero_switches_a_loss_off():
    model, task = models.llama(), rename_labels(models.task(), LENGTHS)
    rows = task.train[:5]
    parts = t_few_losses(*choice_logits(model, task, rows), task.choice_numbers(rows["answer"]))
    assert torch.allclose(TFewLoss()(model, task, rows), sum(parts))
    assert torch.allclose(TFewLoss(0.5, 2, 3)(model, task, rows), 0.5 * parts[0] + 2 * parts[1] + 3 * parts[2])
    for i, part in enumerate(parts):
        assert torch.allclose(TFewLoss(*(float(i == j) for j in range(3)))(model, task, rows), part)
    assert torch.allclose(parts[0], loss_of(model, task, rows), atol=1e-6), "L_LM alone is the ordinary loss"


def test_training_with_the_three_losses():
    task = rename_labels(models.task(), LENGTHS)
    model = attach(models.llama(), FullFineTuning())  # (IA)3 has little to rescale in random weights
    history = fit(model, task, steps=40, lr=1e-2, loss=TFewLoss(), progress=False)
    assert history.losses[-1] < 0.5 * history.losses[0]
    assert evaluate(model, task, length_normalized=True) > 0.9


def test_the_loss_of_fit_is_the_ordinary_one_where_none_is_given():
    one, same, other = (
        fit(attach(models.llama(), IA3()), models.task(), steps=3, lr=0.1, loss=loss, progress=False).losses
        for loss in (None, loss_of, TFewLoss())
    )
    assert one == same != other


def test_scores_a_token():
    model = models.llama()
    prompts = [models.task().prompt(text) for text in ("good day", "an awful walk indeed")]
    summed, normalised = (
        score_choices(model, model.tokenizer, prompts, LENGTHS, length_normalized=n) for n in (False, True)
    )
    lengths = torch.tensor([len(token_ids(model.tokenizer, f" {c}\n", start=False)) for c in LENGTHS])
    assert lengths[1] > 3 * lengths[0]
    assert torch.allclose(normalised * lengths, summed, atol=1e-5)
    assert summed.argmax(-1).tolist() == [0, 0], "an untrained model prefers the short answer"


def test_answers_are_ranked_by_the_score_asked_for(monkeypatch):
    task, model = rename_labels(models.task(), LENGTHS), models.llama()
    asked = []

    def scores(*_, length_normalized, **__):
        asked.append(length_normalized)
        return torch.tensor([[0.0, 1.0]] if length_normalized else [[1.0, 0.0]])

    monkeypatch.setattr("peft_lessons.training.score_choices", scores)
    assert predict(model, task, ["good day"]) == ["good"]
    assert predict(model, task, ["good day"], length_normalized=True) == [LENGTHS[1]] and asked == [False, True]


@pytest.mark.parametrize("weights", [(-1, 1, 1), (0, 0, 0), (float("nan"), 1, 1), (1, float("inf"), 1)])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match="none may be below 0, and one must be above it"):
        TFewLoss(*weights)


def test_models_and_tasks_without_written_choices():
    rows = models.task().train[:2]
    with pytest.raises(ValueError, match="an encoder writes none. Leave loss out"):
        TFewLoss()(models.bert(), models.task(), rows)
    one = replace(models.task(), choices=("good",))
    for task in (models.task(choices=False), one):
        with pytest.raises(ValueError, match='T-Few compares written choices; "toy" has not two of them'):
            TFewLoss()(models.llama(), task, rows)
    with pytest.raises(ValueError, match='"bad" is not among the answers of "toy": good, fine.'):
        TFewLoss()(models.llama(), replace(models.task(), choices=("good", "fine")), {"text": ["a"], "answer": ["bad"]})
    for model, task in ((models.bert(), models.task()), (models.llama(), models.task(choices=False))):
        with pytest.raises(ValueError, match="length_normalized is for choices that a decoder scores"):
            evaluate(model, task, length_normalized=True)


def test_a_refused_loss_leaves_the_weights_and_the_mode():
    model = attach(models.llama(), IA3())
    before = models.bits(model)
    with pytest.raises(ValueError, match="has not two of them"):
        fit(model, models.task(choices=False), steps=2, loss=TFewLoss(), progress=False)
    assert models.same_bits(model, before) and not model.training
    assert all(p.grad is None for p in trained_parameters(model).values())


def test_a_few_rows_are_enough():
    data = Dataset.from_list([{"text": "good day", "answer": "good"}, {"text": "awful day", "answer": "bad"}])
    model = attach(models.llama(), IA3())
    assert len(fit(model, replace(models.task(), train=data), steps=2, loss=TFewLoss(), progress=False).losses) == 2
