"""MiniLM learns `sentiment` through weights that it has: the top block, biases, norms."""

from peft_lessons.methods import BitFit, NormTuning, TopLayers
from studies.arm import Arm


def arms() -> list[Arm]:
    common = {"base": "minilm", "task": "sentiment", "steps": 100}
    return [
        Arm("top layer", method=TopLayers(1), rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2), **common),
        Arm("BitFit", method=BitFit(), rates=(1e-3, 3e-3, 1e-2), **common),
        Arm("norms", method=NormTuning(), rates=(1e-3, 3e-3, 1e-2), **common),
    ]
