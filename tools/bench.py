"""Print what things cost on this machine: a LoRA step beside Hugging Face peft, the explorers, lessons, and the set-up.

`python tools/bench.py` runs all parts; name one or more of `step`, `four_bits`, `explorers`, `lessons`, `setup` to run
less.
"""

import argparse
import platform
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import bitsandbytes.functional
import nbformat
import torch
from browse import redraw_in_lab
from nbclient import NotebookClient
from peft import LoraConfig, get_peft_model
from sweep import processor
from torch.profiler import ProfilerActivity, profile

from peft_lessons import attach, load_base, load_task
from peft_lessons.accounting.building import build_table
from peft_lessons.accounting.library import TABLES, load_shape, load_table, read_tables, shape_names
from peft_lessons.accounting.setups import Setup
from peft_lessons.methods import LoRA
from peft_lessons.methods.reparameterized.codes import code_table
from peft_lessons.methods.reparameterized.nf4 import dequantize_blocks, quantize_blocks
from peft_lessons.training import loss_of

ROOT = Path(__file__).resolve().parent.parent
GOAL = 0.9  # of peft's time and memory
REDRAW = 50  # ms from a key to the picture


def bench_step(repeats: int = 15) -> None:
    """Forward, backward and optimizer of one batch of 16, interleaved with peft's; peak bytes from the profiler."""
    torch.set_num_threads(1)
    for base, task_name, targets in (("minilm", "sentiment", ["query", "value"]), ("tiny", "records", "all-linear")):
        task = load_task(task_name)
        rows = task.train[:16]
        model, tokenizer = load_base(base, device="cpu")
        attach(model, LoRA(r=8, alpha=16, target_modules=targets))
        theirs, _ = load_base(base, device="cpu")
        if base == "minilm":
            for encoder in (model, theirs):
                encoder.set_head(task.choices)
            batch = task.encode_for_encoder(rows, tokenizer)
        else:
            batch = task.encode_for_decoder(rows, tokenizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft looks for the base's configuration on the Hub
            config = LoraConfig(r=8, lora_alpha=16, target_modules=targets)
            wrapped = get_peft_model(theirs, config)
        if base == "minilm":
            theirs.classifier.requires_grad_(True)
        ours = _stepper(model, lambda m=model, t=task, r=rows: loss_of(m, t, r))
        peft = _stepper(wrapped, lambda m=wrapped, b=batch: m(**b).loss)
        times: dict[str, list[float]] = {"ours": [], "peft": []}
        for _ in range(repeats):
            for name, step in (("ours", ours), ("peft", peft)):
                begun = time.process_time()
                loss = step()
                times[name].append(time.process_time() - begun)
        print(f"LoRA r=8 on {base}, {task_name}, batch 16, one thread, median of {repeats} (loss {loss:.3f})")
        seconds = {name: statistics.median(values) for name, values in times.items()}
        peaks = {"ours": _peak_bytes(ours), "peft": _peak_bytes(peft)}
        for what, values, unit, scale in (
            ("CPU time", seconds, "ms", 1e3),
            ("peak above the model", peaks, "MB", 1e-6),
        ):
            ratio = values["ours"] / values["peft"]
            verdict = f"goal {GOAL} {'reached' if ratio <= GOAL else 'missed'}"
            mine, other = values["ours"] * scale, values["peft"] * scale
            print(f"  {what:<21} {mine:6.1f} {unit}, peft {other:6.1f} {unit}: {ratio:.2f} of peft, {verdict}")


def bench_four_bits(repeats: int = 200) -> None:
    """A million weights of NF4 made plain, interleaved with bitsandbytes on the same CPU: one thread."""
    torch.set_num_threads(1)
    W, code = 0.02 * torch.randn(1024, 1024), code_table("nf4")
    theirs, state = bitsandbytes.functional.quantize_4bit(W, blocksize=64, quant_type="nf4")
    packed, absmax = quantize_blocks(W, code)
    both = {
        "ours": lambda: dequantize_blocks(packed, absmax, code, (1024, 1024)),
        "bitsandbytes": lambda: bitsandbytes.functional.dequantize_4bit(theirs, state),
    }
    times: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(repeats):
        for name, decode in both.items():
            begun = time.perf_counter()
            decode()
            times[name].append(1e3 * (time.perf_counter() - begun))
    ours, other = (statistics.median(values) for values in times.values())
    print(
        f"NF4 to float32, 1 M weights, one thread, median of {repeats}: {ours:.2f} ms, bitsandbytes {other:.2f} ms",
        end="",
    )
    print(f": {ours / other:.1f} times theirs, goal 1 {'reached' if ours <= other else 'missed'}")


def _stepper(model: torch.nn.Module, loss_of_batch: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """One training step, optimizer states warmed up."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> float:
        loss = loss_of_batch()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    step()
    return step


def _peak_bytes(step: Callable[[], float]) -> int:
    """The largest sum of what one step holds at a time, from the allocator's events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def bench_explorers(repeats: int = 200) -> None:
    """Tables: one answer, one curve, a build, the size; then a slider's move until the page shows it."""
    torch.set_num_threads(1)
    names = shape_names()
    setup = Setup(LoRA(target_modules="all-linear"))
    sizes = [(n, load_shape(n).num_hidden_layers) for n in names]
    tables = [(load_table(n, setup), layers) for n, layers in sizes]
    for what, method in (("an answer", "evaluate"), ("a curve", "curve")):
        times = []
        for table, layers in tables:
            for i in range(repeats // len(tables)):
                begun = time.perf_counter()
                getattr(table, method)(layers, 1 + i % 8, 128, 8)
                times.append(1e3 * (time.perf_counter() - begun))
        print(f"memory table, {what:<18} {statistics.median(times):8.3f} ms median, {max(times):.3f} ms worst")
    builds = []
    for name in names:
        begun = time.perf_counter()
        build_table(load_shape(name), setup)
        builds.append(time.perf_counter() - begun)
    print(
        f"memory table, built anew       {statistics.median(builds):5.2f} s median, {max(builds):.2f} s worst (t5-base)"
    )
    files = list(TABLES.glob("*.npz"))
    count = sum(len(read_tables(f.read_bytes())) for f in files)
    size = sum(f.stat().st_size for f in files)
    print(f"memory tables, shipped         {count} in {size / 2**20:.2f} MiB, {size / count / 2**10:.1f} KiB each")
    rank = "import torch\nfrom peft_lessons.explorers.rank import explore_rank\n"
    rank += "explorer = explore_rank({'random': torch.randn(384, 384)})\n"
    rank += "explorer.choose(source='your matrices')\nexplorer"
    memory = "from peft_lessons.explorers.memory import explore_memory\nexplore_memory()"
    pages = (("rank", rank, "rank", "Rank {:,} keeps"), ("memory", memory, "length", "at length {:,} "))
    for what, code, label, says in pages:
        latency = redraw_in_lab(code, label, says, moves=30)
        median = statistics.median(latency)
        verdict = f"goal {REDRAW} ms {'reached' if median <= REDRAW else 'missed'}"
        print(f"{what} explorer, redraw in Lab   {median:5.0f} ms median, {max(latency):.0f} ms worst of 30, {verdict}")


def bench_lessons() -> None:
    """Run every lesson, explorer and solution from top to bottom, as `make notebooks` does."""
    print("lessons, seconds from an empty kernel")
    for path in (p for part in ("[0-9]*", "explore/*", "assignments/solution/*") for p in _notebooks(part)):
        begun = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
        print(f"  {path.stem:<28} {time.perf_counter() - begun:6.0f}")


def _notebooks(pattern: str) -> list[Path]:
    return sorted((ROOT / "notebooks").glob(f"{pattern}.ipynb"))


def bench_setup() -> None:
    """Make a fresh copy of the tracked files, and its environment, twice."""
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "course"
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(clone)], check=True)
        for what in ("fresh environment", "second call"):
            begun = time.perf_counter()
            subprocess.run(["sh", "tools/setup.sh"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
            print(f"set-up, {what:<18} {time.perf_counter() - begun:7.1f} s")


PARTS = {
    "step": bench_step,
    "four_bits": bench_four_bits,
    "explorers": bench_explorers,
    "lessons": bench_lessons,
    "setup": bench_setup,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="step, four_bits, explorers, lessons, setup; all where none is named")
    print(f"{processor()}; Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}")
    for part in parser.parse_args().parts or PARTS:
        PARTS[part]()
