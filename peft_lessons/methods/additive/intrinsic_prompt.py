"""Intrinsic prompt tuning: a prompt from a few numbers, through a decoder that was learned on prompts of other tasks.

    P = D(z)        D(z) = W_2 tanh(W_1 z + b_1) + b_2        z: (d,), trained        P: (p, d_model)

First an autoencoder is learned: prompts that prompt tuning found for several tasks go down to d numbers by a linear map
and come back by D. Then D is frozen, and of a new task only z is trained. Without a learned decoder a random one is
drawn, around words of the vocabulary: the control. The autoencoder here learns to give prompts back, which is the first
of the paper's two losses; the other, the tasks' own, is left out.

Source: Qin, Wang, Su, Lin, Ding, Yi, Chen, Liu, Li, Hou, Li, Sun and Zhou 2021, "Exploring Universal Intrinsic Task
Subspace via Prompt Tuning", section 3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_lessons.methods.additive.small import Dense
from peft_lessons.methods.additive.soft_prompt import SoftPrompt, check_length
from peft_lessons.methods.additive.words import drawn_ids, embedded
from peft_lessons.methods.core import Method

NAMES = ("W_1", "b_1", "W_2", "b_2")


class DecodedPrompt(nn.Module):
    """z and the frozen decoder D; see the module."""

    W_1: Tensor
    b_1: Tensor
    W_2: Tensor
    b_2: Tensor

    def __init__(self, n_tokens: int, d: int, decoder: Mapping[str, Tensor], device: torch.device):
        super().__init__()
        self.n_tokens = n_tokens
        self.z = nn.Parameter(torch.zeros(d, device=device))
        for name in NAMES:
            self.register_buffer(name, decoder[name].to(device, torch.float32).clone())

    def forward(self) -> Tensor:
        """The prompt, (p, d_model)."""
        return (self.W_2 @ torch.tanh(self.W_1 @ self.z + self.b_1) + self.b_2).view(self.n_tokens, -1)


@dataclass(frozen=True)
class IntrinsicPrompt(SoftPrompt):
    """A prompt made from d trained numbers.

    Args:
        d: how many numbers are trained.
        n_tokens: the prompt's length p.
        hidden: the width of a random decoder; a learned one says it itself.
        decoder: the decoder's `W_1`, `b_1`, `W_2` and `b_2`, from `learn_decoder`; a random one where not given.

    Raises:
        ValueError: d, n_tokens or hidden below 1; when attached, a decoder of another d, length or width,
            or without one of its tensors.

    Source: see the module; the survey names 5 to 250 numbers a task.
    """

    peft_type: ClassVar[str] = "INTRINSIC_PROMPT"
    lr: ClassVar[float] = 1e-1
    file_prefix: ClassVar[str] = Method.file_prefix

    d: int = 5
    n_tokens: int = 20
    hidden: int = 64
    decoder: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_length(self.n_tokens)
        for name in ("d", "hidden"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it is a whole number, at least 1.")

    def prompt_module(self, model: Any, table: Any) -> nn.Module:
        width, device = table.weight.shape[1], table.weight.device
        decoder = self.random_decoder(table) if self.decoder is None else self.decoder
        if missing := [name for name in NAMES if name not in decoder]:
            raise ValueError(f"The decoder lacks {missing[0]}; it has {', '.join(NAMES)}, as learn_decoder gives them.")
        size, hidden = self.n_tokens * width, decoder["W_1"].shape[0]
        for name, shape in zip(NAMES, ((hidden, self.d), (hidden,), (size, hidden), (size,)), strict=True):
            if decoder[name].shape != shape:
                raise ValueError(
                    f"The decoder's {name} is {tuple(decoder[name].shape)}; for a prompt of {self.n_tokens} x {width} "
                    f"numbers and d={self.d} it is {shape}."
                )
        return DecodedPrompt(self.n_tokens, self.d, decoder, device)

    def random_decoder(self, table: Any) -> dict[str, Tensor]:
        """A decoder that no task has seen: random maps, around words drawn from the vocabulary."""
        size = self.n_tokens * table.weight.shape[1]
        words = embedded(table, drawn_ids(table, self.n_tokens)).flatten()
        W_1 = torch.randn(self.hidden, self.d, device="cpu") / self.d**0.5
        W_2 = torch.randn(size, self.hidden, device="cpu") / self.hidden**0.5
        return {"W_1": W_1, "b_1": torch.zeros(self.hidden), "W_2": W_2, "b_2": words}

    def to_file(self, tensors: Mapping[str, Tensor], added: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        return dict(tensors)

    def from_file(self, tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        return dict(tensors)

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> "IntrinsicPrompt":
        kept = {name: t for name in NAMES for key, t in tensors.items() if key.endswith(f".prompt.{name}")}
        return cls(config["d"], config["n_tokens"], config["hidden"], kept if len(kept) == len(NAMES) else None)


def learn_decoder(
    prompts: Sequence[Tensor], d: int, *, hidden: int = 64, steps: int = 500, lr: float = 3e-3, seed: int = 0
) -> dict[str, Tensor]:
    """Learn the decoder of an autoencoder that gives prompts back from d numbers each.

    Args:
        prompts: at least two, (p, d_model) each, such as prompt tuning found for several tasks.
        d: numbers between encoder and decoder.
        hidden: the decoder's width.
        steps: optimizer steps on all prompts at once.
        lr: AdamW's learning rate.
        seed: for the initial weights.

    Returns:
        The decoder's tensors, for `IntrinsicPrompt(decoder=...)`.

    Raises:
        ValueError: fewer than two prompts, or of different shapes; d, hidden or steps below 1.

    Source: see the module.
    """
    if len(prompts) < 2 or len({prompt.shape for prompt in prompts}) > 1:
        raise ValueError("An autoencoder learns from at least two prompts of one shape.")
    if min(d, hidden, steps) < 1:
        raise ValueError(f"d is {d}, hidden {hidden} and steps {steps}; each is at least 1.")
    P = torch.stack([prompt.detach().cpu().float().flatten() for prompt in prompts])  # (tasks, p · d_model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        down, first, last = Dense(d, P.shape[1], "cpu"), Dense(hidden, d, "cpu"), Dense(P.shape[1], hidden, "cpu")
    last.bias.data.copy_(P.mean(0))
    trained = [p for layer in (down, first, last) for p in layer.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    for _ in range(steps):
        loss = F.mse_loss(last(torch.tanh(first(down(P)))), P)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tensors = (first.weight, first.bias, last.weight, last.bias)
    return {name: tensor.detach() for name, tensor in zip(NAMES, tensors, strict=True)}
