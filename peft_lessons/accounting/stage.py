"""Where a running step is, and so what a new piece of memory is for.

Source: forward pre-hooks of PyTorch modules, and autograd's running numbers, by which an operation of the backward pass
is known to belong to a module of the forward pass.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.methods.targets import output_layer


class Stage:
    """Where a running step is: which stage, which module, and so what a new storage is for.

    Forward: activations. From the output layer until its gradient has been computed: loss. Backward: what checkpointing
    computes anew is activations again, all else temporary until it turns out to be a parameter's gradient.
    """

    def __init__(self, model: nn.Module):
        self.name = "forward"
        self.module = ""
        self.on_change: Callable[[str], None] = lambda name: None
        self._nodes: list[tuple[int, str]] = []  # autograd's running number at the entry of each module
        self._hooks = [module.register_forward_pre_hook(self._enter(name)) for name, module in _blocks(model)]
        head = output_layer(model)
        self._head = head is not None
        if head is not None:
            self._hooks.append(head.register_forward_pre_hook(self._enter_head))

    def category(self) -> str:
        """The category of a storage that is born now."""
        if self.name == "backward":
            return "activations" if torch.is_grad_enabled() else "temporaries"
        return {"forward": "activations", "loss": "loss"}.get(self.name, "temporaries")

    def place(self) -> str:
        """Stage and module, such as "backward, model.layers.3"."""
        node = torch._C._current_autograd_node()
        module = self.module
        if node is not None and self._nodes:
            module = self._module_of(node._sequence_nr())
        return _place(self.name, module)

    def place_of(self, stage: str, sequence: int | None) -> str:
        """Stage and module, from autograd's running number of an operation."""
        return _place(stage, self._module_of(sequence) if sequence is not None else "")

    def _module_of(self, sequence: int) -> str:
        found = bisect_right(self._nodes, (sequence, "~"))
        return self._nodes[found - 1][1] if found else ""

    def begin_again(self) -> None:
        """A new step begins."""
        self.name, self.module, self._nodes = "forward", "", []

    def go(self, name: str) -> None:
        """Enter a stage."""
        if name != self.name:
            self.name = name
            self.on_change(name)

    def after_forward(self) -> None:
        """The loss is there: its own gradient comes next, or backward where no output layer tells them apart."""
        self.go("loss" if self._head else "backward")

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self.module = name
            if self.name == "forward":
                self._nodes.append((torch.autograd._get_sequence_nr(), name))

        return enter

    def _enter_head(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self.name != "forward":  # computed anew by checkpointing, or the second part of a chunked loss
            return
        self.module = "output layer"
        self._nodes.append((torch.autograd._get_sequence_nr(), self.module))
        self.go("loss")
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].requires_grad:
            inputs[0].register_hook(lambda _: self.go("backward"))


def _place(stage: str, module: str) -> str:
    return ", ".join(filter(None, (stage, module if stage != "optimizer step" else "")))


def _blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The model's layers by path (entries of its module lists), and its embeddings."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            found += [(f"{name}.{child}", layer) for child, layer in module.named_children()]
        elif isinstance(module, nn.Embedding):
            found.append((name, module))
    return found
