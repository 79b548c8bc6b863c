"""Assignment 6, choosing: a fair table, what may be claimed, the Pareto front, a choice, evidence; a module each."""

from peft_lessons.assignments.a6 import choice, claims, evidence, pareto, study, table

__all__ = ["choice", "claims", "evidence", "pareto", "study", "table"]
