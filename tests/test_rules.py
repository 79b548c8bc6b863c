"""Rules of thumb: each at a point computed by hand, and beside a step."""

import pytest
import torch
from accelerate.commands.estimate import estimate_training_usage
from models import gpt2, llama
from torch import nn

from peft_lessons import attach
from peft_lessons.accounting import rules
from peft_lessons.accounting.rules import RULES, Inputs, inputs_of, judge, rules_table
from peft_lessons.accounting.trace import trace_step
from peft_lessons.methods import LoRA

# A thousand million parameters in 16 bits; 2 sequences of 512 tokens; d_model 2048, 16 layers, 32 heads.
BILLION = Inputs(10**9, 2, 2, 512, 2048, 16, 32)
LAYERS = 2 * 512 * 2048 * 16  # s b h L
BY_HAND = {
    "accelerate estimate-memory": 8e9,
    "Hugging Face blog train_memory": 6e9 + (4.6894e5 + 1.8494e6) * 1024 * 2,
    "EleutherAI calculator": 18e9 + LAYERS * (34 + 40),
    "12 x weights": 24e9,
    "20 x weights": 40e9,
    "1.2 x weights": 2.4e9,
    "ZeRO 16 N": 16e9,
    "DeepSpeed zero2 estimator": 20e9,
    "Korthikanti sbh(34 + 5as/h)": LAYERS * (34 + 40),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_at_a_point_computed_by_hand(rule):
    assert rule.bytes_of(BILLION) == pytest.approx(BY_HAND[rule.name], rel=1e-12)


@pytest.mark.parametrize("precision,bytes_per_value,per_parameter", [("float32", 4, 16), ("bfloat16", 2, 8)])
def test_accelerates_own_function_agrees(precision, bytes_per_value, per_parameter):
    inputs = Inputs(1000, bytes_per_value, 1, 1, 8, 1, 1)
    theirs = estimate_training_usage(4 * 1000, precision)
    assert rules.accelerate_adam(inputs) == max(theirs.values()) == per_parameter * 1000


def test_accelerate_sees_the_size_of_a_model_as_we_do():
    from accelerate.utils import calculate_maximum_sizes

    model = llama(tied=False)
    assert calculate_maximum_sizes(model)[0] >= inputs_of(model, 1, 1).weights  # theirs counts buffers too
    assert calculate_maximum_sizes(model)[0] < 1.01 * inputs_of(model, 1, 1).weights


def test_the_blogs_maximum_is_the_gradients_where_the_batch_is_small():
    few = Inputs(10**9, 4, 1, 8, 2048, 16, 32)
    assert rules.train_memory(few) == 4 * 4e9 > 3 * 4e9 + rules.train_memory_activations(few)


def test_checkpointing_takes_only_the_attention_off_eleuthers_activations():
    again = Inputs(10**9, 2, 2, 512, 2048, 16, 32, checkpointing=True)
    assert rules.transformer_math_activations(again) == LAYERS * 34
    assert rules.transformer_math(Inputs(10**9, 4, 2, 512, 2048, 16, 32)) == 20e9 + LAYERS * 74


def test_what_the_rules_ask_for_is_read_off_a_model():
    model = gpt2()
    found = inputs_of(model, 3, 5)
    assert (found.d_model, found.n_layers, found.n_heads, found.tokens) == (16, 2, 2, 15)
    assert found.n_parameters == sum(p.numel() for p in model.parameters()) and found.bytes_per_value == 4
    with pytest.raises(ValueError, match="lacks hidden_size"):
        inputs_of(nn.Linear(2, 2), 1, 1)


def test_rules_stand_beside_a_step_of_the_same_model():
    model = llama()
    inputs = inputs_of(model, 2, 16)
    attach(model, LoRA())
    ids = torch.zeros(2, 16, dtype=torch.int64)
    step = trace_step(model.train(), {"input_ids": ids, "labels": ids})
    verdicts = judge(inputs, step)
    assert [v.rule for v in verdicts] == [rule.name for rule in RULES]
    by_rule = {v.rule: v for v in verdicts}
    assert by_rule["1.2 x weights"].holds == step.peak
    assert by_rule["1.2 x weights"].ratio == pytest.approx(1.2 * inputs.weights / step.peak)
    live = step.live().max(0)
    assert by_rule["Korthikanti sbh(34 + 5as/h)"].holds == live[3]
    assert by_rule["ZeRO 16 N"].holds <= live[:3].sum()
    table = rules_table(verdicts)
    assert len(table.splitlines()) == 1 + len(RULES) and "accelerate" in table
