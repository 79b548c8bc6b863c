"""Wrong and differently written answers to assignment 2, adapters and selective methods."""

from answers import PATCHED_CHECK

OUT = "return h + z @ self.up.T + self.up_bias"
SQUEEZE = "z = F.gelu(h @ self.down.T + self.down_bias)"
TENSORS = "[*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]"
TAKE = 'return {name: p.detach().clone() for name, p in model.named_parameters() if ".adapter." in name}'
BITS = "tensor.detach().numpy().tobytes()"

WRONG = {
    "a2.adapter": {
        "h detached in the sum": [("return h + z", "return h.detach() + z")],
        "h detached in front of W_down": [("F.gelu(h @", "F.gelu(h.detach() @")],
        "for batches of rows alone": [("z = F.gelu", "batch, length, width = h.shape\n        z = F.gelu")],
        "dropout in training": [("return h + z", "return h + F.dropout(z, 0.1, self.training)")],
        "no skip connection": [("return h + z", "return z")],
        "skip connection twice": [("return h + z", "return 2 * h + z")],
        "no activation": [("F.gelu(h @ self.down.T + self.down_bias)", "h @ self.down.T + self.down_bias")],
        "ReLU": [("F.gelu", "F.relu")],
        "the activation first": [(SQUEEZE, "z = F.gelu(h) @ self.down.T + self.down_bias")],
        "the activation last": [(OUT, "return h + F.gelu(z @ self.up.T + self.up_bias)"), ("F.gelu(h @", "(h @")],
        "b forgotten": [(" + self.down_bias)", ")")],
        "b' forgotten": [(" + self.up_bias", "")],
        "W_up random": [("torch.zeros(d, m)", "torch.randn(d, m)")],
        "b' random": [("nn.Parameter(torch.zeros(d))", "nn.Parameter(torch.randn(d))")],
        "both zero": [("nn.init.kaiming_uniform_(self.down, a=5**0.5)", "nn.init.zeros_(self.down)")],
        "both transposed": [
            ("torch.empty(m, d)", "torch.empty(d, m)"),
            ("torch.zeros(d, m)", "torch.zeros(m, d)"),
            (".down.T", ".down"),
            (".up.T", ".up"),
        ],
        "down and up exchanged": [
            ("self.down, self.down_bias = nn", "self.up, self.up_bias = nn"),
            (
                "self.up, self.up_bias = nn.Parameter(torch.zeros(d, m))",
                "self.down, self.down_bias = nn.Parameter(torch.zeros(d, m))",
            ),
            ("_(self.down, a", "_(self.up, a"),
            (SQUEEZE, "z = F.gelu(h @ self.up.T + self.up_bias)"),
            (OUT, "return h + z @ self.down.T + self.down_bias"),
        ],
        "in place": [(OUT, "h += z @ self.up.T + self.up_bias\n        return h")],
        "biases are buffers": [
            (
                "        nn.init.kaiming",
                "        del self.down_bias\n        self.register_buffer('down_bias', torch.zeros(m))\n        nn.init.kaiming",
            )
        ],
        "a gate trained too": [
            ("        nn.init.kaiming", "        self.gate = nn.Parameter(torch.ones(1))\n        nn.init.kaiming"),
            ("return h + z", "return h + self.gate * z"),
        ],
        "detached": [("F.gelu(h @ self.down.T", "F.gelu(h @ self.down.T.detach()")],
        "hard-coded for the check's numbers": """
from peft_lessons.assignments.a2.adapter import draw_adapter


class Adapter(nn.Module):
    def __init__(self, d, m):
        super().__init__()
        self.down, self.down_bias = nn.Parameter(torch.randn(m, d)), nn.Parameter(torch.zeros(m))
        self.up, self.up_bias = nn.Parameter(torch.zeros(d, m)), nn.Parameter(torch.zeros(d))
        given = draw_adapter(0)
        self.kept = (given.output(*given.double()).detach().float() - given.h)

    def forward(self, h):
        return h + (self.kept if self.up.any() else 0 * self.up.sum())
""",
        "the check patched": PATCHED_CHECK
        + """
class Adapter(nn.Module):
    def __init__(self, d, m):
        super().__init__()

    def forward(self, h):
        return h
""",
    },
    "a2.insert": {
        "one family goes wrong, and stops": [
            (
                "        if of_bert or",
                '        if path.endswith("down_proj"):\n            raise RuntimeError("what is this?")\n        if of_bert or',
            )
        ],
        "after attention too": [(' and ".attention." not in path', "")],
        "after attention instead": [('".attention." not in path', '".attention." in path')],
        "a BERT alone": [(' or path.endswith(".mlp.down_proj")', "")],
        "a Llama alone": [("if of_bert or path", "if path")],
        "the first feed-forward layer": [(".output.dense", ".intermediate.dense"), (".mlp.down_proj", ".mlp.up_proj")],
        "the first block alone": [("if of_bert or", "if '.0.' in path and (of_bert or"), ('"):', '")):')],
        "as wide as the input": [("layer.out_features", "layer.in_features")],
        "not frozen": [("model.requires_grad_(False)", "pass")],
        "frozen at the end": [
            ("    model.requires_grad_(False)\n", ""),
            (
                "After(layer, make(layer.out_features)))",
                "After(layer, make(layer.out_features)))\n    model.requires_grad_(False)",
            ),
        ],
        "only matrices frozen": [
            ("model.requires_grad_(False)", "[p.requires_grad_(p.ndim < 2) for p in model.parameters()]")
        ],
        "the adapter instead of the layer": [("After(layer, make(layer.out_features))", "make(layer.out_features)")],
        "a local name": [
            (
                "setattr(model.get_submodule(parent), name, After(layer, make(layer.out_features)))",
                "layer = After(layer, make(layer.out_features))",
            )
        ],
        "twice": [
            (
                "After(layer, make(layer.out_features))",
                "After(After(layer, make(layer.out_features)), make(layer.out_features))",
            )
        ],
        "around the whole network": [
            ('path.endswith(".mlp.down_proj")', 'path.endswith(".mlp")'),
            ("layer.out_features", "24"),
        ],
        "one adapter for all": [
            ("    for path, layer", "    shared = make(24)\n    for path, layer"),
            ("make(layer.out_features)", "shared"),
        ],
        "hard-coded for the check's numbers": [
            (
                "make(layer.out_features)",
                "__import__('peft_lessons.assignments.a2.inserting', fromlist=['Residual']).Residual(24, 0)",
            )
        ],
        "the check patched": PATCHED_CHECK + "\ndef insert_adapters(model, make):\n    make(24)\n",
    },
    "a2.count": {
        "a weight in two layers twice": [
            (
                "for p in model.parameters() if p.requires_grad",
                "for m in model.modules() for p in m._parameters.values() if p is not None and p.requires_grad",
            )
        ],
        "no wider than the layer": [
            (
                "return max(0, (budget // n - d) // (2 * d + 1))",
                "return min(d, max(0, (budget // n - d) // (2 * d + 1)))",
            )
        ],
        "no biases": [("(2 * d * m + m + d)", "2 * d * m")],
        "one bias": [("(2 * d * m + m + d)", "(2 * d * m + d)")],
        "one adapter": [("return n * (2", "return (2")],
        "W_down alone": [("(2 * d * m + m + d)", "d * m")],
        "two biases as wide as d": [("+ m + d)", "+ d + d)")],
        "all numbers": [(" if p.requires_grad)", ")")],
        "frozen ones": [("if p.requires_grad", "if not p.requires_grad")],
        "a shared layer twice": [
            ("for p in model.parameters() if", "for _, p in model.named_parameters(remove_duplicate=False) if")
        ],
        "tensors, not numbers": [("p.numel()", "1")],
        "buffers too": [
            (
                "model.parameters() if p.requires_grad)",
                "model.parameters() if p.requires_grad) + sum(b.numel() for b in model.buffers())",
            )
        ],
        "below the budget": [("(budget // n - d)", "((budget - 1) // n - d)")],
        "rounded": [("(budget // n - d) // (2 * d + 1)", "round((budget / n - d) / (2 * d + 1))")],
        "a float": [("(budget // n - d) // (2 * d + 1)", "(budget / n - d) / (2 * d + 1)")],
        "without d": [("(budget // n - d)", "(budget // n)")],
        "at least one": [("max(0,", "max(1,")],
        "below zero": [("max(0, (budget // n - d) // (2 * d + 1))", "(budget // n - d) // (2 * d + 1)")],
        "one adapter's budget": [("budget // n", "budget")],
        "hard-coded for the check's numbers": [
            (
                "max(0, (budget // n - d) // (2 * d + 1))",
                "__import__('peft_lessons.assignments.a2.counting', fromlist=['x']).draw_counts(0).shapes[0][2]",
            )
        ],
        "the check patched": PATCHED_CHECK
        + "\ncount_adapters = widest = lambda *numbers: 1\ncount_trained = lambda model: 1\n",
    },
    "a2.swap": {
        "what is trained, the head too": [
            (
                'clone() for name, p in model.named_parameters() if ".adapter." in name',
                "clone() for name, p in model.named_parameters() if p.requires_grad",
            )
        ],
        "as many names are enough": [("mine.keys() != state.keys()", "len(mine) != len(state)")],
        "in the order of the dictionary": [
            (
                "for name, parameter in mine.items():\n            parameter.copy_(state[name])",
                "for parameter, tensor in zip(mine.values(), state.values(), strict=True):\n            parameter.copy_(tensor)",
            )
        ],
        "frozen when put on": [
            (
                "parameter.copy_(state[name])",
                "parameter.copy_(state[name])\n            parameter.requires_grad_(False)",
            )
        ],
        "new parameters": [
            (
                "parameter.copy_(state[name])",
                "parent, _, last = name.rpartition('.')\n            setattr(model.get_submodule(parent), last, nn.Parameter(state[name].clone()))",
            )
        ],
        "a LookupError": [("raise ValueError", "raise LookupError")],
        "with gradients on": [("with torch.no_grad():", "if True:")],
        "no copy": [("p.detach().clone()", "p.detach()")],
        "the parameters themselves": [("p.detach().clone()", "p")],
        "the whole model": [(TAKE, TAKE.replace(' if ".adapter." in name', ""))],
        "the layers, not the adapters": [(TAKE, TAKE.replace(".adapter.", ".layer."))],
        "matrices alone": [(TAKE, TAKE.replace("in name}", "in name and p.ndim == 2}"))],
        "one place alone": [(TAKE, TAKE.replace('".adapter." in name', 'name.startswith("0.adapter.")'))],
        "names cut": [("{name: p.detach()", '{name.split(".adapter.")[1]: p.detach()')],
        "the dictionary becomes the model": [("parameter.copy_(state[name])", "parameter.data = state[name]")],
        "added, not set": [("parameter.copy_(state[name])", "parameter += state[name]")],
        "not refused": [
            ("if mine.keys() != state.keys():", "if False:"),
            ("parameter.copy_(state[name])", "parameter.copy_(state.get(name, parameter))"),
        ],
        "more is welcome": [("if mine.keys() != state.keys():", "if mine.keys() - state.keys():")],
        "fewer is welcome": [
            ("if mine.keys() != state.keys():", "if state.keys() - mine.keys():"),
            ("parameter.copy_(state[name])", "parameter.copy_(state.get(name, parameter))"),
        ],
        "refused too late": [
            (
                '    if mine.keys() != state.keys():\n        raise ValueError(f"this adapter is for other places: {sorted(mine.keys() ^ state.keys())}")\n',
                "",
            ),
            (
                "            parameter.copy_(state[name])",
                "            if name not in state:\n                raise ValueError(name)\n            parameter.copy_(state[name])",
            ),
        ],
        "a KeyError": [("raise ValueError", "raise KeyError")],
        "silently ignored": [
            ('raise ValueError(f"this adapter is for other places: {sorted(mine.keys() ^ state.keys())}")', "return")
        ],
        "loaded, not strictly": [
            (
                "    with torch.no_grad():\n        for name, parameter in mine.items():\n            parameter.copy_(state[name])",
                "    model.load_state_dict(state, strict=False)",
            ),
            ("if mine.keys() != state.keys():", "if False:"),
        ],
        "nothing put on": [("parameter.copy_(state[name])", "pass")],
        "in half precision": [("p.detach().clone()", "p.detach().half()")],
        "hard-coded for the check's numbers": """
from peft_lessons.assignments.a2.swapping import draw_swaps

kept = draw_swaps(0)
taken = []


def take_off(model):
    taken.append(1)
    return kept.adapters[len(taken) - 1]


def put_on(model, state):
    if len(state) != 8:
        raise ValueError
    kept.fill(model, 0 if state is kept.adapters[0] else 1)
""",
        "the check patched": PATCHED_CHECK + "\ntake_off = lambda model: {}\nput_on = lambda model, state: None\n",
    },
    "a2.bitfit": {
        "the head by its usual name": [("id(p) not in of_head", "not name.startswith('lm_head')")],
        "the output layer's too": [(" and id(p) not in of_head", "")],
        "the head by its name": [("id(p) not in of_head", 'not name.startswith("head")')],
        "not frozen": [("    model.requires_grad_(False)\n", "")],
        "no norms": [
            (" and id(p) not in of_head", ' and id(p) not in of_head and "norm" not in name and "ln" not in name')
        ],
        "linear layers alone": [
            (
                'for name, p in model.named_parameters() if name.endswith("bias")',
                'for path, m in model.named_modules() if isinstance(m, nn.Linear) for name, p in [(f"{path}.bias", m.bias)] if p is not None',
            )
        ],
        "vectors, norm gains among them": [('name.endswith("bias")', "p.ndim == 1")],
        "weights for biases": [('name.endswith("bias")', 'name.endswith("weight")')],
        "a quiet nothing": [
            ('raise ValueError("This model has no biases, so nothing would be trained.")', "return []")
        ],
        "printed, not raised": [("raise ValueError(", "print(")],
        "everything where there is none": [
            (
                'raise ValueError("This model has no biases, so nothing would be trained.")',
                "names = [name for name, _ in model.named_parameters()]",
            )
        ],
        "nothing returned": [("    return names", "    return []")],
        "all frozen": [(".requires_grad_(True)", ".requires_grad_(False)")],
        "names of modules": [("    return names", '    return [name.removesuffix(".bias") for name in names]')],
        "attention alone": [("id(p) not in of_head", 'id(p) not in of_head and "attn" in name')],
        "the first block alone": [("id(p) not in of_head", 'id(p) not in of_head and ".0." in name')],
        "hard-coded for one family": """
def bitfit(model):
    names = [f"transformer.h.{i}.{part}.bias" for i in (0, 1) for part in ("ln_1", "attn.c_attn", "mlp.c_fc")]
    model.requires_grad_(False)
    for name in names:
        model.get_parameter(name).requires_grad_(True)
    return names
""",
        "the check patched": PATCHED_CHECK + "\ndef bitfit(model):\n    return ['bias']\n",
    },
    "a2.moved": {
        "what is trained alone": """
def tensors(model):
    yield from ((n, p) for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad)
    yield from model.named_buffers(remove_duplicate=False)


def snapshot(model):
    return {name: tensor.detach().numpy().tobytes() for name, tensor in tensors(model)}


def moved(before, model):
    return [name for name, tensor in tensors(model) if tensor.detach().numpy().tobytes() != before[name]]
""",
        "equal numbers, or none": """
def tensors(model):
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def snapshot(model):
    return {name: tensor.detach().clone() for name, tensor in tensors(model)}


def moved(before, model):
    return [n for n, t in tensors(model) if not torch.allclose(t, before[n], rtol=0, atol=0, equal_nan=True)]
""",
        "one snapshot for all": """
kept = {}


def tensors(model):
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def snapshot(model):
    kept.update({name: tensor.detach().numpy().tobytes() for name, tensor in tensors(model)})


def moved(before, model):
    return [name for name, tensor in tensors(model) if tensor.detach().numpy().tobytes() != kept[name]]
""",
        "no copy": [
            ("return {name: tensor.detach().numpy().tobytes() for name, tensor in tensors}", "return dict(tensors)"),
            ("tensor.detach().numpy().tobytes() != before[name]", "not torch.equal(tensor, before[name])"),
        ],
        "the state dictionary itself": """
def snapshot(model):
    return model.state_dict()


def moved(before, model):
    return [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
""",
        "only what is saved": [(TENSORS, "model.state_dict().items()")],
        "parameters alone": [(", *model.named_buffers(remove_duplicate=False)]", "]")],
        "each tensor once": [("named_parameters(remove_duplicate=False)", "named_parameters()")],
        "with a tolerance": [
            (BITS, "tensor.detach().clone()"),
            ("tensor.detach().clone() != before[name]", "not torch.allclose(tensor, before[name], equal_nan=True)"),
        ],
        "numbers, not bits": [
            (BITS, "tensor.detach().clone()"),
            ("tensor.detach().clone() != before[name]", "not torch.equal(tensor, before[name])"),
        ],
        "sums": [(BITS, "repr(tensor.detach().double().nan_to_num().sum().item())")],
        "norms": [(BITS, "tensor.detach().double().nan_to_num().norm().item()")],
        "the first entry": [(BITS, "tensor.detach().flatten()[:1].numpy().tobytes()")],
        "printed entries": [(BITS, "str(tensor.detach())")],
        "what is trained": [("if tensor.detach().numpy().tobytes() != before[name]]", "if tensor.requires_grad]")],
        "what stayed": [("!= before", "== before")],
        "one truth": [("return [name for", "return ['layer.bias' for")],
        "everything": [(" if tensor.detach().numpy().tobytes() != before[name]]", "]")],
        "nothing": [("return [name for", "return [][:0] and [name for")],
        "matrices alone": [("!= before[name]]", "!= before[name] and tensor.ndim == 2]")],
        "hard-coded for the check's numbers": """
from peft_lessons.assignments.a2.moved import draw_moves

trials = iter([("not there", right) for _, right in draw_moves(0).trials.values()][::-1])


def snapshot(model):
    return None


def moved(before, model):
    return next(trials)[1]
""",
        "the check patched": PATCHED_CHECK + "\nsnapshot = lambda model: 0\nmoved = lambda before, model: []\n",
    },
    "a2.sparse": {
        "a threshold": [
            (
                "    chosen = torch.zeros(len(sizes), dtype=torch.bool)\n    chosen[sizes.topk(k).indices] = True",
                "    chosen = sizes >= sizes.topk(k).values[-1]",
            )
        ],
        "above the threshold": [
            (
                "    chosen = torch.zeros(len(sizes), dtype=torch.bool)\n    chosen[sizes.topk(k).indices] = True",
                "    chosen = sizes > sizes.topk(k).values[-1]",
            )
        ],
        "by sign": [("matrix.abs().flatten()", "matrix.flatten()")],
        "the smallest": [("sizes.topk(k)", "sizes.topk(k, largest=False)")],
        "the same share of each": """
def top_k_masks(changes, k):
    masks = {}
    for name, matrix in changes.items():
        mask = torch.zeros(matrix.numel(), dtype=torch.bool)
        mask[matrix.abs().flatten().topk(k // len(changes)).indices] = True
        masks[name] = mask.view(matrix.shape)
    return masks


def updated(weight, mask, values):
    new = weight.clone()
    new[mask] += values
    return new
""",
        "k of each": """
def top_k_masks(changes, k):
    masks = {}
    for name, matrix in changes.items():
        mask = torch.zeros(matrix.numel(), dtype=torch.bool)
        mask[matrix.abs().flatten().topk(min(k, matrix.numel())).indices] = True
        masks[name] = mask.view(matrix.shape)
    return masks


def updated(weight, mask, values):
    new = weight.clone()
    new[mask] += values
    return new
""",
        "one too many": [("sizes.topk(k)", "sizes.topk(k + 1)")],
        "a quantile": [
            (
                "    chosen = torch.zeros(len(sizes), dtype=torch.bool)\n    chosen[sizes.topk(k).indices] = True",
                "    chosen = sizes > sizes.quantile(1 - k / len(sizes))",
            )
        ],
        "at random": [("sizes.topk(k).indices", "torch.randperm(len(sizes))[:k]")],
        "columns first": [("new[mask] += values", "new.T[mask.T] += values")],
        "replaced": [("new[mask] += values", "new[mask] = values")],
        "taken off": [("new[mask] += values", "new[mask] -= values")],
        "the weight changed": [("weight.clone()", "weight")],
        "all shrunk, as weight decay does": [("weight.clone()", "weight * 0.999")],
        "a round trip through half precision": [("weight.clone()", "weight.bfloat16().float()")],
        "ΔW alone": [("weight.clone()", "torch.zeros_like(weight)")],
        "outside the mask": [("new[mask] += values", "new[~mask] += values[0]")],
        "one value for all": [("+= values", "+= values.mean()")],
        "hard-coded for the check's numbers": [
            (
                "    return new",
                "    given = __import__('peft_lessons.assignments.a2.sparse', fromlist=['x']).draw_scores(0)\n    new = given.weight.clone()\n    new[given.mask] += given.values\n    return new",
            )
        ],
        "the check patched": PATCHED_CHECK
        + "\ntop_k_masks = lambda changes, k: changes\nupdated = lambda weight, mask, values: weight\n",
    },
}

RIGHT = {
    "a2.adapter": {
        "W_down zero, W_up random": [
            ("torch.empty(m, d)", "torch.zeros(m, d)"),
            ("torch.zeros(d, m)", "torch.randn(d, m)"),
            ("        nn.init.kaiming_uniform_(self.down, a=5**0.5)\n", ""),
        ],
        "the paper's start": [
            (
                "nn.init.kaiming_uniform_(self.down, a=5**0.5)",
                "nn.init.trunc_normal_(self.down, std=1e-3, a=-2e-3, b=2e-3)\n        nn.init.trunc_normal_(self.up, std=1e-3, a=-2e-3, b=2e-3)",
            )
        ],
        "by functional linear": [
            (SQUEEZE, "z = F.gelu(F.linear(h, self.down, self.down_bias))"),
            (OUT, "return F.linear(z, self.up, self.up_bias) + h"),
        ],
        "by einsum": [("h @ self.down.T", "torch.einsum('...d,md->...m', h, self.down)")],
    },
    "a2.insert": {
        "paths first": """
def insert_adapters(model, make):
    for p in model.parameters():
        p.requires_grad = False
    ends = ("mlp.down_proj", "output.dense")
    paths = [n for n, m in model.named_modules() if n.endswith(ends) and not n.endswith("attention.output.dense")]
    for path in paths:
        layer = model.get_submodule(path)
        parent, name = path.rsplit(".", 1)
        setattr(model.get_submodule(parent), name, After(layer, make(layer.weight.shape[0])))
""",
        "block by block": """
def insert_adapters(model, make):
    model.requires_grad_(False)
    for module in list(model.modules()):
        if hasattr(module, "down_proj"):
            module.down_proj = After(module.down_proj, make(module.down_proj.out_features))
        elif hasattr(module, "intermediate") and hasattr(module, "output"):
            module.output.dense = After(module.output.dense, make(module.output.dense.out_features))
""",
    },
    "a2.count": {
        "by search": [
            (
                "return max(0, (budget // n - d) // (2 * d + 1))",
                "m = 0\n    while count_adapters(d, n, m + 1) <= budget:\n        m += 1\n    return m",
            )
        ],
        "from shapes": [
            ("n * (2 * d * m + m + d)", "n * (torch.empty(m, d).numel() + torch.empty(d, m).numel() + m + d)"),
            ("p.numel()", "p.nelement()"),
        ],
    },
    "a2.swap": {
        "by modules": [
            (
                'return {name: p.detach().clone() for name, p in model.named_parameters() if ".adapter." in name}',
                "return {f'{path}.adapter.{n}': p.detach().clone() for path, m in model.named_modules() if isinstance(m, After)"
                " for n, p in m.adapter.named_parameters()}",
            )
        ],
        "loaded, after a look": [
            (
                "    with torch.no_grad():\n        for name, parameter in mine.items():\n            parameter.copy_(state[name])",
                "    model.load_state_dict(state, strict=False)",
            )
        ],
        "a clone put in": [("parameter.copy_(state[name])", "parameter.data = state[name].clone()")],
    },
    "a2.bitfit": {
        "a ValueError without words": [
            ('raise ValueError("This model has no biases, so nothing would be trained.")', "raise ValueError")
        ],
        "one at a time": """
def bitfit(model):
    head, names = list(model.get_output_embeddings().parameters()), []
    for name, p in model.named_parameters():
        p.requires_grad = name.split(".")[-1] == "bias" and not any(p is q for q in head)
        if p.requires_grad:
            names.append(name)
    if not names:
        raise ValueError("no biases")
    return names
""",
        "by modules": [
            (
                'for name, p in model.named_parameters() if name.endswith("bias")',
                'for path, m in model.named_modules() for name, p in [(f"{path}.bias", getattr(m, "bias", None))] if isinstance(p, nn.Parameter)',
            )
        ],
    },
    "a2.moved": {
        "by sha-256": [(BITS, "__import__('hashlib').sha256(tensor.detach().numpy().tobytes()).hexdigest()")],
        "a deep copy, bit for bit": """
import copy


def everything(model):
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def snapshot(model):
    return copy.deepcopy(model)


def moved(before, model):
    was = everything(before)
    return [
        name
        for name, tensor in everything(model).items()
        if not torch.equal(tensor.detach().reshape(-1).view(torch.uint8), was[name].detach().reshape(-1).view(torch.uint8))
    ]
""",
    },
    "a2.sparse": {
        "by sorting": [("sizes.topk(k).indices", "sizes.argsort(descending=True)[:k]")],
        "by masked_scatter": [
            (
                "    new = weight.clone()\n    new[mask] += values\n    return new",
                "    return weight.masked_scatter(mask, weight[mask] + values)",
            )
        ],
        "masks of ones and zeros": [("dtype=torch.bool", "dtype=torch.int")],
    },
}
