"""The assignments' exercises: what is asked of a learner's code, and what makes an answer right. One module each."""

from peft_lessons.assignments import a3
from peft_lessons.assignments.core import check, grade
from peft_lessons.progress import record_guess

__all__ = ["a3", "check", "grade", "record_guess"]
