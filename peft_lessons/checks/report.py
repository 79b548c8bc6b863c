"""What a conformance check is made of: quantities compared with the truth, one line each.

Source: the line of name, verdict and largest difference is the idea of Karpathy's `cmp` (makemore, part 4).
"""

from dataclasses import dataclass

from torch import Tensor

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Check:
    """One quantity compared with the truth: its name, whether it agrees, by how much it differs, and what is wrong."""

    name: str
    passed: bool
    difference: float
    shape: tuple[int, ...]
    hint: str = ""
    layer: str = "Linear"

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape)) or "-"
        verdict = "equal" if self.passed else "NOT EQUAL"
        size = "below 1e-5" if self.difference < TOLERANCE else f"{self.difference:.3g}"
        line = f"{self.name:<22} {verdict:<9}  largest difference {size:<10}  shape {shape}"
        return line if self.passed or not self.hint else f"{line}\n    {self.hint}"


@dataclass(frozen=True)
class Report:
    """The outcome of a conformance check; true where everything agrees.

    Prints one line a quantity for `nn.Linear`, and one line for each other kind of layer with what fails on it.
    """

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check agrees."""
        return all(check.passed for check in self.checks)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        lines = [str(check) for check in self.checks if check.layer == "Linear"]
        for layer in dict.fromkeys(check.layer for check in self.checks if check.layer != "Linear"):
            mine = [check for check in self.checks if check.layer == layer]
            lines.append(f"the same on {layer}: {sum(check.passed for check in mine)} of {len(mine)} equal")
            lines += [f"  {check}" for check in mine if not check.passed]
        return "\n".join(lines)


def compare(name: str, found: Tensor, expected: Tensor, hint: str = "") -> Check:
    """Compare a tensor with the truth: same shape, and nowhere further off than 1e-5, or 1e-5 of the largest entry."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    if found.shape != expected.shape:
        wanted = " x ".join(map(str, expected.shape))
        return Check(name, False, float("inf"), tuple(found.shape), f"the shape should be {wanted}. {hint}".strip())
    difference = ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    return Check(name, difference < TOLERANCE, difference, tuple(found.shape), hint)


def compare_gradient(name: str, tensor: Tensor, expected: Tensor) -> Check:
    """Compare a parameter's gradient with the truth; one that got none fails."""
    if tensor.grad is None:
        return Check(name, False, float("inf"), tuple(tensor.shape), "it gets no gradient: is it trainable and used?")
    return compare(name, tensor.grad, expected)
