"""Measure what training steps hold, beside what the trace predicts on meta tensors, and what rules of thumb say.

`python tools/measure_memory.py cpu` writes `data/measured/memory_cpu.json`, `python tools/measure_memory.py cuda`
`memory_cuda.json`: one run a configuration, a process for each on CUDA. Runs that the file has already are not run
again, so that a broken-off measurement goes on where it stopped; delete the file to measure anew. `--only TEXT` takes
the configurations with TEXT in their label, and writes nothing.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
import transformers
from memory_cases import CASES, Case, config_of
from sweep import processor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModel, AutoModelForCausalLM, PretrainedConfig

from peft_lessons import attach, load_base
from peft_lessons.accounting.measure import measure_step
from peft_lessons.accounting.measure_cuda import measure_with_peaks
from peft_lessons.accounting.rules import RULES, inputs_of, judge
from peft_lessons.accounting.setups import TYPES, Setup, build_on_meta, chunked_loss, kind_of, round_frozen, trace_setup
from peft_lessons.accounting.step import CATEGORIES, StepMemory
from peft_lessons.accounting.trace import Loss, model_loss
from peft_lessons.bases import DATA, TextClassifier
from peft_lessons.methods.core import require_attachment
from peft_lessons.methods.targets import is_linear

ROOT = Path(__file__).resolve().parent.parent
OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, foreach=False),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "adamw_fused": lambda p: torch.optim.AdamW(p, fused=True),
    "adamw_8bit": lambda p: bitsandbytes.optim.AdamW8bit(p),
    "sgd": lambda p: torch.optim.SGD(p, foreach=False),
    "sgd_momentum": lambda p: torch.optim.SGD(p, momentum=0.9, foreach=False),
    "adafactor": lambda p: torch.optim.Adafactor(p, foreach=False),
}
BACKENDS = {
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "efficient": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "math": [SDPBackend.MATH],
}


def build(case: Case, config: PretrainedConfig) -> torch.nn.Module:
    """The real model of a case, with random weights unless it is shipped, its method attached, in training mode."""
    setup, device = case.setup, torch.device(case.setup.device)
    attention = "eager" if setup.attention == "eager" else "sdpa"
    if case.model in ("minilm", "tiny"):
        model: Any = load_base(case.model, device=device, dtype=setup.dtype)[0]
        (model.encoder if isinstance(model, TextClassifier) else model).set_attn_implementation(attention)
    else:
        torch.manual_seed(0)
        decoder = kind_of(config) == "decoder"
        extra = {} if decoder else {"add_pooling_layer": False}
        with device:
            auto = AutoModelForCausalLM if decoder else AutoModel
            model = auto.from_config(config, dtype=setup.dtype, attn_implementation=attention, **extra)
        model = model if decoder else TextClassifier(model)
    if setup.weights == "nf4":
        round_frozen(model, setup.method, "bitsandbytes")
    attach(model, setup.method)
    if isinstance(model, TextClassifier):
        model.set_head(("no", "yes"))
    for module in require_attachment(model).added.values():
        for parameter in module.parameters() if not is_linear(module) else ():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(TYPES[setup.adapters])
    if setup.checkpointing:
        inner = model.encoder if isinstance(model, TextClassifier) else model
        inner.config.use_cache = False
        inner.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    return model.train()


def batch_for(case: Case, config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Random token ids, a mask (of ones, or with padding on the left of the first row) and labels."""
    torch.manual_seed(0)
    ids = torch.randint(3, config.vocab_size, (case.batch, case.length))
    mask = torch.ones_like(ids)
    mask[0, : case.length // 4 if case.setup.padding else 0] = 0
    labels = ids if kind_of(config) == "decoder" else ids[:, 0] % 2
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels.clone()}
    return {name: tensor.to(case.setup.device) for name, tensor in batch.items()}


def loss_for(setup: Setup) -> Loss:
    """The loss of a setup, under autocast where it says so."""
    loss = chunked_loss if setup.logits == "chunked" else model_loss
    if not setup.autocast:
        return loss

    def cast(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Any:
        with torch.autocast(setup.device, torch.bfloat16):
            return loss(model, batch)

    return cast


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' advice about checkpointing and caches."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers.logging.set_verbosity(level)


def run_case(case: Case) -> dict[str, Any]:
    """Predict and measure one case; every number of it."""
    config = config_of(case.model)
    with quiet():
        predicted = trace_setup(config, case.setup, case.batch, case.length)
        inputs = inputs_of(
            build_on_meta(config, Setup()), case.batch, case.length, case.bytes_per_value, case.setup.checkpointing
        )
        model = build(case, config)
        batch = batch_for(case, config)
        optimizer = OPTIMIZERS[case.setup.optimizer]([p for p in model.parameters() if p.requires_grad])
        options = {
            "loss": loss_for(case.setup),
            "optimizer": optimizer,
            "keep_output": case.setup.keep_output,
        }
        pinned = case.setup.attention in BACKENDS
        with sdpa_kernel(BACKENDS[case.setup.attention]) if pinned else nullcontext():
            if case.setup.device == "cuda":
                measured, peaks = measure_with_peaks(model, batch, **options)
            else:
                measured, peaks = measure_step(model, batch, **options), None
    found = {
        "label": case.label,
        "model": case.model,
        "n_parameters": inputs.n_parameters,
        "n_trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "batch": case.batch,
        "length": case.length,
        "setup": {f.name: _plain(getattr(case.setup, f.name)) for f in fields(Setup)},
        "predicted": numbers(predicted),
        "measured": numbers(measured),
        "rules": {verdict.rule: round(verdict.says) for verdict in judge(inputs, measured)},
    }
    if case.why:
        found["why"] = case.why
    if peaks is not None:
        free, total = torch.cuda.mem_get_info()
        found["cuda"] = {"stages": peaks.stages, "workspace": peaks.workspace, "used_on_device": total - free}
    del model, batch, optimizer
    gc.collect()
    return found


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | str | int | float) else repr(value)


def numbers(step: StepMemory) -> dict[str, Any]:
    """A step in numbers: the peak and where, bytes at the peak and the largest of each category."""
    largest = step.live().max(0)
    return {
        "peak": step.peak,
        "place": step.peak_place,
        "at_peak": step.at_peak(),
        "largest": {name: int(n) for name, n in zip(CATEGORIES, largest, strict=True)},
    }


def percent(predicted: float, measured: float) -> float:
    """How far off, in percent of what was measured."""
    return 100 * (predicted - measured) / measured if measured else 0.0


def line(run: dict[str, Any]) -> str:
    """One run in one line: the peak, how far off it was predicted, and the category that was furthest off."""
    mine, real = run["predicted"], run["measured"]
    off = {name: mine["largest"][name] - n for name, n in real["largest"].items()}
    worst = max(off, key=lambda name: abs(off[name]))
    rate = percent(mine["largest"][worst], real["largest"][worst])
    return (
        f"{run['label']:<68} {real['peak'] / 1e6:>10,.2f} MB {percent(mine['peak'], real['peak']):+8.4f} %  "
        f"{real['place']:<28} {worst} {off[worst]:+,} B ({rate:+.3f} %)"
    )


def summary(runs: list[dict[str, Any]]) -> str:
    """How many runs were predicted within 0.1 %, the largest misses, and what rules of thumb say beside the peaks."""
    lines = [f"{len(runs)} configurations; predicted within 0.1 %, and the largest miss:"]
    for name in ("peak", *CATEGORIES):
        pairs = [(_of(run["predicted"], name), _of(run["measured"], name)) for run in runs]
        near = sum(abs(a - b) <= 1e-3 * b for a, b in pairs)
        a, b = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
        lines.append(f"  {name:<32} {near:>3} of {len(pairs)}, {a - b:+,} of {b:,} bytes")
    lines.append("Rules of thumb over the measured peak: smallest, median, largest ratio")
    for rule in RULES:
        if rule.covers == "the peak":
            ratios = sorted(run["rules"][rule.name] / run["measured"]["peak"] for run in runs)
            lines.append(f"  {rule.name:<32} {ratios[0]:6.2f} {ratios[len(ratios) // 2]:6.2f} {ratios[-1]:6.2f}")
    return "\n".join(lines)


def _of(step: dict[str, Any], name: str) -> int:
    return step["peak"] if name == "peak" else step["largest"][name]


def write(device: str, runs: list[dict[str, Any]]) -> None:
    """Write the runs with what made them."""
    hardware = f"{processor()}, 1 thread, no GPU" if device == "cpu" else torch.cuda.get_device_name()
    about = {
        "command": f"python tools/measure_memory.py {device}",
        "hardware": hardware,
        "versions": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]}
        | {"transformers": transformers.__version__, "bitsandbytes": bitsandbytes.__version__},
        "units": "bytes; predicted by the trace on meta tensors, measured from the allocator; at_peak is by category "
        "at the step's peak, largest the most that each category reaches in the step",
    }
    lines = ",\n".join("  " + json.dumps(run) for run in runs)
    file_of(device).write_text(f'{{"about": {json.dumps(about)},\n"runs": [\n{lines}\n]}}\n')


def file_of(device: str) -> Path:
    """Where a device's runs are kept."""
    return DATA / "measured" / f"memory_{device}.json"


def in_process(case: Case) -> dict[str, Any] | None:
    """Run a case in a process of its own: a fresh allocator, and an out-of-memory that ends only that."""
    with tempfile.NamedTemporaryFile(suffix=".json") as answer:
        command = [sys.executable, __file__, case.setup.device, "--case", case.label, "--answer", answer.name]
        done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
        if done.returncode:
            print(f"{case.label}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no answer'}")
            return None
        return json.loads(Path(answer.name).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device", choices=("cpu", "cuda"))
    parser.add_argument("--only", help="measure only configurations with this text in their label; write nothing")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one case, in a process of its own
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("This machine has no CUDA GPU that PyTorch can use; nothing was measured.")
    cases = CASES[arguments.device]
    if arguments.case:
        run = run_case(next(case for case in cases if case.label == arguments.case))
        Path(arguments.answer).write_text(json.dumps(run))
        return
    file = file_of(arguments.device)
    runs = json.loads(file.read_text())["runs"] if file.exists() and not arguments.only else []
    known = {run["label"] for run in runs}
    for case in cases:
        if case.label in known or (arguments.only and arguments.only not in case.label):
            continue
        run = in_process(case) if arguments.device == "cuda" else run_case(case)
        if run is not None:
            runs.append(run)
            print(line(run), flush=True)
            if not arguments.only:
                write(arguments.device, runs)
    if not runs:
        sys.exit(f'No configuration was measured: none has "{arguments.only}" in its label, or all failed.')
    print(summary(runs))


if __name__ == "__main__":
    main()
