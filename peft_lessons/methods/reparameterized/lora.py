"""LoRA: learn a low-rank update beside a frozen weight.

    y = W x + b + scaling · B A x        A: (r, d_in)   B: (d_out, r)   scaling = alpha / r

A starts random, B at zero, so attaching changes nothing. Trains r (d_in + d_out) numbers a layer instead of
d_in · d_out; ΔW = scaling · B A has the shape of W and rank at most r, and can be added to W after training.
`use_rslora` divides by √r instead of r, which keeps the update's size independent of r.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; A's initialisation as in
microsoft/LoRA and Hugging Face peft (uniform Kaiming; the paper says Gaussian); Kalajdzievski 2023 for √r.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.methods.core import LinearMethod, WrappedLinear
from peft_lessons.methods.targets import Linear, Targets


class LoRALinear(WrappedLinear):
    """A linear layer with a low-rank update; see the module for the equation."""

    def __init__(self, base: Linear, r: int, alpha: float, dropout: float = 0.0, use_rslora: bool = False):
        super().__init__(base)
        self.scaling = alpha / (math.sqrt(r) if use_rslora else r)
        self.dropout = nn.Dropout(dropout)
        A = torch.empty(r, self.d_in, device="cpu")  # drawn on the CPU: the same numbers on every device
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        self.lora_A = nn.Parameter(A.to(base.weight.device))  # (r, d_in)
        self.lora_B = nn.Parameter(torch.zeros(self.d_out, r, device=base.weight.device))  # (d_out, r)

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        h = self.dropout(x).to(self.lora_A.dtype) @ self.lora_A.T  # (..., r)
        return self.base(x) + (self.scaling * h @ self.lora_B.T).to(x.dtype)

    def delta(self) -> Tensor:  # (d_out, d_in)
        return self.scaling * self.lora_B @ self.lora_A

    def rank(self) -> int:
        return min(self.lora_A.shape[0], self.d_out, self.d_in)


@dataclass(frozen=True)
class LoRA(LinearMethod):
    """LoRA on the linear layers that `target_modules` names.

    Args:
        r: the rank of the update, at least 1.
        alpha: the update is scaled by alpha / r (`lora_alpha` in peft).
        dropout: on the update's input, while training (`lora_dropout` in peft).
        target_modules: names, patterns, "attention" or "all-linear"; see `find_targets`.
        use_rslora: scale by alpha / √r.

    Raises:
        ValueError: r below 1, alpha not positive, or dropout outside [0, 1).

    Source: see the module; names and meanings are those of peft's `LoraConfig`.
    """

    peft_type: ClassVar[str] = "LORA"
    lr: ClassVar[float] = 2e-3
    mergeable: ClassVar[bool] = True
    file_suffixes: ClassVar[dict[str, str]] = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}

    r: int = 8
    alpha: float = 16
    dropout: float = 0.0
    target_modules: Targets = "attention"
    use_rslora: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise ValueError(f"r is {self.r!r}; the rank is a whole number, at least 1.")
        if not self.alpha > 0:
            raise ValueError(f"alpha is {self.alpha!r}; it must be above 0, or the update is switched off.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}; it is a probability, at least 0 and below 1.")

    def wrap(self, base: Linear) -> LoRALinear:
        return LoRALinear(base, self.r, self.alpha, self.dropout, self.use_rslora)

    def config(self) -> dict[str, object]:
        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        return {
            "r": self.r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": targets,
            "use_rslora": self.use_rslora,
            "bias": "none",
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> "LoRA":
        for field, plain in _PLAIN.items():
            if config.get(field, plain) not in (plain, None, [], {}):
                raise ValueError(f"This adapter uses {field}={config[field]!r}, which plain LoRA does not have.")
        if config.get("init_lora_weights", True) not in _KEEPS_BASE:
            raise ValueError(
                f"This adapter was initialised by {config['init_lora_weights']!r}, which changes the base too: "
                "convert it to plain LoRA in peft first (path_initial_model_for_weight_conversion)."
            )
        return cls(
            r=config["r"],
            alpha=config["lora_alpha"],
            dropout=config.get("lora_dropout", 0.0),
            target_modules=config["target_modules"],
            use_rslora=config.get("use_rslora", False),
        )


# peft's switches that change the function or the trained tensors, and the value that means plain LoRA.
_PLAIN = {
    "bias": "none",
    "lora_bias": False,
    "use_dora": False,
    "use_qalora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
    "layer_replication": None,
    "exclude_modules": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "alora_invocation_tokens": None,
    "kasa_config": None,
    "use_bdlora": None,
    "velora_config": None,
    "monteclora_config": None,
}
_KEEPS_BASE = (True, False, "gaussian", "orthogonal", "eva")  # other initialisations also change the base's weights
