"""Kronecker and random reparameterizations of MiniLM on `sentiment`, each at its own learning rate.

Head only, LoRA and full fine-tuning on the same task with the same steps are in the study `minilm`.
"""

from peft_lessons.methods import Compacter, IntrinsicDimension, KronA, PHMAdapter
from studies.arm import Arm


def arms() -> list[Arm]:
    common = {"base": "minilm", "task": "sentiment", "steps": 100}
    rates = (1e-3, 3e-3, 1e-2)
    return [
        Arm("KronA", method=KronA(), rates=rates, **common),
        Arm("Compacter", method=Compacter(), rates=rates, **common),
        Arm("Compacter++", method=Compacter(plus_plus=True), rates=rates, **common),
        Arm("PHM adapter", method=PHMAdapter(), rates=rates, **common),
        Arm("intrinsic, d=256", method=IntrinsicDimension(d=256), rates=(1e-2, 3e-2), **common),
    ]
