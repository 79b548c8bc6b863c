"""Checks that any implementation of a method must pass: the package's, a lesson's, a learner's, or a library's."""

from peft_lessons.checks.adapters import adapter_parts, check_adapter
from peft_lessons.checks.frozen import check_frozen, fingerprint
from peft_lessons.checks.kronecker import check_kronecker
from peft_lessons.checks.lora import check_lora, factor
from peft_lessons.checks.report import Check, Report, compare, compare_gradient
from peft_lessons.checks.rescaling import check_ia3
from peft_lessons.checks.sparse import check_sparse

__all__ = [
    "Check",
    "Report",
    "adapter_parts",
    "check_adapter",
    "check_frozen",
    "check_ia3",
    "check_kronecker",
    "check_lora",
    "check_sparse",
    "compare",
    "compare_gradient",
    "factor",
    "fingerprint",
]
