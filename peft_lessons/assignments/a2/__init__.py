"""Assignment 2, adapters and selective methods: adapter, place, count, swap, biases, what moved, sparse updates."""

from peft_lessons.assignments.a2 import adapter, biases, counting, inserting, moved, sparse, swapping
from peft_lessons.assignments.a2.inserting import After

__all__ = ["After", "adapter", "biases", "counting", "inserting", "moved", "sparse", "swapping"]
