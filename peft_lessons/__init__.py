"""Parameter-efficient fine-tuning, each method once: the package behind the lessons."""

import logging

from peft_lessons.accounting.parameters import count_parameters
from peft_lessons.bases import load_base
from peft_lessons.methods.attaching import attach, detach, merge, switch, unmerge
from peft_lessons.methods.files import load_adapter, save_adapter
from peft_lessons.methods.quantizing import dequantize, quantize
from peft_lessons.tasks import load_task, majority
from peft_lessons.training import evaluate, fit, predict, zero_shot

# peft imports it, and on a CPU it complains about a kernel of the Hub that nothing here calls.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__all__ = [
    "attach",
    "count_parameters",
    "dequantize",
    "detach",
    "evaluate",
    "fit",
    "load_adapter",
    "load_base",
    "load_task",
    "majority",
    "merge",
    "predict",
    "quantize",
    "save_adapter",
    "switch",
    "unmerge",
    "zero_shot",
]
