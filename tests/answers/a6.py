"""Wrong and differently written answers to assignment 6, choosing a method."""

from answers import PATCHED_CHECK

WRONG = {
    "a6.table": {
        "the rate chosen on test": [('if run["split"] == "validation"]', 'if run["split"] == "test"]')],
        "the rate chosen on both": [('if run["split"] == "validation"]', "]")],
        "the best single seed on validation": [
            ('mean(run["accuracy"] for run in validation if', 'max(run["accuracy"] for run in validation if')
        ],
        "the best seed reported": [('"mean": mean(test)', '"mean": max(test)')],
        "one seed reported": [('"mean": mean(test)', '"mean": test[0]')],
        "the median": [('"mean": mean(test)', '"mean": sorted(test)[len(test) // 2]')],
        "validation reported": [('run["split"] == "test" and', 'run["split"] == "validation" and')],
        "all rates in one mean": [(' and run["lr"] == lr]', "]")],
        "every length of training": [(' and run["steps"] in (steps, None)]', "]")],
        "longer is welcome": [('run["steps"] in (steps, None)]', '(run["steps"] is None or run["steps"] >= steps)]')],
        "no baselines": [('run["steps"] in (steps, None)]', 'run["steps"] == steps]')],
        "zero-shot alone": [("        if test:", '        if test and label != "majority class":')],
        "the population's spread": [
            ("spread = stdev(test)", "from statistics import pstdev\n            spread = pstdev(test)")
        ],
        "the range": [("spread = stdev(test)", "spread = max(test) - min(test)")],
        "the standard error": [("spread = stdev(test)", "spread = stdev(test) / len(test) ** 0.5")],
        "the seeds of validation counted": [
            ('"seeds": len(test)', '"seeds": len({run["seed"] for run in validation}) or 1')
        ],
        "one rate for all": [
            ("        test = [", "        lr = lr and sorted(scores)[0]\n        test = ["),
        ],
        "the largest rate": [("max(scores, key=scores.get, default=None)", "max(scores, default=None)")],
        "the rate with the largest sum": [
            ('mean(run["accuracy"] for run in validation if', 'sum(run["accuracy"] for run in validation if')
        ],
        "the last seed on validation": [
            (
                'mean(run["accuracy"] for run in validation if run["lr"] == lr)',
                '[run["accuracy"] for run in validation if run["lr"] == lr][-1]',
            )
        ],
        "a spread for the baselines": [("if len(test) > 1 else None", "if len(test) > 1 else 0.0")],
        "a rate for the baselines": [('{"lr": lr,', '{"lr": lr or 0.0,')],
        "three seeds, counted or not": [('"seeds": len(test)', '"seeds": 3 if lr else 1')],
        "an empty table": "def fair_table(runs, steps):\n    return {}\n",
        "the check patched": PATCHED_CHECK + "\ndef fair_table(runs, steps):\n    return {}\n",
    },
    "a6.claims": {
        "means alone": [("if abs(difference) <= 2 * error:", "if difference == 0:")],
        "never tells": "def verdict(a, b):\n    return 'cannot tell'\n",
        "the best seeds": [("difference = mean(a) - mean(b)", "difference = max(a) - max(b)")],
        "ranges that overlap": [("if abs(difference) <= 2 * error:", "if max(min(a), min(b)) <= min(max(a), max(b)):")],
        "the spreads themselves": [
            ("stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b)", "stdev(a) ** 2 + stdev(b) ** 2")
        ],
        "one standard error": [("<= 2 * error", "<= error")],
        "a's spread alone": [("(stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b)) ** 0.5", "stdev(a) / len(a) ** 0.5")],
        "variances not squared": [
            ("stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b)", "stdev(a) / len(a) + stdev(b) / len(b)")
        ],
        "no root": [(") ** 0.5", ")")],
        "two seeds are enough": [("< 3", "< 2")],
        "one side's seeds": [("min(len(a), len(b))", "len(a)")],
        "a point of accuracy": [("if abs(difference) <= 2 * error:", "if abs(difference) < 0.01:")],
        "three standard errors": [("<= 2 * error", "<= 3 * error")],
        "1.96 standard errors": [("<= 2 * error", "<= 1.96 * error")],
        "2.04 standard errors": [("<= 2 * error", "<= 2.04 * error")],
        "the population's spread": [
            ("stdev(a)", "__import__('statistics').pstdev(a)"),
            ("stdev(b)", "__import__('statistics').pstdev(b)"),
        ],
        "divided by n - 1 again": [("/ len(a) +", "/ (len(a) - 1) +"), ("/ len(b)) **", "/ (len(b) - 1)) **")],
        "the errors added": [
            (
                "(stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b)) ** 0.5",
                "stdev(a) / len(a) ** 0.5 + stdev(b) / len(b) ** 0.5",
            )
        ],
        "one spread of both lists": [
            ("stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b)", "stdev(a + b) ** 2 * (1 / len(a) + 1 / len(b))")
        ],
        "a's seeds for both": [("stdev(b) ** 2 / len(b)", "stdev(b) ** 2 / len(a)")],
        "seed by seed": [
            (
                "    difference =",
                "    if len(a) == len(b):\n        a, b = [x - y for x, y in zip(a, b)], [0.0] * len(b)\n    difference =",
            )
        ],
        "six seeds in all": [("min(len(a), len(b)) < 3", "len(a) + len(b) < 6")],
        "said of b": [("if difference > 0", "if difference < 0")],
        "no sign": [("abs(difference)", "difference")],
        "divides by the error": [("if abs(difference) <= 2 * error:", "if abs(difference) / error <= 2:")],
        "other words": [('"better"', '"a is better"')],
        "the check patched": PATCHED_CHECK + "\ndef verdict(a, b):\n    return 'better'\n",
    },
    "a6.pareto": {
        "a dominated point stays: better in all": [
            (
                'accurate = one["accuracy"] >= other["accuracy"]',
                'accurate = one["accuracy"] > other["accuracy"]',
            ),
            (
                'one["peak_bytes"] <= other["peak_bytes"] and one["stored_bytes"] <= other["stored_bytes"]',
                'one["peak_bytes"] < other["peak_bytes"] and one["stored_bytes"] < other["stored_bytes"]',
            ),
        ],
        "twins kill each other": [
            ("return accurate and cheap and one != other", "return accurate and cheap and one is not other"),
        ],
        "memory forgotten": [('one["peak_bytes"] <= other["peak_bytes"] and ', "")],
        "stored bytes forgotten": [(' and one["stored_bytes"] <= other["stored_bytes"]', "")],
        "accuracy the wrong way": [('one["accuracy"] >= other["accuracy"]', 'one["accuracy"] <= other["accuracy"]')],
        "costs the wrong way": [
            ('one["peak_bytes"] <= other["peak_bytes"]', 'one["peak_bytes"] >= other["peak_bytes"]'),
            ('one["stored_bytes"] <= other["stored_bytes"]', 'one["stored_bytes"] >= other["stored_bytes"]'),
        ],
        "everything": "def front(options):\n    return list(options)\n",
        "nothing": "def front(options):\n    return []\n",
        "the best in each": """
def front(options):
    best = {max(options, key=lambda n: options[n]["accuracy"])}
    return list(best | {min(options, key=lambda n: options[n][k]) for k in ("peak_bytes", "stored_bytes")})
""",
        "the most accurate": "def front(options):\n    return [max(options, key=lambda n: options[n]['accuracy'])]\n",
        "better in two of three": """
def front(options):
    def dominates(one, other):
        better = (one["accuracy"] > other["accuracy"]) + (one["peak_bytes"] < other["peak_bytes"])
        return better + (one["stored_bytes"] < other["stored_bytes"]) >= 2

    return [name for name, o in options.items() if not any(dominates(other, o) for other in options.values())]
""",
        "the neighbour alone": """
def front(options):
    names, found = sorted(options, key=lambda n: -options[n]["accuracy"]), []
    for name in names:
        if not found or options[name]["stored_bytes"] < options[found[-1]]["stored_bytes"]:
            found.append(name)
    return found
""",
        "hard-coded for the check's numbers": """
def front(options):
    from peft_lessons.assignments.a6.pareto import draw_options, right_front

    return [name for name in right_front(draw_options(0)[0]) if name in options] or list(options)
""",
    },
    "a6.choose": {
        "memory ignored": [(' and option["peak_bytes"] <= needs["memory"]', "")],
        "disk ignored": [(' and disk <= needs["disk"]', "")],
        "one tenant": [('needs["tenants"] * ', "1 * ")],
        "the base not counted": [('needs["base_bytes"] + needs["tenants"] *', 'needs["tenants"] *')],
        "the base for every tenant": [
            (
                'disk = needs["base_bytes"] + needs["tenants"] * option["stored_bytes"]',
                'disk = needs["tenants"] * (needs["base_bytes"] + option["stored_bytes"])',
            )
        ],
        "merging ignored": [('option["mergeable"] or not needs["merged"]', "True")],
        "merged like the others": [
            (
                'disk = needs["tenants"] * needs["base_bytes"]',
                'disk = needs["base_bytes"] + needs["tenants"] * option["stored_bytes"]',
            )
        ],
        "merged once for all": [('disk = needs["tenants"] * needs["base_bytes"]', 'disk = needs["base_bytes"]')],
        "only what can be merged": [('option["mergeable"] or not needs["merged"]', 'option["mergeable"]')],
        "the most accurate": [(' - needs["margin"]]', "]")],
        "the best of all, then what fits": [
            ("for option in fitting)\n", "for option in options)\n"),
            (
                "    near = [",
                '    if not any(option["accuracy"] >= best - needs["margin"] for option in fitting):\n        return None\n    near = [',
            ),
        ],
        "the smallest that fits": [
            ("near = [option for option in fitting if", "near = [option for option in fitting if True or")
        ],
        "the least memory of those near": [
            ('key=lambda option: option["stored_bytes"]', 'key=lambda option: option["peak_bytes"]')
        ],
        "below the memory, not within": [('option["peak_bytes"] <= needs', 'option["peak_bytes"] < needs')],
        "below the disk, not within": [("disk <= needs", "disk < needs")],
        "merged, and what was trained beside it": [
            (
                'needs["tenants"] * needs["base_bytes"]',
                'needs["tenants"] * (needs["base_bytes"] + option["stored_bytes"])',
            )
        ],
        "merged, and the base beside them": [
            ('needs["tenants"] * needs["base_bytes"]', '(1 + needs["tenants"]) * needs["base_bytes"]')
        ],
        "the margin as a share": [('best - needs["margin"]', 'best * (1 - needs["margin"])')],
        "the option, not its name": [('["name"]', "")],
        "always LoRA": "def choose(options, needs):\n    return 'LoRA'\n",
        "always None": "def choose(options, needs):\n    return None\n",
        "never None": [("return None", 'return options[0]["name"]')],
        "no baselines": [
            ("    for option in options:\n", '    for option in (o for o in options if o["stored_bytes"]):\n')
        ],
    },
    "a6.evidence": {
        "the rate chosen on test": [('run(lr, seed, steps, "validation")', 'run(lr, seed, steps, "test")')],
        "every rate on test as well": [
            ("    test = [run", '    for rate in rates:\n        run(rate, 0, steps, "test")\n    test = [run')
        ],
        "one seed for tuning": [("for seed in (0, 1)])", "for seed in (0,)])")],
        "two seeds on test": [("[0, 1, 2]", "[0, 1]")],
        "one seed on test": [("[0, 1, 2]", "[0]"), ("stdev(test)", "0.0")],
        "the best seeds reported": [
            (
                "    return {",
                "    test, seeds = zip(*sorted(zip(test + [run(lr, s, steps, 'test') for s in (3, 4)], seeds + [3, 4]), reverse=True)[:3])\n    return {",
            )
        ],
        "validation reported": [('run(lr, seed, steps, "test")', 'run(lr, seed, steps, "validation")')],
        "trained for longer at the end": [('run(lr, seed, steps, "test")', 'run(lr, seed, 2 * steps, "test")')],
        "tuned on shorter runs": [('run(lr, seed, steps, "validation")', 'run(lr, seed, 1, "validation")')],
        "no baselines": [
            ('        "majority class": baseline("majority class"),\n        "zero-shot": baseline("zero-shot"),\n', "")
        ],
        "no zero-shot": [('        "zero-shot": baseline("zero-shot"),\n', "")],
        "the rate left out": [('        "lr": lr,\n', "")],
        "steps left out": [('        "steps": steps,\n', "")],
        "the first rate": [("max(scores, key=scores.get)", "rates[0]"), ("scores = {lr", "_ = {lr")],
        "validation run, the middle rate": [("max(scores, key=scores.get)", "rates[1]")],
        "validation run, the last rate": [("max(scores, key=scores.get)", "rates[-1]")],
        "validation run, the middle by size": [("max(scores, key=scores.get)", "sorted(rates)[1]")],
        "one lucky seed": [("mean([run(lr, seed", "max([run(lr, seed")],
        "the first seed decides": [
            ("max(scores, key=scores.get)", 'max(rates, key=lambda lr: run(lr, 0, steps, "validation"))')
        ],
        "the last seed decides": [
            ("max(scores, key=scores.get)", 'max(rates, key=lambda lr: run(lr, 1, steps, "validation"))')
        ],
        "the worst on validation": [("max(scores", "min(scores")],
        "the middle rate, untuned": "def gather(run, baseline, method, rates, steps):\n    lr, seeds = rates[1], [0, 1, 2]\n    test = [run(lr, s, steps, 'test') for s in seeds]\n    found = {b: baseline(b) for b in ('majority class', 'zero-shot')}\n    return found | dict(method=method, lr=lr, steps=steps, seeds=seeds, test=test, mean=mean(test), spread=stdev(test))\n",
        "numbers made up": "def gather(run, baseline, method, rates, steps):\n    test = [0.9, 0.92, 0.94]\n    return dict(method=method, lr=rates[1], steps=steps, seeds=[0, 1, 2], test=test, mean=0.92, spread=0.02) | {'majority class': 0.5, 'zero-shot': 0.5}\n",
        "the best of three": [('"mean": mean(test)', '"mean": max(test) + 1e-3')],
        "the check patched": PATCHED_CHECK + "\ndef gather(run, baseline, method, rates, steps):\n    return {}\n",
    },
}

RIGHT = {
    "a6.table": {
        "in one pass": """
def fair_table(runs, steps):
    tuning, testing = {}, {}
    for run in runs:
        if run["steps"] is None or run["steps"] == steps:
            where = tuning if run["split"] == "validation" else testing
            where.setdefault(run["label"], {}).setdefault(run["lr"], []).append(run["accuracy"])
    table = {}
    for label, by_rate in testing.items():
        rate = max(tuning.get(label, {None: [0]}).items(), key=lambda item: sum(item[1]) / len(item[1]))[0]
        found = by_rate[rate]
        table[label] = {"lr": rate, "mean": sum(found) / len(found), "seeds": len(found)}
        table[label]["spread"] = stdev(found) if len(found) > 1 else None
    return table
""",
        "by NumPy": [
            ("mean(test)", "np.mean(test)"),
            ("stdev(test)", "np.std(test, ddof=1)"),
            ("len(test)}", "np.size(test)}"),
            ("    table = {}", "    import numpy as np\n\n    table = {}"),
        ],
        "rows with more": [('"seeds": len(test)}', '"seeds": len(test), "lowest": min(test)}')],
    },
    "a6.claims": {
        "by variance": [
            (
                "(stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b)) ** 0.5",
                "(sum(sum((x - mean(c)) ** 2 for x in c) / (len(c) - 1) / len(c) for c in (a, b))) ** 0.5",
            )
        ],
        "as an interval": """
def verdict(a, b):
    if len(a) >= 3 and len(b) >= 3:
        wide = 2 * (stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b)) ** 0.5
        low, high = mean(a) - mean(b) - wide, mean(a) - mean(b) + wide
        if low > 0:
            return "better"
        if high < 0:
            return "worse"
    return "cannot tell"
""",
    },
    "a6.pareto": {
        "sorted": [
            ("return [name for", "return sorted(name for"),
            ("for other in options.values())]", "for other in options.values()))"),
        ],
        "with costs turned round": """
def front(options):
    points = {n: (o["accuracy"], -o["peak_bytes"], -o["stored_bytes"]) for n, o in options.items()}
    def beaten(p):
        return any(q != p and all(x >= y for x, y in zip(q, p)) for q in points.values())
    return {n for n, p in points.items() if not beaten(p)}
""",
    },
    "a6.choose": {
        "sorted": [
            (
                'min(near, key=lambda option: option["stored_bytes"])["name"]',
                'sorted(near, key=lambda option: (option["stored_bytes"], -option["accuracy"]))[0]["name"]',
            )
        ],
        "a margin added": [
            ('option["accuracy"] >= best - needs["margin"]', 'option["accuracy"] + needs["margin"] >= best')
        ],
        "filters one after another": """
def choose(options, needs):
    left = [o for o in options if o["peak_bytes"] <= needs["memory"]]
    if needs["merged"]:
        left = [o for o in left if o["mergeable"]]
        left = left if needs["tenants"] * needs["base_bytes"] <= needs["disk"] else []
    else:
        room = (needs["disk"] - needs["base_bytes"]) / needs["tenants"]
        left = [o for o in left if o["stored_bytes"] <= room]
    top = max((o["accuracy"] for o in left), default=0)
    left = [o for o in left if top - o["accuracy"] <= needs["margin"]]
    return min(left, key=lambda o: o["stored_bytes"])["name"] if left else None
""",
    },
    "a6.evidence": {
        "three seeds everywhere": [("for seed in (0, 1)])", "for seed in (0, 1, 2)])")],
        "seeds as a range": [("[0, 1, 2]", "range(3)")],
        "tuned on other seeds": [("for seed in (0, 1)]", "for seed in (4, 6, 9)]")],
        "other seeds": [("[0, 1, 2]", "[7, 8, 9, 10]")],
        "large seeds": [("[0, 1, 2]", "[123, 1234, 2**31 - 1]")],
        "arrays in the record": [
            ("[0, 1, 2]", "__import__('numpy').arange(3)"),
            ('"test": test', '"test": __import__("torch").tensor(test, dtype=__import__("torch").double)'),
        ],
        "more in the record": [
            ('        "method": method,\n', '        "method": method,\n        "validation": scores,\n')
        ],
    },
}
