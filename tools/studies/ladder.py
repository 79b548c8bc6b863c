"""Ladder side-tuning, for as many steps as the others; on the decoder also for four times as many."""

from peft_lessons.methods import LadderSideTuning
from studies.arm import Arm


def arms() -> list[Arm]:
    ladder, decoder = LadderSideTuning(reduction=4), {"base": "tiny", "task": "records"}
    return [
        Arm("LST", "minilm", "sentiment", LadderSideTuning(), (1e-3, 3e-3, 1e-2), 100),
        Arm("LST, 400 steps", method=ladder, rates=(5e-3, 1e-2, 2e-2), steps=400, **decoder),
        Arm("LST, 100 steps", method=ladder, rates=(), steps=100, fixed_rate_of="LST, 400 steps", **decoder),
    ]
