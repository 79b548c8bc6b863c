"""A frozen module of a transformer in whose place another stands: the ground of ladders and soft prompts."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn


class WrappedModule(nn.Module):
    """A frozen module, `base`, and what a method adds to it; what the wrapper lacks is the module's."""

    base: Any

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base.requires_grad_(False)

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the module is given, by name."""
        return dict(zip(arguments(self), args, strict=False)) | kwargs

    def get_decoder(self) -> Any:
        """The base's decoder; where that is the base itself, the wrapper in its place."""
        found = self.base.get_decoder()
        return self if found is self.base else found

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # models ask their parts for a type, a device and the like
            return getattr(super().__getattr__("base"), name)


def arguments(module: Any) -> Mapping[str, inspect.Parameter]:
    """The arguments of a module's forward; of a wrapped one, of the module inside."""
    while isinstance(module, WrappedModule):
        module = module.base
    return inspect.signature(module.forward).parameters


class ExtendedModule(WrappedModule):
    """A wrapped module with numbers of the method's own: d_out rows of d_in, where that says anything."""

    d_in: int
    d_out: int

    def rank(self) -> None:
        """None: no matrix of the base changes."""

    def changed(self) -> int:
        """The numbers added; none of the base's changes."""
        return sum(p.numel() for n, p in self.named_parameters() if not n.startswith("base."))
