"""(IA)3 on `sentiment` and `records`, and Compacter on `records`, each at its own learning rate.

Compacter on `sentiment` is in the study `reparameterized`, the others are in `minilm` and `decoder`.
"""

from peft_lessons.methods import IA3, Compacter
from studies.arm import Arm


def arms() -> list[Arm]:
    records = {"base": "tiny", "task": "records"}
    return [
        Arm("(IA)3", "minilm", "sentiment", IA3(), (3e-3, 1e-2, 3e-2), steps=100),
        Arm("(IA)3", method=IA3(), rates=(5e-2, 0.1, 0.2, 0.4), steps=100, **records),
        Arm("Compacter", method=Compacter(), rates=(3e-2, 0.1, 0.3), steps=100, **records),
        Arm("(IA)3, 400 steps", method=IA3(), rates=(), fixed_rate_of="(IA)3", steps=400, **records),
    ]
