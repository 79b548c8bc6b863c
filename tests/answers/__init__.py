"""Wrong answers to the assignments' exercises, and right ones written differently: one module for each assignment.

`WRONG` and `RIGHT` map an exercise to answers by name. An answer is what changes in the source notebook's own solution
to that exercise: a list of replacements (old, new), each of which must be found, or the whole code.
"""
