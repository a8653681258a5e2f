"""Texts: facts about the world, small sums, opposites, copying; and what voices say."""
from words import ANIMALS, COLOURS, DAYS, FRUITS, INSTRUMENTS, NUMBERS, OPPOSITES, SHAPES, THINGS, a, count_of, pairs, plural

COLOUR_OF = {"the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a banana": "yellow", "the night": "black", "milk": "white",
             "a plum": "purple", "a frog": "green", "an orange": "orange", "blood": "red", "the sea": "blue"}
LEGS = {"dog": "four", "cat": "four", "horse": "four", "pig": "four", "frog": "four", "bird": "two", "spider": "eight", "fish": None}
VOICES = {"dog": "barks", "cat": "purrs", "bird": "sings", "pig": "grunts", "fish": None}
CORNERS = {"triangle": "three", "square": "four", "diamond": "four", "circle": None, "ring": None}
COPIED = list(COLOURS) + SHAPES + ANIMALS + ["house", "tree", "car", "key", "book", "apple"]


def fact(task, answer, key, *asks):
    return {"task": task, "answer": answer, "key": key, "asks": list(asks)}


def sums():
    for x in range(11):
        for y in range(11):
            answer = f"{NUMBERS[x]} plus {NUMBERS[y]} is {NUMBERS[x + y]}.".capitalize()
            yield fact("sum", answer, NUMBERS[x + y], f"What is {NUMBERS[x]} plus {NUMBERS[y]}?", f"How much is {NUMBERS[x]} plus {NUMBERS[y]}?",
                       f"Add {NUMBERS[x]} and {NUMBERS[y]}.")
            if x >= y:
                answer = f"{NUMBERS[x]} minus {NUMBERS[y]} is {NUMBERS[x - y]}.".capitalize()
                yield fact("sum", answer, NUMBERS[x - y], f"What is {NUMBERS[x]} minus {NUMBERS[y]}?",
                           f"How much is {NUMBERS[x]} minus {NUMBERS[y]}?", f"Take {NUMBERS[y]} from {NUMBERS[x]}.")


def knowledge():
    """Everything that is asked without media, but for copying."""
    for one, other in OPPOSITES:
        for x, y in ((one, other), (other, one)):
            yield fact("opposite", f"The opposite of {x} is {y}.", y, f"What is the opposite of {x}?", f"Name the opposite of {x}.",
                       f"Tell me the opposite of {x}.")
    for thing, colour in COLOUR_OF.items():
        yield fact("fact", f"{thing} is {colour}.".capitalize(), colour, f"What colour is {thing}?", f"Which colour does {thing} have?",
                   f"Tell me the colour of {thing}.")
    for animal, legs in LEGS.items():
        answer = f"{a(animal)} has {legs} legs." if legs else f"{a(animal)} has no legs."
        yield fact("fact" if legs else "none", answer.capitalize(), legs or "no", f"How many legs does {a(animal)} have?",
                   f"How many legs has {a(animal)}?", f"Count the legs of {a(animal)}.")
    for animal, does in VOICES.items():
        yield fact("fact" if does else "none", f"{a(animal)} {does or 'is silent'}.".capitalize(), does or "silent",
                   f"Which noise does {a(animal)} make?", f"What does {a(animal)} do when it is loud?", f"Tell me what noise {a(animal)} makes.")
    for shape, n in CORNERS.items():
        answer = f"{a(shape)} has {n or 'no'} corners."
        yield fact("fact" if n else "none", answer.capitalize(), n or "no", f"How many corners does {a(shape)} have?",
                   f"How many corners has {a(shape)}?", f"Count the corners of {a(shape)}.")
    for i, day in enumerate(DAYS):
        after = DAYS[(i + 1) % 7]
        yield fact("order", f"After {day} comes {after}.", after, f"What comes after {day}?", f"Which day comes after {day}?", f"Name the day after {day}.")
    for n in range(20):
        yield fact("order", f"After {NUMBERS[n]} comes {NUMBERS[n + 1]}.", NUMBERS[n + 1], f"What comes after {NUMBERS[n]}?",
                   f"Which number comes after {NUMBERS[n]}?", f"Name the number after {NUMBERS[n]}.")
    yield from kinds()
    yield from sums()


def kinds():
    groups = {"an animal": ANIMALS, "a fruit": FRUITS, "an instrument": [t for t in THINGS if t in INSTRUMENTS]}
    for group, members in groups.items():
        for thing in THINGS:
            true = thing in members
            answer = f"Yes, {a(thing)} is {group}." if true else f"No, {a(thing)} is not {group}."
            if true or len(thing) % 3 == 0:
                yield fact("kind", answer, "yes" if true else "no", f"Is {a(thing)} {group}?", f"Would you call {a(thing)} {group}?",
                           f"Tell me whether {a(thing)} is {group}.")


def copying(rng):
    words = " ".join(rng.sample(COPIED, rng.randint(1, 3)))
    while any(f"{c} {s}" in words for c, s in pairs(True)):
        words = " ".join(rng.sample(COPIED, rng.randint(1, 3)))
    ask = rng.choice(["Repeat these words: {}.", "Copy these words: {}.", "Say these words: {}."]).format(words)
    return {"task": "copy", "ask": ask, "answer": f"The words are: {words}.", "key": words}


# --- what voices say: facts for questions.of_speech ---

VERBS = ["sits", "sleeps", "waits", "sings"]
NEAR = ["on", "under", "near", "behind"]
SPOTS = ["house", "tree", "car", "bus", "boat", "flower", "book"]
OWNED = ["apple", "banana", "book", "key", "car", "flower"]
SIDES = [f"{one} {other}" for one in ("front", "rear", "side") for other in ("left", "right", "center")]
COMMANDS = ([f"{verb} the {thing}" for verb in ("open", "close") for thing in ("door", "window", "book")] +
            [f"turn {state} the {thing}" for state in ("on", "off") for thing in ("light", "music", "radio")] +
            [f"stop the {thing}" for thing in ("car", "bus", "music")] + [f"go to the {side}" for side in ("left", "right")] +
            [f"play the {thing}" for thing in INSTRUMENTS] + [f"find the {thing}" for thing in ("key", "book", "cat", "dog")])


def utterance(text, **facts):
    """The facts of a text that a voice says: the colour, number and animal that it names, too."""
    for word in text.split():
        for kind, known in (("colour", COLOURS), ("number", NUMBERS), ("animal", ANIMALS)):
            if word in known:
                facts[kind] = word
    return {"text": text, **facts}


def one_word(rng):
    return utterance(rng.choice(rng.choice([list(COLOURS), NUMBERS, NUMBERS, ANIMALS, SHAPES, SIDES])))


def sentence(rng):
    """What a voice says, at random, with its facts."""
    kind = rng.choice(["animal", "have", "colour", "pair", "pair", "command", "command", "word", "word", "word", "word"])
    if kind == "animal":
        where = f" {rng.choice(NEAR)} the {rng.choice(SPOTS)}" if rng.random() < 0.25 else ""
        return utterance(f"the {rng.choice(ANIMALS)} {rng.choice(VERBS)}{where}")
    if kind == "have":
        return utterance(f"I have {count_of(rng.randint(1, 12), rng.choice(OWNED))}")
    if kind == "colour":
        return utterance(f"the {rng.choice(SPOTS)} is {rng.choice(list(COLOURS))}")
    if kind == "pair":
        return utterance(a(" ".join(rng.choice(pairs(False)))))
    if kind == "command":
        command = rng.choice(COMMANDS)
        return utterance(command, command=command)
    return one_word(rng)


def all_words():
    """Every word that voices say and texts use, for the vocabulary."""
    parts = VERBS + NEAR + SPOTS + SIDES + COMMANDS + COPIED + [plural(s) for s in SHAPES]
    return sorted({w for part in parts for w in part.split()})
