"""MiniLM on both encoder tasks: head, LoRA and full fine-tuning, and full fine-tuning from random weights."""

from peft_lessons.methods import FullFineTuning, Head, LoRA
from studies.arm import Arm


def arms() -> list[Arm]:
    lora, full = LoRA(r=8, alpha=16), FullFineTuning()
    grids = {  # steps, and rates for head, LoRA and full fine-tuning: pilots on validation placed the grids
        "sentiment": (100, (3e-3, 1e-2, 3e-2), (2e-4, 5e-4, 1e-3), (5e-5, 1e-4, 2e-4)),
        "outcome": (150, (1e-2, 3e-2), (1e-3, 2e-3, 4e-3), (1e-4, 2e-4)),
    }
    found = []
    for task, (steps, head_rates, lora_rates, full_rates) in grids.items():
        common = {"base": "minilm", "task": task, "steps": steps}
        found += [
            Arm("head only", method=Head(), rates=head_rates, **common),
            Arm("LoRA", method=lora, rates=lora_rates, **common),
            Arm("full fine-tuning", method=full, rates=full_rates, **common),
            Arm("full, random weights", method=full, rates=(1e-4,), random_init=True, **common),
        ]
    return found
