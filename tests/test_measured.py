"""Shipped results: read back as they were measured, complete, and made on the weights that are shipped."""

import hashlib

import pytest
import sweep

from peft_lessons.bases import DATA
from peft_lessons.measured import Measured, load_measured

RUNS = [
    {"label": "a", "split": "validation", "lr": lr, "seed": seed, "accuracy": accuracy}
    for lr, pair in {0.1: (0.6, 0.8), 0.2: (0.7, 0.7), 0.4: (0.9, 0.2)}.items()
    for seed, accuracy in enumerate(pair)
] + [{"label": "a", "split": "test", "lr": 0.1, "seed": seed, "accuracy": 0.5 + seed / 10} for seed in (2, 0, 1)]


def test_the_learning_rate_is_the_best_mean_on_validation_and_the_smaller_of_equals():
    assert Measured("m", {}, RUNS).best_lr(label="a") == 0.1


def test_test_accuracy_is_in_the_order_of_the_seeds():
    assert Measured("m", {}, RUNS).test_accuracy(label="a") == [0.5, 0.6, 0.7]


def test_test_runs_at_a_rate_that_was_not_chosen_do_not_count():
    stale = [{"label": "a", "split": "test", "lr": 0.4, "seed": seed, "accuracy": 0.9} for seed in range(3)]
    assert Measured("m", {}, RUNS + stale).test_accuracy(label="a") == [0.5, 0.6, 0.7]
    untuned = [run for run in RUNS + stale if run["split"] == "test"]
    assert len(Measured("m", {}, untuned).test_accuracy(label="a")) == 6


def test_what_is_not_there_is_said_with_what_is():
    with pytest.raises(LookupError, match="m has no run with label='b'; there it is a."):
        Measured("m", {}, RUNS).select(label="b")
    with pytest.raises(FileNotFoundError, match='no study "nosuch" in data/measured; there are .*decoder, .*lora_rank'):
        load_measured("nosuch")


@pytest.mark.parametrize("name", ["decoder", "lora_rank"])
def test_the_decoders_studies_were_made_on_the_weights_that_are_shipped(name):
    shipped = hashlib.sha256((DATA / "base" / "model.safetensors").read_bytes()).hexdigest()
    assert load_measured(name).about["decoder_sha256"] == shipped


@pytest.mark.parametrize("name", sweep.STUDIES)
def test_every_tuned_method_was_tested_with_three_seeds_at_the_rate_validation_chose(name):
    study = load_measured(name)
    assert study.about["command"] == f"python tools/sweep.py {name}" and study.about["versions"]["torch"]
    tuned = {(run["task"], run["label"]) for run in study.runs if run["split"] == "validation"}
    assert tuned
    for task, label in tuned:
        runs = study.select(task=task, label=label, split="test")
        seeds = [0] if "random weights" in label else [0, 1, 2]  # of the controls, one
        assert sorted(run["seed"] for run in runs) == seeds, (task, label)
        assert {run["lr"] for run in runs} == {study.best_lr(task=task, label=label)}, (task, label)
