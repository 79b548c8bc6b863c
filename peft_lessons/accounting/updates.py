"""How large LoRA's update is after one step of Adam, by rank and scaling.

Adam's first step moves every number that has a gradient by the learning rate, up or down. B starts at zero and A gets
no gradient while it is, so after the step B is ±lr everywhere and ΔW = scaling · B A. A is drawn uniformly with
variance 1 / (3 d_in). Where the signs in B do not depend on A,

    ‖ΔW‖ ≈ scaling · lr · √(r d_out / 3)

With scaling = α / r that falls as 1 / √r, with α / √r it stays, and with α = 2 r in α / r it grows as √r. The signs do
depend on A a little, the more so the nearer r is to d_in: there a real step is larger.

Source: Kingma and Ba 2015 for Adam's first step; Kalajdzievski 2023 for α / √r; the initialisation is LoRA's in
`methods.reparameterized.lora`.
"""

import math

SCALINGS = {"α / r": lambda alpha, r: alpha / r, "α / √r": lambda alpha, r: alpha / math.sqrt(r)}


def scaling_of(kind: str, alpha: float, r: int) -> float:
    """The factor before B A.

    Args:
        kind: a key of `SCALINGS`.
        alpha: LoRA's alpha.
        r: the rank.

    Raises:
        ValueError: alpha is not a number above 0, or the rank is below 1.
        LookupError: there is no such scaling.
    """
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha is {alpha:g}; it must be above 0, or the update is switched off.")
    if r < 1:
        raise ValueError(f"The rank is {r}; it must be at least 1.")
    if kind not in SCALINGS:
        raise LookupError(f'There is no scaling "{kind}"; there are {", ".join(SCALINGS)}.')
    return SCALINGS[kind](alpha, r)


def first_update(d_out: int, r: int, scaling: float, lr: float = 1e-3) -> float:
    """The expected ‖ΔW‖ (Frobenius) after one Adam step; see the module.

    Args:
        d_out: rows of W.
        r: the rank.
        scaling: the factor before B A.
        lr: Adam's learning rate.
    """
    return scaling * lr * math.sqrt(r * d_out / 3)
