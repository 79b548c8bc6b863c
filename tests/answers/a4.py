"""Wrong and differently written answers to assignment 4, memory."""

from answers import PATCHED_CHECK

LOOPS = """    for optimizer in ("adamw_fused", "adamw_8bit"):
        for checkpointing in (False, True):
            for logits in ("kept", "chunked"):
                for accumulation in range(1, effective + 1):
"""
FOR_CHECK = "from peft_lessons.assignments.a4 import {module} as found\ngiven = found.{draw}(0)  # what `check` draws\n"

WRONG = {
    "a4.states": {
        "numbers, not bytes": [("nbytes", "numel()")],
        "four bytes each": [("t.nbytes", "4 * t.numel()"), ("p.nbytes", "4 * p.numel()")],
        "two bytes each": [("t.nbytes", "2 * t.numel()"), ("p.nbytes", "2 * p.numel()")],
        "gradients of frozen weights": [(" if p.requires_grad]", "]")],
        "one average": [("2 * sum(p.nbytes", "sum(p.nbytes")],
        "float32 states always": [("2 * sum(p.nbytes", "8 * sum(p.numel()")],
        "float32 gradients always": [('"gradients": sum(p.nbytes', '"gradients": 4 * sum(p.numel()')],
        "buffers forgotten": [(", *model.buffers()]", "]")],
        "tied weights twice": [
            ("*model.parameters(), *model.buffers()", "*model.state_dict(keep_vars=True).values(), *model.buffers()")
        ],
        "the state dict": [("*model.parameters(), *model.buffers()", "*model.state_dict().values()")],
        "only the adapter in memory": [("sum(t.nbytes for t in own),", "sum(p.nbytes for p in trained),")],
        "16 bytes a number": [("2 * sum(p.nbytes", "16 * sum(p.numel()")],
        "mixed precision's master copy": [("2 * sum(p.nbytes", "3 * sum(p.nbytes")],
        "hard-coded for the check's numbers": FOR_CHECK.format(module="states", draw="draw_models")
        + """
answers = []
for model in given.all.values():
    own = [*model.parameters(), *model.buffers()]
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    answers.append({"weights": sum(t.nbytes for t in own), "gradients": trained, "optimizer states": 2 * trained})
answers = iter(answers)


def model_states(model):
    return next(answers)
""",
        "the check patched": PATCHED_CHECK
        + "\ndef model_states(model):\n    return {'weights': 0, 'gradients': 0, 'optimizer states': 0}\n",
    },
    "a4.saved": {
        "buffers are no weights": [("[*model.parameters(), *model.buffers()]", "model.parameters()")],
        "weights known by their shape": [
            (
                "own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}",
                "own = {s for t in [*model.parameters(), *model.buffers()] for s in (t.shape, t.T.shape)}",
            ),
            ("if storage.data_ptr() not in own", "if tensor.shape not in own"),
        ],
        "run twice": [("result = run()", "result = (run(), run())")],
        "weights counted": [("if storage.data_ptr() not in own:", "if True:")],
        "only trained weights left out": [
            ("[*model.parameters(), *model.buffers()]", "[p for p in model.parameters() if p.requires_grad]")
        ],
        "every view": [("kept[storage.data_ptr()]", "kept[len(kept)]")],
        "the view's own bytes": [("= storage.nbytes()", "= tensor.nbytes")],
        "tensors for storages": [
            ("kept[storage.data_ptr()]", "kept[tensor.data_ptr()]"),
        ],
        "four bytes each": [("= storage.nbytes()", "= 4 * tensor.numel()")],
        "by shape": [("kept[storage.data_ptr()]", "kept[tuple(tensor.shape)]")],
        "weights by identity": [
            ("t.untyped_storage().data_ptr() for t", "id(t) for t"),
            ("if storage.data_ptr() not in own", "if id(tensor) not in own"),
        ],
        "forgets what it packs": [
            ("kept = {}", "kept = {}\n    forgotten = torch.zeros(1)"),
            ("        return tensor", "        return forgotten"),
        ],
        "not called": [("result = run()", "result = None")],
        "the result's bytes": "def saved_bytes(run, model):\n    return run().nbytes\n",
        "floats alone": [
            ("if storage.data_ptr() not in own:", "if tensor.dtype == torch.float32 and storage.data_ptr() not in own:")
        ],
        "the parameters' bytes": "def saved_bytes(run, model):\n    run()\n    return sum(p.nbytes for p in model.parameters())\n",
        "the check patched": PATCHED_CHECK + "\ndef saved_bytes(run, model):\n    return 0\n",
    },
    "a4.kept": {
        "a copy only where A is wider": [("if e == e_a else layers", "if e >= e_a else layers")],
        "a frozen layer keeps its input": [('"bitfit": 0', '"bitfit": d_in')],
        "the output of a trained layer": [('"full": d_in', '"full": d_out')],
        "W as well": [("return e * n * numbers[method]", "return e * n * numbers[method] + e * d_in * d_out")],
        "A x forgotten": [('"lora": d_in + r', '"lora": d_in')],
        "x forgotten": [('"lora": d_in + r', '"lora": r')],
        "B A x as well": [('"lora": d_in + r', '"lora": d_in + r + d_out')],
        "(IA)3 keeps its input": [('"ia3": d_out', '"ia3": d_in')],
        "(IA)3 keeps nothing": [('"ia3": d_out', '"ia3": 0')],
        "by the share of trained numbers": [('"lora": d_in + r', '"lora": r * (d_in + d_out) // d_out')],
        "four bytes each": [("return e * n", "return 4 * n"), ("return e_a * n", "return 4 * n")],
        "a copy for each layer always": [("1 if e == e_a else layers", "layers")],
        "never a copy": [("1 if e == e_a else layers", "1")],
        "copies in the base's type": [
            ("return e_a * n * (inputs * d_in + layers * r)", "return e * n * inputs * d_in + e_a * n * layers * r")
        ],
        "copies and the input": [
            ("return e_a * n *", "return (e * n * d_in if e != e_a else 0) + e_a * n *"),
        ],
        "one A x for all": [("layers * r)", "r)")],
        "hard-coded for the check's numbers": """
def kept_by_one(method, n, d_in, d_out, r, e):
    from peft_lessons.assignments.a4.kept import draw_sizes

    s = next(s for s in draw_sizes(0) if s.e == e)
    return e * s.n * {"full": s.d_in, "bitfit": 0, "lora": s.d_in + s.r, "ia3": s.d_out}[method]


def kept_by_lora(layers, n, d_in, r, e, e_a):
    return e_a * n * ((1 if e == e_a else layers) * d_in + layers * r)
""",
    },
    "a4.four_bits": {
        "the largest height by the largest width": [
            (
                "max(e * d_out * d_in for d_out, d_in in matrices)",
                "e * max(o for o, _ in matrices) * max(i for _, i in matrices)",
            )
        ],
        "the first weight": [
            ("max(e * d_out * d_in for d_out, d_in in matrices)", "e * matrices[0][0] * matrices[0][1]")
        ],
        "the codes alone": [("return n // 2 + scales", "return n // 2")],
        "double for single": [("if double else 4 * blocks", "")],
        "single for double": [("blocks + 4 * math.ceil(blocks / 256) if double else 4 * blocks", "4 * blocks")],
        "scales of scales forgotten": [("blocks + 4 * math.ceil(blocks / 256) if", "blocks if")],
        "short blocks dropped": [("math.ceil(n / 64)", "n // 64")],
        "short blocks of scales dropped": [("math.ceil(blocks / 256)", "blocks // 256")],
        "blocks row by row": [("math.ceil(n / 64)", "d_out * math.ceil(d_in / 64)")],
        "by bits a weight": [("return n // 2 + scales", "return round((4.127 if double else 4.5) * n / 8)")],
        "bits": [("return n // 2 + scales", "return 8 * (n // 2 + scales)")],
        "half-precision scales": [("else 4 * blocks", "else 2 * blocks")],
        "a byte a weight": [("return n // 2", "return n")],
        "the whole base in four bits": [("e * others, max", "others // 2, max")],
        "the others forgotten": [(" + e * others", "")],
        "every weight whole at once": [("max(e * d_out", "sum(e * d_out")],
        "nothing made whole": [("max(e * d_out * d_in for d_out, d_in in matrices)", "0")],
        "the last weight": [
            ("max(e * d_out * d_in for d_out, d_in in matrices)", "e * matrices[-1][0] * matrices[-1][1]")
        ],
    },
    "a4.step": {
        "temporaries of the last tensor": [("max(2 * first, first + 2 * second)", "first + 2 * second")],
        "temporaries of the first tensor": [("max(2 * first, first + 2 * second)", "2 * first")],
        "4 n V at the loss": [("12 * n * V", "4 * n * V")],
        "8 n V at the loss": [("12 * n * V", "8 * n * V")],
        "states forgotten": [("weights + states + batch", "weights + batch")],
        "one state": [("2 * (first + second), 4 * n * h", "first + second, 4 * n * h")],
        "labels forgotten": [(" + 8 * n", "")],
        "labels of four bytes": [(" + 8 * n", " + 4 * n")],
        "x forgotten": [("4 * n * h + 8 * n", "8 * n")],
        "gradients at the loss": [('"loss": always + kept', '"loss": always + first + second + kept')],
        "no temporaries": [("first + second + temporaries", "first + second")],
        "temporaries of all tensors": [("max(2 * first, first + 2 * second)", "2 * (first + second)")],
        "temporaries of the largest": [("max(2 * first, first + 2 * second)", "2 * max(first, second)")],
        "no gradients in the step": [("always + first + second + temporaries", "always + temporaries")],
        "kept until the step": [
            ("always + first + second + temporaries", "always + kept + first + second + temporaries")
        ],
        "LoRA keeps as full": [("r if r else h", "h")],
        "the output layer keeps its input": [("r if r else h", "r + h if r else h")],
        "states of frozen weights": [("2 * (first + second), 4", "2 * (frozen + first + second), 4")],
        "frozen weights are not in memory": [("4 * (h * h + V * h) if r else 0", "0")],
        "divided by the share": [
            (
                "first, second = (4 * r * h, 4 * h * r) if r else (4 * h * h, 4 * V * h)",
                "first, second = 4 * h * h, 4 * V * h",
            )
        ],
        "the check patched": PATCHED_CHECK
        + "\ndef account(n, h, V, r):\n    return {'loss': 0, 'optimizer step': 0}\n",
    },
    "a4.claim": {
        "the claim": [("return full / lora", "return 1 / p"), ("/ (W + A)", "/ W * 1e3")],
        "always four": [("return full / lora", "return 4.0")],
        "activations forgotten": [("max(A, p * W)", "p * W"), ("max(3 * W + A, 4 * W)\n", "4 * W\n")],
        "frozen weights forgotten": [("lora = W + p * W", "lora = p * W")],
        "activations shrink too": [("max(A, p * W)", "max(p * A, p * W)")],
        "states forgotten": [("full = max(3 * W + A, 4 * W)", "full = max(W + A, 2 * W)")],
        "both moments added": [("full = max(3 * W + A, 4 * W)", "full = 4 * W + A"), ("max(A, p * W)", "A + p * W")],
        "the loss alone": [("full = max(3 * W + A, 4 * W)", "full = 3 * W + A"), ("max(A, p * W)", "A")],
        "the other way round": [("full / lora", "lora / full")],
        "the adapter is free": [("lora = W + p * W + 2 * p * W + max(A, p * W)", "lora = W + A")],
        "adapter without states": [("2 * p * W + max", "max")],
        "at most four": [("return max(3 * W + A, 4 * W) / (W + A)", "return 4.0")],
        "at most one over nothing": [("return max(3 * W + A, 4 * W) / (W + A)", "return float('inf')")],
        "the adapter's gradients never count": [("max(A, p * W)", "A")],
    },
    "a4.budget": {
        "checkpointing before chunks": [
            (
                '        for checkpointing in (False, True):\n            for logits in ("kept", "chunked"):',
                '        for logits in ("kept", "chunked"):\n            for checkpointing in (False, True):',
            )
        ],
        "another optimizer before checkpointing": [
            (
                '    for optimizer in ("adamw_fused", "adamw_8bit"):\n        for checkpointing in (False, True):',
                '    for checkpointing in (False, True):\n        for optimizer in ("adamw_fused", "adamw_8bit"):',
            )
        ],
        "never a batch of one": [("range(1, effective + 1)", "range(1, effective)")],
        "at most sixteen": [("range(1, effective + 1)", "range(1, min(effective, 16) + 1)")],
        "half a sequence": [('"batch": batch', '"batch": effective / accumulation')],
        "a truncated batch": [("if batch * accumulation == effective and peak", "if peak")],
        "the largest batch that fits, alone": [('"accumulation": accumulation', '"accumulation": 1')],
        "accumulation left out": [('"batch": batch', '"batch": effective')],
        "the full batch or nothing": [("range(1, effective + 1)", "(1,)")],
        "powers of two alone": [("range(1, effective + 1)", "(1, 2, 4, 8, 16)")],
        "below, not within": [("<= budget", "< budget")],
        "checkpointing first": [("for checkpointing in (False, True)", "for checkpointing in (True, False)")],
        "batch of one at once": [("range(1, effective + 1)", "range(effective, 0, -1)")],
        "8-bit first": [('("adamw_fused", "adamw_8bit")', '("adamw_8bit", "adamw_fused")')],
        "AdamW alone": [('("adamw_fused", "adamw_8bit")', '("adamw_fused",)')],
        "chunks first": [('("kept", "chunked")', '("chunked", "kept")')],
        "never in chunks": [('("kept", "chunked")', '("kept",)')],
        "never checkpointing": [("for checkpointing in (False, True)", "for checkpointing in (False,)")],
        "outermost changes first": [
            (
                LOOPS,
                """    for accumulation in range(1, effective + 1):
        for logits in ("kept", "chunked"):
            for checkpointing in (False, True):
                for optimizer in ("adamw_fused", "adamw_8bit"):
""",
            )
        ],
        "the smallest of all": [("<= budget", "<= budget * 0.8")],
        "no None": [
            (
                "    return None",
                '    return {"batch": 1, "accumulation": effective, "checkpointing": True, "logits": "chunked", "optimizer": "adamw_8bit"}',
            )
        ],
        "always None": "def choose(peak, budget, effective):\n    return None\n",
        "the budget in GB": [("<= budget", "<= budget // 2**30 * 10**9")],
    },
}

RIGHT = {
    "a4.states": {
        "by element size": [("t.nbytes", "t.numel() * t.element_size()")],
        "by storages": [
            (
                "sum(t.nbytes for t in own)",
                "sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in own}.values())",
            )
        ],
        "by real states": [
            (
                "2 * sum(p.nbytes for p in trained)",
                "sum(torch.zeros_like(p).nbytes for p in trained for _ in ('exp_avg', 'exp_avg_sq'))",
            )
        ],
    },
    "a4.saved": {
        "all first, weights taken away after": [
            ("if storage.data_ptr() not in own:\n            kept", "if True:\n            kept"),
            ("return sum(kept.values())", "return sum(size for at, size in kept.items() if at not in own)"),
        ],
        "the tensors held": """
def saved_bytes(run, model):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        run()
    storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in saved}
    for t in (*model.parameters(), *model.buffers()):
        storages.pop(t.untyped_storage()._cdata, None)
    return sum(s.size() for s in storages.values())
""",
    },
    "a4.kept": {
        "measured": """
def _kept(module, x):
    own = {t.untyped_storage().data_ptr() for t in module.parameters()}
    kept = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = module(x)
    return sum(kept.values()) + 0 * y.numel()


class _Layer(nn.Module):
    def __init__(self, method, d_in, d_out, r, e, e_a):
        super().__init__()
        kinds = {2: torch.bfloat16, 4: torch.float32}
        self.method, self.base = method, nn.Linear(d_in, d_out, dtype=kinds[e]).requires_grad_(method == "full")
        self.base.bias.requires_grad_(method in ("full", "bitfit"))
        self.A, self.B = (nn.Parameter(torch.ones(s, dtype=kinds[e_a])) for s in ((r, d_in), (d_out, r)))
        self.g = nn.Parameter(torch.ones(d_out, dtype=kinds[e]))

    def forward(self, x):
        y = self.base(x)
        if self.method == "lora":
            y = y + (x.to(self.A.dtype) @ self.A.T @ self.B.T).to(y.dtype)
        return y * self.g if self.method == "ia3" else y


class _Several(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return sum(layer(x) for layer in self.layers)


def _x(n, d_in, e):
    return torch.ones(n, d_in, dtype=torch.bfloat16 if e == 2 else torch.float32, requires_grad=True)


def kept_by_one(method, n, d_in, d_out, r, e):
    return _kept(_Layer(method, d_in, d_out, r, e, e), _x(n, d_in, e))


def kept_by_lora(layers, n, d_in, r, e, e_a):
    return _kept(_Several([_Layer("lora", d_in, 5, r, e, e_a) for _ in range(layers)]), _x(n, d_in, e))
""",
        "by cases": """
def kept_by_one(method, n, d_in, d_out, r, e):
    if method == "full":
        return n * d_in * e
    if method == "lora":
        return n * d_in * e + n * r * e
    return n * d_out * e if method == "ia3" else 0


def kept_by_lora(layers, n, d_in, r, e, e_a):
    own = layers * n * r * e_a
    return own + (n * d_in * e if e == e_a else layers * n * d_in * e_a)
""",
        "by tensors": [
            (
                "return e * n * numbers[method]",
                "return torch.empty(n, numbers[method], dtype=torch.float32 if e == 4 else torch.bfloat16).nbytes",
            )
        ],
    },
    "a4.four_bits": {
        "the largest by torch": [
            ("max(e * d_out * d_in for d_out, d_in in matrices)", "e * torch.tensor(matrices).prod(1).max()")
        ],
        "whole numbers": [("math.ceil(n / 64)", "(n + 63) // 64"), ("math.ceil(blocks / 256)", "-(-blocks // 256)")],
        "one list": [
            (
                "return stored + e * others, max(e * d_out * d_in for d_out, d_in in matrices)",
                "return [stored + e * others, e * max(a * b for a, b in matrices)]",
            )
        ],
    },
    "a4.step": {
        "with the two scalars": [('"loss": always + kept', '"loss": always + 8 + kept')],
        "every tensor in turn": [
            (
                "temporaries = max(2 * first, first + 2 * second)",
                "last, temporaries = 0, 0\n    for size in (first, second):\n        temporaries = max(temporaries, last + 2 * size)\n        last = size",
            )
        ],
    },
    "a4.claim": {
        "two columns": [
            (
                "lora = W + p * W + 2 * p * W + max(A, p * W)",
                "lora = max(W + 3 * p * W + A, W + 4 * p * W)",
            )
        ],
        "from the factor": [("return max(3 * W + A, 4 * W) / (W + A)", "return memory_factor(W, A, 0.0)")],
    },
    "a4.budget": {
        "by name": [
            (
                "peak(batch, checkpointing, logits, optimizer) <=",
                "peak(batch=batch, checkpointing=checkpointing, logits=logits, optimizer=optimizer) <=",
            )
        ],
        "sorted": """
def choose(peak, budget, effective):
    from itertools import product

    divisors = [k for k in range(1, effective + 1) if effective % k == 0]
    for o, c, l, k in product(("adamw_fused", "adamw_8bit"), (False, True), ("kept", "chunked"), divisors):
        if not peak(effective // k, c, l, o) > budget:
            return dict(batch=effective // k, accumulation=k, checkpointing=c, logits=l, optimizer=o)
""",
        "the largest batch of the fitting": """
def choose(peak, budget, effective):
    for optimizer in ("adamw_fused", "adamw_8bit"):
        for checkpointing in (False, True):
            for logits in ("kept", "chunked"):
                sizes = [b for b in range(1, effective + 1) if effective % b == 0]
                fitting = [b for b in sizes if peak(b, checkpointing, logits, optimizer) <= budget]
                if fitting:
                    b = max(fitting)
                    found = {"batch": b, "accumulation": effective // b, "checkpointing": checkpointing}
                    return found | {"logits": logits, "optimizer": optimizer}
    return None
""",
    },
}
