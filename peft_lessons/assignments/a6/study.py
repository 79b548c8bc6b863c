"""Real runs for the recommendation: eight methods on MiniLM and `sentiment`, with what each costs.

Source: `data/measured`, 100 steps each, rates chosen on validation; peaks are traced, of 16 sentences of 32 tokens.
"""

from dataclasses import dataclass

from peft_lessons.accounting.setups import Setup, build_on_meta, trace_setup
from peft_lessons.assignments.given import fresh_base
from peft_lessons.measured import load_measured
from peft_lessons.methods import IA3, BitFit, FullFineTuning, Head, Houlsby, KronA, LoRA, Method, Pfeiffer

METHODS: dict[str, tuple[str, Method]] = {
    "head only": ("minilm", Head()),
    "(IA)3": ("ia3", IA3()),
    "BitFit": ("selective", BitFit()),
    "KronA": ("reparameterized", KronA()),
    "LoRA": ("minilm", LoRA(r=8, alpha=16)),
    "Pfeiffer": ("adapters", Pfeiffer(bottleneck=32)),
    "Houlsby": ("adapters", Houlsby(bottleneck=16)),
    "full fine-tuning": ("minilm", FullFineTuning()),
}
OWN = ("head only", "BitFit", "full fine-tuning")
BATCH, LENGTH = 16, 32


@dataclass(frozen=True)
class Row:
    """A method's test accuracies by seed, and its costs in bytes."""

    name: str
    lr: float | None
    test: list[float]
    peak_bytes: int
    stored_bytes: int
    adds_nothing: bool  # to the model that answers: it can be merged, or is in the base's own weights


def sentiment() -> list[Row]:
    """The rows of all methods, those of the untrained baselines first."""
    config = fresh_base("minilm").encoder.config
    minilm = load_measured("minilm")
    found = [
        Row(name, None, minilm.test_accuracy(task="sentiment", label=name), 0, 0, True)
        for name in ("majority class", "zero-shot")
    ]
    for name, (study, method) in METHODS.items():
        runs, setup = load_measured(study), Setup(method, weights="float32", padding=True, device="cpu")
        trained = [p for p in build_on_meta(config, setup).parameters() if p.requires_grad]
        wanted = {"task": "sentiment", "label": name}
        found.append(
            Row(
                name,
                runs.best_lr(**wanted),
                runs.test_accuracy(**wanted),
                trace_setup(config, setup, BATCH, LENGTH).peak,
                sum(p.nbytes for p in trained),
                type(method).mergeable or name in OWN,
            )
        )
    return found
