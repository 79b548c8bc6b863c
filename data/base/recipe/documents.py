"""The pretraining corpus, made as it is needed: plain text, repeat documents and few-shot task documents.

A document is a list of (text, kind) segments. Kinds: TEXT, ANSWER (an answer that the document so far determines) and
GUESS (an answer whose label has not been seen yet: nothing to learn from it). Every document is a pure function of
its random generator.
"""

from dataclasses import dataclass, replace
from random import Random

import world as w

TEXT, ANSWER, GUESS = 0, 1, 2
Segments = list[tuple[str, int]]


# ---------------------------------------------------------------- prompt formats


@dataclass(frozen=True)
class Format:
    """How one demonstration is written: before + x + middle, then " " + answer, then after."""

    before: str
    middle: str
    after: str = "\n"

    def query(self, x: str) -> str:
        return self.before + x + self.middle

    def demonstration(self, x: str, y: str, kind: int) -> Segments:
        """The segments of one demonstration, fit to follow another one."""
        gap = "" if self.after.endswith("\n") else " "
        return [(gap + self.query(x), TEXT), (" " + y, kind), (self.after, TEXT)]


ARROW = Format("", " ->")
BARE = Format("", "")
FORMATS = [
    ARROW,
    Format("", " :"),
    Format("", " ="),
    Format("", " |"),
    Format("Review: ", "\nLabel:"),
    Format("Text: ", "\nAnswer:", "\n\n"),
    Format("Input: ", "\nOutput:", "\n\n"),
    Format("Q: ", "\nA:"),
    Format("Sentence: ", "\nClass:", "\n\n"),
    Format("Item: ", "\nGroup:"),
    Format("Review: ", " ->"),
    Format("x: ", "\ny:"),
    Format("* ", " :"),
    Format("- ", " |"),
    Format("( ", " )"),
    Format("[ ", " ]"),
    Format("# ", "\n#"),
    Format("", " is"),
    Format("", " gives", " ."),
    Format("", " ,", " ;"),
    Format("Case: ", "\nResult:"),
    Format("Note: ", "\nType:"),
]
HELD_OUT_FORMATS = {
    "<x> =>": Format("< ", " > =>"),
    "x ///": Format("", " ///"),
    "Statement/Verdict": Format("Statement: ", "\nVerdict:"),
}
HELD_OUT_MARKS = ("<", "=>", "///", "Statement", "Verdict")
MARKS = ": = | -> ~ ^ * + & % @ # ! ? ; :: == >> -- ** ++ :- |> || ) ] } ~> +> @@ ## %% .. !!".split()
OPENING_MARKS = ": | ~ ^ * + & % @ # ! ? ; ( [ { -- ** ++ >> || ~~ @@ ##".split()
PUNCTUATION = "!#$%&*+-:;=?@^|~.,>"  # random marks are made of these; neither "<" nor "/" is among them
BRACKETS = [("(", ")"), ("[", "]"), ("{", "}"), ("|", "|"), ("*", "*"), ("~", "~"), ("(", ") ."), ("[", "] :")]
HEADINGS = "Review Text Input Sentence Item Case Note Query Entry Line Example Word Phrase Record Comment".split()
ANSWER_HEADINGS = "Label Answer Output Class Group Result Type Reply Kind Value Mark Tag Rating Choice Name".split()


def random_mark(rng: Random) -> str:
    """A delimiter: a usual mark, a string of random punctuation, a word, or a made-up word."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(MARKS)
    if kind < 0.7:
        mark = "".join(rng.choice(PUNCTUATION) for _ in range(rng.randint(1, 3)))
        return mark if "=>" not in mark else "="
    return rng.choice(w.TASK_WORDS) if kind < 0.9 else w.pseudoword(rng)


def random_format(rng: Random) -> Format:
    """A format put together from loose parts; the held-out formats' marks are not among the parts."""
    if rng.random() < 0.6:
        middle = " " + " ".join(random_mark(rng) for _ in range(rng.choice((1, 1, 2))))
    else:
        heading = rng.choice(ANSWER_HEADINGS) if rng.random() < 0.6 else random_mark(rng)
        middle = "\n" + heading + rng.choice(("", ":", " :", " =", " ->"))
    before, close = rng.random(), ""
    if before < 0.4:
        opening = ""
    elif before < 0.65:
        opening = rng.choice(HEADINGS) + rng.choice((": ", " : ", " = ", " "))
    elif before < 0.85:
        opening = random_mark(rng) + " "
    else:
        opening, close = rng.choice(BRACKETS)
        opening, close = opening + " ", " " + close
    return Format(opening, close + middle, rng.choice(("\n", "\n", "\n", "\n\n", " ;", " .", " |")))


# ---------------------------------------------------------------- what a stage draws from


@dataclass(frozen=True)
class Mix:
    """What the documents of a stage are made of. Weights are relative; the rest are probabilities."""

    plain: float = 0.2
    repeat: float = 0.0
    bare: float = 0.0  # lookup and category lists without a delimiter
    tasks: float = 0.8
    # among tasks
    category: float = 0.25
    sentiment: float = 0.25
    slots: float = 0.30
    grammar: float = 0.05
    transform: float = 0.10
    lookup: float = 0.05
    # how a task is dressed
    n_labels: int = 250  # how many of the shuffled task words may be labels
    pseudo: float = 0.0
    natural: float = 0.25
    header: float = 0.35
    random_formats: float = 0.0
    n_formats: int = 8
    slot_kinds: tuple[float, float, float] = (
        0.25,
        0.45,
        0.60,
    )  # up to here: two poles, a topic, a category; else groups
    max_group: int = 6  # values in an arbitrary group
    any_words: float = 0.0  # of the arbitrary groups: words of the whole lexicon, not of the slot
    lone_words: float = 0.3  # of the sentiment and slot documents: the word alone, not a sentence


LABEL_ORDER = Random(7).sample(w.TASK_WORDS, len(w.TASK_WORDS))


def draw_labels(rng: Random, mix: Mix, n: int) -> list[str]:
    """`n` different label strings: words of the stage's pool, or freshly made pseudo-words."""
    if rng.random() < mix.pseudo:
        labels: list[str] = []
        while len(labels) < n:
            word = w.pseudoword(rng)
            if word not in labels:
                labels.append(word)
        return labels
    return rng.sample(LABEL_ORDER[: mix.n_labels], n)


def draw_format(rng: Random, mix: Mix) -> Format:
    return random_format(rng) if rng.random() < mix.random_formats else rng.choice(FORMATS[: mix.n_formats])


def write_task(demos: list[tuple[str, str]], fmt: Format, header: list[str] | None, closed: bool = True) -> Segments:
    """Write demonstrations as one document. `closed`: answers are labels, to be guessed only once seen."""
    segments: Segments = []
    seen: set[str] = set()
    if header:
        segments.append(("Labels: " + ", ".join(header) + "\n", TEXT))
        seen.update(header)
    for i, (x, y) in enumerate(demos):
        known = y in seen if closed else i > 0
        segments += fmt.demonstration(x, y, ANSWER if known else GUESS)
        seen.add(y)
    return segments


# ---------------------------------------------------------------- the tasks


def sources_for_category(rng: Random, n: int) -> tuple[list, list[str] | None]:
    names = rng.sample(list(w.CATEGORIES), n)
    frame = rng.choice(("{}", "{}", "{}", "a {}", "the {}", "we talk about {}", "i think of {}", "{} again"))
    return [lambda r, c=w.CATEGORIES[name]: w.with_articles(frame.format(r.choice(c))) for name in names], names


def sources_for_sentiment(rng: Random, mix: Mix) -> tuple[list, list[str] | None]:
    natural = list(rng.choices(w.NATURAL_LABELS, (3, 1, 1))[0])
    if rng.random() < mix.lone_words * 0.6:
        return [lambda r: r.choice(w.POSITIVE), lambda r: r.choice(w.NEGATIVE)], natural
    nouns = list(w.DOMAINS.values())
    if rng.random() < 0.7:
        nouns = [rng.choice(nouns)]
    if rng.random() < 0.4:  # only a few adjectives a side: the document must use what they mean, not their names
        few = (rng.sample(w.POSITIVE, rng.randint(3, 12)), rng.sample(w.NEGATIVE, rng.randint(3, 12)))
    else:
        few = (w.POSITIVE, w.NEGATIVE)
    return [lambda r, p=p: w.review(r, r.choice(nouns), p, few) for p in (True, False)], natural


def sources_for_slots(rng: Random, mix: Mix, n: int) -> list:
    """The label depends on one slot of the sentence; the other slots vary at random."""
    slot = rng.choice(list(w.SLOTS))
    groups: list[tuple[str, list[str]]]
    kind = rng.random()
    poles, topic, category = mix.slot_kinds
    if kind < poles and n == 2:  # the two poles of an adjective axis
        slot = rng.choice(list(w.AXES))
        groups = [(slot, list(pole)) for pole in w.AXES[slot]]
        rng.shuffle(groups)
    elif kind < topic:  # which slot is mentioned at all: a topic
        groups = [(s, w.SLOTS[s][0]) for s in rng.sample(list(w.SLOTS), n)]
    elif kind < category:  # the same clause, a noun of one category or another
        names = rng.sample([c for c in w.CATEGORIES if c not in w.VERB_CATEGORIES], n)
        frame = rng.choice(("we saw the {}", "i remember {}", "they like the {}", "there was a {}", "it was about {}"))
        groups = [(frame, w.CATEGORIES[c]) for c in names]
    else:  # arbitrary groups of the slot's values
        pool = w.TASK_WORDS if mix.any_words and rng.random() < mix.any_words else w.SLOTS[slot][0]
        values = rng.sample(pool, min(len(pool), 24))
        size = rng.randint(1, min(mix.max_group, len(values) // n))
        groups = [(slot, values[i * size : (i + 1) * size]) for i in range(n)]
    used = {slot for slot, _ in groups}
    others = rng.sample([s for s in w.SLOTS if s not in used], rng.choice((1, 2, 3, 6)))
    n_distractors = 0 if rng.random() < mix.lone_words * 0.5 else rng.choice((0, 1, 1, 1, 2))

    def source(slot: str, values: list[str]):
        def draw(r: Random) -> str:
            value = r.choice(values)
            main = w.clause(r, slot, value) if slot in w.SLOTS else w.with_articles(slot.format(value))
            return w.join_clauses(r, main, r.sample(others, min(n_distractors, len(others))))

        return draw

    return [source(slot, values) for slot, values in groups]


def sources_for_grammar(rng: Random) -> list:
    """Tense, negation, number or question: the label depends on the form of the sentence."""
    verbs, objects = list(w.VERBS), w.PLURAL_NOUNS
    subjects = rng.sample(["they", "we", "you", "i", "people", "children"], rng.randint(1, 4))
    kind = rng.choice(("tense", "negation", "number", "question"))

    def draw(r: Random, yes: bool) -> str:
        verb, noun, who = r.choice(verbs), r.choice(objects), r.choice(subjects)
        if kind == "tense":
            return f"{who} {w.VERBS[verb] if yes else verb} the {noun}"
        if kind == "negation":
            return f"{who} {verb} the {noun}" if yes else f"{who} do not {verb} the {noun}"
        if kind == "number":
            return f"{who} {verb} the {w.plural(noun) if yes else noun}"
        return f"do {who} {verb} the {noun} ?" if yes else f"{who} do {verb} the {noun}"

    return [lambda r: draw(r, True), lambda r: draw(r, False)]


def demos_for_transform(rng: Random, mix: Mix, n_demos: int) -> list[tuple[str, str]]:
    """Tasks whose answer is made from the input: copy, lexical relations, one slot's value."""
    kind = rng.choice(("copy", "past", "plural", "category", "pole", "extract", "extract", "extract", "first", "pair"))
    verbs, axis = list(w.VERBS), rng.choice(list(w.AXES))
    slots = rng.sample(list(w.SLOTS), 4)
    demos = []
    for _ in range(n_demos):
        if kind == "copy":
            x = " ".join(rng.choice(w.TASK_WORDS) for _ in range(rng.randint(1, 3)))
            demos.append((x, x))
        elif kind == "past":
            x = rng.choice(verbs)
            demos.append((x, w.VERBS[x]))
        elif kind == "plural":
            x = rng.choice(w.PLURAL_NOUNS)
            demos.append((x, w.plural(x)))
        elif kind == "category":
            c = rng.choice(list(w.CATEGORIES))
            demos.append((rng.choice(w.CATEGORIES[c]), c))
        elif kind == "pole":
            a, b = w.AXES[axis]
            x = rng.choice(a + b)
            demos.append((x, a[0] if x in a else b[0]))
        elif kind in ("extract", "pair"):
            values = [rng.choice(w.SLOTS[s][0]) for s in slots]
            clauses = [w.clause(rng, s, v) for s, v in zip(slots[:3], values[:3], strict=True)]
            order = rng.sample(range(3), rng.choice((2, 3)))
            order = order if 0 in order else [0, *order[1:]]
            if kind == "pair":
                order = [0, 1]
            x = rng.choice(w.JOINERS).join(clauses[i] for i in rng.sample(order, len(order)))
            demos.append((x, values[0] if kind == "extract" else f"{values[0]}, {values[1]}"))
        else:
            words = [rng.choice(w.TASK_WORDS) for _ in range(3)]
            demos.append((" ".join(words), words[0]))
    return demos


def task_document(rng: Random, mix: Mix, n_demos: int, bare: bool = False) -> Segments:
    """One few-shot document: a task, a format, labels, and `n_demos` demonstrations."""
    kinds = ("category", "sentiment", "slots", "grammar", "transform", "lookup")
    kind = rng.choices(kinds, [getattr(mix, k) for k in kinds])[0]
    if bare:
        kind = rng.choice(("lookup", "category"))
    fmt = BARE if bare else draw_format(rng, mix)
    n = 2 if kind in ("sentiment", "grammar") else rng.choices((2, 3, 4), (8, 1, 1))[0]
    natural: list[str] | None = None
    if kind == "transform":
        return write_task(demos_for_transform(rng, mix, n_demos), fmt, None, closed=False)
    if kind == "lookup":
        keys = rng.sample(w.TASK_WORDS, rng.randint(2, 8))
        labels = draw_labels(rng, mix, rng.randint(2, min(4, len(keys))))
        table = {key: labels[i % len(labels)] for i, key in enumerate(keys)}
        demos = [(key, table[key]) for key in rng.choices(keys, k=n_demos)]
        return write_known_keys(demos, fmt)
    if kind == "category":
        sources, natural = sources_for_category(rng, n)
    elif kind == "sentiment":
        sources, natural = sources_for_sentiment(rng, mix)
    elif kind == "slots":
        sources = sources_for_slots(rng, mix, n)
    else:
        sources = sources_for_grammar(rng)
    labels = natural if natural and rng.random() < mix.natural else draw_labels(rng, mix, n)
    order = [rng.randrange(n) for _ in range(n_demos)]
    demos = [(sources[i](rng), labels[i]) for i in order]
    header = rng.sample(labels, n) if rng.random() < mix.header else None
    return write_task(demos, fmt, header)


def write_known_keys(demos: list[tuple[str, str]], fmt: Format) -> Segments:
    """A lookup table as a document: an answer counts once its key has been shown."""
    segments, seen = [], set()
    for x, y in demos:
        segments += fmt.demonstration(x, y, ANSWER if x in seen else GUESS)
        seen.add(x)
    return segments


def repeat_document(rng: Random, n_words: int) -> Segments:
    """A random list of words, then the same list again; only the second list can be predicted."""
    pool = REPEAT_WORDS
    words = [rng.choice(pool) if rng.random() < 0.9 else w.pseudoword(rng) for _ in range(rng.randint(4, n_words))]
    segments: Segments = [(" ".join(words) + "\n", TEXT)]
    for _ in range(rng.randint(1, 3)):
        segments += [(words[0], TEXT), (" " + " ".join(words[1:]), ANSWER), ("\n", TEXT)]
    return segments


REPEAT_WORDS = sorted(w.LEXICON)

# ---------------------------------------------------------------- plain text

_KIND = {word: name for name, words in w.ALL_CATEGORIES.items() for word in words}
_MEN, _WOMEN = w.HELD_OUT_FAMILIES["gender"][0]
_EARLY, _LATE = w.HELD_OUT_FAMILIES["time of day"][0]
_INSIDE, _OUTSIDE = w.HELD_OUT_FAMILIES["inside or outside"][0]
_FAIR, _FOUL = w.HELD_OUT_FAMILIES["weather"][0]
_ALL_POSITIVE = w.POSITIVE + w.HELD_OUT_POSITIVE
_ALL_NEGATIVE = w.NEGATIVE + w.HELD_OUT_NEGATIVE
_DOMAIN_OF = {noun: name for name, nouns in w.ALL_DOMAINS.items() for noun in nouns}


def _adjective(rng: Random, positive: bool) -> str:
    """An adjective of one side; the held-out ones come up about as often as twice their number."""
    if rng.random() < 0.35:
        return rng.choice(w.HELD_OUT_POSITIVE if positive else w.HELD_OUT_NEGATIVE)
    return rng.choice(w.POSITIVE if positive else w.NEGATIVE)


def definition(rng: Random) -> str:
    """One sentence of a dictionary: what kind of thing a word names, or which words go with it."""
    kind = rng.random()
    if kind < 0.4:
        held = rng.random() < 0.35
        word = rng.choice([x for c in w.HELD_OUT_CATEGORIES.values() for x in c]) if held else rng.choice(list(_KIND))
        name = _KIND[word]
        article = "" if name in w.NO_ARTICLE else "a "
        others = rng.sample(w.ALL_CATEGORIES[name], 3)
        return rng.choice(
            (
                f"{article}{word} is a kind of {name}.",
                f"{article}{word} is a {name}.",
                f"{article}{word} is a {name}, like {others[0]} and {others[1]}.",
                f"kinds of {name}: {others[0]}, {word}, {others[1]}, {others[2]}.",
                f"{word} and {others[0]} are both {name}.",
            )
        )
    if kind < 0.75:
        positive = rng.random() < 0.5
        a, b, c = (_adjective(rng, positive) for _ in range(3))
        other = _adjective(rng, not positive)
        side, verb = ("praise", rng.choice(w.PRAISE_VERBS)) if positive else ("blame", rng.choice(w.BLAME_VERBS))
        return rng.choice(
            (
                f"{a} means {b}.",
                f"{a} means {b} or {c}.",
                f"{a} is a word of {side}.",
                f"{a} is the opposite of {other}.",
                f"words of {side}: {a}, {b}, {c}.",
                f"what we {verb} is {a}.",
            )
        )
    if kind < 0.85:
        axis = rng.choice(list(w.AXES))
        a, b = rng.sample(w.AXES[axis], 2)
        x, y = rng.sample(a, 2)
        return rng.choice((f"{x} means {y}.", f"{x} is the opposite of {rng.choice(b)}.", f"{x} is about {axis}."))
    if kind < 0.95:
        name = rng.choice(list(w.HELD_OUT_DOMAINS) * 3 + list(w.DOMAINS))
        n, m = rng.sample(w.ALL_DOMAINS[name], 2)
        return rng.choice((f"the {n} and the {m} belong to the {name}.", f"the {n} is part of the {name}."))
    verb, past = rng.choice(list(w.VERBS.items()))
    noun = rng.choice(w.PLURAL_NOUNS)
    return rng.choice((f"today we {verb}, yesterday we {past}.", f"one {noun}, two {w.plural(noun)}."))


def review_story(rng: Random) -> str:
    """A few sentences about one thing that all take the same side, and what follows from it."""
    positive = rng.random() < 0.5
    domain = rng.choice(list(w.ALL_DOMAINS))
    nouns = w.ALL_DOMAINS[domain]
    lines = []
    for _ in range(rng.randint(2, 4)):
        pair = ([_adjective(rng, True) for _ in range(2)], [_adjective(rng, False) for _ in range(2)])
        lines.append(w.review(rng, nouns, positive, pair, verbs=0.3) + ".")
    verdict = ("we will come back.", "i was happy.", "thank you for this!", "it was worth the money.")
    if not positive:
        verdict = ("we will never come back.", "i was sad.", "never again!", "it was a waste of money.")
    lines.append(rng.choice(verdict))
    return " ".join(lines)


def people_story(rng: Random) -> str:
    """Who, when, where and in what weather; each choice shows in the rest of the sentence."""
    man = rng.random() < 0.5
    name, he, his, him = (rng.choice(_MEN), "he", "his", "him") if man else (rng.choice(_WOMEN), "she", "her", "her")
    lines = []
    for kind in rng.sample(range(5), rng.randint(2, 3)):
        early, inside, fair = (rng.random() < 0.5 for _ in range(3))
        time = rng.choice(_EARLY if early else _LATE)
        place = rng.choice(_INSIDE if inside else _OUTSIDE)
        sky = rng.choice(_FAIR if fair else _FOUL)
        if kind == 0:
            person = "man" if man else "woman"
            lines.append(
                rng.choice(
                    (
                        f"{name} is a {person}.",
                        f"{name} called and {he} said no.",
                        f"we met {name} and {his} {'wife' if man else 'husband'}.",
                        f"{name} was there with {his} {rng.choice(w.CATEGORIES['animal'])} and we saw {him}.",
                    )
                )
            )
        elif kind == 1:
            lines.append(
                rng.choice(
                    (
                        f"it was around {time} and {'the sun came up' if early else 'the stars came out'}.",
                        f"{time} is {'early, when people wake up' if early else 'late, when people go to sleep'}.",
                        f"they left before {time}, {'still half asleep' if early else 'tired from work'}.",
                        f"{time} is like {rng.choice(_EARLY if early else _LATE)}.",
                    )
                )
            )
        elif kind == 2:
            lines.append(
                rng.choice(
                    (
                        f"it was in the {place}, {'under the roof' if inside else 'under the open sky'}.",
                        f"the {place} is {'inside' if inside else 'outside'}.",
                        f"we met in the {place}, {'near the stairs' if inside else 'near the grass'}.",
                        f"the {place} is like the {rng.choice(_INSIDE if inside else _OUTSIDE)}.",
                    )
                )
            )
        elif kind == 3:
            lines.append(
                rng.choice(
                    (
                        f"the day was {sky}, so we {'sat in the sun' if fair else 'took the umbrella'}.",
                        f"it stayed {sky} and we {'went out' if fair else 'stayed at home'}.",
                        f"{sky} weather is {'fair' if fair else 'foul'}.",
                        f"it was {sky} and {rng.choice(_FAIR if fair else _FOUL)}.",
                    )
                )
            )
        else:
            verb = rng.choice(list(w.VERBS.values()))
            thing = rng.choice(w.HELD_OUT_LABELS + rng.sample(w.OBJECTS, 20))
            lines.append(f"{name} {verb} the {thing}, and {he} {rng.choice(list(w.VERBS.values()))} the {thing} again.")
    return " ".join(lines)


def world_story(rng: Random) -> str:
    """Unconnected sentences about the slots of the world, the grammar and the record vocabulary."""
    lines = []
    for _ in range(rng.randint(2, 3)):
        slots = rng.sample(list(w.SLOTS), 2)
        lines.append(w.join_clauses(rng, w.clause(rng, slots[0]), slots[1:]) + ".")
    who, noun = rng.choice(_MEN + _WOMEN), rng.choice(w.OBJECTS + w.HELD_OUT_LABELS)
    metal, place = rng.choice(w.CATEGORIES["metal"]), rng.choice(_INSIDE + _OUTSIDE)
    verb, past = rng.choice(list(w.VERBS.items()))
    lines.append(rng.choice((f"{who} {past} one {noun}.", f"{who} did not {verb} the {metal} {noun}.", "yes.", "no.")))
    lines.append(f"the {noun} is made of {metal} and it is in the {place}.")
    return " ".join(rng.sample(lines, len(lines)))


def plain_document(rng: Random) -> Segments:
    kind = rng.random()
    if kind < 0.45:
        text = w.with_articles(" ".join(definition(rng) for _ in range(rng.randint(3, 6))))
    elif kind < 0.72:
        text = review_story(rng)
    elif kind < 0.90:
        text = people_story(rng)
    else:
        text = world_story(rng)
    if rng.random() < 0.1:  # every mark of the held-out formats is a trained token, met in plain text only
        text = rng.choice(
            (
                "Statement: " + text,
                "Verdict: " + text,
                "< " + text + " >",
                text.replace(". ", " => ", 1),
                text.replace(". ", " /// "),
            )
        )
    return [(text + "\n", TEXT)]


def document(rng: Random, mix: Mix, max_demos: int) -> Segments:
    """One document of the stage's mix."""
    kind = rng.choices(("plain", "repeat", "bare", "tasks"), (mix.plain, mix.repeat, mix.bare, mix.tasks))[0]
    if kind == "plain":
        return plain_document(rng)
    if kind == "repeat":
        return repeat_document(rng, 24)
    n_demos = max_demos if rng.random() < 0.7 else rng.randint(3, max_demos)
    return task_document(rng, mix, n_demos, bare=kind == "bare")


# ---------------------------------------------------------------- the mixes of the stages

S1 = Mix(plain=0.40, tasks=0.60, slots=0.20, category=0.35, lone_words=0.5)
S2 = replace(S1, plain=0.15, repeat=0.25, bare=0.45, tasks=0.15)
S3 = Mix(plain=0.22, repeat=0.05, bare=0.13, tasks=0.60, n_labels=len(LABEL_ORDER), pseudo=0.15, n_formats=16)
S4 = replace(
    S3,
    plain=0.20,
    repeat=0.03,
    bare=0.05,
    tasks=0.72,
    pseudo=0.2,
    random_formats=0.5,
    slots=0.35,
    n_formats=len(FORMATS),
)
# at the end, weight moves from what is saturated to what is weak
S5 = replace(S4, plain=0.15, tasks=0.77, sentiment=0.15, slots=0.45, slot_kinds=(0.35, 0.55, 0.80), max_group=3)
# a second, shorter decay: sentences in which any word may be the one that the labels depend on
S6 = replace(S5, sentiment=0.12, category=0.20, slots=0.55, slot_kinds=(0.2, 0.4, 0.55), max_group=6, any_words=0.6)
