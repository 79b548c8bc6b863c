"""The methods, by family; each is its equation, its hyperparameters and one module or one rule."""

from peft_lessons.methods.core import Adapter, Method
from peft_lessons.methods.reparameterized.lora import LoRA
from peft_lessons.methods.selective.layers import FullFineTuning, Head

__all__ = ["Adapter", "FullFineTuning", "Head", "LoRA", "Method"]
