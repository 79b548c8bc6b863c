"""Wrong and differently written answers to assignment 5, (IA)3 and soft prompts."""

from answers import PATCHED_CHECK

WRONG = {
    "a5.ia3_layer": {
        "starts at zero": [("torch.ones(base", "torch.zeros(base")],
        "starts at random": [("torch.ones(base", "torch.randn(base")],
        "adds": [
            ("self.base(x) * self.ia3_l", "self.base(x) + self.ia3_l - 1"),
            ("x * self.ia3_l", "x + self.ia3_l - 1"),
        ],
        "multiplies by 1 + l": [
            ("torch.ones(base", "torch.zeros(base"),
            ("self.base(x) * self.ia3_l", "self.base(x) * (1 + self.ia3_l)"),
            ("x * self.ia3_l)", "x * (1 + self.ia3_l))"),
        ],
        "feed-forward rescaled at the output": [
            ("base.in_features if feedforward else base.out_features", "base.out_features"),
            ("self.base(x * self.ia3_l)", "self.base(x) * self.ia3_l"),
        ],
        "keys rescaled at the input": [
            ("base.in_features if feedforward else base.out_features", "base.in_features"),
            ("return self.base(x) * self.ia3_l", "return self.base(x * self.ia3_l)"),
        ],
        "bias left out for keys": [
            ("return self.base(x) * self.ia3_l", "return (self.base(x) - self.base.bias) * self.ia3_l + self.base.bias")
        ],
        "base not frozen": [("base.requires_grad_(False)", "base")],
        "one number in place of a vector": [("base.in_features if feedforward else base.out_features", "1")],
        "another name": [
            ("self.ia3_l = ", "self.scale = "),
            ("x * self.ia3_l", "x * self.scale"),
            ("self.base(x) * self.ia3_l", "self.base(x) * self.scale"),
        ],
        "both sides rescaled": [("return self.base(x) * self.ia3_l", "return self.base(x) * self.ia3_l * self.ia3_l")],
        "cut off from its vector": [("self.base(x) * self.ia3_l", "self.base(x) * self.ia3_l.data")],
        "cut off in the feed-forward network": [("x * self.ia3_l)", "x * self.ia3_l.detach())")],
        "a buffer, so nothing is trained": [
            (
                "self.ia3_l = nn.Parameter(torch.ones(base.in_features if feedforward else base.out_features))",
                'self.register_buffer("ia3_l", torch.ones(base.in_features if feedforward else base.out_features))',
            )
        ],
        "the check patched": PATCHED_CHECK
        + "\nclass IA3Layer(nn.Module):\n    def __init__(self, base, feedforward):\n        super().__init__()\n        self.base = base\n\n    def forward(self, x):\n        return self.base(x)\n",
    },
    "a5.ia3_merge": {
        "rows and columns swapped": [
            (
                "if feedforward:\n        return W * scale[None, :], b\n    return scale[:, None] * W, scale * b",
                "if not feedforward:\n        return W * scale.mean(), b\n    return W * scale.mean(), b",
            )
        ],
        "bias forgotten": [("scale * b", "b")],
        "bias rescaled in the feed-forward network": [
            ("return W * scale[None, :], b", "return W * scale[None, :], b * scale.mean()")
        ],
        "adds": [("scale[:, None] * W", "scale[:, None] + W")],
        "adds 1": [("scale[:, None] * W, scale * b", "(1 + scale[:, None]) * W, (1 + scale) * b")],
        "the difference alone": [("scale[:, None] * W, scale * b", "(scale[:, None] - 1) * W, (scale - 1) * b")],
        "nothing for the feed-forward network": [("W * scale[None, :], b", "W, b")],
        "transposed": [("W * scale[None, :], b", "(W * scale[None, :]).T, b")],
        "divides": [("scale[:, None] * W, scale * b", "W / scale[:, None], b / scale")],
        "flag ignored": [
            ("if feedforward:", "if len(scale) == W.shape[1]:"),
            ("W * scale[None, :], b", "W * scale[None, :], b * scale[: len(b)]"),
        ],
        "the check patched": PATCHED_CHECK + "\ndef merge(W, b, scale, feedforward):\n    return W, b\n",
    },
    "a5.count": {
        "two vectors": [
            ("2 * d_kv + d_ff) + decoder", "2 * d_kv) + decoder"),
            ("attentions * d_kv + d_ff)", "attentions * d_kv)"),
        ],
        "no cross-attention": [("2 if encoder_blocks else 1", "1")],
        "cross-attention everywhere": [("2 if encoder_blocks else 1", "2")],
        "queries too": [("(2 * d_kv + d_ff) +", "(3 * d_kv + d_ff) +"), ("2 * attentions", "3 * attentions")],
        "one for keys and values": [("(2 * d_kv + d_ff) +", "(d_kv + d_ff) +"), ("2 * attentions", "attentions")],
        "two in the feed-forward network": [
            ("d_kv + d_ff) +", "d_kv + 2 * d_ff) +"),
            ("d_kv + d_ff)\n", "d_kv + 2 * d_ff)\n"),
        ],
        "as many cross-attentions as the shorter stack has blocks": [
            (
                "decoder_blocks * (2 * attentions * d_kv + d_ff)",
                "decoder_blocks * (2 * d_kv + d_ff) + 2 * d_kv * min(encoder_blocks, decoder_blocks)",
            )
        ],
        "as many cross-attentions as the encoder has blocks": [
            (
                "decoder_blocks * (2 * attentions * d_kv + d_ff)",
                "decoder_blocks * (2 * d_kv + d_ff) + 2 * d_kv * encoder_blocks",
            )
        ],
        "the decoder forgotten": [(" + decoder_blocks * (2 * attentions * d_kv + d_ff)", "")],
        "matrices": [("(2 * d_kv + d_ff) +", "(2 * d_kv**2 + d_ff) +"), ("attentions * d_kv", "attentions * d_kv**2")],
        "T0-3B's number": [
            (
                "return encoder_blocks * (2 * d_kv + d_ff) + decoder_blocks * (2 * attentions * d_kv + d_ff)",
                "return 540_672",
            )
        ],
        "cross-attention in the encoder": [
            ("encoder_blocks * (2 *", "encoder_blocks * (2 * attentions *"),
            ("(2 * attentions * d_kv + d_ff)\n", "(2 * d_kv + d_ff)\n"),
        ],
    },
    "a5.t_few": {
        "no length normalisation": [
            ("torch.stack([p.mean() for p in log_p])\n    wrong", "torch.stack([p.sum() for p in log_p])\n    wrong")
        ],
        "ranks by the sum": [
            ("torch.stack([p.mean() for p in log_p]).argmax()", "torch.stack([p.sum() for p in log_p]).argmax()")
        ],
        "ranks by the mean probability": [
            ("torch.stack([p.mean() for p in log_p]).argmax()", "torch.stack([p.exp().mean() for p in log_p]).argmax()")
        ],
        "worst for best": [(".argmax()", ".argmin()")],
        "unlikelihood on the right choice": [("if i != right", "if i == right")],
        "unlikelihood on all": [(" if i != right", "")],
        "0.01 missing": [(" + 0.01", "")],
        "unlikelihood by choice": [
            (
                "-torch.log(1 - wrong.exp() + 0.01).mean()",
                "torch.stack([-torch.log(1 - p.exp() + 0.01).mean() for i, p in enumerate(log_p) if i != right]).mean()",
            )
        ],
        "unlikelihood summed": [("+ 0.01).mean()", "+ 0.01).sum()")],
        "likelihood of the wrong": [("-torch.log(1 - wrong.exp() + 0.01).mean()", "-wrong.mean()")],
        "log-probabilities taken for probabilities": [("wrong.exp()", "wrong")],
        "scores with the wrong sign": [("-torch.log_softmax(scores, 0)", "-torch.log_softmax(-scores, 0)")],
        "no logarithm": [("torch.log_softmax", "torch.softmax")],
        "losses as plain numbers": [
            (
                "return -scores[right], unlikelihood, -torch.log_softmax(scores, 0)[right]",
                "return -scores[right].item(), unlikelihood.item(), -torch.log_softmax(scores, 0)[right].item()",
            )
        ],
        "cut off from log_p": [
            (
                "    scores = torch.stack([p.mean() for p in log_p])\n    wrong",
                "    log_p = [p.detach() for p in log_p]\n    scores = torch.stack([p.mean() for p in log_p])\n    wrong",
            )
        ],
        "one loss as a list of one": [("return -scores[right],", "return -scores[right : right + 1],")],
        "a gain, not a loss": [("return -scores[right]", "return scores[right]")],
        "losses in another order": [("-scores[right], unlikelihood, -torch", "unlikelihood, -scores[right], -torch")],
        "the check patched": PATCHED_CHECK
        + "\ndef t_few_losses(log_p, right):\n    return (torch.tensor(0.0),) * 3\n\n\ndef best_choice(log_p):\n    return 0\n",
    },
    "a5.prepend": {
        "behind the text": [
            ("[prompt.expand(len(embedded), -1, -1), embedded]", "[embedded, prompt.expand(len(embedded), -1, -1)]")
        ],
        "cut off from the prompt": [("[prompt.expand", "[prompt.data.expand")],
        "positions as floats": [(".clamp(min=0)", ".clamp(min=0).float()")],
        "prompt masked": [("value=1", "value=0")],
        "mask as it was": [
            ("mask = F.pad(mask, (p, 0), value=1)", "pass"),
            ("return x, mask, (mask", "return x, mask, (F.pad(mask, (p, 0), value=1)"),
        ],
        "mask longer at the wrong end": [("(p, 0)", "(0, p)")],
        "padding counted": [("(mask.cumsum(-1) - 1).clamp(min=0)", "torch.arange(x.shape[1]).expand(len(x), -1)")],
        "text begins at 0 again": [
            (
                "return x, mask, (mask.cumsum(-1) - 1).clamp(min=0)",
                "text = (mask[:, p:].cumsum(-1) - 1).clamp(min=0)\n    return x, mask, torch.cat([torch.arange(p).expand(len(x), -1), text], 1)",
            )
        ],
        "positions from 1": [("(mask.cumsum(-1) - 1).clamp(min=0)", "mask.cumsum(-1)")],
        "positions of the text alone": [
            ("(mask.cumsum(-1) - 1).clamp(min=0)", "(mask[:, p:].cumsum(-1) - 1).clamp(min=0)")
        ],
        "the first row's prompt alone": [
            (
                "x = torch.cat([prompt.expand(len(embedded), -1, -1), embedded], dim=1)",
                "x = torch.cat([prompt.expand(len(embedded), -1, -1), embedded], dim=1)\n    x[1:, :p] = 0",
            )
        ],
        "added to the text": [
            ("x = torch.cat([prompt.expand(len(embedded), -1, -1), embedded], dim=1)", "x = embedded + prompt.mean(0)")
        ],
        "prompt reversed": [("prompt.expand", "prompt.flip(0).expand")],
        "between padding and text": """
def prepend(prompt, embedded, mask):
    p = len(prompt)
    rows = [torch.cat([e[m == 0], prompt, e[m == 1]]) for e, m in zip(embedded, mask)]
    long = torch.stack([torch.cat([m[m == 0], torch.ones(p).long(), m[m == 1]]) for m in mask])
    return torch.stack(rows), long, (long.cumsum(-1) - 1).clamp(min=0)
""",
    },
    "a5.train_prompt": {
        "a rate for LoRA": [("lr=0.1", "lr=2e-4")],
        "model not frozen": [("model.requires_grad_(False)", "pass")],
        "model trained too": [
            ("model.requires_grad_(False)", "pass"),
            ("AdamW([prompt], lr=0.1", "AdamW([prompt, *model.parameters()], lr=1e-3"),
        ],
        "gradients never zeroed": [("optimizer.zero_grad()", "pass")],
        "one batch all the time": [("prompted_loss(model, prompt, batch)", "prompted_loss(model, prompt, batches[0])")],
        "losses sorted": [("return prompt, losses", "return prompt, sorted(losses, reverse=True)")],
        "the loss behind the step": [
            ("losses.append(loss.item())", "losses.append(prompted_loss(model, prompt, batch).item())")
        ],
        "two steps a batch": [("for batch in batches", "for batch in [b for b in batches for _ in (0, 1)]")],
        "a step by hand": [
            (
                "        optimizer.step()\n        optimizer.zero_grad()",
                "        with torch.no_grad():\n            prompt -= 5 * prompt.grad\n        prompt.grad = None",
            )
        ],
        "never stepped": [("optimizer.step()", "pass")],
        "zeroed before the step": [
            (
                "        optimizer.step()\n        optimizer.zero_grad()",
                "        optimizer.zero_grad()\n        optimizer.step()",
            )
        ],
        "one vector": [("(p,)", "(1,)")],
        "fewer batches": [("for batch in batches", "for batch in batches[:-1]")],
        "the start is returned": [
            ("losses = []", "losses, start = [], prompt.detach().clone()"),
            ("return prompt, losses", "return start, losses"),
        ],
        "uphill": [("loss.backward()", "(-loss).backward()")],
        "starts at zero": [("table[torch.randint(len(table), (p,))].clone()", "torch.zeros(p, table.shape[1])")],
        "huge random start": [
            ("table[torch.randint(len(table), (p,))].clone()", "torch.randn(p, table.shape[1]) * 1000")
        ],
        "losses made up": "def train_prompt(model, batches, p):\n    model.requires_grad_(False)\n    return torch.zeros(p, model.config.hidden_size), [3 - 0.05 * i for i in range(len(batches))]\n",
        "the embeddings trained": [
            ("nn.Parameter(table[torch.randint(len(table), (p,))].clone())", "nn.Parameter(table[:p].clone())"),
            ("optimizer = torch", "table.requires_grad_(True)\n    optimizer = torch"),
            ("AdamW([prompt]", "AdamW([prompt, table]"),
        ],
    },
    "a5.seems": {
        "the test set's majority": [
            ("most = max(set(train), key=train.count)\n    return", "most = max(set(test), key=test.count)\n    return")
        ],
        "the share in the training set": [
            ("return test.count(most) / len(test)", "return train.count(most) / len(train)")
        ],
        "the majority of both sets": [("key=train.count", "key=(train + test).count")],
        "the rarest answer": [
            (
                "most = max(set(train), key=train.count)\n    return",
                "most = min(set(train), key=train.count)\n    return",
            )
        ],
        "one in the number of answers": [("return test.count(most) / len(test)", "return 1 / len(set(test))")],
        "MRPC's number": [("return test.count(most) / len(test)", "return 279 / 408")],
        "learned above one half": [("right > test.count(most) / len(test)", "right > 0.5")],
        "learned above chance": [("right > test.count(most) / len(test)", "right > 1 / len(set(train))")],
        "equal is learned": [("right > test.count(most) / len(test)", "right >= test.count(most) / len(test)")],
        "a margin nobody asked for": [
            ("right > test.count(most) / len(test)", "right > 0.02 + test.count(most) / len(test)")
        ],
        "constant overlooked": [('if len(set(answered)) == 1:\n        return "constant"', "pass")],
        "constant only at the majority": [
            ("if len(set(answered)) == 1:", "if set(answered) == {max(set(train), key=train.count)}:")
        ],
        "always learned": [('"no better"', '"learned"')],
        "learned above a half": [("right > test.count(most) / len(test)", "right > 0.95")],
        "above chance": [("right > test.count(most) / len(test)", "right > -1")],
        "few answers for constant": [("len(set(answered)) == 1", "len(set(answered)) <= 2")],
        "the wrong way round": [('"learned" if right >', '"learned" if right <=')],
        "the check patched": PATCHED_CHECK
        + "\ndef majority_accuracy(train, test):\n    return 0.68\n\n\ndef diagnose(train, test, answered):\n    return 'learned'\n",
    },
}

RIGHT = {
    "a5.ia3_layer": {
        "a column": [
            (
                "torch.ones(base.in_features if feedforward else base.out_features)",
                "torch.ones(1, base.in_features if feedforward else base.out_features)",
            )
        ],
        "by functional linear": [
            (
                "return self.base(x) * self.ia3_l",
                "return F.linear(x, self.base.weight * self.ia3_l[:, None], self.base.bias * self.ia3_l)",
            )
        ],
    },
    "a5.ia3_merge": {
        "by diagonal matrices": [
            ("W * scale[None, :], b", "W @ torch.diag(scale), b"),
            ("scale[:, None] * W, scale * b", "torch.diag(scale) @ W, torch.diag(scale) @ b"),
        ],
        "transposed and back": [("scale[:, None] * W", "(W.T * scale).T")],
    },
    "a5.count": {
        "by a list": [
            (
                "return encoder_blocks * (2 * d_kv + d_ff) + decoder_blocks * (2 * attentions * d_kv + d_ff)",
                "return sum([2 * d_kv + d_ff] * encoder_blocks + [2 * attentions * d_kv + d_ff] * decoder_blocks)",
            )
        ],
        "encoder and decoder apart": [
            ("attentions = 2 if encoder_blocks else 1", "attentions = 1 + bool(encoder_blocks)")
        ],
    },
    "a5.t_few": {
        "by cross-entropy": [
            ("-torch.log_softmax(scores, 0)[right]", "F.cross_entropy(scores[None], torch.tensor([right]))")
        ],
        "each token by itself": [
            (
                "torch.stack([p.mean() for p in log_p])\n    wrong",
                "torch.stack([sum(p) / len(p) for p in log_p])\n    wrong",
            )
        ],
        "1.01 minus p": [("1 - wrong.exp() + 0.01", "1.01 - wrong.exp()")],
    },
    "a5.prepend": {
        "by repeat": [("prompt.expand(len(embedded), -1, -1)", "prompt[None].repeat(len(embedded), 1, 1)")],
        "padding at 1": [(".clamp(min=0)", ".masked_fill(mask == 0, 1)")],
    },
    "a5.train_prompt": {
        "Adam": [("torch.optim.AdamW([prompt], lr=0.1, weight_decay=0)", "torch.optim.Adam([prompt], lr=0.1)")],
        "a small random start": [
            ("table[torch.randint(len(table), (p,))].clone()", "torch.randn(p, table.shape[1]) * table.std()")
        ],
        "a parameter with a batch": [
            ("(p,))].clone()", "(1, p))].clone()"),
            ("prompted_loss(model, prompt, batch)", "prompted_loss(model, prompt[0], batch)"),
            ("return prompt, losses", "return prompt[0], losses"),
        ],
        "gradients clipped": [
            ("        optimizer.step()", "        nn.utils.clip_grad_norm_([prompt], 1.0)\n        optimizer.step()")
        ],
        "zeroed first": [
            (
                "        loss.backward()\n        optimizer.step()\n        optimizer.zero_grad()",
                "        optimizer.zero_grad()\n        loss.backward()\n        optimizer.step()",
            )
        ],
        "detached": [("return prompt, losses", "return prompt.detach(), losses")],
    },
    "a5.seems": {
        "by Counter": [
            (
                "most = max(set(train), key=train.count)\n    return",
                "from collections import Counter\n\n    most = Counter(train).most_common(1)[0][0]\n    return",
            )
        ],
        "all equal": [("len(set(answered)) == 1", "all(a == answered[0] for a in answered)")],
    },
}
