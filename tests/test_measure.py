"""Memory measured by the allocator: the trace predicts it by category, and what is wrong is noticed."""

import json
import math
import subprocess
import sys

import bitsandbytes
import pytest
import torch
from measure_memory import numbers, run_case
from memory_cases import CASES as MEASURED
from memory_cases import Case, config_of
from models import SIZE
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from peft_lessons import attach
from peft_lessons.accounting.measure import Event, Known, Mark, Stage, measure_step, replay, residues
from peft_lessons.accounting.measure_cuda import KINDS, MARKS, Peaks, read_snapshot, record_cuda
from peft_lessons.accounting.setups import Setup, trace_setup
from peft_lessons.accounting.trace import trace_step
from peft_lessons.bases import TextClassifier
from peft_lessons.measured import load_measured
from peft_lessons.methods import FullFineTuning, Head, LoRA

V = 2000


def llama(attention="sdpa"):
    torch.manual_seed(0)
    size = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 2, "tie_word_embeddings": False}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**SIZE | size | heads | {"vocab_size": V}, attn_implementation=attention))


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(**SIZE | {"vocab_size": V}, n_embd=192, n_layer=2, n_head=4, n_positions=256)
    return GPT2LMHeadModel(config)


def bert():
    torch.manual_seed(0)
    size = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4}
    return TextClassifier(BertModel(BertConfig(vocab_size=V, **size), add_pooling_layer=False))


def adamw(params):
    return torch.optim.AdamW(params, foreach=False)


def foreach(params):
    return torch.optim.AdamW(params, foreach=True)


def momentum(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def adafactor(params):
    return torch.optim.Adafactor(params)


def prepare(make, method, optimizer=adamw, dtype=torch.float32, checkpointing=False, batch=4, length=128):
    """A model with its method, a batch and an optimizer, as a training loop has them."""
    model = make().to(dtype)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    attach(model, method)
    torch.manual_seed(0)
    ids = torch.randint(3, V, (batch, length))
    data = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    if isinstance(model, TextClassifier):
        model.set_head(("no", "yes"))
        data["labels"] = ids[:, 0] % 2
    return model.train(), data, optimizer([p for p in model.parameters() if p.requires_grad])


ALL_LINEAR = LoRA(r=4, dropout=0.1, target_modules="all-linear")
CASES = {
    "llama, full, AdamW": (dict(make=llama, method=FullFineTuning()), {}),
    "llama, full, foreach, output kept": (
        dict(make=llama, method=FullFineTuning(), optimizer=foreach),
        {"keep_output": True},
    ),
    "llama, LoRA with dropout": (dict(make=llama, method=ALL_LINEAR), {}),
    "llama, LoRA, bfloat16 base, checkpointing": (
        dict(make=llama, method=LoRA(), dtype=torch.bfloat16, checkpointing=True),
        {},
    ),
    "llama, full, checkpointing, Adafactor": (
        dict(make=llama, method=FullFineTuning(), checkpointing=True, optimizer=adafactor),
        {},
    ),
    "llama, head": (dict(make=llama, method=Head(), optimizer=momentum), {}),
    "llama, eager": (dict(make=lambda: llama("eager"), method=LoRA()), {}),
    "gpt2, LoRA": (dict(make=gpt2, method=ALL_LINEAR), {}),
    "bert, full": (dict(make=bert, method=FullFineTuning(), optimizer=momentum), {}),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES)
def test_the_trace_predicts_what_the_allocator_gives_by_category(case):
    arguments, options = CASES[case]
    found = []
    for step in (trace_step, measure_step):
        model, batch, optimizer = prepare(**arguments)
        found.append(step(model, batch, optimizer=optimizer, **options))
    peak = found[1].peak
    for name, (predicted, measured) in residues(*found).items():
        assert abs(predicted - measured) <= 1e-3 * measured or abs(predicted - measured) <= 1e-5 * peak, name
    assert found[0].marks.keys() == found[1].marks.keys()
    for stage in (*found[0].marks, "end"):
        before = zip(found[0].before(stage).items(), found[1].before(stage).values(), strict=True)
        assert not {name: (mine, real) for (name, mine), real in before if abs(mine - real) > 1e-5 * peak}, stage


def test_weights_states_and_gradients_are_those_of_the_formula():
    model, batch, optimizer = prepare(llama, FullFineTuning())
    n = sum(p.numel() for p in model.parameters())
    step = measure_step(model, batch, optimizer=optimizer)
    steps = 4 * len(list(model.parameters()))  # AdamW counts its steps in a scalar for each parameter
    assert step.before("forward")["optimizer states"] == 8 * n + steps
    assert step.before("optimizer step")["gradients"] == 4 * n
    assert step.before("end")["gradients"] == 0


@pytest.mark.parametrize("wrong", ["a weight is left out", "the output is forgotten", "another rank"])
def test_wrong_accounting_is_noticed(wrong):
    model, batch, optimizer = prepare(llama, LoRA(r=8), batch=2)
    measured = measure_step(model, batch, optimizer=optimizer, keep_output=wrong == "the output is forgotten")
    model, batch, optimizer = prepare(llama, LoRA(r=9 if wrong == "another rank" else 8), batch=2)
    traced = trace_step(model, batch, optimizer=optimizer)
    if wrong == "a weight is left out":
        traced.storages.remove(next(s for s in traced.storages if s.category == "weights"))
    off = {name for name, (mine, real) in residues(traced, measured).items() if abs(mine - real) > 1e-3 * real}
    assert {"a weight is left out": "weights", "the output is forgotten": "loss", "another rank": "gradients"}[
        wrong
    ] in off


def test_a_bare_layer_has_no_output_layer_and_so_its_loss_stage_is_empty():
    layer = torch.nn.Linear(6, 4, bias=False)
    batch = {"x": torch.randn(3, 6)}
    optimizer = torch.optim.AdamW(layer.parameters(), foreach=False)

    def loss(model, batch):
        return model(batch["x"]).square().sum()

    for watch in (trace_step, measure_step):
        step = watch(layer, batch, loss=loss, optimizer=optimizer)
        assert list(step.marks) == ["forward", "backward", "optimizer step"]
        found = step.at_peak()
        assert (found["weights"], found["gradients"], found["activations"], found["loss"]) == (96, 96, 72, 0)
        assert step.peak_place == "optimizer step"


def test_nothing_trainable_and_no_memory_are_one_sentence():
    model = llama().requires_grad_(False)
    with pytest.raises(RuntimeError, match="Nothing in this model is trainable: attach a method first."):
        measure_step(model, {})
    with pytest.raises(RuntimeError, match="This model is on meta, where nothing can be measured"):
        measure_step(model.requires_grad_(True).to("meta"), {})


CHECKPOINT = [{"filename": "site/torch/utils/checkpoint.py", "name": "recompute_fn", "line": 1}]


def entry(action, address, size, frames=()):
    return {"action": action, "addr": address, "size": size, "frames": list(frames), "stream": 0}


def mark(name):
    return [entry("alloc", 7, MARKS[name]), entry("free_requested", 7, MARKS[name]), entry("free_completed", 7, 512)]


SNAPSHOT = {
    "device_traces": [
        [
            entry("segment_alloc", 1 << 20, 2 << 20),
            *mark("begin"),
            entry("alloc", 100, 1000),  # an activation
            *mark("loss"),
            entry("alloc", 200, 500),
            *mark("backward"),
            entry("alloc", 300, 60, CHECKPOINT),  # an activation computed anew
            entry("alloc", 400, 40),
            entry("alloc", 450, 8),
            entry("free_requested", 300, 60),
            entry("free_completed", 300, 60),
            *mark("gradients"),
            entry("free_requested", 100, 1000),
            *mark("optimizer step"),
            entry("alloc", 300, 70),
            *mark("end"),
        ]
    ]
}


def test_a_snapshot_of_the_cuda_allocator_becomes_a_step():
    events = list(read_snapshot(SNAPSHOT))
    assert [e.name for e in events if isinstance(e, Mark)] == [
        "begin",
        "loss",
        "backward",
        "gradients",
        "optimizer step",
        "end",
    ]
    known = Known(torch.device("cuda"), {1: (4000, "weights")}, gradients={400})
    step = replay(events, known, Stage(torch.nn.Linear(1, 1)))
    assert step.peak == 4000 + 1000 + 500 + 60 + 40 + 8 and step.peak_place == "backward"
    assert step.at_peak() == {
        "weights": 4000,
        "gradients": 40,
        "optimizer states": 0,
        "activations": 1060,
        "loss": 500,
        "temporaries": 8,
    }
    assert step.before("optimizer step")["activations"] == 0
    assert step.before("end")["temporaries"] == 78


def test_a_timeline_that_breaks_off_is_refused():
    with pytest.raises(ValueError, match="breaks off before its end"):
        replay([Mark("begin"), Event(1, 10)], Known(torch.device("cpu")), Stage(torch.nn.Linear(1, 1)))


def test_a_gpu_is_watched_from_mark_to_mark(monkeypatch):
    """The order of calls on CUDA, with an allocator that only counts: 32 bytes of workspace, then what stages hold."""
    current, seen = {"n": 100}, []

    def stats(device):
        return {"requested_bytes.all.current": current["n"]} | {
            f"{kind}_bytes.all.peak": current["n"] for kind in KINDS
        }

    def synchronize(device):
        if not seen:
            current["n"] += 32  # the warm-up's workspace stays

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_stats", stats)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda device: SNAPSHOT)
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda enabled, **_: seen.append(enabled))

    def step(mark):
        for name, n in {"loss": 9000, "begin": 132, "backward": 500, "gradients": 600, "optimizer step": 700}.items():
            current["n"] = n
            mark(name)
        current["n"] = 132
        mark("end")

    peaks = Peaks()
    assert len(record_cuda(step, torch.device("cpu"), peaks)) == len(list(read_snapshot(SNAPSHOT)))
    assert seen == ["all", None] and peaks.workspace == 32
    requested = {stage: found["requested"] for stage, found in peaks.stages.items()}
    assert requested == {"forward": 468, "backward": 668, "optimizer step": 100}
    assert peaks.of_step("reserved") == 668


def test_the_peak_of_a_step_is_that_of_its_largest_stage():
    peaks = Peaks({"forward": {"requested": 5, "reserved": 9}, "backward": {"requested": 8, "reserved": 9}}, 32)
    assert peaks.of_step("requested") == 8 and peaks.of_step("reserved") == 9


def test_eight_bit_states_are_one_byte_a_value_and_a_scale_for_each_256():
    model, batch, optimizer = prepare(llama, FullFineTuning(), bitsandbytes.optim.AdamW8bit, batch=1)
    step = measure_step(model, batch, optimizer=optimizer)
    sizes = [p.numel() for p in model.parameters()]
    small, large = [n for n in sizes if n < 4096], [n for n in sizes if n >= 4096]
    codes = 2 * 4 * 256  # two tables of 256 values, shared by all
    expected = sum(8 * n for n in small) + sum(2 * (n + 4 * math.ceil(n / 256)) for n in large) + codes
    assert step.before("forward")["optimizer states"] == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_cuda_measurement_is_one_sentence(root):
    command = [sys.executable, "tools/measure_memory.py", "cuda"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert "This machine has no CUDA GPU that PyTorch can use; nothing was measured." in done.stderr.splitlines()
    model, batch, optimizer = prepare(llama, LoRA(), batch=1)
    with pytest.raises(RuntimeError, match="no CUDA GPU"):
        measure_step(model, batch, optimizer=optimizer, record=lambda step, _: record_cuda(step, torch.device("cuda")))


def test_the_shipped_measurement_is_complete_and_its_misses_are_explained():
    study = load_measured("memory_cpu")
    assert study.about["command"] == "python tools/measure_memory.py cpu" and study.about["versions"]["torch"]
    assert [run["label"] for run in study.runs] == [case.label for case in MEASURED["cpu"]]
    assert len(study.runs) >= 24 and len(MEASURED["cuda"]) >= 40
    unexplained = []
    for run in study.runs:
        mine, real = run["predicted"], run["measured"]
        pairs = {"peak": (mine["peak"], real["peak"])}
        pairs |= {name: (mine["largest"][name], n) for name, n in real["largest"].items()}
        bad = [name for name, (a, b) in pairs.items() if abs(a - b) > 1e-3 * b and abs(a - b) > 16]
        unexplained += [(run["label"], name) for name in bad if "why" not in run]
        assert "peak" not in bad or run["setup"]["optimizer"] == "adamw_8bit"
    assert not unexplained


@pytest.mark.parametrize("weights", ["bfloat16", "nf4"])
def test_autocast_over_narrow_weights_is_predicted_too(weights):
    setup = Setup(LoRA(r=8, target_modules="all-linear"), weights=weights, autocast=True, device="cpu")
    run = run_case(Case("small llama", setup, 2, 64))
    assert run["predicted"]["peak"] == pytest.approx(run["measured"]["peak"], rel=1e-3)


def test_the_trace_still_says_what_was_shipped():
    shipped = {run["label"]: run for run in load_measured("memory_cpu").runs}
    for case in MEASURED["cpu"][::4]:
        traced = trace_setup(config_of(case.model), case.setup, case.batch, case.length)
        assert numbers(traced) == shipped[case.label]["predicted"], case.label


def test_a_configuration_measured_again_is_the_shipped_one(tmp_path, root):
    case, answer = MEASURED["cpu"][0], tmp_path / "answer.json"
    command = [sys.executable, "tools/measure_memory.py", "cpu", "--case", case.label, "--answer", str(answer)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    again = json.loads(answer.read_text())
    shipped = load_measured("memory_cpu").select(label=case.label)[0]
    assert again["predicted"] == shipped["predicted"] and again["rules"] == shipped["rules"]
    assert again["measured"]["peak"] == pytest.approx(shipped["measured"]["peak"], rel=1e-3)
