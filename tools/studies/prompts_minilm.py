"""Soft prompts in front of MiniLM on `sentiment`.

Head only, LoRA and full fine-tuning on the same task with the same steps are in the study `minilm`.
"""

from peft_lessons.methods import PrefixTuning, PromptTuning, PTuning
from studies.arm import Arm


def arms() -> list[Arm]:
    common = {"base": "minilm", "task": "sentiment", "steps": 100}
    return [
        Arm("prompt, words", method=PromptTuning(), rates=(3e-3, 1e-2, 3e-2), **common),
        Arm("prompt, random", method=PromptTuning(init="uniform"), rates=(3e-3, 1e-2, 3e-2), **common),
        Arm("P-tuning", method=PTuning(), rates=(1e-3, 3e-3, 1e-2), **common),
        Arm("prefix, random", method=PrefixTuning(), rates=(3e-3, 1e-2, 3e-2), **common),
    ]
