"""The width of Pfeiffer's adapter on `records`, each at its own learning rate."""

from peft_lessons.methods import Pfeiffer
from studies.arm import Arm


def arms() -> list[Arm]:
    common = {"base": "tiny", "task": "records", "steps": 100, "rates": (1e-2, 3e-2, 9e-2)}
    return [Arm(f"m={m}", method=Pfeiffer(bottleneck=m), **common) for m in (1, 4, 16, 64)]
