"""A model's linear layers in four bits, as far as memory is concerned: on meta tensors, where nothing is rounded.

    packed: d_out · d_in / 2 bytes, a byte for each 64 weights, a float32 for each 256 of those blocks, two code tables

Forward and backward each make the whole weight in the type they compute in, and drop it again.

Source: Dettmers et al. 2023, "QLoRA", section 3 (NF4 with double quantisation); bitsandbytes 0.50, `nn.Linear4bit` and
`MatMul4Bit`. On CUDA its forward may decode inside one kernel and never make the whole weight; its backward makes it.
"""

from torch import nn

from peft_lessons.methods.core import set_submodule
from peft_lessons.methods.reparameterized.quantized_linear import QuantizedLinear
from peft_lessons.methods.targets import linear_layers


def quantize(model: nn.Module, keep: nn.Module | None, upcast: bool) -> None:
    """Put a 4-bit layer in place of every frozen `nn.Linear`, in place, also inside what a method has attached.

    Args:
        model: on meta tensors.
        keep: the output layer, which stays as it is.
        upcast: whether all other frozen weights become float32, as peft's `prepare_model_for_kbit_training` makes them.
    """
    for name, layer in linear_layers(model).items():
        if layer is not keep and isinstance(layer, nn.Linear) and not layer.weight.requires_grad:
            set_submodule(model, name, QuantizedLinear(layer))
    if upcast:
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.float()
