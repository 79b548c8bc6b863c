"""How many dimensions a task needs: the shipped decoder trained through d numbers, each d at its own learning rate.

From pretrained and from random weights, as in Aghajanyan et al. 2020 and Li et al. 2018. Full fine-tuning on the same
tasks with the same steps, from both, is in the study `decoder`.
"""

from peft_lessons.methods import IntrinsicDimension
from studies.arm import Arm

GRIDS = {  # steps, and the rates of each d: pilots on validation placed them
    "verdict": (60, {16: (0.1, 0.3, 1.0), 64: (0.1, 0.3, 0.6), 256: (0.05, 0.1, 0.3), 1024: (0.03, 0.1, 0.3)}),
    "records": (100, {1024: (0.03, 0.06, 0.1), 4096: (0.015, 0.03, 0.06), 16384: (0.005, 0.01, 0.02)}),
}
RANDOM = {256: (0.1, 0.3), 1024: (0.1, 0.3), 4096: (0.03, 0.1)}  # from random weights, on `verdict`


def arms() -> list[Arm]:
    found = []
    for task, (steps, grid) in GRIDS.items():
        common = {"base": "tiny", "task": task, "steps": steps}
        found += [Arm(f"d={d}", method=IntrinsicDimension(d=d), rates=rates, **common) for d, rates in grid.items()]
    common = {"base": "tiny", "task": "verdict", "steps": GRIDS["verdict"][0], "random_init": True}
    for d, rates in RANDOM.items():
        found.append(Arm(f"d={d}, random weights", method=IntrinsicDimension(d=d), rates=rates, **common))
    return found
