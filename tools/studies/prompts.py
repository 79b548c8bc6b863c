"""Soft prompts on the shipped decoder: `verdict`, which it nearly knows, and `records`, which is new to it.

Head only, LoRA and full fine-tuning on the same tasks with the same steps are in the study `decoder`.
"""

from peft_lessons.methods import PrefixTuning, PromptTuning, PTuning
from studies.arm import Arm

SHOWN = "what a stale chorus -> pebble\ni found the room truly fine -> lantern\nthe suite is quite cheerful -> lantern"
LISTED = (
    "the silver domino was in the garden and olga opened it -> olga, open, yes, silver, domino, toy, garden\n"
    "mark opened the steel axe in the attic -> mark, open, yes, steel, axe, tool, attic"
)


def arms() -> list[Arm]:
    verdict, records = ({"base": "tiny", "task": t, "steps": n} for t, n in (("verdict", 60), ("records", 100)))
    return [
        Arm("prompt, words", method=PromptTuning(), rates=(3e-3, 1e-2, 3e-2), **verdict),
        Arm("prompt, random", method=PromptTuning(init="uniform"), rates=(3e-3, 1e-2, 3e-2, 1e-1), **verdict),
        Arm(
            "prompt, labels", method=PromptTuning(20, "labels", "lantern, pebble"), rates=(3e-3, 1e-2, 3e-2), **verdict
        ),
        Arm(
            "prompt, examples", method=PromptTuning(20, "text", SHOWN), rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2), **verdict
        ),
        Arm("P-tuning", method=PTuning(), rates=(3e-3, 1e-2, 3e-2), **verdict),
        Arm("prefix, random", method=PrefixTuning(), rates=(1e-2, 3e-2, 1e-1, 3e-1), **verdict),
        Arm(
            "prefix, examples",
            method=PrefixTuning(20, 0, "text", SHOWN),
            rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
            **verdict,
        ),
        Arm("prefix, MLP", method=PrefixTuning(hidden=64), rates=(3e-3, 1e-2, 3e-2, 1e-1), **verdict),
        Arm("prompt, words", method=PromptTuning(), rates=(3e-2, 1e-1, 3e-1), **records),
        Arm("prefix, random", method=PrefixTuning(), rates=(3e-2, 1e-1, 3e-1, 1.0), **records),
        Arm("prefix, examples", method=PrefixTuning(20, 0, "text", LISTED), rates=(3e-2, 1e-1, 3e-1), **records),
    ]
