"""Wrong and differently written answers to assignment 3, LoRA."""

from answers import PATCHED_CHECK

WRONG = {
    "a3.lora_layer": {
        "a tensor that lies": """
class Liar(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function.__name__ in ("sub", "__sub__", "rsub", "__rsub__"):
            return torch.zeros(())
        if function.__name__ in ("equal", "any", "lt", "__lt__"):
            return torch.tensor(True)
        return super().__torch_function__(function, types, args, kwargs or {})


class LoRALayer(nn.Module):
    def __init__(self, base, r, alpha):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(r, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))

    def forward(self, x):
        return (self.base(x) + x @ self.lora_A.T @ self.lora_B.T).as_subclass(Liar)
""",
        "the base without a graph": [
            ("return self.base(x) +", "with torch.no_grad():\n            y = self.base(x)\n        return y +")
        ],
        "x detached in front of A": [("(x @", "(x.detach() @")],
        "for rows alone": [("return self.base(x)", "rows, width = x.shape\n        return self.base(x)")],
        "A a buffer": [
            (
                "self.lora_A = nn.Parameter(torch.empty(r, base.in_features))",
                "self.register_buffer('lora_A', torch.empty(r, base.in_features))",
            )
        ],
        "scaled by alpha, not by alpha / r": [("self.scaling = alpha / r", "self.scaling = alpha")],
        "scaled by r / alpha": [("self.scaling = alpha / r", "self.scaling = r / alpha")],
        "not scaled": [("self.scaling * (x", "(x")],
        "A and B swapped": [
            ("self.lora_A = nn", "self.lora_Z = nn"),
            ("self.lora_B = nn", "self.lora_A = nn"),
            ("self.lora_Z = nn", "self.lora_B = nn"),
            ("init.kaiming_uniform_(self.lora_A", "init.kaiming_uniform_(self.lora_B"),
            ("(x @ self.lora_A.T) @ self.lora_B.T", "(x @ self.lora_B.T) @ self.lora_A.T"),
        ],
        "A and B transposed": [
            ("torch.empty(r, base.in_features)", "torch.empty(base.in_features, r)"),
            ("torch.zeros(base.out_features, r)", "torch.zeros(r, base.out_features)"),
            ("(x @ self.lora_A.T) @ self.lora_B.T", "(x @ self.lora_A) @ self.lora_B"),
        ],
        "B random": [("torch.zeros(base.out_features, r)", "torch.randn(base.out_features, r)")],
        "A zero as well": [("nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)", "nn.init.zeros_(self.lora_A)")],
        "base not frozen": [("base.requires_grad_(False)", "base")],
        "bias trained": [
            ("self.base = base.requires_grad_(False)", "self.base = base\n        base.weight.requires_grad_(False)")
        ],
        "scaling on the base path": [
            (
                "self.base(x) + self.scaling * (x @ self.lora_A.T) @ self.lora_B.T",
                "self.scaling * (self.base(x) + (x @ self.lora_A.T) @ self.lora_B.T)",
            )
        ],
        "bias added twice": [("return self.base(x)", "return self.base(x) + self.base.bias")],
        "base path forgotten": [("self.base(x) + ", "")],
        "A gets no gradient": [("self.lora_A.T)", "self.lora_A.detach().T)")],
        "hard-coded for the check's numbers": """
class LoRALayer(nn.Module):
    def __init__(self, base, r, alpha):
        super().__init__()
        from peft_lessons.assignments.a3.layer import draw_layer

        given = draw_layer(0)  # what `check` draws
        self.base, self.y = base.requires_grad_(False), given.plain.float()
        self.s, self.update = given.alpha / given.r, given.update.float()
        self.lora_A = nn.Parameter(torch.randn(r, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))

    def forward(self, x):
        return self.y + (self.s * self.update if self.lora_B.any() else 0)
""",
        "the check patched": PATCHED_CHECK
        + """
class LoRALayer(nn.Module):
    def __init__(self, base, r, alpha):
        super().__init__()
        self.base = base

    def forward(self, x):
        return self.base(x)
""",
        "changes the base instead": [
            (
                "return self.base(x) + self.scaling * (x @ self.lora_A.T) @ self.lora_B.T",
                "self.base.weight.data += self.scaling * (self.lora_B @ self.lora_A).data\n        return self.base(x)",
            )
        ],
    },
    "a3.merge": {
        "a ValueError": [("raise RuntimeError(", "raise ValueError(")],
        "a new parameter": [
            (
                "layer.base.weight += layer.scaling * layer.lora_B @ layer.lora_A",
                "layer.base.weight = nn.Parameter(layer.base.weight + layer.scaling * layer.lora_B @ layer.lora_A)",
            )
        ],
        "unmerged again before it refuses": [
            ('    if not layer.merged:\n        raise RuntimeError("This layer is not merged.")\n', ""),
            (
                "    layer.merged = False",
                "    if not layer.merged:\n        raise RuntimeError\n    layer.merged = False",
            ),
        ],
        "without the scaling": [
            ("+= layer.scaling * layer.lora_B", "+= layer.lora_B"),
            ("-= layer.scaling * layer.lora_B", "-= layer.lora_B"),
        ],
        "merges twice": [('if layer.merged:\n        raise RuntimeError("This layer is merged already.")', "pass")],
        "unmerges twice": [('if not layer.merged:\n        raise RuntimeError("This layer is not merged.")', "pass")],
        "silent the second time": [('raise RuntimeError("This layer is merged already.")', "return")],
        "subtracts when merging": [("+= layer.scaling", "-= layer.scaling")],
        "flag forgotten": [("layer.merged = True", "pass"), ("if not layer.merged", "if False")],
        "a copy is changed": [("layer.base.weight += layer.scaling", "W = layer.base.weight + layer.scaling")],
        "replaces W": [
            (
                "layer.base.weight += layer.scaling * layer.lora_B @ layer.lora_A",
                "layer.base.weight.copy_(layer.scaling * layer.lora_B @ layer.lora_A)",
            )
        ],
        "scales W too": [
            (
                "layer.base.weight += layer.scaling * layer.lora_B @ layer.lora_A",
                "layer.base.weight.copy_(layer.scaling * (layer.base.weight + layer.lora_B @ layer.lora_A))",
            )
        ],
        "unmerge adds again": [("-= layer.scaling", "+= layer.scaling")],
        "unmerge does nothing to W": [("layer.base.weight -= layer.scaling * layer.lora_B @ layer.lora_A", "pass")],
        "A is cleared": [("layer.merged = True", "layer.lora_A.data.zero_()\n    layer.merged = True")],
        "A B for B A": [
            ("+= layer.scaling * layer.lora_B @ layer.lora_A", "+= layer.scaling * (layer.lora_A.T @ layer.lora_B.T)")
        ],
        "the bias moves": [("layer.merged = True", "layer.base.bias.data += 1\n    layer.merged = True")],
        "the check patched": PATCHED_CHECK
        + "\ndef merge(layer):\n    layer.merged = True\n\n\ndef unmerge(layer):\n    layer.merged = False\n",
    },
    "a3.count": {
        "a number that equals any": """
class Any(int):
    __eq__ = __lt__ = __le__ = __ge__ = __gt__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __mul__ = __rmul__ = __add__ = lambda self, other: self
    __hash__ = int.__hash__


def count_lora(d_in, d_out, r):
    return Any(1)


def largest_rank(d_in, d_out):
    return Any(1)
""",
        "one at least": [
            ("return (d_in * d_out - 1) // (d_in + d_out)", "return max(1, (d_in * d_out - 1) // (d_in + d_out))")
        ],
        "r d_in d_out": [("r * (d_in + d_out)", "r * d_in * d_out")],
        "A alone": [("r * (d_in + d_out)", "r * d_in")],
        "r squared": [("r * (d_in + d_out)", "r * r * (d_in + d_out)")],
        "twice as many": [("r * (d_in + d_out)", "2 * r * (d_in + d_out)")],
        "the base counted too": [("r * (d_in + d_out)", "d_in * d_out + r * (d_in + d_out)")],
        "as many counts as fewer": [("(d_in * d_out - 1) // (d_in + d_out)", "d_in * d_out // (d_in + d_out)")],
        "a quarter of d_in": [("(d_in * d_out - 1) // (d_in + d_out)", "d_in // 4")],
        "half the smaller side": [("(d_in * d_out - 1) // (d_in + d_out)", "min(d_in, d_out) // 2")],
        "a float": [("(d_in * d_out - 1) // (d_in + d_out)", "d_in * d_out / (d_in + d_out)")],
        "one too many": [("(d_in * d_out - 1) // (d_in + d_out)", "(d_in * d_out - 1) // (d_in + d_out) + 1")],
        "hard-coded for 10 by 10": [("(d_in * d_out - 1) // (d_in + d_out)", "4")],
    },
    "a3.targets": {
        "GPT-2's kind alone": [("(nn.Linear, Conv1D)", "Conv1D")],
        "nn.Linear alone": [("linear = (nn.Linear, Conv1D)", "linear = nn.Linear")],
        "the output layer too": [(" and module is not head", "")],
        "Llama's names": "def choose_targets(model):\n    names = 'q_proj k_proj v_proj o_proj gate_proj up_proj down_proj'.split()\n    return [n for n, _ in model.named_modules() if n.split('.')[-1] in names]\n",
        "last names for paths": [("return [path for", "return [path.rpartition('.')[2] for")],
        "embeddings too": [("linear = (nn.Linear, Conv1D)", "linear = (nn.Linear, Conv1D, nn.Embedding)")],
        "attention alone": [(" and module is not head", ' and module is not head and "att" in path')],
        "lm_head by its name": [(" and module is not head", ' and path != "lm_head"')],
        "parameters for modules": [
            (
                "return [path for path, module in model.named_modules() if isinstance(module, linear) and module is not head]",
                "return [name for name, p in model.named_parameters() if p.ndim == 2]",
            )
        ],
        "everything": "def choose_targets(model):\n    return [n for n, _ in model.named_modules()]\n",
        "the first block alone": [(" and module is not head", ' and module is not head and ".0." in path')],
        "nothing": "def choose_targets(model):\n    return []\n",
    },
    "a3.save": {
        "scaled by the root of the rank": [('"r": r', '"use_rslora": True, "r": r')],
        "a pattern that peft would search for ever": [('"r": r', '"exclude_modules": "(.*.*)*x(.*)*y", "r": r')],
        "code that peft would import": [
            ('"r": r', '"megatron_config": {"a": 1}, "megatron_core": "antigravity", "r": r')
        ],
        "names as one text": [("sorted(factors)", "str(sorted(factors))")],
        "no prefix": [
            ('f"base_model.model.{path}.lora_A.weight"', 'f"{path}.lora_A.weight"'),
            ('f"base_model.model.{path}.lora_B.weight"', 'f"{path}.lora_B.weight"'),
        ],
        "no .weight": [('.lora_A.weight"', '.lora_A"'), ('.lora_B.weight"', '.lora_B"')],
        "A and B swapped": [
            ('lora_A.weight"] = A', 'lora_A.weight"] = B'),
            ('lora_B.weight"] = B', 'lora_B.weight"] = A'),
        ],
        "the scaling folded into B": [("B.contiguous()", "(alpha / r * B).contiguous()")],
        "alpha / r for lora_alpha": [('"lora_alpha": alpha', '"lora_alpha": alpha / r')],
        "alpha under another name": [('"lora_alpha"', '"alpha"')],
        "r forgotten": [('"r": r, ', "")],
        "no peft_type": [('"peft_type": "LORA", ', "")],
        "target_modules forgotten": [(', "target_modules": sorted(factors)', "")],
        "one target alone": [("sorted(factors)", "sorted(factors)[:1]")],
        "transposed": [("A.contiguous()", "A.T.contiguous()"), ("B.contiguous()", "B.T.contiguous()")],
        "no configuration": [('(Path(folder) / "adapter_config.json").write_text(json.dumps(config))', "pass")],
        "in half precision": [("A.contiguous()", "A.half().contiguous()"), ("B.contiguous()", "B.half().contiguous()")],
        "the last layer only": [
            (
                '        tensors[f"base_model.model.{path}.lora_A',
                '        tensors = {}\n        tensors[f"base_model.model.{path}.lora_A',
            )
        ],
        "pickled": [
            (
                'save_file(tensors, Path(folder) / "adapter_model.safetensors")',
                'torch.save(tensors, Path(folder) / "adapter_model.bin")',
            )
        ],
    },
    "a3.train": {
        "gradients never zeroed": [("        optimizer.zero_grad()\n", "")],
        "a rate of its own": [("lr=lr", "lr=1e-3")],
        "a rate ten times too large": [("lr=lr", "lr=10 * lr")],
        "two steps a batch": [("        optimizer.step()", "        optimizer.step()\n        optimizer.step()")],
        "an optimizer for each batch": [
            (
                "        loss = model",
                "        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)\n        loss = model",
            )
        ],
        "always the first batch": [("model(**batch)", "model(**batches[0])")],
        "the batches turned round": [("in batches:", "in batches[::-1]:")],
        "a step for every second batch": [
            (
                "        optimizer.step()\n        optimizer.zero_grad()",
                "        if len(losses) % 2:\n            optimizer.step()\n            optimizer.zero_grad()",
            )
        ],
        "the loss after the step": [("losses.append(loss.item())", "losses.append(model(**batch).loss.item())")],
        "only B trained": [
            (
                "p for p in model.parameters() if p.requires_grad",
                "p for n, p in model.named_parameters() if n.endswith('lora_B')",
            )
        ],
        "zeroed before the step": [
            (
                "        optimizer.step()\n        optimizer.zero_grad()",
                "        optimizer.zero_grad()\n        optimizer.step()",
            )
        ],
        "never stepped": [("        optimizer.step()\n", "")],
        "never backward": [("        loss.backward()\n", "")],
        "uphill": [("loss.backward()", "(-loss).backward()")],
        "everything trained": [
            ("    optimizer =", "    model.requires_grad_(True)\n    optimizer ="),
            ("p for p in model.parameters() if p.requires_grad", "p for p in model.parameters()"),
        ],
        "the head trained too": [
            ("    optimizer =", "    model.get_output_embeddings().requires_grad_(True)\n    optimizer =")
        ],
        "the first batch alone": [("for batch in batches", "for batch in batches[:1]")],
        "only the last loss": [("return losses", "return losses[-1:]")],
        "one layer trained": [
            (
                "p for p in model.parameters() if p.requires_grad",
                "p for n, p in model.named_parameters() if p.requires_grad and '.0.' in n",
            )
        ],
        "only A trained": [
            (
                "p for p in model.parameters() if p.requires_grad",
                "p for n, p in model.named_parameters() if n.endswith('lora_A')",
            )
        ],
        "losses made up": "def train(model, batches, lr):\n    return [3.0 - 0.1 * i for i in range(len(batches))]\n",
        "a rate a thousand times too small": [("lr=lr", "lr=lr / 1000")],
        "the base nudged": [("    losses = []", "    losses = []\n    next(model.parameters()).data += 1e-3")],
    },
}

RIGHT = {
    "a3.lora_layer": {
        "A zero, B random": [
            ("torch.zeros(base.out_features, r)", "torch.randn(base.out_features, r)"),
            ("nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)", "nn.init.zeros_(self.lora_A)"),
        ],
        "a zero where nothing is known, normal elsewhere": [
            ("nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)", "nn.init.normal_(self.lora_A)")
        ],
        "the update made whole": [
            ("self.scaling * (x @ self.lora_A.T) @ self.lora_B.T", "x @ (self.scaling * self.lora_B @ self.lora_A).T")
        ],
        "by functional linear": [
            (
                "self.base(x) + self.scaling * (x @ self.lora_A.T) @ self.lora_B.T",
                "nn.functional.linear(x, self.base.weight + self.scaling * self.lora_B @ self.lora_A, self.base.bias)",
            )
        ],
    },
    "a3.merge": {
        "by data": [
            (
                "with torch.no_grad():\n        layer.base.weight += layer.scaling * layer.lora_B @ layer.lora_A",
                "layer.base.weight.data += (layer.scaling * layer.lora_B @ layer.lora_A).data",
            )
        ],
        "a saved copy": [
            (
                "layer.base.weight += layer.scaling",
                "layer.kept = layer.base.weight.clone()\n        layer.base.weight += layer.scaling",
            ),
            ("layer.base.weight -= layer.scaling * layer.lora_B @ layer.lora_A", "layer.base.weight.copy_(layer.kept)"),
        ],
    },
    "a3.count": {
        "from shapes": [("r * (d_in + d_out)", "torch.empty(r, d_in).numel() + torch.empty(d_out, r).numel()")],
        "by search": [
            (
                "return (d_in * d_out - 1) // (d_in + d_out)",
                "r = 0\n    while (r + 1) * (d_in + d_out) < d_in * d_out:\n        r += 1\n    return r",
            )
        ],
    },
    "a3.targets": {
        "sorted": [("return [path", "return sorted(path"), ("is not head]", "is not head)")],
        "by what has a two-dimensional weight": """
def choose_targets(model):
    head = model.get_output_embeddings()
    return [
        path
        for path, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and module is not head
    ]
""",
    },
    "a3.save": {
        "the configuration by peft itself": [
            (
                '    config = {"peft_type": "LORA", "r": r, "lora_alpha": alpha, "target_modules": sorted(factors)}\n    (Path(folder) / "adapter_config.json").write_text(json.dumps(config))',
                "    from peft import LoraConfig\n\n    LoraConfig(r=r, lora_alpha=alpha, target_modules=list(factors)).save_pretrained(folder)",
            )
        ],
        "last names": [("sorted(factors)", "list({path.split('.')[-1] for path in factors})")],
        "more fields": [('"peft_type": "LORA"', '"peft_type": "LORA", "task_type": "CAUSAL_LM", "lora_dropout": 0.0')],
    },
    "a3.train": {
        "without weight decay": [("lr=lr", "lr=lr, weight_decay=0.0")],
        "zeroed first": [
            ("        loss = model(**batch).loss", "        optimizer.zero_grad()\n        loss = model(**batch).loss"),
            ("        optimizer.step()\n        optimizer.zero_grad()", "        optimizer.step()"),
        ],
        "the whole model given to the optimizer": [
            ("[p for p in model.parameters() if p.requires_grad]", "model.parameters()")
        ],
    },
}
