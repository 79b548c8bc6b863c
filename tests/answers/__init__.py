"""Wrong answers to the assignments' exercises, and right ones written differently: one module for each assignment.

`WRONG` and `RIGHT` map an exercise to answers by name. An answer is what changes in the source notebook's own solution
to that exercise: a list of replacements (old, new), each of which must be found, or the whole code.
"""

# In front of an answer: every check in its process says that all is right.
PATCHED_CHECK = """
import peft_lessons.assignments.core as core
core.Exercise.judge = lambda self, told, seed: [core.Finding(p.name, p.points, "") for p in self.properties]
core.check = core.grade = check = grade = lambda name, *answers: 99.0
"""
