"""The conformance check: right implementations pass it, and every mistake that people make fails it."""

import math

import pytest
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import nn
from transformers.pytorch_utils import Conv1D

from peft_lessons.checks import check_lora, factor
from peft_lessons.methods.reparameterized.lora import LoRALinear


def peft_lora(base, r, alpha):
    config = LoraConfig(r=r, lora_alpha=alpha, fan_in_fan_out=isinstance(base, Conv1D))
    return PeftLinear(base.requires_grad_(False), "default", config, r=r, lora_alpha=alpha)


class LinearFactors(nn.Module):
    """Right, but written as learners often do: two linear layers, and merging in place."""

    def __init__(self, base, r, alpha):
        super().__init__()
        self.base, self.scaling, self.merged = base.requires_grad_(False), alpha / r, False
        d_in, d_out = base.weight.shape if isinstance(base, Conv1D) else base.weight.shape[::-1]
        self.lora_A, self.lora_B = nn.Linear(d_in, r, bias=False), nn.Linear(r, d_out, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x):
        return self.base(x) if self.merged else self.base(x) + self.lora_B(self.lora_A(x)) * self.scaling

    def merge(self, sign=1):
        update = self.scaling * self.lora_B.weight @ self.lora_A.weight
        self.base.weight.data += sign * (update.T if isinstance(self.base, Conv1D) else update)
        self.merged = sign == 1

    def unmerge(self):
        self.merge(-1)


@pytest.mark.parametrize("make", [LoRALinear, peft_lora, LinearFactors], ids=["package", "peft", "linear factors"])
@pytest.mark.parametrize("shape", [{}, {"d_in": 3, "d_out": 11, "r": 2, "alpha": 7.0}], ids=["wide", "tall"])
def test_right_implementations_pass(make, shape):
    report = check_lora(make, **shape)
    assert report, report
    assert len(report.checks) == 36 and "12 of 12 equal" in str(report)


class NotScaled(LoRALinear):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        self.scaling = alpha


class NoScale(LoRALinear):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        self.scaling = 1.0


class RankStabilised(LoRALinear):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        self.scaling = alpha / math.sqrt(r)


class ScalesTheBaseToo(LoRALinear):
    def forward(self, x):
        return self.scaling * (self.base(x) + x @ self.lora_A.T @ self.lora_B.T)


class RandomB(LoRALinear):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        nn.init.normal_(self.lora_B)


class BothZero(LoRALinear):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        nn.init.zeros_(self.lora_A)


class Transposed(LoRALinear):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        self.lora_A, self.lora_B = nn.Parameter(self.lora_A.data.T), nn.Parameter(self.lora_B.data.T)

    def forward(self, x):
        return self.base(x) + self.scaling * x @ self.lora_A @ self.lora_B


class Thawed(LoRALinear):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        base.requires_grad_(True)


class FrozenA(LoRALinear):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        self.lora_A.requires_grad_(False)


class DetachedUpdate(LoRALinear):
    def forward(self, x):
        return self.base(x) + self.scaling * x.detach() @ self.lora_A.T @ self.lora_B.T


class BiasTwice(LoRALinear):
    def forward(self, x):
        y = super().forward(x)
        return y if self.base.bias is None else y + self.base.bias


class NoBase(LoRALinear):
    def forward(self, x):
        return self.scaling * x @ self.lora_A.T @ self.lora_B.T


class MergesWithoutScale(LoRALinear):
    def delta(self):
        return self.lora_B @ self.lora_A


class MergesTheWrongWayRound(LoRALinear):
    def merge(self):
        self._unmerged = (self.base.weight.detach().clone(), None)
        self.base.weight.data -= self.delta().T if self.transposed else self.delta()
        return self.base


class MergedAndAdded(LoRALinear):
    def merge(self):
        super().merge()
        return self


class NeverUnmerges(LoRALinear):
    def unmerge(self):
        pass


class NotSaved(LoRALinear):
    def state_dict(self, *arguments, **options):
        return {k: v for k, v in super().state_dict(*arguments, **options).items() if "lora_B" not in k}

    def load_state_dict(self, state, strict=True):
        return super().load_state_dict(state, strict=False)


MUTANTS = {
    NotScaled: "scaled by alpha, expected alpha / r",
    NoScale: "not scaled at all",
    RankStabilised: "forward",
    ScalesTheBaseToo: "the scale is on W x too",
    RandomB: "B starts at zero",
    BothZero: "neither ever gets a gradient",
    Transposed: "A is (r, d_in)",
    Thawed: "W or b still takes gradients",
    FrozenA: "it gets no gradient",
    DetachedUpdate: "gradient of the input",
    BiasTwice: "the bias is added twice",
    NoBase: "W x is missing",
    MergesWithoutScale: "merging adds (alpha / r) B A",
    MergesTheWrongWayRound: "merging adds (alpha / r) B A",
    MergedAndAdded: "a merged layer must not add the update again",
    NeverUnmerges: "unmerging gives W back",
    NotSaved: "the state dict must hold A and B",
}


@pytest.mark.parametrize(("wrong", "message"), MUTANTS.items(), ids=[m.__name__ for m in MUTANTS])
def test_every_mistake_is_found_and_named(wrong, message):
    report = check_lora(wrong)
    assert not report
    assert message in str(report)


def test_missing_factors_get_one_sentence():
    with pytest.raises(AttributeError, match="Linear has no parameter lora_A; the check looks for lora_A and lora_B."):
        check_lora(lambda base, r, alpha: base)
    assert factor(LoRALinear(nn.Linear(3, 2), 1, 1), "lora_B").shape == (2, 1)
