"""The small world of English that the base is pretrained on: its words, and the sentences they make.

Everything is lower-case and every word of the lexicon is one token. The parts marked HELD_OUT occur in plain text
(definitions, stories, reviews) but in no few-shot task document, so that a test can ask what a model does with
them in context: label words, word categories, adjectives, review domains and whole sentence families.
"""

import re
from random import Random

# ---------------------------------------------------------------- nouns by category

CATEGORIES = {
    "animal": "dog cat horse cow pig sheep goat rabbit mouse lion bear wolf fox monkey elephant camel",
    "bird": "eagle owl crow duck goose swan parrot sparrow robin hawk penguin pigeon",
    "fish": "salmon trout shark tuna cod herring eel carp perch sardine",
    "insect": "ant bee wasp beetle spider moth butterfly mosquito locust termite",
    "fruit": "apple banana pear grape cherry plum peach mango melon fig apricot",
    "vegetable": "carrot onion potato cabbage tomato lettuce spinach pumpkin turnip celery",
    "tree": "oak pine birch maple willow elm cedar palm poplar beech",
    "flower": "rose tulip daisy lily violet orchid poppy iris sunflower jasmine",
    "colour": "red blue green yellow purple brown grey pink white black",
    "metal": "iron copper silver gold steel nickel zinc tin bronze brass",
    "material": "glass cotton wool leather paper plastic silk rubber clay nylon",
    "tool": "hammer saw drill wrench axe shovel rake pliers chisel screwdriver",
    "utensil": "pan pot spoon fork knife bowl plate kettle cup ladle",
    "clothing": "shirt coat hat glove scarf shoe sock skirt dress jacket",
    "vehicle": "car bus train truck bicycle tram van taxi tractor scooter",
    "job": "doctor teacher nurse lawyer farmer baker driver painter soldier judge",
    "body": "arm leg hand foot head nose ear eye knee shoulder",
    "country": "france spain italy germany poland sweden norway greece egypt china",
    "city": "paris rome london madrid berlin oslo vienna prague dublin athens",
    "language": "french spanish italian german polish swedish greek english danish dutch",
    "day": "monday tuesday wednesday thursday friday saturday sunday",
    "month": "january february march april may june july august september october november december",
    "number": "two three four five six seven eight nine ten eleven twelve",
    "shape": "circle square triangle star cross oval cube cone ball ring",
    "drink": "tea coffee water juice milk wine beer lemonade cocoa cider",
    "dish": "soup pizza pasta salad stew curry pie sandwich omelette pancake",
    "spice": "cinnamon ginger garlic basil mint pepper saffron vanilla thyme cumin",
    "building": "church castle hospital factory museum library theatre bank tower palace",
    "landform": "mountain river lake valley island desert ocean canyon cliff swamp",
    "illness": "measles malaria asthma fever cough flu rash cramp headache toothache",
    "toy": "doll puzzle kite marble robot balloon rattle dice domino frisbee",
    "weapon": "sword spear rifle cannon arrow dagger pistol bow bomb torpedo",
    "container": "box bag basket bucket barrel jar bottle crate sack drawer",
    "subject": "history biology chemistry physics algebra geography economics geometry latin philosophy",
    "feeling": "anger fear joy grief pride shame envy hope guilt trust",
    "jewel": "necklace bracelet earring brooch crown tiara locket pendant watch anklet",
    "sweet": "cake biscuit chocolate pudding toffee candy waffle muffin doughnut custard",
    "stationery": "pen pencil crayon chalk brush ink eraser stapler ruler envelope",
    "vessel": "ship ferry yacht canoe kayak raft submarine barge tanker gondola",
    "game": "chess poker checkers bingo darts billiards snooker roulette lotto rummy",
    "housepart": "roof wall floor ceiling window door chimney stair balcony gate",
    "device": "keyboard screen printer laptop server modem scanner router cable tablet",
    "measure": "metre litre gram mile inch ounce pound acre gallon ton",
    "period": "minute hour week year decade century fortnight weekend semester season",
    "artwork": "novel poem song painting statue opera ballet sonnet mural sketch",
    "motion": "run walk jump crawl swim climb dance gallop stroll hop",
    "speech": "say shout whisper mumble announce scream mutter reply explain argue",
    "cooking": "boil fry bake roast grill steam simmer toast stir chop",
}
HELD_OUT_CATEGORIES = {
    "furniture": "table chair desk sofa shelf cupboard stool bench couch wardrobe",
    "instrument": "piano violin guitar flute drum trumpet harp cello banjo organ",
    "planet": "mars venus jupiter saturn mercury neptune pluto uranus earth moon",
    "reptile": "snake lizard turtle crocodile gecko cobra python iguana tortoise alligator",
    "gem": "ruby diamond emerald pearl opal sapphire amber topaz jade garnet",
    "sport": "tennis football hockey golf boxing rowing skiing wrestling fencing rugby",
}
CATEGORIES = {name: words.split() for name, words in CATEGORIES.items()}
HELD_OUT_CATEGORIES = {name: words.split() for name, words in HELD_OUT_CATEGORIES.items()}
ALL_CATEGORIES = {**CATEGORIES, **HELD_OUT_CATEGORIES}
VERB_CATEGORIES = ("motion", "speech", "cooking")  # words that no article precedes
NO_ARTICLE = {"colour", "metal", "material", "country", "city", "language", "day", "month", "number", "drink", "spice"}
NO_ARTICLE |= {"illness", "subject", "feeling", "game", "planet", "sport", *VERB_CATEGORIES}

# ---------------------------------------------------------------- sentiment

POSITIVE = (
    "good great wonderful excellent superb lovely brilliant amazing fantastic delightful charming pleasant perfect "
    "beautiful fine nice awesome terrific fabulous magnificent outstanding impressive remarkable exceptional glorious "
    "gorgeous stunning elegant enjoyable satisfying refreshing exciting thrilling fascinating inspiring admirable "
    "flawless friendly helpful kind generous polite clever smart witty funny cheerful joyful cosy comfortable tidy "
    "neat clean fresh tasty delicious reliable solid sturdy useful valuable smooth lively vivid radiant "
    "heavenly divine superior stylish polished memorable"
).split()
NEGATIVE = (
    "bad terrible awful horrible dreadful poor nasty dull boring ugly disgusting disappointing annoying irritating "
    "unpleasant lousy miserable mediocre pathetic hideous horrid appalling atrocious abysmal ghastly gloomy dirty "
    "filthy messy broken useless worthless faulty shoddy clumsy rude cruel unfriendly careless lazy stupid silly "
    "foolish weak bland stale rotten bitter noisy smelly stinky grubby shabby tacky sloppy tedious tiresome dreary "
    "bleak depressing frustrating offensive revolting vile repulsive inferior flawed painful unbearable ridiculous"
).split()
HELD_OUT_POSITIVE = (
    "splendid marvellous graceful uplifting rewarding likeable adorable sublime merry stellar classy worthy masterful "
    "tasteful dreamy"
).split()
HELD_OUT_NEGATIVE = (
    "grim absurd pointless hopeless laughable lame crude wretched dismal pitiful shameful woeful sickening unreliable "
    "ruined"
).split()
PRAISE_VERBS = "loved liked enjoyed adored praised admired recommended treasured".split()
BLAME_VERBS = "hated disliked regretted despised loathed avoided cursed detested".split()
INTENSIFIERS = ["", "", "", "very ", "really ", "so ", "quite ", "truly "]

DOMAINS = {
    "film": "film plot actor scene script ending director dialogue",
    "restaurant": "restaurant meal waiter menu chef dessert starter sauce",
    "book": "book chapter story author hero style cover preface",
    "phone": "phone battery camera display speaker charger case signal",
    "shop": "shop clerk price service counter window till discount",
    "trip": "trip guide route view flight cabin luggage seat",
    "lesson": "lesson class exam homework lecture topic tutor notes",
    "computer": "computer mouse memory disk fan update software manual",
    "lake": "boat pier shore path campsite map ranger picnic",
    "house": "house rent landlord heating lift carpet neighbour parking",
}
HELD_OUT_DOMAINS = {
    "hotel": "hotel room lobby pillow mattress receptionist pool suite",
    "concert": "concert band singer stage drummer sound audience chorus",
}
DOMAINS = {name: words.split() for name, words in DOMAINS.items()}
HELD_OUT_DOMAINS = {name: words.split() for name, words in HELD_OUT_DOMAINS.items()}
ALL_DOMAINS = {**DOMAINS, **HELD_OUT_DOMAINS}

NATURAL_LABELS = [("positive", "negative"), ("good", "bad"), ("great", "terrible")]  # (praise, blame)

REVIEW_FORMS = (
    "the {n} was {i}{a}",
    "the {n} is {i}{a}",
    "i found the {n} {i}{a}",
    "a {a} {n}",
    "what a {a} {n}",
    "we had a {a} {n}",
    "i think the {n} was {i}{a}",
    "the {n} was {a} and {b}",
    "the {n} was {i}{a} , the {m} was {b}",
    "a {a} {n} and a {b} {m}",
)
VERB_FORMS = ("i {v} the {n}", "we {v} the {n} and the {m}", "my friend {v} this {n}")


def with_articles(text: str) -> str:
    """`text` with "a" turned into "an" before a vowel."""
    return re.sub(r"\ba (?=[aeio]|u(?!s))", "an ", text)


def review(rng: Random, nouns: list[str], positive: bool, adjectives=(POSITIVE, NEGATIVE), verbs: float = 0.15) -> str:
    """One short review sentence about two of `nouns`; all its sentiment words agree with `positive`."""
    n, m = rng.sample(nouns, 2)
    if rng.random() < verbs:
        verb = rng.choice(PRAISE_VERBS if positive else BLAME_VERBS)
        return rng.choice(VERB_FORMS).format(v=verb, n=n, m=m)
    a, b = rng.sample(adjectives[0 if positive else 1], 2)
    return with_articles(rng.choice(REVIEW_FORMS).format(n=n, m=m, a=a, b=b, i=rng.choice(INTENSIFIERS)))


# ---------------------------------------------------------------- sentences with slots

AXES = {  # adjectives with two poles that are not sentiment
    "size": ("big large huge giant enormous vast", "small tiny little mini compact petite"),
    "speed": ("fast quick rapid swift speedy", "slow sluggish gradual lagging unhurried"),
    "age": ("old ancient antique aged historic", "new modern recent young current"),
    "price": ("expensive costly dear pricey", "cheap inexpensive affordable budget"),
    "weight": ("heavy weighty massive bulky", "light weightless feathery airy"),
    "heat": ("hot boiling scorching burning", "cold freezing icy frozen"),
    "fullness": ("full packed crowded stuffed", "empty vacant bare hollow"),
    "height": ("tall high towering lofty", "short low squat stubby"),
    "hardness": ("hard stiff rigid firm", "soft tender spongy fluffy"),
    "moisture": ("wet damp soaked moist", "dry arid parched dusty"),
}
AXES = {name: (a.split(), b.split()) for name, (a, b) in AXES.items()}
SURNAMES = "smith jones taylor wilson evans roberts lewis clark cooper morris".split()
MANNERS = "quickly slowly quietly loudly calmly eagerly gently roughly secretly openly".split()
FREQUENCIES = "always often usually sometimes rarely never seldom daily weekly yearly".split()

SLOTS = {  # slot: (values, clauses that mention the value)
    "animal": (CATEGORIES["animal"], ("we saw a {}", "they feed the {}", "the {} ran off")),
    "bird": (CATEGORIES["bird"], ("a {} flew by", "i heard the {}")),
    "fish": (CATEGORIES["fish"], ("they caught a {}", "the {} swam away")),
    "fruit": (CATEGORIES["fruit"], ("i peeled a {}", "you picked the {}")),
    "vegetable": (CATEGORIES["vegetable"], ("i chopped the {}", "they grow the {}")),
    "tree": (CATEGORIES["tree"], ("the {} fell down", "they planted a {}")),
    "flower": (CATEGORIES["flower"], ("i smelled the {}", "you sent a {}")),
    "colour": (CATEGORIES["colour"], ("the flag is {}", "we painted it {}", "it looks {}")),
    "metal": (CATEGORIES["metal"], ("it is made of {}", "the key is of {}")),
    "material": (CATEGORIES["material"], ("it is made of {}", "they sell {}")),
    "tool": (CATEGORIES["tool"], ("i borrowed the {}", "they used a {}")),
    "utensil": (CATEGORIES["utensil"], ("i washed the {}", "you dropped a {}")),
    "clothing": (CATEGORIES["clothing"], ("you wore a {}", "i lost the {}")),
    "vehicle": (CATEGORIES["vehicle"], ("we came by {}", "the {} stopped")),
    "job": (CATEGORIES["job"], ("the {} called", "i met a {}", "we asked the {}")),
    "body": (CATEGORIES["body"], ("the {} hurts", "i washed my {}")),
    "country": (CATEGORIES["country"], ("they come from {}", "we flew to {}")),
    "city": (CATEGORIES["city"], ("they live in {}", "we met in {}")),
    "language": (CATEGORIES["language"], ("they speak {}", "it was in {}")),
    "day": (CATEGORIES["day"], ("it was on {}", "we met on {}")),
    "month": (CATEGORIES["month"], ("it was in {}", "they left in {}")),
    "number": (CATEGORIES["number"], ("we were {}", "i counted {}", "it cost {}")),
    "shape": (CATEGORIES["shape"], ("i drew a {}", "it had a {}")),
    "drink": (CATEGORIES["drink"], ("we drank {}", "i ordered {}")),
    "dish": (CATEGORIES["dish"], ("we ate {}", "i made a {}")),
    "building": (CATEGORIES["building"], ("we passed the {}", "the {} was closed")),
    "landform": (CATEGORIES["landform"], ("we saw the {}", "they crossed the {}")),
    "illness": (CATEGORIES["illness"], ("i had {}", "it was {} again")),
    "toy": (CATEGORIES["toy"], ("you got a {}", "the {} broke")),
    "container": (CATEGORIES["container"], ("i opened the {}", "it was in a {}")),
    "subject": (CATEGORIES["subject"], ("they study {}", "i teach {}")),
    "feeling": (CATEGORIES["feeling"], ("i felt {}", "it was full of {}")),
    "jewel": (CATEGORIES["jewel"], ("i found a {}", "you sold the {}")),
    "vessel": (CATEGORIES["vessel"], ("the {} sank", "we took a {}")),
    "game": (CATEGORIES["game"], ("we played {}", "they won at {}")),
    "device": (CATEGORIES["device"], ("the {} failed", "i bought a {}")),
    "artwork": (CATEGORIES["artwork"], ("i know that {}", "they sold the {}")),
    "surname": (SURNAMES, ("{} called", "we met {}", "{} was there")),
    "manner": (MANNERS, ("they spoke {}", "we left {}")),
    "frequency": (FREQUENCIES, ("i {} cook", "they {} call")),
    **{axis: (a + b, ("the thing is {}", "it was {}", "it seems {}")) for axis, (a, b) in AXES.items()},
}

# Five families that no task document contains: the two groups of values, and the clauses that mention them.
MEN = "peter john paul mark david martin robert simon oscar victor".split()
WOMEN = "olga anna maria susan linda helen laura julia emma clara".split()
HELD_OUT_FAMILIES = {
    "gender": ((MEN, WOMEN), ("{} called", "we met {}", "{} was there")),
    "time of day": (
        ("dawn sunrise daybreak morning breakfast".split(), "midnight dusk sunset evening supper".split()),
        ("it was around {}", "we met after {}", "they left before {}"),
    ),
    "inside or outside": (
        ("kitchen attic cellar bedroom corridor bathroom".split(), "garden meadow forest beach street yard".split()),
        ("it was in the {}", "we met in the {}", "they left the {}"),
    ),
    "weather": (
        ("sunny cloudless mild clear balmy".split(), "rainy stormy foggy snowy windy".split()),
        ("the day was {}", "it was {}", "it stayed {}"),
    ),
    "topic": (
        (HELD_OUT_DOMAINS["hotel"], HELD_OUT_DOMAINS["concert"]),
        ("we saw the {}", "i remember the {}", "they like the {}"),
    ),
}
JOINERS = (" and ", " , ", " so ", " when ")


def clause(rng: Random, slot: str, value: str | None = None) -> str:
    """A clause that mentions one value of `slot`."""
    values, forms = SLOTS[slot]
    return with_articles(rng.choice(forms).format(value if value is not None else rng.choice(values)))


def join_clauses(rng: Random, main: str, distractors: list[str]) -> str:
    """A sentence of the main clause and one or two clauses about other slots, in random order."""
    clauses = [main] + [clause(rng, slot) for slot in distractors]
    rng.shuffle(clauses)
    return rng.choice(JOINERS).join(clauses)


# ---------------------------------------------------------------- grammar

VERBS = {  # base form: past tense
    "find": "found", "buy": "bought", "sell": "sold", "take": "took", "break": "broke", "see": "saw", "make": "made",
    "paint": "painted", "clean": "cleaned", "carry": "carried", "move": "moved", "open": "opened", "close": "closed",
    "lose": "lost", "steal": "stole", "hide": "hid", "bring": "brought", "draw": "drew", "wash": "washed",
    "repair": "repaired", "want": "wanted", "keep": "kept", "throw": "threw", "choose": "chose",
}  # fmt: skip
OBJECTS = [w for c in ("tool", "utensil", "clothing", "toy", "container", "jewel", "device") for w in CATEGORIES[c]]


def plural(noun: str) -> str:
    """The regular plural, which is all this world has."""
    return noun + "es" if noun.endswith(("s", "x", "ch", "sh")) else noun + "s"


PLURAL_NOUNS = [
    w for w in OBJECTS + CATEGORIES["animal"][:10] if not w.endswith(("s", "f", "fe", "y")) and w != "mouse"
]
PLURAL_NOUNS = [w for w in PLURAL_NOUNS if w not in ("sheep", "knife", "dice")]

# ---------------------------------------------------------------- labels

# Words that are never the answer of a task document; they belong to no category above and occur in plain text.
HELD_OUT_LABELS = (
    "anchor velvet thunder ladder compass feather lantern harvest whistle blanket pebble mirror canvas needle pillar "
    "bubble candle ribbon saddle tunnel"
).split()
HELD_OUT_PSEUDOWORDS = (
    "glorp snive trask blenk frupe dwozz plimb krath vostle zindle morvic yapple quist hubbet fenlop jarrix wembo "
    "tulvak cragma ibdor"
).split()
ONSETS = "b c d f g h j k l m n p r s t v w z bl br ch cl cr dr fl fr gl gr kl kr pl pr sk sl sm sn sp st tr tw".split()
NUCLEI = "a e i o u ai ee oo ou".split()
CODAS = "b ck d ff g l m n p r s t x z nd nk mp rd st sk lt".split()


def pseudoword(rng: Random) -> str:
    """A pronounceable string that is no English word of this world and none of the held-out pseudo-words."""
    while True:
        word = rng.choice(ONSETS) + rng.choice(NUCLEI) + rng.choice(CODAS)
        if rng.random() < 0.4:
            word += rng.choice(NUCLEI[:5]) + rng.choice(CODAS)
        if word not in LEXICON and word not in HELD_OUT_PSEUDOWORDS:
            return word


def _task_words() -> list[str]:
    """Every word that task documents may use as a label or a key, in a fixed order and without repeats."""
    words = [w for c in CATEGORIES.values() for w in c]
    words += [n for d in DOMAINS.values() for n in d] + POSITIVE + NEGATIVE + list(CATEGORIES)
    words += [w for poles in AXES.values() for pole in poles for w in pole] + SURNAMES + MANNERS + FREQUENCIES
    words += list(VERBS) + "yes no true false left right north south east west first last alpha beta".split()
    held = {w for c in HELD_OUT_CATEGORIES.values() for w in c} | set(HELD_OUT_POSITIVE + HELD_OUT_NEGATIVE)
    held |= {w for d in HELD_OUT_DOMAINS.values() for w in d} | set(HELD_OUT_LABELS) | set(HELD_OUT_CATEGORIES)
    held |= {w for groups, _ in HELD_OUT_FAMILIES.values() for group in groups for w in group}
    return [w for w in dict.fromkeys(words) if w not in held]


TASK_WORDS = _task_words()
HELD_OUT_WORDS = (
    {w for c in HELD_OUT_CATEGORIES.values() for w in c}
    | set(HELD_OUT_POSITIVE + HELD_OUT_NEGATIVE + HELD_OUT_LABELS)
    | {w for d in HELD_OUT_DOMAINS.values() for w in d}
    | {w for groups, _ in HELD_OUT_FAMILIES.values() for group in groups for w in group}
)
LEXICON = set(TASK_WORDS) | HELD_OUT_WORDS | set(PRAISE_VERBS + BLAME_VERBS) | set(HELD_OUT_CATEGORIES)
