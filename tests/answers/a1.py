"""Wrong and differently written answers to assignment 1, in-context learning."""

from answers import PATCHED_CHECK

HEAD = "        head = [tokenizer.bos_token_id, *tokens(prompt)]"
SUM = "                scores[i, j] += log_p[place - 1, token]"

BATCHED = """
def score_answers(model, tokenizer, prompts, choices):
    def tokens(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    heads = [[tokenizer.bos_token_id, *tokens(prompt)] for prompt in prompts for _ in choices]
    tails = [tokens(f" {choice}\\n") for _ in prompts for choice in choices]
    rows = [head + tail for head, tail in zip(heads, tails)]
    longest = max(map(len, rows))
    ids = torch.tensor([LEFT[tokenizer.pad_token_id] * (longest - len(row)) RIGHT for row in rows])
    mask = torch.tensor([LEFT[0] * (longest - len(row)) MASK for row in rows])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        log_p = model(input_ids=idsEXTRA).logits.log_softmax(-1)
    found = log_p[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    scores = [FOUND for row, head, tail in zip(found, heads, tails)]
    return torch.stack(scores).view(len(prompts), len(choices))
"""


def batched(left: bool, extra: str) -> str:
    """All prompts and answers in one batch, padded on one side."""
    places = "row[-len(tail) :].sum()" if left else "row[len(head) - 1 : len(head) + len(tail) - 1].sum()"
    right = ("+ row", "+ [1] * len(row)") if left else ("", "")
    code = BATCHED if left else BATCHED.replace("LEFT[", "row + LEFT[", 1).replace("LEFT[0]", "[1] * len(row) + [0]")
    code = code.replace("LEFT", "").replace("RIGHT", right[0]).replace("MASK", right[1])
    return code.replace("EXTRA", extra).replace("FOUND", places)


WRONG = {
    "a1.prompt": {
        "in small letters": [("text=text", "text=text.lower()")],
        "texts trimmed": [("text=text", "text=text.strip()")],
        "trimmed as a whole": [('return "\\n".join(lines)', 'return "\\n".join(lines).strip()')],
        "through a dictionary, which holds each text once": [
            ("in demonstrations]", "in dict(demonstrations).items()]")
        ],
        "a list of lines": [('"\\n".join(lines)', "lines")],
        "a space at the end": [('.rstrip(" ")', "")],
        "an empty line for no header": [("[header] if header else []", "[header]")],
        "examples reversed": [("for text, label in demonstrations]", "for text, label in reversed(demonstrations)]")],
        "the question first": [
            ("lines += [", "lines.append(template.format(text=query, label='').rstrip(' '))\n    lines += ["),
            ('    lines.append(template.format(text=query, label="").rstrip(" "))\n', ""),
        ],
        "a newline at the end": [('return "\\n".join(lines)', 'return "\\n".join(lines) + "\\n"')],
        "empty lines between": [('"\\n".join', '"\\n\\n".join')],
        "on one line": [('"\\n".join', '" ".join')],
        "the arrow whatever the template": [
            ("template.format(text=text, label=label)", 'f"{text} -> {label}"'),
            ('template.format(text=query, label="").rstrip(" ")', 'f"{query} ->"'),
        ],
        "braces of a text filled in": [
            (
                "template.format(text=text, label=label)",
                'template.replace("{text}", text).replace("{label}", label)',
            )
        ],
        "formatted at the end": [
            ('return "\\n".join(lines)', 'return "\\n".join(lines).format(text=query, label="")'),
        ],
        "the header last": [
            ("[header] if header else []", "[]"),
            ("    return", "    lines += [header] if header else []\n    return"),
        ],
        "header forgotten": [("[header] if header else []", "[]")],
        "the label None": [('text=query, label=""', "text=query, label=None")],
        "printed, not returned": [('return "\\n".join(lines)', 'print("\\n".join(lines))')],
        "the last label left in": [('text=query, label=""', 'text=query, label=(demonstrations or [("", "")])[-1][1]')],
        "hard-coded for the check's numbers": """
from peft_lessons.assignments.a1.prompt import draw_cases

kept = [case.text for case in draw_cases(0).values()]


def build_prompt(demonstrations, query, template, header):
    return kept.pop(0)
""",
        "the check patched": PATCHED_CHECK + "\ndef build_prompt(*parts):\n    return 'all right'\n",
    },
    "a1.score": {
        "first token alone": [("in enumerate(tail, start", "in enumerate(tail[:1], start")],
        "last token alone": [
            ("enumerate(tail, start=len(head))", "enumerate(tail[-1:], start=len(head) + len(tail) - 1)")
        ],
        "a mean": [("log_p[place - 1, token]", "log_p[place - 1, token] / len(tail)")],
        "off by one": [("log_p[place - 1, token]", "log_p[place, token]")],
        "logits": [(".logits[0].log_softmax(-1)", ".logits[0]")],
        "probabilities": [("    return scores\n", "    return scores.exp()\n")],
        "a loss": [("scores[i, j] +=", "scores[i, j] -=")],
        "no newline": [('f" {choice}\\n"', 'f" {choice}"')],
        "no space": [('f" {choice}\\n"', 'f"{choice}\\n"')],
        "no beginning-of-sequence token": [("[tokenizer.bos_token_id, *tokens(prompt)]", "tokens(prompt)")],
        "two beginnings": [("[tokenizer.bos_token_id, *", "[tokenizer.bos_token_id, tokenizer.bos_token_id, *")],
        "the prompt scored too": [
            ("tail = tokens", "tail = head[1:] + tokens"),
            ("[head + tail]", "[head[:1] + tail]"),
            ("start=len(head)", "start=1"),
        ],
        "softmax over the choices": [("    return scores\n", "    return scores.log_softmax(-1)\n")],
        "transposed": [("    return scores\n", "    return scores.T\n")],
        "the first prompt for all": [("*tokens(prompt)]", "*tokens(prompts[0])]")],
        "answers without the prompt": [
            ("[head + tail]", "[head[:1] + tail]"),
            ("start=len(head)", "start=1"),
        ],
        "padded on the left, no mask": batched(True, ""),
        "padded on the left, no positions": batched(True, ", attention_mask=mask"),
        "padded on the left, positions alone": batched(True, ", position_ids=positions"),
        "hard-coded for the check's numbers": """
from peft_lessons.assignments.a1.scoring import Scores

kept = [Scores(0).right(name) for name in ("short", "whole", "several", "decoder")]


def score_answers(model, tokenizer, prompts, choices):
    return kept.pop(0)
""",
        "the check patched": PATCHED_CHECK
        + "\ndef score_answers(model, tokenizer, prompts, choices):\n    return torch.zeros(len(prompts), len(choices))\n",
    },
    "a1.padding": {
        "padded with zeros": [
            ("torch.full((len(sequences), longest), pad_id)", "torch.zeros(len(sequences), longest, dtype=torch.long)")
        ],
        "on the right": [("longest - len(row) :]", ": len(row)]")],
        "mask from the ids": [
            ("    positions = (mask", "    mask = (ids != pad_id).long()\n    positions = (mask"),
        ],
        "nothing masked": [
            ("mask.cumsum", "kept.cumsum"),
            ("    positions = (", "    kept, mask = mask, torch.ones_like(mask)\n    positions = ("),
        ],
        "mask turned": [("return ids, mask, positions", "return ids, 1 - mask, positions")],
        "positions from the edge": [("(mask.cumsum(-1) - 1).clamp(min=0)", "torch.arange(longest).expand_as(mask)")],
        "positions from 1": [("(mask.cumsum(-1) - 1).clamp(min=0)", "mask.cumsum(-1)")],
        "positions from -1": [(".clamp(min=0)", "")],
        "positions down the batch": [("cumsum(-1)", "cumsum(0)")],
        "rows cut to the shortest": [
            ("max(len(row)", "min(len(row)"),
            ("for i, row in enumerate(sequences)", "for i, row in enumerate([row[-longest:] for row in sequences])"),
        ],
        "one column too many": [
            ("longest = max(len(row) for row in sequences)", "longest = max(len(row) for row in sequences) + 1")
        ],
        "padded with zero": [("longest), pad_id)", "longest), 0)")],
        "reversed rows": [("torch.tensor(row)", "torch.tensor(row[::-1])")],
        "in another order": [("enumerate(sequences)", "enumerate(sorted(sequences, key=len))")],
        "hard-coded for the check's numbers": """
from peft_lessons.assignments.a1.padding import draw_rows


def left_pad(sequences, pad_id):
    given = draw_rows(0)
    return given.ids, given.mask, (given.mask.cumsum(-1) - 1).clamp(min=0)
""",
        "the check patched": PATCHED_CHECK
        + "\ndef left_pad(sequences, pad_id):\n    zeros = torch.zeros(len(sequences), 3).long()\n    return zeros, zeros, zeros\n",
    },
    "a1.measure": {
        "one generator for all seeds": [
            ("    runs =", "    rng = Random(seeds[0])\n    runs ="),
            ("Random(seed).sample", "rng.sample"),
        ],
        "the training split shuffled in place": [
            (
                "    runs =",
                "    def drawn(seed):\n        Random(seed).shuffle(train)\n        return train[:k]\n\n    runs =",
            ),
            ("Random(seed).sample(train, k)", "drawn(seed)"),
        ],
        "seeds put in order": [("for seed in seeds", "for seed in sorted(seeds)")],
        "no seed where the seed is zero": [("Random(seed)", "Random(seed or None)")],
        "majority of the test split": [("for _, label in train).most", "for _, label in test).most")],
        "majority on the training split": [
            (
                '"majority": right([commonest] * len(labels))',
                '"majority": sum(label == commonest for _, label in train) / len(train)',
            )
        ],
        "majority by the number of labels": [("right([commonest] * len(labels))", "1 / len(set(labels))")],
        "no zero-shot": [("right(answer([], texts))", "0.0")],
        "one example called zero-shot": [("answer([], texts)", "answer(train[:1], texts)")],
        "one draw for all seeds": [("Random(seed).sample", "Random(seeds[0]).sample")],
        "the first k": [("Random(seed).sample(train, k)", "train[:k]")],
        "put back after each draw": [("Random(seed).sample(train, k)", "Random(seed).choices(train, k=k)")],
        "not seeded": [("Random(seed)", "Random()")],
        "one generator, not told of the seeds": [
            ("    runs = [", "    rng = Random()\n    runs = ["),
            ("Random(seed).sample", "rng.sample"),
        ],
        "drawn from the test split": [(".sample(train, k)", ".sample(test, k)")],
        "one too few": [(".sample(train, k)", ".sample(train, k - 1)")],
        "a draw for each question": [
            (
                "right(answer(Random(seed).sample(train, k), texts))",
                "right([answer(Random(seed + 1000 * i).sample(train, k), [t])[0] for i, t in enumerate(texts)])",
            )
        ],
        "only the order changes": [("Random(seed).sample(train, k)", "Random(seed).sample(train[:k], k)")],
        "half of the test split": [
            (
                "for text, _ in test], [label for _, label in test]",
                "for text, _ in test[::2]], [label for _, label in test[::2]]",
            )
        ],
        "in percent": [("/ len(labels)\n", "/ len(labels) * 100\n")],
        "population standard deviation": [("statistics.stdev", "statistics.pstdev")],
        "the range": [("statistics.stdev(runs)", "max(runs) - min(runs)")],
        "the standard error": [("statistics.stdev(runs)", "statistics.stdev(runs) / len(runs) ** 0.5")],
        "the best run": [("statistics.mean(runs)", "max(runs)")],
        "only the mean": [('"runs": runs', '"runs": [statistics.mean(runs)]')],
        "hard-coded for the check's numbers": [("for seed in seeds]", "for seed in [4, 8, 15, 16]]")],
        "the check patched": PATCHED_CHECK
        + """
def measure(answer, train, test, k, seeds):
    return {"majority": 0.3, "zero_shot": 0.5, "runs": [0.9] * len(seeds), "mean": 0.9, "spread": 0.0}
""",
    },
    "a1.claims": {
        "three errors": [("2 * error", "3 * error")],
        "the t-test's threshold": [("2 * error", "2.776 * error")],
        "a little less than two errors": [("2 * error", "1.96 * error")],
        "the root of n - 1": [("math.sqrt(len(differences))", "math.sqrt(len(differences) - 1)")],
        "most seeds decide": [
            ("abs(mean) <= 2 * error", "abs(sum((d > 0) - (d < 0) for d in differences)) <= len(differences) / 2")
        ],
        "both put in order": [("zip(first, second, strict=True)", "zip(sorted(first), sorted(second), strict=True)")],
        "one order": [("permutations(demonstrations)", "[demonstrations]")],
        "rotations alone": [
            (
                "permutations(demonstrations)",
                "[demonstrations[i:] + demonstrations[:i] for i in range(len(demonstrations))]",
            )
        ],
        "random orders": [
            (
                "permutations(demonstrations)",
                "[Random(i).sample(demonstrations, len(demonstrations)) for i in range(math.factorial(len(demonstrations)))]",
            )
        ],
        "subsets too": [
            ("permutations(demonstrations)", "[p for n in (3, 4) for p in permutations(demonstrations, n)]")
        ],
        "the labels permuted": [
            (
                "permutations(demonstrations)",
                "[[(t, label) for (t, _), label in zip(demonstrations, p)] for p in permutations([b for _, b in demonstrations])]",
            )
        ],
        "best and worst alone": [("return found", "return [min(found), max(found)]")],
        "number right, not the share": [
            ("zip(answers, labels, strict=True)) / len(labels)", "zip(answers, labels, strict=True))")
        ],
        "the higher mean": [("abs(mean) <= 2 * error", "mean == 0")],
        "one standard error": [("2 * error", "error")],
        "three standard errors and a half": [("2 * error", "3.5 * error")],
        "standard deviation for its error": [(" / math.sqrt(len(differences))", "")],
        "divided by n": [("math.sqrt(len(differences))", "len(differences)")],
        "population standard deviation": [("statistics.stdev", "statistics.pstdev")],
        "not paired": [
            (
                "error = statistics.stdev(differences) / math.sqrt(len(differences))",
                "error = math.sqrt((statistics.variance(first) + statistics.variance(second)) / len(first))",
            )
        ],
        "first and second exchanged": [('"first" if mean > 0 else "second"', '"second" if mean > 0 else "first"')],
        "only the first can win": [("abs(mean) <= 2 * error", "mean <= 2 * error")],
        "a tie goes to the second": [("<= 2 * error", "< 2 * error")],
        "always cautious": [('return "first" if mean > 0 else "second"', 'return "cannot tell"')],
        "divides by the error": [("abs(mean) <= 2 * error", "abs(mean) / error <= 2")],
        "other words": [('"cannot tell"', '"no difference"')],
        "hard-coded for the check's numbers": """
from peft_lessons.assignments.a1.claims import _verdict, draw_claims

given = draw_claims(0)
kept = [_verdict(*runs) for runs in given.clear + given.unclear + given.paired]


def accuracies_by_order(answer, demonstrations, test):
    return [given.model.accuracy(order, given.test) for order in permutations(given.demonstrations)]


def verdict(first, second):
    return kept.pop(0)
""",
        "the check patched": PATCHED_CHECK
        + """
def accuracies_by_order(answer, demonstrations, test):
    return [1.0] * 24


def verdict(first, second):
    return "first"
""",
    },
    "a1.mislabel": {
        "rounded down": [("round(share", "int(share")],
        "rounded up": [("round(share", "math.ceil(share")],
        "one wrong label for all": [
            ("    for i in", "    one = rng.choice(choices)\n    for i in"),
            (
                "rng.choice([choice for choice in choices if choice != label])",
                "one if one != label else [c for c in choices if c != one][0]",
            ),
        ],
        "right by chance": [("[choice for choice in choices if choice != label]", "choices")],
        "the next label": [
            (
                "rng.choice([choice for choice in choices if choice != label])",
                "choices[(choices.index(label) + 1) % len(choices)]",
            )
        ],
        "the first other label": [
            ("rng.choice([choice for choice in choices if choice != label])", "[c for c in choices if c != label][0]")
        ],
        "the first ones": [
            ("rng.sample(range(len(examples)), round(share * len(examples)))", "range(round(share * len(examples)))")
        ],
        "a coin for each": [
            (
                "rng.sample(range(len(examples)), round(share * len(examples)))",
                "[i for i in range(len(examples)) if rng.random() < share]",
            )
        ],
        "drawn with replacement": [
            (
                "rng.sample(range(len(examples)), round(share * len(examples)))",
                "rng.choices(range(len(examples)), k=round(share * len(examples)))",
            )
        ],
        "labels shuffled": [
            (
                "    return spoiled",
                "    shown = [label for _, label in examples]\n    rng.shuffle(shown)\n    return [(t, s) for (t, _), s in zip(examples, shown)]",
            )
        ],
        "changes the list given": [("list(examples)", "examples")],
        "not seeded": [("Random(seed)", "Random()")],
        "one seed": [("Random(seed)", "Random(0)")],
        "order shuffled": [("    return spoiled", "    rng.shuffle(spoiled)\n    return spoiled")],
        "only the spoiled ones": [
            ("    return spoiled", "    return [s for s, e in zip(spoiled, examples) if s != e]")
        ],
        "the share that stays right": [("round(share * len", "round((1 - share) * len")],
        "texts spoiled": [("spoiled[i] = (text,", 'spoiled[i] = (text + " ",')],
        "nothing is done": [("    return spoiled", "    return list(examples)")],
        "a label of its own": [("rng.choice([choice for choice in choices if choice != label])", '"wrong"')],
        "hard-coded for the check's numbers": """
from peft_lessons.assignments.a1.mislabeling import draw_labeled


def mislabel(examples, choices, share, seed):
    rng, rows = Random(seed), list(draw_labeled(0).examples)
    for i in rng.sample(range(20), round(share * 20)):
        rows[i] = (rows[i][0], rng.choice([c for c in choices if c != rows[i][1]]))
    return rows
""",
        "the check patched": PATCHED_CHECK + "\ndef mislabel(examples, choices, share, seed):\n    return examples\n",
    },
    "a1.break_even": {
        "the nearest whole number": [
            ("math.ceil((training - prompt_once) / saved)", "round((training - prompt_once) / saved)")
        ],
        "one operation for two": [("2 * shape.n_linear", "shape.n_linear")],
        "a training step's": [("2 * shape.n_linear", "6 * shape.n_linear")],
        "no attention": [("(2 * shape.n_linear + attention)", "2 * shape.n_linear")],
        "attention linear": [("tokens * (2 * shape.n_linear + attention)", "tokens * 2 * shape.n_linear + attention")],
        "no output layer": [(" + 2 * shape.d_model * shape.vocab", "")],
        "output layer for every token": [
            ("+ 2 * shape.d_model * shape.vocab", "+ tokens * 2 * shape.d_model * shape.vocab")
        ],
        "d_model for heads": [("shape.n_heads * shape.head_dim", "shape.d_model")],
        "key-value heads": [("shape.n_heads", "shape.n_kv_heads")],
        "cached tokens read again": [("return tokens * (", "return (tokens + cached) * (")],
        "cached tokens not attended to": [("(cached + tokens)\n", "tokens\n")],
        "the cache for nothing": [("return flops(shape, demonstrations, 0), flops", "return 0, flops")],
        "cached and read": [
            ("flops(shape, question, demonstrations)", "flops(shape, question + demonstrations, 0)"),
        ],
        "demonstrations paid once without a cache": [
            (
                "return 0, flops(shape, demonstrations + question, 0)",
                "return flops(shape, demonstrations, 0), flops(shape, question, 0)",
            )
        ],
        "rounded": [("math.ceil((training - prompt_once) / saved)", "round((training - prompt_once) / saved)")],
        "rounded down": [("math.ceil((training - prompt_once) / saved)", "(training - prompt_once) // saved")],
        "one more": [("math.ceil((training - prompt_once) / saved)", "(training - prompt_once) // saved + 1")],
        "a fraction": [("math.ceil((training - prompt_once) / saved)", "(training - prompt_once) / saved")],
        "the cache not set against training": [("(training - prompt_once)", "training")],
        "the cache added to training": [("(training - prompt_once)", "(training + prompt_once)")],
        "the tuned answer free": [("saved = prompt_answer - tuned_answer", "saved = prompt_answer")],
        "below zero": [
            ("max(0, math.ceil((training - prompt_once) / saved))", "math.ceil((training - prompt_once) / saved)")
        ],
        "never forgotten": [("    if saved <= 0:\n        return math.inf\n", "")],
        "never is zero": [("return math.inf", "return 0")],
        "hard-coded for the check's numbers": """
from peft_lessons.accounting.inference import forward_flops as flops
from peft_lessons.assignments.a1.costs import draw_prices


def prompting(shape, question, demonstrations, caching):
    if caching:
        return flops(shape, demonstrations), flops(shape, question, demonstrations)
    return 0, flops(shape, demonstrations + question)


kept = [math.ceil((t - o) / (p - a)) for t, o, p, a in draw_prices(0).crossing] + [0, math.inf, math.inf]


def break_even(*costs):
    return kept.pop(0)
""",
        "the check patched": PATCHED_CHECK + "\nflops = prompting = break_even = lambda *numbers: (0, 0)\n",
    },
}

RIGHT = {
    "a1.prompt": {
        "label filled in first": [
            ("template.format(text=text, label=label)", 'template.replace("{label}", label).replace("{text}", text)')
        ],
        "piece by piece": """
def build_prompt(demonstrations, query, template, header):
    prompt = header + "\\n" if header else ""
    for text, label in demonstrations:
        prompt += template.format(label=label, text=text) + "\\n"
    return prompt + template.format(text=query, label="").rstrip()
""",
    },
    "a1.score": {
        "padded on the left": batched(True, ", attention_mask=mask, position_ids=positions"),
        "padded on the right": batched(False, ""),
        "by cross-entropy": [
            (
                "            for place, token in enumerate(tail, start=len(head)):\n" + SUM,
                "            scores[i, j] = -torch.nn.functional.nll_loss(log_p[len(head) - 1 : -1], torch.tensor(tail), reduction='sum')",
            )
        ],
        "a list of lists": [("    return scores\n", "    return scores.tolist()\n")],
    },
    "a1.padding": {
        "by lists": """
def left_pad(sequences, pad_id):
    longest = max(map(len, sequences))
    gaps = [longest - len(row) for row in sequences]
    ids = torch.tensor([[pad_id] * gap + list(row) for gap, row in zip(gaps, sequences)])
    mask = torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps])
    positions = torch.tensor([[0] * gap + list(range(longest - gap)) for gap in gaps])
    return ids, mask, positions
""",
        "one for padding's position": [(".clamp(min=0)", ".masked_fill(mask == 0, 1)")],
        "a mask of truths": [("return ids, mask, positions", "return ids, mask.bool(), positions")],
    },
    "a1.measure": {
        "with torch": [
            ("statistics.mean(runs)", "torch.tensor(runs).mean().item()"),
            ("statistics.stdev(runs)", "torch.tensor(runs).std().item()"),
        ],
        "one text at a time": [
            ("answer([], texts)", "[answer([], [text])[0] for text in texts]"),
            (
                "answer(Random(seed).sample(train, k), texts)",
                "[answer(Random(seed).sample(train, k), [text])[0] for text in texts]",
            ),
        ],
        "shuffled and cut": [
            (
                "    runs = [right(answer(Random(seed).sample(train, k), texts)) for seed in seeds]",
                "    runs = []\n    for seed in seeds:\n        rows = list(train)\n        Random(seed).shuffle(rows)\n"
                "        runs.append(right(answer(rows[:k], texts)))",
            )
        ],
        "by torch": [
            (
                "Random(seed).sample(train, k)",
                "[train[i] for i in torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:k]]",
            ),
            ("statistics.stdev(runs)", "torch.tensor(runs, dtype=torch.float64).std().item()"),
        ],
    },
    "a1.claims": {
        "with torch": [
            ("statistics.mean(differences)", "torch.tensor(differences).mean().item()"),
            ("statistics.stdev(differences)", "torch.tensor(differences).std().item()"),
        ],
        "reversed orders": [
            ("in permutations(demonstrations)", "in sorted(permutations(demonstrations), reverse=True)")
        ],
        "an interval": [
            (
                '    if abs(mean) <= 2 * error:\n        return "cannot tell"\n    return "first" if mean > 0 else "second"',
                '    if mean - 2 * error > 0:\n        return "first"\n    return "second" if mean + 2 * error < 0 else "cannot tell"',
            )
        ],
    },
    "a1.mislabel": {
        "a set of places": """
def mislabel(examples, choices, share, seed):
    rng = Random(seed)
    places = set(rng.sample(range(len(examples)), round(share * len(examples))))
    others = {label: [choice for choice in choices if choice != label] for label in choices}
    return [(t, rng.choice(others[label]) if i in places else label) for i, (t, label) in enumerate(examples)]
""",
        "lists for pairs": [
            (
                "spoiled[i] = (text, rng.choice([choice for choice in choices if choice != label]))",
                "spoiled[i] = [text, rng.choice(sorted(set(choices) - {label}))]",
            )
        ],
        "tried until wrong": [
            (
                "        spoiled[i] = (text, rng.choice([choice for choice in choices if choice != label]))",
                "        other = label\n        while other == label:\n            other = rng.choice(choices)\n        spoiled[i] = (text, other)",
            )
        ],
    },
    "a1.break_even": {
        "whole numbers throughout": [
            ("math.ceil((training - prompt_once) / saved)", "-((prompt_once - training) // saved)")
        ],
        "the package's": """
from peft_lessons.accounting.inference import break_even
from peft_lessons.accounting.inference import forward_flops as flops


def prompting(shape, question, demonstrations, caching):
    cached = flops(shape, demonstrations), flops(shape, question, cached=demonstrations)
    return cached if caching else (0, flops(shape, question + demonstrations))
""",
    },
}
