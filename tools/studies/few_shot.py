"""The same few labelled examples in the prompt of the decoder, or to tune it: T-Few, (IA)3, LoRA, head and all weights.

Two tasks: `verdict`, answered with two words that mean nothing yet; and `reviews` with its two answers swapped, so that
"positive" means blame, against all that the base knows. Each seed draws examples of its own, the same for every method.
Accuracy is on the first 256 sentences of test, learning rates are chosen on the first 128 of validation: more than a
real few-shot learner has. 64 demonstrations do not fit into a prompt, 32 do.
"""

from collections.abc import Callable, Set
from dataclasses import replace
from functools import partial

from tqdm import tqdm

from peft_lessons import load_base, load_task
from peft_lessons.losses import TFewLoss
from peft_lessons.methods import IA3, FullFineTuning, Head, LoRA, Method
from peft_lessons.prompting import draw_examples, few_shot_prompt, rename_labels, score_choices, train_on
from peft_lessons.tasks import Task
from studies.arm import Arm

TASKS = ("verdict", "reviews, swapped")
SIZES, SHOTS = (4, 16, 64), (4, 16, 32)


def load_few(name: str, k: int, seed: int) -> Task:
    """A task with k examples to learn from, drawn by the seed."""
    task = load_task(name.partition(",")[0])
    if name.endswith("swapped"):
        task = rename_labels(task, task.choices[::-1])
    few = train_on(task, draw_examples(task, k, seed=seed))
    return replace(few, validation=task.validation.select(range(128)), test=task.test.select(range(256)))


def arms() -> list[Arm]:
    ia3, lora = IA3(), LoRA(r=8, alpha=16, target_modules="all-linear")
    vectors, matrices = (0.01, 0.03, 0.1, 0.3, 0.9, 2.7), (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)
    kinds: dict[str, tuple[Method, TFewLoss | None, tuple[float, ...]]] = {
        "T-Few": (ia3, TFewLoss(), vectors),
        "(IA)3": (ia3, None, (*vectors, 8.1)),
        "LoRA": (lora, None, matrices),
        "LoRA, three losses": (lora, TFewLoss(), matrices),
    }
    others = {
        "head only": (Head(), None, (3e-3, 1e-2, 3e-2, 0.1)),
        "full fine-tuning": (FullFineTuning(), None, (1e-4, 3e-4, 1e-3, 3e-3)),
    }
    found = []
    for name in TASKS:
        for k in SIZES:
            load: Callable[[int], Task] = partial(load_few, name, k)
            common = {"base": "tiny", "task": name, "steps": 60, "load": load, "batch_size": min(8, k)}
            for label, (method, loss, rates) in (kinds | (others if k == 16 else {})).items():
                found.append(Arm(f"{label}, k={k}", method=method, rates=rates, loss=loss, **common))
    return found


def prompting(done: Set[tuple[str, str]]) -> list[dict]:
    """Rows of few-shot prompting, which trains nothing: the base's accuracy with k examples in the prompt."""
    model, rows = load_base("tiny", device="cpu")[0], []
    wanted = [(name, k) for name in TASKS for k in SHOTS if (f"prompting, k={k}", name) not in done]
    for name, k in tqdm(wanted, desc="prompting"):
        for seed in range(3):
            task = load_few(name, k, seed)
            shots = list(zip(task.train["text"], task.train["answer"], strict=True))
            prompts = [few_shot_prompt(shots, text) for text in task.test["text"]]
            best = score_choices(model, model.tokenizer, prompts, task.choices).argmax(-1).tolist()
            right = sum(task.choices[i] == answer for i, answer in zip(best, task.test["answer"], strict=True))
            row = {"label": f"prompting, k={k}", "base": "tiny", "task": name, "lr": None, "seed": seed}
            rows.append(row | {"split": "test", "accuracy": right / len(prompts)})
    return rows
