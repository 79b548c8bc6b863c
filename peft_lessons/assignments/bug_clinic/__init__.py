"""The bug clinic: fifteen fine-tuning runs that people posted, M1 to M15; a module each, and what they share."""

from peft_lessons.assignments.bug_clinic import (
    m01_nothing_trains,
    m02_checkpointing,
    m03_targets,
    m04_memory,
    m05_speed,
    m06_scaling,
    m07_learning_rate,
    m08_precision,
    m09_lost_head,
    m10_merging,
    m11_wrapped_twice,
    m12_soft_prompt,
    m13_ia3_side,
    m14_forgetting,
    m15_labels,
)
from peft_lessons.assignments.bug_clinic.m02_checkpointing import Block
from peft_lessons.assignments.bug_clinic.m06_scaling import SomeLoRA
from peft_lessons.assignments.bug_clinic.m07_learning_rate import loss_curve
from peft_lessons.assignments.bug_clinic.m08_precision import small_classifier
from peft_lessons.assignments.bug_clinic.m10_merging import rounded
from peft_lessons.assignments.bug_clinic.m12_soft_prompt import loss_with
from peft_lessons.assignments.bug_clinic.shared import small_batch, small_lora, small_model

__all__ = [
    "Block",
    "SomeLoRA",
    "loss_curve",
    "loss_with",
    "m01_nothing_trains",
    "m02_checkpointing",
    "m03_targets",
    "m04_memory",
    "m05_speed",
    "m06_scaling",
    "m07_learning_rate",
    "m08_precision",
    "m09_lost_head",
    "m10_merging",
    "m11_wrapped_twice",
    "m12_soft_prompt",
    "m13_ia3_side",
    "m14_forgetting",
    "m15_labels",
    "rounded",
    "small_batch",
    "small_classifier",
    "small_lora",
    "small_model",
]
