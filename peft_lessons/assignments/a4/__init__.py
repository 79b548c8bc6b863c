"""Assignment 4, memory: states, saved activations, four bits, one step, a claim, a budget; a module each."""

from peft_lessons.assignments.a4 import budget, claim, four_bits, kept, saved, states, step

__all__ = ["budget", "claim", "four_bits", "kept", "saved", "states", "step"]
