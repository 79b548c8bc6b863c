"""What `tools/sweep.py` measures: each module is a study, and its `arms()` the methods that are compared."""
