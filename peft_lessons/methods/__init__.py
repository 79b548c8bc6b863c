"""The methods, by family; each is its equation, its hyperparameters and one module or one rule."""

from peft_lessons.methods.core import Adapter, Method
from peft_lessons.methods.reparameterized.lora import LoRA
from peft_lessons.methods.selective.biases import BitFit
from peft_lessons.methods.selective.diff_pruning import DiffPruning
from peft_lessons.methods.selective.far import FAR
from peft_lessons.methods.selective.layers import AttentionTuning, FullFineTuning, Head, TopLayers
from peft_lessons.methods.selective.norms import NormTuning
from peft_lessons.methods.selective.sparse import SparseUpdate

__all__ = [
    "Adapter",
    "AttentionTuning",
    "BitFit",
    "DiffPruning",
    "FAR",
    "FullFineTuning",
    "Head",
    "LoRA",
    "Method",
    "NormTuning",
    "SparseUpdate",
    "TopLayers",
]
