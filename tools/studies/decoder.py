"""The shipped decoder: a task that is new to it, and two that it nearly knows."""

from peft_lessons.methods import FullFineTuning, Head, LoRA
from studies.arm import Arm


def arms() -> list[Arm]:
    found = []
    for task, steps in (("records", 100), ("verdict", 60), ("reviews", 60)):
        common = {"base": "tiny", "task": task, "steps": steps}
        lora = LoRA(r=8, alpha=16, target_modules="all-linear")
        found += [
            Arm("head only", method=Head(), rates=(3e-3, 1e-2), **common),
            Arm("LoRA", method=lora, rates=(3e-3, 1e-2, 2e-2), **common),
            Arm("full fine-tuning", method=FullFineTuning(), rates=(1e-3, 3e-3, 6e-3), **common),
            Arm("LoRA, random weights", method=lora, rates=(1e-2,), random_init=True, **common),
            Arm("full, random weights", method=FullFineTuning(), rates=(3e-3,), random_init=True, **common),
        ]
    return found
