"""The one loop and the one evaluation: they learn, repeat exactly, stop gracefully, and refuse in one sentence."""

import models
import pytest
import torch
from datasets import Dataset

from peft_lessons import attach, detach, evaluate, fit, load_base, majority, merge, predict, zero_shot
from peft_lessons.losses import TFewLoss
from peft_lessons.methods import FullFineTuning, Head, LoRA
from peft_lessons.methods.core import trained_parameters
from peft_lessons.prompting import answer_logits, few_shot_prompt, score_choices
from peft_lessons.tasks import IGNORED, Task, load_task

bases = pytest.mark.parametrize("base", models.ALL.values(), ids=models.ALL.keys())


@bases
@pytest.mark.parametrize("choices", [True, False], ids=["choices", "free"])
def test_it_learns_and_evaluate_sees_it(base, choices):
    if base is models.bert and not choices:
        pytest.skip("an encoder only classifies")
    model, task = base(), models.task(choices)
    attach(model, FullFineTuning())
    history = fit(model, task, steps=150, lr=1e-2, progress=False)
    assert len(history.losses) == 150 and history.losses[-1] < 0.2 * history.losses[0]
    assert evaluate(model, task) == 1.0 == evaluate(model, task, batch_size=3)
    assert history.seconds > 0 and not history.interrupted and "150 steps, lr 0.01" in repr(history)


@bases
def test_the_same_seed_gives_the_same_weights_and_another_does_not(base):
    def run(seed):
        model = attach(base(), LoRA(dropout=0.2))
        losses = fit(model, models.task(), steps=4, seed=seed, progress=False).losses
        return losses, torch.cat([p.flatten() for p in trained_parameters(model).values()])

    torch.manual_seed(11)
    first, (again, other) = run(0), (run(0), run(1))
    assert first[0] == again[0] and torch.equal(first[1], again[1])
    assert first[0] != other[0]


def test_fit_leaves_the_callers_random_numbers_alone():
    model = attach(models.bert(), LoRA(dropout=0.2))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(model, models.task(), steps=2, progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_an_interrupt_keeps_what_was_learned(capsys):
    def stop(step):
        if step == 3:
            raise KeyboardInterrupt

    model = attach(models.bert(), LoRA())
    history = fit(model, models.task(), steps=50, progress=False, on_step=stop)
    assert history.interrupted and len(history.losses) == 3
    assert "Interrupted after 3 of 50 steps; the model keeps what it has learned." in capsys.readouterr().out
    assert not model.training and any(p.abs().sum() > 0 for n, p in trained_parameters(model).items() if "lora_B" in n)
    fit(model, models.task(), steps=2, progress=False)


def test_default_learning_rate_is_the_methods_own():
    for method in (LoRA(), Head(), FullFineTuning()):
        model = attach(models.bert(), method)
        assert fit(model, models.task(), steps=1, progress=False).lr == type(method).lr


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"batch_size": 0}])
def test_bad_numbers(arguments):
    with pytest.raises(ValueError, match="both must be at least 1"):
        fit(attach(models.bert(), LoRA()), models.task(), **{"steps": 2} | arguments)


@pytest.mark.parametrize("lr", [-1, float("nan"), float("inf"), "0.1"])
def test_a_learning_rate_that_is_none(lr):
    model = attach(models.bert(), LoRA())
    with pytest.raises(ValueError, match=f"lr is {lr!r}; a learning rate is a finite number, at least 0."):
        fit(model, models.task(), steps=1, lr=lr)


def test_a_loss_is_made_before_it_is_given():
    with pytest.raises(ValueError, match=r"loss is the class TFewLoss; make one: loss=TFewLoss\(\)"):
        fit(attach(models.llama(), LoRA()), models.task(), steps=1, loss=TFewLoss)


def test_what_cannot_be_trained_or_evaluated_says_why():
    task, free = models.task(), models.task(choices=False)
    with pytest.raises(RuntimeError, match="No method is attached"):
        fit(models.bert(), task)
    with pytest.raises(RuntimeError, match="no classification head yet"):
        evaluate(models.bert(), task)
    with pytest.raises(ValueError, match='"toy" is a generation task; an encoder can only classify'):
        fit(attach(models.bert(), LoRA()), free)
    with pytest.raises(ValueError, match="generation task"):
        zero_shot(models.bert(), free)
    with pytest.raises(ValueError, match='There is no split "dev"; a task has train, validation, test'):
        evaluate(models.llama(), task, "dev")
    model = attach(models.bert(), LoRA())
    fit(model, task, steps=1, progress=False)
    other = Task("other", task.train, task.validation, task.test, ("good", "bad", "ugly"))
    for verb in (lambda: fit(model, other), lambda: evaluate(model, other)):
        with pytest.raises(ValueError, match='The head answers with good, bad; "other" needs good, bad, ugly'):
            verb()
    with pytest.raises(RuntimeError, match="unmerge"):
        fit(merge(model), task)


def test_an_answer_outside_the_choices():
    task = models.task()
    wrong = Task("toy", task.train, task.validation, task.test, ("good", "fine"))
    with pytest.raises(ValueError, match='"bad" is not among the answers of "toy": good, fine.'):
        fit(attach(models.bert(), Head()), wrong, progress=False)


def test_majority_and_zero_shot_are_what_they_say():
    rows = Dataset.from_dict({"text": ["a", "b", "c", "d"], "answer": ["x", "x", "x", "y"]})
    test = Dataset.from_dict({"text": ["a", "b"], "answer": ["y", "x"]})
    assert majority(Task("t", rows, test, test, ("x", "y"))) == 0.5
    model = models.llama()
    assert zero_shot(model, models.task()) == evaluate(model, models.task())
    assert 0 <= zero_shot(models.bert(), models.task()) <= 1


@pytest.mark.parametrize("base", [models.llama, models.gpt2], ids=["llama", "gpt2"])
def test_answer_logits_are_those_of_a_plain_forward_pass_without_padding(base):
    """Left padding, shifted positions and the cut to the answer must not change a number."""
    model, task = base(), models.task()
    rows = {"text": ["good", "an awful rude cold walk"], "answer": ["good", "bad bad"]}
    batch = task.encode_for_decoder(rows, model.tokenizer)
    logits, labels = answer_logits(model, batch)
    for i, (text, answer) in enumerate(zip(rows["text"], rows["answer"], strict=True)):
        head = model.tokenizer(task.prompt(text))["input_ids"]
        tail = model.tokenizer(task.completion(answer))["input_ids"]
        alone = model(input_ids=torch.tensor([[0, *head, *tail]])).logits[0, len(head) : -1]
        kept = labels[i] != IGNORED
        assert labels[i][kept].tolist() == tail
        assert torch.allclose(logits[i][kept], alone, atol=1e-5)


def test_free_answers_do_not_depend_on_the_batch():
    model = attach(models.gpt2(), FullFineTuning())
    task = models.task(choices=False)
    fit(model, task, steps=5, lr=1e-2, progress=False)
    texts = [row["text"] for row in task.test] + ["good " * 9]
    assert predict(model, task, texts, batch_size=1) == predict(model, task, texts, batch_size=33)


def test_scores_are_log_probabilities():
    model, tokenizer = models.llama(), models.tokenizer()
    scores = score_choices(model, tokenizer, ["good ->", "a rather longer prompt ->"], ["a", "b", "good day"])
    assert scores.shape == (2, 3)
    ids = torch.tensor([[0, *tokenizer("good ->")["input_ids"], *tokenizer(" a\n")["input_ids"]]])
    log_p = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1)
    n = len(tokenizer(" a\n")["input_ids"])
    expected = log_p[-n:].gather(-1, ids[0, -n:, None]).sum()
    assert torch.allclose(scores[0, 0], expected, atol=1e-5)


def test_scores_refuse_one_choice_and_prompts_that_are_too_long():
    with pytest.raises(ValueError, match="at least two choices"):
        score_choices(models.gpt2(), models.tokenizer(), ["x"], ["a"])
    with pytest.raises(ValueError, match="this model reads at most 128. Use fewer demonstrations."):
        score_choices(models.gpt2(), models.tokenizer(), ["day " * 200], ["a", "b"])


def test_few_shot_prompts():
    shown = few_shot_prompt(
        [("warm day", "good")], "cold day", template="{text} -> {label}", header="Labels: good, bad"
    )
    assert shown == "Labels: good, bad\nwarm day -> good\ncold day ->"
    with pytest.raises(ValueError, match=r"must hold \{text\} and end with \{label\}"):
        few_shot_prompt([], "x", template="{label}: {text}")


def test_load_task_lists_what_there_is():
    with pytest.raises(FileNotFoundError, match='The course has no task "nosuch", but .*sentiment'):
        load_task("nosuch")


def test_a_folder_of_ones_own_data(tmp_path):
    for split in ("train", "test"):
        Dataset.from_dict({"review": ["fine", "awful"] * 3, "stars": ["up", "down"] * 3}).to_json(
            tmp_path / f"{split}.jsonl"
        )
    splits = ("train", "test", "test")
    task = load_task(str(tmp_path), text="review", answer="stars", splits=splits, choices=["up", "down"])
    assert task.train[0] == {"text": "fine", "answer": "up"} and task.choices == ("up", "down")
    with pytest.raises(ValueError, match='its columns are review, stars, not "body"'):
        load_task(str(tmp_path), text="body", answer="stars", splits=splits)
    with pytest.raises(ValueError, match='has no split "validation"; it has train, test'):
        load_task(str(tmp_path), text="review", answer="stars")


def test_minilm_learns_and_gives_its_base_back():
    model, _ = load_base("minilm", device="cpu")
    before = models.bits(model)
    attach(model, LoRA(r=2, alpha=4))
    fit(model, models.task(), steps=15, progress=False)
    assert evaluate(model, models.task()) == 1.0
    detach(model)
    assert models.same_bits(model, before)
