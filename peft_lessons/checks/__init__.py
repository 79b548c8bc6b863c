"""Checks that any implementation of a method must pass: the package's, a lesson's, a learner's, or a library's."""

from peft_lessons.checks.lora import check_lora, factor
from peft_lessons.checks.report import Check, Report, compare, compare_gradient

__all__ = ["Check", "Report", "check_lora", "compare", "compare_gradient", "factor"]
