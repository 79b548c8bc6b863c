"""Assignment 1, in-context learning: the prompt, the scores, padding, measuring, claims, wrong labels, costs."""

from peft_lessons.assignments.a1 import claims, costs, measuring, mislabeling, padding, prompt, scoring

__all__ = ["claims", "costs", "measuring", "mislabeling", "padding", "prompt", "scoring"]
