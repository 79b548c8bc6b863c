"""The methods, by family; each is its equation, its hyperparameters and one module or one rule."""

from peft_lessons.methods.additive.bottleneck import Houlsby, Pfeiffer
from peft_lessons.methods.additive.drop import adapters_dropped
from peft_lessons.methods.additive.fusion import AdapterFusion
from peft_lessons.methods.additive.ia3 import IA3
from peft_lessons.methods.additive.intrinsic_prompt import IntrinsicPrompt
from peft_lessons.methods.additive.ladder import LadderSideTuning
from peft_lessons.methods.additive.p_tuning import PTuning
from peft_lessons.methods.additive.parallel import ParallelAdapter
from peft_lessons.methods.additive.prefix import PrefixTuning
from peft_lessons.methods.additive.prompts import PromptTuning
from peft_lessons.methods.core import Adapter, Method
from peft_lessons.methods.reparameterized.intrinsic import IntrinsicDimension
from peft_lessons.methods.reparameterized.kronecker import KronA
from peft_lessons.methods.reparameterized.lora import LoRA
from peft_lessons.methods.reparameterized.phm import Compacter, PHMAdapter
from peft_lessons.methods.selective.biases import BitFit
from peft_lessons.methods.selective.diff_pruning import DiffPruning
from peft_lessons.methods.selective.far import FAR
from peft_lessons.methods.selective.layers import AttentionTuning, FullFineTuning, Head, TopLayers
from peft_lessons.methods.selective.norms import NormTuning
from peft_lessons.methods.selective.sparse import SparseUpdate

__all__ = [
    "Adapter",
    "AdapterFusion",
    "AttentionTuning",
    "BitFit",
    "DiffPruning",
    "FAR",
    "Compacter",
    "FullFineTuning",
    "Head",
    "Houlsby",
    "IA3",
    "IntrinsicDimension",
    "IntrinsicPrompt",
    "KronA",
    "LadderSideTuning",
    "LoRA",
    "Method",
    "NormTuning",
    "PHMAdapter",
    "PTuning",
    "ParallelAdapter",
    "Pfeiffer",
    "PrefixTuning",
    "PromptTuning",
    "SparseUpdate",
    "TopLayers",
    "adapters_dropped",
]
