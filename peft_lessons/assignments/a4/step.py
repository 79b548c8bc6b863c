"""One training step of a small net to the byte: what is held at the loss, and in the optimizer's step.

Source: the package's trace of every storage, `peft_lessons.accounting.trace`, is what judges the larger of the two.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_lessons.accounting.trace import trace_step
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told
from peft_lessons.methods.reparameterized.lora import LoRALinear

SCALARS = 8  # the loss and its gradient, four bytes each: with them or without


@dataclass(frozen=True)
class Net:
    """n tokens through a layer of h by h and an output layer of V by h; LoRA of rank r, or 0: all is trained."""

    n: int
    h: int
    V: int
    r: int

    @property
    def trained(self) -> list[int]:
        """Bytes of each trained matrix."""
        shapes = (self.r * self.h, self.h * self.r) if self.r else (self.h * self.h, self.V * self.h)
        return [4 * size for size in shapes]

    @property
    def always(self) -> int:
        """Weights, states and batch."""
        frozen = 4 * (self.h * self.h + self.V * self.h) if self.r else 0
        return frozen + 3 * sum(self.trained) + 4 * self.n * self.h + 8 * self.n

    @property
    def stored(self) -> int:
        """What the linear layers keep beside the batch."""
        return 4 * self.n * (self.r or self.h)

    @property
    def at_the_loss(self) -> int:
        """All that is alive when the gradient of the logits has been made."""
        return self.always + self.stored + 12 * self.n * self.V

    @property
    def in_the_step(self) -> int:
        """All that is alive in AdamW's dearest moment."""
        first, second = self.trained
        return self.always + first + second + max(2 * first, first + 2 * second)


def make(net: Net) -> tuple[nn.Module, dict[str, Tensor]]:
    """The net itself, and a batch."""
    layer, head = nn.Linear(net.h, net.h, bias=False), nn.Linear(net.h, net.V, bias=False)
    if net.r:
        layer, head = LoRALinear(layer.requires_grad_(False), net.r, 8.0), head.requires_grad_(False)  # type: ignore
    return nn.Sequential(layer, head), {"x": torch.randn(net.n, net.h), "y": torch.zeros(net.n, dtype=torch.int64)}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy over the vocabulary."""
    return F.cross_entropy(model(batch["x"]), batch["y"])


def traced(net: Net) -> int:
    """The peak of a real step, storage by storage."""
    model, batch = make(net)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], foreach=False)
    return trace_step(model, batch, loss=loss, optimizer=optimizer).peak


@seeded
def draw_nets(g: torch.Generator) -> list[Net]:
    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=g))

    return [
        Net(between(60, 99), between(20, 30), between(300, 600), 0),
        Net(between(3, 6), between(40, 60), between(100, 200), 0),
        Net(between(60, 99), between(20, 30), between(300, 600), between(2, 6)),
        Net(between(3, 6), between(40, 60), between(8, 12), between(12, 16)),
        Net(between(3, 6), between(40, 60), between(8, 12), 0),  # the first matrix is the larger one
    ]


def ask_account(given: list[Net], told: Told, account: Callable[[int, int, int, int], dict[str, int]]) -> None:
    found = [account(net.n, net.h, net.V, net.r) for net in given]
    told["loss"], told["step"] = [f["loss"] for f in found], [f["optimizer step"] for f in found]


def _near(found: object, right: int) -> bool:
    return isinstance(found, int | float) and right - SCALARS <= found <= right + SCALARS


def at_the_loss(given: list[Net], told: Told) -> str:
    for net, found in zip(given, told["loss"], strict=True):
        if _near(found, net.at_the_loss):
            continue
        states, logits = 2 * sum(net.trained), 4 * net.n * net.V
        mistakes = {
            "the logits are there once only": -2 * logits,
            "one more tensor as large as the logits is alive": -logits,
            "there are no gradients of weights yet": sum(net.trained),
            "the optimizer's states exist from the first step on": -states,
            "the labels are there, of eight bytes each": -8 * net.n,
            "labels are whole numbers of eight bytes": -4 * net.n,
            "something of the size of x is missing": -4 * net.n * net.h,
            "what the layers keep for their gradients is missing": -net.stored,
            "something of the size of x is counted too often": 4 * net.n * net.h,
        }
        named = [says for says, more in mistakes.items() if _near(found, net.at_the_loss + more)]
        return f"{net}: {named[0] if named else f'not {found} bytes'}."
    return ""


def in_the_step(given: list[Net], told: Told) -> str:
    for net, found in zip(given, told["step"], strict=True):
        if _near(found, net.in_the_step):
            continue
        first, second = net.trained
        moment = max(2 * first, first + 2 * second)
        mistakes = {
            "AdamW needs something for a moment, beside its states": -moment,
            "each trained number has its gradient and two states": -first - second,
            "each trained number has its gradient, and its states": -2 * (first + second),
            "x and the labels are still there": -4 * net.n * net.h - 8 * net.n,
            "what the layers kept for backward is gone by now": net.stored,
            "it goes from tensor to tensor: not all temporaries at once": 2 * (first + second) - moment,
            "the last tensor's result stays until the next one replaces it": 2 * max(first, second) - moment,
        }
        named = [says for says, more in mistakes.items() if _near(found, net.in_the_step + more)]
        return f"{net}: {named[0] if named else f'not {found} bytes'}."
    return ""


def the_peak(given: list[Net], told: Told) -> str:
    for net, *found in zip(given, told["loss"], told["step"], strict=True):
        if not all(isinstance(n, int | float) for n in found) or not _near(max(found), traced(net)):
            return f"{net}: the larger of the two is not what the trace of the real step finds."
    return ""


Exercise(
    "a4.step",
    draw_nets,
    ask_account,
    (
        Property("held at the loss", 3, at_the_loss),
        Property("held in the optimizer's step", 2, in_the_step),
        Property("the larger one is the traced peak", 2, the_peak),
    ),
)
