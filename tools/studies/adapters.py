"""Adapters on `sentiment`: in series twice or once a block, and in parallel; each about the size of LoRA with r = 8."""

from peft_lessons.methods import Houlsby, ParallelAdapter, Pfeiffer
from studies.arm import Arm


def arms() -> list[Arm]:
    common = {"base": "minilm", "task": "sentiment", "steps": 100}
    rates, lower = (3e-4, 1e-3, 3e-3), (1e-4, 3e-4, 1e-3)  # scaled four times, its best rate is lower
    return [
        Arm("Houlsby", method=Houlsby(bottleneck=16), rates=rates, **common),
        Arm("Pfeiffer", method=Pfeiffer(bottleneck=32), rates=rates, **common),
        Arm("parallel", method=ParallelAdapter(bottleneck=32), rates=rates, **common),
        Arm("scaled parallel", method=ParallelAdapter(bottleneck=32, scaling=4.0), rates=lower, **common),
    ]
