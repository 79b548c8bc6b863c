"""P-tuning: a soft prompt made by a small network, which is trained with it and dropped when it is saved.

    P = f(E')        E': (p, d), trained        f: three linear layers with relu between, or an LSTM and two

The network ties the prompt's vectors to each other while they are learned. Afterwards P is p · d numbers, as in prompt
tuning, and a file holds these alone. The paper also tuned the base's weights in its SuperGLUE runs, and put prompt
vectors between parts of the text; here, as in peft, the base is frozen and the prompt stands in front.

Source: Liu, Zheng, Du, Ding, Qian, Yang and Tang 2021, "GPT Understands, Too", section 2.2 (LSTM); the MLP, the shapes
and the file format are those of Hugging Face peft's `PromptEncoder`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_lessons.methods.additive.small import Dense, drawn_on
from peft_lessons.methods.additive.soft_prompt import Numbers, SoftPrompt, check_length

ENCODERS = ("mlp", "lstm", "none")


class MLPPrompt(nn.Module):
    """Three linear layers, (p, d) -> (p, d), the same for each vector."""

    def __init__(self, n_tokens: int, d: int, hidden: int, device: torch.device):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(n_tokens, d, device="cpu").to(device))  # E'
        self.first, self.second, self.last = (
            Dense(*shape, device) for shape in ((hidden, d), (hidden, hidden), (d, hidden))
        )

    def forward(self) -> Tensor:
        """The prompt, (p, d)."""
        return self.last(F.relu(self.second(F.relu(self.first(self.embedding)))))


class LSTMPrompt(nn.Module):
    """A two-layer LSTM that reads the prompt both ways, and two linear layers, (p, d) -> (p, d)."""

    def __init__(self, n_tokens: int, d: int, hidden: int, device: torch.device):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(n_tokens, d, device="cpu").to(device))  # E'
        lstm = nn.LSTM(d, hidden, num_layers=2, bidirectional=True, batch_first=True, device=drawn_on(device))
        self.lstm = lstm.to(device)
        self.first, self.last = Dense(2 * hidden, 2 * hidden, device), Dense(d, 2 * hidden, device)

    def forward(self) -> Tensor:
        """The prompt, (p, d)."""
        return self.last(F.relu(self.first(self.lstm(self.embedding[None])[0][0])))


@dataclass(frozen=True)
class PTuning(SoftPrompt):
    """A prompt of n_tokens vectors, made by a network.

    Args:
        n_tokens: the prompt's length p (`num_virtual_tokens` in peft).
        encoder: the network: "mlp", "lstm", or "none" for the vectors that one left behind, as a file keeps them.
        hidden: the network's width (`encoder_hidden_size` in peft); 0 is as wide as the embeddings.

    Raises:
        ValueError: n_tokens below 1, an unknown encoder, or a negative width.

    Source: see the module.
    """

    peft_type: ClassVar[str] = "P_TUNING"
    lr: ClassVar[float] = 3e-3

    n_tokens: int = 20
    encoder: Literal["mlp", "lstm", "none"] = "mlp"
    hidden: int = 0

    def __post_init__(self) -> None:
        check_length(self.n_tokens)
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder is {self.encoder!r}; it can be {', '.join(ENCODERS)}.")
        if isinstance(self.hidden, bool) or not isinstance(self.hidden, int) or self.hidden < 0:
            raise ValueError(f"hidden is {self.hidden!r}; it is a width, or 0 for that of the embeddings.")

    def prompt_module(self, model: Any, table: Any) -> nn.Module:
        d, device = table.weight.shape[1], table.weight.device
        if self.encoder == "none":
            return Numbers(torch.randn(self.n_tokens, d, device="cpu").to(device))
        made = MLPPrompt if self.encoder == "mlp" else LSTMPrompt
        return made(self.n_tokens, d, self.hidden or d, device)

    def config(self) -> dict[str, object]:
        kind = "LSTM" if self.encoder == "lstm" else "MLP"
        fields = {"num_virtual_tokens": self.n_tokens, "encoder_reparameterization_type": kind}
        return fields | ({"encoder_hidden_size": self.hidden} if self.hidden else {})

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> "PTuning":
        return cls(config["num_virtual_tokens"], "none")
