"""Wrong and differently written answers to the bug clinic's fifteen cases."""

from answers import PATCHED_CHECK


def instead(line: str, *lines: str) -> list[tuple[str, str]]:
    """A replacement of the line that a function returns in, by other lines."""
    return [(line, "\n    ".join(lines))]


FAULTS = """
def find_faults(ids, mask, labels, n_prompt):
    n, found = sum(mask), set()
    parts = {"prompt trained": [label != -100 for label in labels[:n_prompt]], "answer masked": [label == -100 for label in labels[n_prompt : n - 1]]}
    parts |= {"end masked": [labels[n - 1] == -100], "padding trained": [label != -100 for label in labels[n:]]}
    return {name for name, part in parts.items() if RULE(part)}


def mend_row(prompt, answer, eos, pad, length):
    text = [*prompt, *answer, eos]
    k = length - len(text)
    return text + [pad] * k, [1] * len(text) + [0] * k, [-100] * len(prompt) + [*answer, eos] + [-100] * k


def mend_score(train, test, predicted):
    most = max(set(train), key=train.count)
    return {"model": sum(a == b for a, b in zip(test, predicted)) / len(test), "majority": test.count(most) / len(test)}
"""

VERDICT = """
def find_verdict(losses):
    RULE
    if losses[-1] != losses[-1] or losses[-1] > losses[0]:
        return "too high"
    return "too low" if losses[-1] > 0.9 * losses[0] else "fine"


def mend_search(run, start):
    at, low = {0: run(start)}, -1
    while True:
        at = {k: loss if loss == loss else float("inf") for k, loss in sorted(at.items())}
        best = min(at, key=at.get)
        missing = [k for k in (best - 1, best + 1) if k not in at]
        if not missing:
            return start * 3.0**best
        at[missing[0]] = run(start * 3.0 ** missing[0])
"""

WRONG = {
    "bug_clinic.m01_nothing_trains": {
        "another rate": [("lr=1e-3", "lr=1e-4")],
        "another optimizer": [("torch.optim.AdamW(trained", "torch.optim.SGD(trained")],
        "always fires": instead("return not all(p.requires_grad and id(p) in held for p in lora)", "return True"),
        "never fires": instead("return not all(p.requires_grad and id(p) in held for p in lora)", "return False"),
        "counts what is trainable": instead(
            "return not all(p.requires_grad and id(p) in held for p in lora)",
            "return sum(p.numel() for p in model.parameters() if p.requires_grad) == 0",
        ),
        "looks at the optimizer alone": [("p.requires_grad and id(p)", "id(p)")],
        "looks at requires_grad alone": [("p.requires_grad and id(p) in held", "p.requires_grad")],
        "looks at the mode": instead(
            "return not all(p.requires_grad and id(p) in held for p in lora)", "return not model.training"
        ),
        "the first group alone": [("for group in optimizer.param_groups", "for group in optimizer.param_groups[:1]")],
        "any matrix will do": [("return not all(", "return not any(")],
        "the order of the check's runs by heart": [
            (
                "return not all(p.requires_grad and id(p) in held for p in lora)",
                "from peft_lessons.assignments.bug_clinic import m01_nothing_trains as case\n    known = globals().setdefault('_known', case.shuffled(case.ILL, 0))\n    return known.pop(0)",
            )
        ],
        "compares counts": instead(
            "return not all(p.requires_grad and id(p) in held for p in lora)", "return len(held) < len(lora)"
        ),
        "lora_A alone": [('"lora_" in name', '"lora_A" in name')],
        "loaded for inference": [(", is_trainable=True", "")],
        "everything trained": [("trained = [p", "model.requires_grad_(True)\n    trained = [p")],
        "a fresh adapter": [
            (
                "PeftModel.from_pretrained(base, folder, is_trainable=True)",
                'get_peft_model(base, LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"]))',
            )
        ],
        "an optimizer made before": [
            ("    model = PeftModel", "    trained = list(base.parameters())\n    model = PeftModel"),
            ("    trained = [p for p in model.parameters() if p.requires_grad]\n", ""),
        ],
        "merged and trained whole": [
            ("is_trainable=True)", "is_trainable=True).merge_and_unload().requires_grad_(True)"),
        ],
        "the check patched": PATCHED_CHECK
        + "\ndef find_stuck(model, optimizer):\n    return False\n\n\ndef mend_resume(base, folder):\n    return base, None\n",
    },
    "bug_clinic.m02_checkpointing": {
        "all that is zero": [('name.endswith("lora_B") and ', "")],
        "all of them": [(" and not tensor.any()", "")],
        "none": instead(
            'return [name for name, tensor in factors.items() if name.endswith("lora_B") and not tensor.any()]',
            "return []",
        ),
        "a sum of zero": [("not tensor.any()", "tensor.sum() == 0")],
        "a mean near zero": [("not tensor.any()", "tensor.mean().abs() < 1e-6")],
        "a small norm": [("not tensor.any()", "tensor.norm() < 1e-3")],
        "any zero entry": [("not tensor.any()", "not tensor.all()")],
        "looks at A": [('endswith("lora_B")', 'endswith("lora_A")')],
        "the first row": [("not tensor.any()", "not tensor[0].any()")],
        "reentrant": [("use_reentrant=False", "use_reentrant=True")],
        "no checkpointing": [("checkpoint(block, x, use_reentrant=False)", "block(x)")],
        "the last alone": [
            ("checkpoint(block, x, use_reentrant=False)", "checkpoint(block, x, use_reentrant=False) if block is blocks[-1] else block(x)")
        ],
        "detached": [("checkpoint(block, x,", "checkpoint(block, x.detach(),")],
        "the first block skipped": [("for block in blocks:", "for block in blocks[1:]:")],
        "unfrozen, reentrant": [
            ("    for block in blocks:", "    for block in blocks:\n        block.requires_grad_(True)"),
            ("use_reentrant=False", "use_reentrant=True"),
        ],
        "zero within a tolerance": [("not tensor.any()", "torch.allclose(tensor, torch.zeros_like(tensor))")],
        "a spread of zero": [("not tensor.any()", "tensor.std() == 0")],
    },
    "bug_clinic.m03_targets": {
        "any module at all": [(" if isinstance(module, (nn.Linear, Conv1D))", "")],
        "all": instead(
            'return [name for name in names if not any(f".{path}".endswith(f".{name}") for path in paths)]',
            "return names",
        ),
        "none": instead(
            'return [name for name in names if not any(f".{path}".endswith(f".{name}") for path in paths)]',
            "return []",
        ),
        "somewhere in the path": [('f".{path}".endswith(f".{name}")', "name in path")],
        "the end without its dot": [('f".{path}".endswith(f".{name}")', "path.endswith(name)")],
        "last names alone": [('f".{path}".endswith(f".{name}")', 'path.split(".")[-1] == name')],
        "any module": [(" if isinstance(module, (nn.Linear, Conv1D))", "")],
        "nn.Linear alone": [("(nn.Linear, Conv1D)", "nn.Linear")],
        "the ones that fit": [("if not any(", "if any(")],
        "asks peft": instead(
            'return [name for name in names if not any(f".{path}".endswith(f".{name}") for path in paths)]',
            "try:",
            "    get_peft_model(model, LoraConfig(target_modules=names))",
            "except ValueError:",
            "    return names",
            "return []",
        ),
        "Llama's names": [("return together", 'return ["q_proj", "v_proj"]\n    return together')],
        "dense": [('["query", "value"]', '["query", "value", "dense"]')],
        "c_proj too": [('["c_attn"]', '["c_attn", "c_proj"]')],
        "all-linear": [("return together", 'return "all-linear"\n    return together')],
        "query alone": [('["query", "value"]', '["query"]')],
    },
    "bug_clinic.m04_memory": {
        "only adapters are in memory": [('"weights": 4 * n_total', '"weights": 4 * n_trainable')],
        "gradients of all": [('"gradients": 4 * n_trainable', '"gradients": 4 * n_total')],
        "states of all": [("8 * n_trainable", "8 * n_total")],
        "one state": [("8 * n_trainable", "4 * n_trainable")],
        "half precision": [("4 * n_total", "2 * n_total")],
        "activations by the trained share": [
            ('"activations": activations', '"activations": activations * n_trainable // n_total')
        ],
        "frozen weights alone": [("4 * n_total", "4 * (n_total - n_trainable)")],
        "the whole batch": [("range(0, len(batch", "range(0, 1) if True else (0, len(batch"), ("start + size]", "]")],
        "means added up": [("(model(**part).loss * share)", "(model(**part).loss)")],
        "divided by the parts": [
            ("share = n_labels(part) / n_labels(batch)", 'share = size / len(batch["input_ids"])'),
        ],
        "weighted by rows": [
            ("share = n_labels(part) / n_labels(batch)", 'share = len(part["labels"]) / len(batch["labels"])')
        ],
        "only the last part": [("        share =", "        model.zero_grad()\n        share =")],
        "the rest forgotten": [
            ('range(0, len(batch["input_ids"]), size)', 'range(0, len(batch["input_ids"]) - size + 1, size)')
        ],
        "one row less each time": [("start : start + size]", "start : start + size - 1]")],
        "weighted by tokens": [('(part["labels"][:, 1:] != -100).sum()', 'part["attention_mask"].sum()')],
        "one backward pass at the end": [
            ("    for start", "    loss = 0\n    for start"),
            ("(model(**part).loss * share).backward()", "loss = loss + model(**part).loss * share\n    loss.backward()"),
        ],
        "two parts at a time": [
            ("    for start", "    losses = []\n    for start"),
            ("(model(**part).loss * share).backward()", "losses.append(model(**part).loss * share)\n        if len(losses) == 2 or start + size >= len(batch['input_ids']):\n            sum(losses).backward()\n            losses = []"),
        ],
    },
    "bug_clinic.m05_speed": {
        "only the trained": [("(n_total + n_total + n_trainable)", "3 * n_trainable")],
        "no input gradients": [("(n_total + n_total + n_trainable)", "(n_total + n_trainable + n_trainable)")],
        "6 N T": [("(n_total + n_total + n_trainable)", "3 * n_total")],
        "frozen weights backward too": [("n_total + n_total + n_trainable", "n_total + n_total + n_total - n_trainable")],
        "one for a multiply-add": [("return 2 * tokens", "return tokens")],
        "no tokens": [("2 * tokens * (", "2 * (")],
        "adapters on top": [("n_total + n_total + n_trainable", "n_total + n_total + 3 * n_trainable")],
        "taken off without merging": [("model.merge_and_unload()", "model.unload()")],
        "merged, wrapper left": [("return model.merge_and_unload()", "model.merge_adapter()\n    return model")],
        "the base with its adapters": [("model.merge_and_unload()", "model.get_base_model()")],
        "switched off": [
            ("return model.merge_and_unload()", "model.disable_adapter_layers()\n    return model"),
        ],
        "as it is": [("model.merge_and_unload()", "model.eval()")],
        "the inner model": [("model.merge_and_unload()", "model.base_model.model")],
    },
    "bug_clinic.m06_scaling": {
        "always alpha / r": [("return min(scales", 'return "alpha / r"\n    return min(scales')],
        "always alpha": [("return min(scales", 'return "alpha"\n    return min(scales')],
        "the base left in": [("(layer(x) - layer.base(x)).norm()", "layer(x).norm()")],
        "the inverse": [("abs(scales[rule] - found.item())", "abs(1 / scales[rule] - found.item())")],
        "square root forgotten": [('"alpha / sqrt(r)": alpha / r**0.5', '"alpha / sqrt(r)": alpha / r')],
        "r / alpha": [('"alpha / r": alpha / r,', '"alpha / r": r / alpha,')],
        "without the bias": [("layer(x) - layer.base(x)", "layer(x) - x @ layer.base.weight.T")],
        "largest instead of nearest": [("return min(", "return max(")],
        "alpha is the scale": [("return scale * (r**0.5 if use_rslora else r)", "return scale")],
        "divides": [("scale * (r**0.5", "scale / (r**0.5")],
        "rslora ignored": [("(r**0.5 if use_rslora else r)", "r")],
        "always the root": [("(r**0.5 if use_rslora else r)", "r**0.5")],
        "swapped": [("if use_rslora else r", "if not use_rslora else r")],
        "2 r": [("return scale * (r**0.5 if use_rslora else r)", "return 2 * r")],
        "hard-coded for the thread": [("return scale * (r**0.5 if use_rslora else r)", "return 256")],
        "read off the object": [("    x = torch.ones", "    return layer._rule\n    x = torch.ones")],
        "any string of the object": [("    x = torch.ones", "    return next((v for v in vars(layer).values() if isinstance(v, str)), \"1\")\n    x = torch.ones")],
    },
    "bug_clinic.m07_learning_rate": {
        "a hump on the way is too high": VERDICT.replace("RULE", "if max(losses) > 1.5 * losses[0]:\n        return 'too high'"),
        "a tenth of one, not of the beginning": VERDICT.replace("RULE", "pass").replace("0.9 * losses[0]", "losses[0] - 0.1"),
        "always fine": [("    first, last", '    return "fine"\n    first, last')],
        "never too low": [('"too low" if last > 0.9 * first else "fine"', '"fine"')],
        "NaN is fine": [("if not last <= first:", "if last > first:")],
        "the lowest of all": [("losses[0], losses[-1]", "losses[0], min(losses)")],
        "swapped": [('return "too high"', 'return "too  low"'), ('"too low" if', '"too high" if')],
        "any fall is fine": [("0.9 * first", "0.99999 * first"), ("last > 0.99999", "last > 1.5")],
        "looks at the last two": [("losses[0], losses[-1]", "losses[-2], losses[-1]")],
        "ten times": [("    def loss_at", "    return 10 * start\n\n    def loss_at")],
        "the start": [("    def loss_at", "    return start\n\n    def loss_at")],
        "a fixed grid": [
            ("    while True:", "    return start * 3.0 ** min(losses, key=losses.get)\n    while True:"),
        ],
        "NaN wins": [
            ('return loss if loss == loss else float("inf")', 'return loss if loss == loss else float("-inf")'),
        ],
        "upward alone": [("for k in (best - 1, best + 1)", "for k in (best + 1,)"), ("(-1, 0, 1)", "(0, 1)")],
        "downward alone": [("for k in (best - 1, best + 1)", "for k in (best - 1,)"), ("(-1, 0, 1)", "(-1, 0)")],
        "the worst": [("best = min(", "best = max(")],
        "a grid too fine": [("3.0**", "1.01**")],
        "a wide grid, edges included": [
            ("for k in (-1, 0, 1)", "for k in range(-2, 2)"),
            ("    while True:", "    return start * 3.0 ** min(losses, key=losses.get)\n    while True:"),
        ],
    },
    "bug_clinic.m08_precision": {
        "all": [("p.requires_grad and p.dtype != torch.float32]", "p.requires_grad]")],
        "none": [("    return [name", "    return []\n    return [name")],
        "the base too": [("if p.requires_grad and p.dtype != torch.float32]", "if p.dtype != torch.float32]")],
        "float16 alone": [("p.dtype != torch.float32", "p.dtype == torch.float16")],
        "bfloat16 alone": [("p.dtype != torch.float32", "p.dtype == torch.bfloat16")],
        "LoRA's alone": [("p.requires_grad and p.dtype !=", '"lora_" in name and p.dtype !=')],
        "the head alone": [("p.requires_grad and p.dtype !=", '"modules_to_save" in name and p.dtype !=')],
        "the model's dtype": [("    return [name", "    if model.dtype == torch.float32:\n        return []\n    return [n for n, p in model.named_parameters() if p.requires_grad]\n    return [name")],
        "the whole model": [("    for p in model.parameters():", "    model.float()\n    for p in model.parameters():")],
        "nothing": [("p.data = p.data.float()", "pass")],
        "a copy": [("p.data = p.data.float()", "p = p.float()")],
        "to bfloat16": [("p.data.float()", "p.data.bfloat16()")],
        "new numbers": [("p.data = p.data.float()", "p.data = torch.randn(p.shape)")],
        "zeros": [("p.data = p.data.float()", "p.data = torch.zeros(p.shape)")],
        "LoRA's alone mended": [
            ("    for p in model.parameters():\n        if p.requires_grad:", '    for name, p in model.named_parameters():\n        if "lora_" in name:')
        ],
        "frozen afterwards": [("p.data = p.data.float()", "p.data = p.data.float()\n            p.requires_grad_(False)")],
        "everything but the trained": [("        if p.requires_grad:", "        if not p.requires_grad:")],
    },
    "bug_clinic.m09_lost_head": {
        "in training mode": [("model.eval()(", "model.train()("), ("again.eval()(", "again.train()(")],
        "always lost": [("    with tempfile", "    return 1.0\n    with tempfile")],
        "never lost": [("    with tempfile", "    return 0.0\n    with tempfile")],
        "the same model twice": [("again.eval()(**batch)", "model.eval()(**batch)")],
        "loaded onto its own base": [("make_base(), folder", "model.unload(), folder")],
        "compared with the base": [("PeftModel.from_pretrained(make_base(), folder)", "make_base()")],
        "dropout or not, the smallest": [(".abs().max()", ".abs().min()")],
        "signed, smallest": [(".abs().max()", ".min()")],
        "looks at the task type": [
            (
                "    with tempfile",
                '    return 0.0 if model.peft_config["default"].task_type == "SEQ_CLS" else 1.0\n    with tempfile',
            )
        ],
        "looks at modules_to_save": [
            ("    with tempfile", '    return 0.0 if model.peft_config["default"].modules_to_save else 1.0\n    with tempfile')
        ],
        "looks for a head in the names": [
            ("    with tempfile", '    return 0.0 if any("score" in n and "lora" not in n for n, _ in model.named_parameters()) else 1.0\n    with tempfile')
        ],
        "no task type": [(', task_type="SEQ_CLS"', "")],
        "a module that is not there": [('task_type="SEQ_CLS"', 'modules_to_save=["classifier"]')],
        "LoRA at the head": [
            ('["q_proj", "v_proj"], task_type="SEQ_CLS"', '["q_proj", "v_proj", "score"]'),
        ],
        "unfrozen by hand": [
            ("    return get_peft_model(base, LoraConfig", "    model = get_peft_model(base, LoraConfig"),
            (', task_type="SEQ_CLS"))', "))\n    model.base_model.model.score.requires_grad_(True)\n    return model"),
        ],
        "the head frozen": [
            ('task_type="SEQ_CLS"))', 'task_type="SEQ_CLS"))\n    model.base_model.model.score.requires_grad_(False)\n    return model'),
            ("    return get_peft_model(base, LoraConfig", "    model = get_peft_model(base, LoraConfig"),
        ],
        "the whole trained": [
            ('["q_proj", "v_proj"], task_type="SEQ_CLS"', '["q_proj", "v_proj"], modules_to_save=["score", "embed_tokens"]'),
        ],
        "all linear layers": [('["q_proj", "v_proj"], task_type', '"all-linear", task_type')],
        "q alone": [('["q_proj", "v_proj"], task_type', '["q_proj"], task_type')],
    },
    "bug_clinic.m10_merging": {
        "always 1": [("    merged = W + delta", "    return 1.0\n    merged = W + delta")],
        "W alone is rounded": [("    merged = W + delta", "    merged = W")],
        "against W": [("quantize(merged) - merged", "quantize(merged) - W")],
        "measured by W": [("/ delta.norm()", "/ W.norm()")],
        "the update alone is rounded": [("    merged = W + delta", "    merged = delta")],
        "the largest entry": [("(quantize(merged) - merged).norm() / delta.norm()", "(quantize(merged) - merged).abs().max() / delta.abs().max()")],
        "squared": [("(quantize(merged) - merged).norm() / delta.norm()", "((quantize(merged) - merged).norm() / delta.norm()) ** 2")],
        "upside down": [("(quantize(merged) - merged).norm() / delta.norm()", "delta.norm() / (quantize(merged) - merged).norm()")],
        "dropout left on": [("    model.eval()\n", "")],
        "not merged": [("model.merge_and_unload()", "model")],
        "taken off": [("model.merge_and_unload()", "model.unload()")],
        "compared with itself": [("(merged(**batch).logits - before)", "(before - before)")],
        "made up": [(".abs().max().item()\n    return merged, difference", ".abs().max().item()\n    return merged, 0.0")],
        "adapter asked after merging": [
            ("        before = model(**batch).logits\n        merged = model.merge_and_unload()", "        merged = model.merge_and_unload()\n        before = merged(**batch).logits"),
        ],
        "eval afterwards": [
            ("    model.eval()\n    with", "    with"),
            ("merged = model.merge_and_unload()", "merged = model.eval().merge_and_unload()"),
        ],
        "made up, small": [("return merged, difference", "return merged, 1e-6")],
        "the mean difference": [(".abs().max().item()\n    return merged", ".abs().mean().item()\n    return merged")],
        "a difference of losses": [("model(**batch).logits", "model(**batch).loss"), ("merged(**batch).logits", "merged(**batch).loss")],
    },
    "bug_clinic.m11_wrapped_twice": {
        "always fires": [("    return any(isinstance", "    return True\n    return any(isinstance")],
        "never fires": [("    return any(isinstance", "    return False\n    return any(isinstance")],
        "the outermost class": [
            ("    return any(isinstance(module, BaseTunerLayer) for module in model.modules())", "    return isinstance(model, PeftModel)")
        ],
        "LoRA's names alone": [
            ("    return any(isinstance(module, BaseTunerLayer) for module in model.modules())", '    return any("lora_" in name for name, _ in model.named_parameters())')
        ],
        "something frozen": [
            ("    return any(isinstance(module, BaseTunerLayer) for module in model.modules())", "    return not all(p.requires_grad for p in model.parameters())")
        ],
        "something trainable": [
            ("    return any(isinstance(module, BaseTunerLayer) for module in model.modules())", "    return any(p.requires_grad for p in model.parameters())")
        ],
        "the order of the check's runs by heart": [
            (
                "return any(isinstance(module, BaseTunerLayer) for module in model.modules())",
                "from peft_lessons.assignments.bug_clinic import m11_wrapped_twice as case\n    known = globals().setdefault('_known', case.shuffled(case.ILL, 0))\n    return known.pop(0)",
            )
        ],
        "the children alone": [("in model.modules())", "in model.children())")],
        "wrapped again": [("model.unload()", "model")],
        "wrapped again, inside": [("model.unload()", "model.get_base_model()")],
        "merged first": [("model.unload()", "model.merge_and_unload()")],
        "a second adapter": [
            ("    return get_peft_model(model.unload(), config)", '    model.add_adapter("second", config)\n    model.set_adapter("second")\n    return model')
        ],
        "the old adapter deleted": [
            ("    return get_peft_model(model.unload(), config)", '    model.delete_adapter("default")\n    return model')
        ],
        "switched off": [
            ("    return get_peft_model(model.unload(), config)", "    model.disable_adapter_layers()\n    return get_peft_model(model, config)")
        ],
        "nothing": [("get_peft_model(model.unload(), config)", "model")],
        "the old adapter deleted, a new one added": [
            ("    return get_peft_model(model.unload(), config)", '    model.delete_adapter("default")\n    model.add_adapter("default", config)\n    model.set_adapter("default")\n    return model')
        ],
    },
    "bug_clinic.m12_soft_prompt": {
        "always fires": [("    loss = loss_of(prompt)", "    return True\n    loss = loss_of(prompt)")],
        "never fires": [("    loss = loss_of(prompt)", "    return False\n    loss = loss_of(prompt)")],
        "asks for requires_grad alone": [("    return gradient is None or not bool(gradient.any())", "    return False")],
        "the order of the check's runs by heart": [
            (
                "return gradient is None or not bool(gradient.any())",
                "from peft_lessons.assignments.bug_clinic import m12_soft_prompt as case\n    known = globals().setdefault('_known', case.shuffled(case.ILL, 0))\n    return known.pop(0)",
            )
        ],
        "a small gradient": [("not bool(gradient.any())", "bool(gradient.norm() < 1e-3)")],
        "a prompt of zeros": [("    loss = loss_of(prompt)", "    return not bool(prompt.any())\n    loss = loss_of(prompt)")],
        "compares with no prompt": [
            ("    loss = loss_of(prompt)", "    return bool(loss_of(prompt) == loss_of(prompt * 0))\n    loss = loss_of(prompt)")
        ],
        "a large loss": [("    loss = loss_of(prompt)", "    return loss_of(prompt).item() > 3.4\n    loss = loss_of(prompt)")],
        "the prompt's own flag": [("    loss = loss_of(prompt)", "    return not prompt.requires_grad\n    loss = loss_of(prompt)")],
        "masked": [("mask.new_ones", "mask.new_zeros")],
        "behind": [
            ("[prompt.expand(rows, n, -1), embeds]", "[embeds, prompt.expand(rows, n, -1)]"),
            ("[mask.new_ones(rows, n), mask]", "[mask, mask.new_ones(rows, n)]"),
            ("[labels.new_full((rows, n), -100), labels]", "[labels, labels.new_full((rows, n), -100)]"),
        ],
        "detached": [("prompt.expand", "prompt.detach().expand")],
        "the labels forgotten": [("torch.cat([labels.new_full((rows, n), -100), labels], dim=1)", "labels")],
        "the mask forgotten": [("torch.cat([mask.new_ones(rows, n), mask], dim=1)", "mask")],
        "labels of zero": [("(rows, n), -100)", "(rows, n), 0)")],
        "added, not put in front": [
            ("torch.cat([prompt.expand(rows, n, -1), embeds], dim=1)", "embeds + prompt.mean(0)")
        ],
        "the padding read": [("torch.cat([mask.new_ones(rows, n), mask], dim=1)", "mask.new_ones(rows, n + mask.shape[1])")],
        "scaled down": [("prompt.expand(rows, n, -1)", "0.02 * prompt.expand(rows, n, -1)")],
    },
    "bug_clinic.m13_ia3_side": {
        "all": [(" if m.is_feedforward != name.endswith(\"down_proj\")]", "]")],
        "none": [("    return [name for name, m in found", "    return []\n    return [name for name, m in found")],
        "down_proj alone": [('if m.is_feedforward != name.endswith("down_proj")', 'if name.endswith("down_proj") and not m.is_feedforward')],
        "key and value alone": [('if m.is_feedforward != name.endswith("down_proj")', 'if m.is_feedforward and not name.endswith("down_proj")')],
        "the sound ones": [("if m.is_feedforward != name", "if m.is_feedforward == name")],
        "whatever is feed-forward": [('if m.is_feedforward != name.endswith("down_proj")', "if m.is_feedforward")],
        "whatever is not": [('if m.is_feedforward != name.endswith("down_proj")', "if not m.is_feedforward")],
        "last names": [("return [name for", "return [name.split('.')[-1] for")],
        "outputs, both": [("(W * scale, b) if feedforward else ", "(W * scale[: len(W), None], b) if feedforward else ")],
        "bias forgotten": [("(W * scale[:, None], b * scale)", "(W * scale[:, None], b)")],
        "bias scaled at the input": [("(W * scale, b) if", "(W * scale, b * scale.mean()) if")],
        "sides swapped": [("if feedforward else", "if not feedforward else")],
        "added": [("W * scale[:, None]", "W + scale[:, None]")],
        "divided": [("W * scale[:, None], b * scale", "W / scale[:, None], b / scale")],
        "one number": [("(W * scale, b)", "(W * scale.mean(), b)")],
        "nothing": [("(W * scale, b) if feedforward else (W * scale[:, None], b * scale)", "(W, b)")],
    },
    "bug_clinic.m14_forgetting": {
        "the old logits in training mode": "def find_forgotten(model, batch):\n    model.eval()\n    with torch.no_grad():\n        on = model(**batch).loss\n        with model.disable_adapter():\n            return (on - model(**batch).loss).item()\n\n\ndef mend_old_logits(model, batch):\n    model.train()\n    with torch.no_grad(), model.disable_adapter():\n        return model(**batch).logits\n",
        "the loss after": [("return (after - before).item()", "return after.item()")],
        "the loss before": [("return (after - before).item()", "return before.item()")],
        "the sign": [("(after - before)", "(before - after)")],
        "nothing": [("return (after - before).item()", "return 0.0")],
        "dropout left on": [("    model.eval()\n    with torch.no_grad():\n        after", "    with torch.no_grad():\n        after")],
        "the adapter on both times": [("        with model.disable_adapter():\n            before = model(**batch).loss", "        before = model(**batch).loss")],
        "a quotient": [("(after - before)", "(after / before)")],
        "counted twice": [("(after - before)", "(2 * (after - before))")],
        "the adapter on": [("with torch.no_grad(), model.disable_adapter():", "with torch.no_grad():")],
        "taken off for good": [("    with torch.no_grad(), model.disable_adapter():", "    model = model.unload()\n    with torch.no_grad():")],
        "left off": [("    with torch.no_grad(), model.disable_adapter():", "    model.disable_adapter_layers()\n    with torch.no_grad():")],
        "merged": [("    with torch.no_grad(), model.disable_adapter():", "    model = model.merge_and_unload()\n    with torch.no_grad():")],
        "B cleared": [
            (
                "    with torch.no_grad(), model.disable_adapter():",
                "    for name, p in model.named_parameters():\n        if 'lora_B' in name:\n            p.data.zero_()\n    with torch.no_grad():",
            )
        ],
        "the inner model": [
            ("    with torch.no_grad(), model.disable_adapter():\n        return model(", "    with torch.no_grad():\n        return model.get_base_model()(")
        ],
        "frozen afterwards": [("        return model(**batch).logits", "        logits = model(**batch).logits\n    model.requires_grad_(False)\n    return logits")],
    },
    "bug_clinic.m15_labels": {
        "a fault only where all is wrong": FAULTS.replace("RULE(part)", "part and all(part)"),
        "no faults": [("    n = sum(mask)", "    return set()\n    n = sum(mask)")],
        "all faults": [("{name for name, there in faults.items() if there}", "set(faults)")],
        "the end by its token": [('"end masked": labels[n - 1] == -100', '"end masked": 1 not in labels')],
        "padding by its token": [('any(label != -100 for label in labels[n:])', 'labels[-1] != -100 and ids[-1] != 1')],
        "the first token alone": [("any(label != -100 for label in labels[:n_prompt])", "labels[1] == -100")],
        "padding not looked at": [("any(label != -100 for label in labels[n:])", "False")],
        "the end is the last entry": [("labels[n - 1] == -100", "labels[-1] == -100")],
        "the end counts as answer": [("labels[n_prompt : n - 1]", "labels[n_prompt:n]")],
        "labels are ids": [("[-100] * len(prompt) + [*answer, eos] + [-100] * empty", "list(ids)")],
        "the end masked": [("[*answer, eos] + [-100] * empty", "answer + [-100] * (empty + 1)")],
        "masked by token": [
            ("labels = [-100] * len(prompt) + [*answer, eos] + [-100] * empty", "labels = [-100] * len(prompt) + [i if i != pad else -100 for i in ids[len(prompt) :]]")
        ],
        "no end": [("text = [*prompt, *answer, eos]", "text = [*prompt, *answer]"), ("[*answer, eos]", "answer")],
        "the mask by token": [("mask = [1] * len(text) + [0] * empty", "mask = [int(i != pad) for i in ids]")],
        "shifted by hand": [("    return ids, mask, labels", "    return ids, mask, labels[1:] + [-100]")],
        "padded on the left": [
            ("ids = text + [pad] * empty", "ids = [pad] * empty + text"),
            ("[1] * len(text) + [0] * empty", "[0] * empty + [1] * len(text)"),
            ("[-100] * len(prompt) + [*answer, eos] + [-100] * empty", "[-100] * (empty + len(prompt)) + [*answer, eos]"),
        ],
        "the majority of the test": [("Counter(train)", "Counter(test)")],
        "chance": [("test.count(commonest) / len(test)", "1 / len(set(train))")],
        "the training share": [("test.count(commonest) / len(test)", "train.count(commonest) / len(train)")],
        "a count": [("right / len(test)", "right")],
        "the majority of both splits": [("Counter(train)", "Counter(train + test)")],
        "the majority of the predictions": [("Counter(train)", "Counter(predicted)")],
    },
}  # fmt: skip

RIGHT = {
    "bug_clinic.m01_nothing_trains": {
        "by a step": """
def find_stuck(model, optimizer):
    lora = [p for name, p in model.named_parameters() if ".lora_" in name]
    held = [q for group in optimizer.param_groups for q in group["params"] if q.requires_grad]
    return any(not any(p is q for q in held) for p in lora)


def mend_resume(base, folder):
    model = PeftModel.from_pretrained(base, folder)
    for name, p in model.named_parameters():
        p.requires_grad_("lora_" in name)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
""",
        "the whole model given to the optimizer": [("AdamW(trained, lr=1e-3)", "AdamW(model.parameters(), lr=1e-3)")],
    },
    "bug_clinic.m02_checkpointing": {
        "by the norm": [("not tensor.any()", "tensor.norm() == 0")],
        "an input that asks for a gradient": [
            ("    for block in blocks:", "    x = x.requires_grad_()\n    for block in blocks:"),
            ("use_reentrant=False", "use_reentrant=True"),
        ],
    },
    "bug_clinic.m03_targets": {
        "by equality and end": [
            ('f".{path}".endswith(f".{name}")', 'path == name or path.endswith("." + name)'),
        ],
        "by its class's name": [
            ("isinstance(module, (nn.Linear, Conv1D))", 'type(module).__name__ in ("Linear", "Conv1D")'),
        ],
    },
    "bug_clinic.m04_memory": {
        "by the sum": [
            ("share = n_labels(part) / n_labels(batch)", "share = n_labels(part).item() * (1 / n_labels(batch).item())")
        ],
        "row by row": [("    for start", "    size = 1\n    for start")],
        "by autograd.grad": [("(model(**part).loss * share).backward()", "trained = [p for p in model.parameters() if p.requires_grad]\n        for p, g in zip(trained, torch.autograd.grad(model(**part).loss * share, trained)):\n            p.grad = g if p.grad is None else p.grad + g")],
    },
    "bug_clinic.m05_speed": {
        "term by term": [("2 * tokens * (n_total + n_total + n_trainable)", "4 * n_total * tokens + 2 * n_trainable * tokens")],
        "merged, then unloaded": [
            ("return model.merge_and_unload()", "model.merge_adapter()\n    return model.merge_and_unload()"),
        ],
    },
    "bug_clinic.m06_scaling": {
        "from ones in A and B": """
def find_rule(layer):
    x = torch.randn(3, layer.base.in_features)
    update, plain = layer(x) - layer.base(x), x @ (layer.lora_B @ layer.lora_A).T
    s = (update.sum() / plain.sum()).item()
    for rule, value in (("1", 1), ("alpha / r", layer.alpha / layer.r), ("alpha", layer.alpha)):
        if abs(s - value) < 1e-3 * value:
            return rule
    return "alpha / sqrt(r)"


def mend_alpha(scale, r, use_rslora):
    return scale * r ** (0.5 if use_rslora else 1)
""",
        "by another x": [("torch.ones(1, layer.base.in_features)", "torch.randn(5, layer.base.in_features)")],
    },
    "bug_clinic.m07_learning_rate": {
        "step by step": VERDICT.replace("RULE", "pass"),
        "means of five": """
def find_verdict(losses):
    first, last = losses[0], sum(losses[-5:]) / 5
    if last != last or last > first:
        return "too high"
    return "too low" if last > 0.9 * first else "fine"


def mend_search(run, start):
    found = {}
    for k in range(-5, 6):
        loss = run(start * 3.0**k)
        if loss == loss:
            found[start * 3.0**k] = loss
    return min(found, key=found.get)
""",
        "downhill by steps": """
def find_verdict(losses):
    if not losses[-1] <= losses[0]:
        return "too high"
    return "fine" if losses[-1] < losses[0] * 0.9 else "too low"


def mend_search(run, start):
    def loss_at(lr):
        loss = run(lr)
        return float("inf") if loss != loss else loss

    rate, loss = start, loss_at(start)
    for factor in (1 / 3, 3.0):
        while (next_loss := loss_at(rate * factor)) < loss or loss == float("inf"):
            rate, loss = rate * factor, next_loss
    return rate
""",
    },
    "bug_clinic.m08_precision": {
        "two half types": [("p.dtype != torch.float32", "p.dtype in (torch.float16, torch.bfloat16)")],
        "by to": [("p.data.float()", "p.data.to(torch.float32)")],
    },
    "bug_clinic.m09_lost_head": {
        "by the module": [('task_type="SEQ_CLS"', 'modules_to_save=["score"]')],
        "by numpy's way": [("(model.eval()(**batch).logits - again.eval()(**batch).logits).abs().max().item()", "float(torch.dist(model.eval()(**batch).logits, again.eval()(**batch).logits, float('inf')))")],
    },
    "bug_clinic.m10_merging": {
        "by hand": [("(quantize(merged) - merged).norm() / delta.norm()", "torch.dist(quantize(merged), merged) / delta.square().sum().sqrt()")],
        "in two steps": [("merged = model.merge_and_unload()", "model.merge_adapter()\n        merged = model.unload()")],
    },
    "bug_clinic.m11_wrapped_twice": {
        "by the module's origin": [
            ("isinstance(module, BaseTunerLayer)", 'type(module).__module__.startswith("peft.tuners")'),
        ],
        "unloaded from inside": [("model.unload()", "model.base_model.unload()")],
        "by the attribute that peft's own warning goes by": [
            ("    return any(isinstance(module, BaseTunerLayer) for module in model.modules())", '    return hasattr(model, "peft_config")')
        ],
    },
    "bug_clinic.m12_soft_prompt": {
        "by backward": """
def find_unread(loss_of, prompt):
    prompt.grad = None
    try:
        loss_of(prompt).backward()
    except RuntimeError:
        return True
    return prompt.grad is None or prompt.grad.abs().sum().item() == 0


def mend_prompt(embeds, mask, labels, prompt):
    rows = [torch.cat([prompt, row]) for row in embeds]
    front = torch.ones(len(rows), len(prompt), dtype=mask.dtype)
    return torch.stack(rows), torch.hstack([front, mask]), torch.hstack([-100 * front, labels])
""",
        "repeated": [("prompt.expand(rows, n, -1)", "prompt.unsqueeze(0).repeat(rows, 1, 1)")],
    },
    "bug_clinic.m13_ia3_side": {
        "by the vector's shape": [
            ("m.is_feedforward != name", '(m.ia3_l["default"].shape[0] == 1) != name'),
        ],
        "by diagonal matrices": [("(W * scale, b) if feedforward else (W * scale[:, None], b * scale)", "(W @ torch.diag(scale), b) if feedforward else (torch.diag(scale) @ W, scale * b)")],
    },
    "bug_clinic.m14_forgetting": {
        "off first": [
            ("        after = model(**batch).loss\n        with model.disable_adapter():\n            before = model(**batch).loss", "        with model.disable_adapter():\n            before = model(**batch).loss\n        after = model(**batch).loss"),
        ],
        "off and on by hand": [
            (
                "    with torch.no_grad(), model.disable_adapter():\n        return model(**batch).logits",
                "    model.base_model.disable_adapter_layers()\n    with torch.no_grad():\n        logits = model(**batch).logits\n    model.base_model.enable_adapter_layers()\n    return logits",
            )
        ],
    },
    "bug_clinic.m15_labels": {
        "part by part": FAULTS.replace("RULE", "any"),
        "by counting": [
            ("any(label != -100 for label in labels[n:])", "labels[n:].count(-100) < len(labels) - n"),
            ("any(label != -100 for label in labels[:n_prompt])", "labels[:n_prompt] != [-100] * n_prompt"),
        ],
        "the majority by max": [("Counter(train).most_common(1)[0][0]", "max(set(train), key=train.count)")],
    },
}  # fmt: skip
