"""Tune and measure methods fairly: `python tools/sweep.py STUDY` writes `data/measured/STUDY.json`.

The studies are the modules of `tools/studies`.

Each method's learning rate is chosen on the validation split over two seeds; then the method is run with three seeds
at that rate and measured on the test split. Controls from random weights are run with one seed. Runs that the file has
already are not run again, so a broken-off sweep goes on where it stopped. Delete the file to measure anew.
"""

import argparse
import hashlib
import importlib
import json
import os
import pkgutil
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import studies
import torch
import transformers
from studies.arm import Arm
from tqdm import tqdm

from peft_lessons import (
    attach,
    count_parameters,
    detach,
    evaluate,
    fit,
    load_base,
    majority,
    quantize,
    zero_shot,
)
from peft_lessons.bases import DATA
from peft_lessons.measured import Measured, load_measured

STUDIES = [module.name for module in pkgutil.iter_modules(studies.__path__) if module.name != "arm"]
TUNING_SEEDS, TEST_SEEDS = (0, 1), (0, 1, 2)


class Sweep:
    """The runs of a study, kept in its file after each."""

    def __init__(self, name: str):
        self.name = name
        self.file = DATA / "measured" / f"{name}.json"
        self.runs = json.loads(self.file.read_text())["runs"] if self.file.exists() else []
        self.bases: dict = {}

    def run(self, arm: Arm, lr: float, seed: int, split: str) -> None:
        """Train once and measure once, unless the file has it."""
        key = {"label": arm.label, "base": arm.base, "task": arm.task, "lr": lr, "seed": seed, "split": split}
        if any(all(run[field] == value for field, value in key.items()) for run in self.runs):
            return
        which = (arm.base, arm.random_init, arm.quantize)
        if which not in self.bases:
            base = load_base(arm.base, random_init=arm.random_init)[0]
            self.bases[which] = base if arm.quantize is None else quantize(base, arm.quantize)
        model, task = self.bases[which], arm.load_task(seed)
        method = arm.prepare(model, task, lr, seed) if arm.prepare else arm.method
        attach(model, method, seed=seed)
        history = fit(
            model, task, arm.steps, lr=lr, batch_size=arm.batch_size, loss=arm.loss, seed=seed, progress=False
        )
        accuracy = evaluate(model, task, split, length_normalized=arm.loss is not None)
        count = count_parameters(model)
        details = {"method": repr(arm.method), "steps": arm.steps, "accuracy": accuracy}
        details |= arm.after(model, task) if arm.after and split == "test" else {}
        details |= {"trainable": count.trainable, "changed": count.changed, "stored_bytes": detach(model).n_bytes()}
        self.runs.append(key | details | {"seconds": round(history.seconds, 1)})
        self.save()

    def tune_and_test(self, arms: list[Arm]) -> Iterator[str]:
        """Every run that the study needs, tuning before testing; yields each arm's label when it is done."""
        for arm in arms:
            for lr in arm.rates:
                for seed in TUNING_SEEDS if len(arm.rates) > 1 else ():
                    self.run(arm, lr, seed, "validation")
            yield arm.label
        for arm in arms:
            for seed in TEST_SEEDS[:1] if arm.random_init else TEST_SEEDS:
                self.run(arm, self.rate(arm), seed, "test")
            yield arm.label

    def rate(self, arm: Arm) -> float:
        """The learning rate for the test runs."""
        if len(arm.rates) == 1:
            return arm.rates[0]
        label = arm.fixed_rate_of or arm.label
        return Measured(self.name, {}, self.runs).best_lr(label=label, base=arm.base, task=arm.task)

    def save(self) -> None:
        """Write the runs with what made them."""
        about = {
            "command": f"python tools/sweep.py {self.name}",
            "hardware": f"{processor()}, {torch.get_num_threads()} thread, no GPU",
            "versions": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]}
            | {"transformers": transformers.__version__},
            "tuning_seeds": TUNING_SEEDS,
            "test_seeds": TEST_SEEDS,
            "decoder_sha256": hashlib.sha256((DATA / "base" / "model.safetensors").read_bytes()).hexdigest(),
        }
        self.file.parent.mkdir(exist_ok=True)
        lines = ",\n".join("  " + json.dumps(run) for run in self.runs)
        self.file.write_text(f'{{"about": {json.dumps(about)},\n"runs": [\n{lines}\n]}}\n')


def baselines(arms: list[Arm]) -> list[dict]:
    """Majority class and zero-shot, which have nothing to tune."""
    rows = []
    for (base, name), arm in {(arm.base, arm.task): arm for arm in arms}.items():
        task, model = arm.load_task(0), load_base(base)[0]
        found = {"majority class": majority(task), "zero-shot": zero_shot(model, task)}
        rows += [
            {"label": label, "base": base, "task": name, "lr": None, "seed": 0, "split": "test", "accuracy": accuracy}
            for label, accuracy in found.items()
        ]
    return rows


def write_controls(study: Measured, arms: list[Arm]) -> None:
    """Put each task's table of results into its card, between the marks for it."""
    for task in dict.fromkeys(arm.task for arm in arms):
        lines = ["| | learning rate | test accuracy, percent, by seed |", "|---|---|---|"]
        for label in dict.fromkeys(run["label"] for run in study.select(task=task)):
            runs = study.select(task=task, label=label, split="test")
            rate = "" if runs[0]["lr"] is None else f"{runs[0]['lr']:g}"
            found = " ".join(f"{100 * accuracy:.1f}" for accuracy in study.test_accuracy(task=task, label=label))
            lines.append(f"| {label} | {rate} | {found} |")
        lines += ["", f"Made by `{study.about['command']}` on {study.about['hardware']}."]
        card = DATA / "tasks" / task / "README.md"
        before, _, rest = card.read_text(encoding="utf-8").partition("<!-- controls -->")
        after = rest.partition("<!-- /controls -->")[2]
        table = "\n".join(lines)
        card.write_text(f"{before}<!-- controls -->\n{table}\n<!-- /controls -->{after}", encoding="utf-8")


def processor() -> str:
    """The CPU by name, and its cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--threads", type=int, default=1, help="torch threads; the result is exact for one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    study = importlib.import_module(f"studies.{arguments.study}")
    arms = study.arms()
    sweep, begun = Sweep(arguments.study), time.perf_counter()
    done = {(run["label"], run["task"]) for run in sweep.runs}
    sweep.runs += [row for row in baselines(arms) if (row["label"], row["task"]) not in done]
    if hasattr(study, "prompting"):
        sweep.runs += study.prompting(done)
    bar = tqdm(sweep.tune_and_test(arms), total=2 * len(arms))
    for label in bar:
        bar.set_description(label)
    for arm in arms:
        found = Measured(sweep.name, {}, sweep.runs).test_accuracy(label=arm.label, base=arm.base, task=arm.task)
        print(f"{arm.task:<10} {arm.label:<22} lr {sweep.rate(arm):<8g}", *(f"{100 * a:5.1f}" for a in found))
    if arguments.study in ("minilm", "decoder"):  # the studies that stand in the tasks' cards
        write_controls(load_measured(sweep.name), arms)
    print(f"{time.perf_counter() - begun:.0f} s; {sweep.file.relative_to(DATA.parent)}")


if __name__ == "__main__":
    main()
