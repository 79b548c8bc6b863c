"""PHM adapter and Compacter: bottleneck adapters whose matrices are sums of Kronecker products.

    h ← h + V_up gelu(V_down h + b) + b'        V = Σ_i A_i ⊗ B_i, i = 1 ... n
    V_down: (m, d)   V_up: (d, m)               A_i: (n, n)   B_i: (rows / n, columns / n)

h is what a block's self-attention or feed-forward network (FFN) writes into the residual stream. A PHM adapter has all
A_i and B_i of its own: n³ and rows · columns / n numbers a matrix. In Compacter B_i = s_i t_iᵀ has rank 1, and the A_i
are shared by the whole model: rows + columns numbers a matrix, and n³ once. Layer norms are trained too. Compacter++
has adapters after the FFN alone. "0.047 % of T5-base" is Compacter++, layer norms included; Compacter is 0.073 %.

V_up starts at zero (B_i, or s_i), so that attaching changes nothing. The paper draws all B_i uniform Glorot, as here
V_down's are, and the A_i normal with a standard deviation of 0.01, so that its adapters start near zero, not at it.

Source: Zhang et al. 2021, "Beyond Fully-Connected Layers with Quaternions" (PHM layers); Karimi Mahabadi, Henderson and
Ruder 2021, "Compacter", with the settings of the authors' repository (n = 4, reduction 32, gelu).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.methods.core import Method, WrappedLinear
from peft_lessons.methods.targets import Linear, blocks, norm_parameters


class PHM(nn.Module):
    """A linear layer whose matrix is a sum of n Kronecker products.

    `rule` holds the A_i where they are shared; without it the layer has its own. `rank` None keeps the B_i whole.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        n: int,
        device: torch.device,
        rank: int | None = None,
        rule: nn.Parameter | None = None,
    ):
        super().__init__()
        self.A = nn.Parameter(torch.randn(n, n, n, device="cpu").mul(0.01).to(device)) if rule is None else rule
        self.bias = nn.Parameter(torch.zeros(d_out, device=device))
        rows, columns = d_out // n, d_in // n
        if rank is None:
            self.B = nn.Parameter(glorot(n, rows, columns).to(device))  # (n, d_out / n, d_in / n)
        else:
            self.s = nn.Parameter(glorot(n, rows, rank).to(device))  # (n, d_out / n, rank)
            self.t = nn.Parameter(glorot(n, rank, columns).to(device))  # (n, rank, d_in / n)

    def weight(self) -> Tensor:  # (d_out, d_in)
        B = self.B if hasattr(self, "B") else self.s @ self.t
        return torch.einsum("iab,ipq->apbq", self.A, B).reshape(len(self.bias), -1)

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        return x @ self.weight().T + self.bias

    @torch.no_grad()
    def zero(self) -> "PHM":
        """Make the matrix zero, and still able to learn."""
        (self.B if hasattr(self, "B") else self.s).zero_()
        return self


def glorot(n: int, rows: int, columns: int) -> Tensor:
    """n matrices, each drawn as one."""
    B = torch.empty(n, rows, columns, device="cpu")
    for matrix in B:
        nn.init.xavier_uniform_(matrix)
    return B


class PHMAdapterLinear(WrappedLinear):
    """A linear layer with a bottleneck of two PHM layers behind it.

    `rank` makes it Compacter's: B_i of that rank, one rule for both layers, and that of the adapter `like`, if given.
    """

    def __init__(self, base: Linear, n: int, m: int, rank: int | None = None, like: "PHMAdapterLinear | None" = None):
        super().__init__(base)
        d, device = self.d_out, base.weight.device
        self.down = PHM(d, m, n, device, rank, like.down.A if like else None)  # type: ignore[has-type]
        self.up = PHM(m, d, n, device, rank, None if rank is None else self.down.A).zero()
        self.borrowed = like.down.A.numel() if like else 0

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        h = self.base(x)
        return h + self.up(F.gelu(self.down(h.to(self.down.bias.dtype)))).to(h.dtype)

    def rank(self) -> None:
        return None

    def changed(self) -> int:
        own = sum(p.numel() for name, p in self.named_parameters() if not name.startswith("base."))
        return own - self.borrowed


@dataclass(frozen=True)
class PHMAdapter(Method):
    """Adapters of PHM layers after every block's self-attention and FFN.

    Args:
        n: how many Kronecker products are summed; must divide the model's width.
        reduction: the bottleneck m is the width divided by it, rounded up to a multiple of n.
        train_norms: train all normalisation layers too.

    Raises:
        ValueError: n or reduction below 1; on attaching, a width that n does not divide, or no transformer blocks.

    Source: see the module; Compacter's repository runs its PHM adapter with n = 12.
    """

    peft_type: ClassVar[str] = "PHM"
    lr: ClassVar[float] = 3e-3
    why_not_merged: ClassVar[str] = "a nonlinearity stands between its two matrices, so that it is no matrix"

    n: int = 4
    reduction: int = 32
    train_norms: bool = True

    def __post_init__(self) -> None:
        for name in ("n", "reduction"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it is a whole number, at least 1.")

    def places(self, model: nn.Module) -> list[str]:
        """The linear layers behind which the adapters stand."""
        return [path for block in blocks(model) for path in (block.attention_out, block.ffn_out)]

    def behind(self, base: Linear, before: "PHMAdapterLinear | None") -> "PHMAdapterLinear":
        """The adapter behind a layer, and behind the adapter that was made before it."""
        return PHMAdapterLinear(base, self.n, self.bottleneck(base))

    def bottleneck(self, base: Linear) -> int:
        """m, the width inside.

        Raises:
            ValueError: n does not divide the layer's width.
        """
        d = WrappedLinear(base).d_out
        if d % self.n:
            raise ValueError(f"n is {self.n}, which does not divide {d}, the width of the model.")
        return self.n * -(-d // (self.reduction * self.n))

    def replacements(self, model: nn.Module) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {}
        adapter = None
        for path in self.places(model):
            found[path] = adapter = self.behind(model.get_submodule(path), adapter)
        return found

    def trains(self, model: nn.Module) -> list[str]:
        return norm_parameters(model) if self.train_norms else []


@dataclass(frozen=True)
class Compacter(PHMAdapter):
    """Compacter: PHM adapters with B_i of rank 1 and one set of A_i for the whole model; with plus_plus, Compacter++.

    Args:
        n: how many Kronecker products are summed; must divide the model's width.
        reduction: the bottleneck m is the width divided by it, rounded up to a multiple of n.
        train_norms: train all normalisation layers too.
        plus_plus: adapters after the FFN alone.

    Raises:
        ValueError: as for `PHMAdapter`.

    Source: see the module.
    """

    peft_type: ClassVar[str] = "COMPACTER"

    plus_plus: bool = False

    def places(self, model: nn.Module) -> list[str]:
        return [block.ffn_out for block in blocks(model)] if self.plus_plus else super().places(model)

    def behind(self, base: Linear, before: PHMAdapterLinear | None) -> PHMAdapterLinear:
        return PHMAdapterLinear(base, self.n, self.bottleneck(base), rank=1, like=before)
