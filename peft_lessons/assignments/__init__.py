"""The assignments' exercises: what is asked of a learner's code, and what makes an answer right. One module each."""

from peft_lessons.assignments import a1, a2, a3, a4, a5, a6, bug_clinic
from peft_lessons.assignments.core import check, grade
from peft_lessons.progress import record_guess

__all__ = ["a1", "a2", "a3", "a4", "a5", "a6", "bug_clinic", "check", "grade", "record_guess"]
