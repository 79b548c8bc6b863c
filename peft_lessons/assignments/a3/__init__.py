"""Assignment 3, LoRA: the layer, merging, counting, targets, a file that peft loads, training; a module each."""

from peft_lessons.assignments.a3 import counting, layer, merging, saving, targets, training

__all__ = ["counting", "layer", "merging", "saving", "targets", "training"]
