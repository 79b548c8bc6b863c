"""LoRA's rank on `records`: each rank at its own learning rate, and at one rate under three ways to scale."""

from dataclasses import replace

from peft_lessons.methods import LoRA
from studies.arm import Arm


def arms() -> list[Arm]:
    common = {"base": "tiny", "task": "records", "steps": 60}
    found = []
    for r in (1, 2, 4, 8, 16, 32):
        lora = LoRA(r=r, alpha=16, target_modules="all-linear")
        found.append(Arm(f"r={r}", method=lora, rates=(5e-3, 1e-2, 2e-2), **common))
    fixed = {"rates": (), "fixed_rate_of": "r=8", **common}
    for r in (2, 8, 32):
        lora = LoRA(r=r, alpha=16, target_modules="all-linear")
        found.append(Arm(f"r={r}, alpha=16", method=lora, **fixed))
        found.append(Arm(f"r={r}, alpha=2r", method=replace(lora, alpha=2 * r), **fixed))
        stabilised = replace(lora, alpha=16 / 8**0.5, use_rslora=True)  # the same scaling at r = 8
        found.append(Arm(f"r={r}, 1/sqrt(r)", method=stabilised, **fixed))
    return found
