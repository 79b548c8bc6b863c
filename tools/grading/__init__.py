"""The instructor's side of the assignments: release, grade in a sandbox, feedback. `python -m grading --help`."""
