"""Questions and answers about what is in a picture, a clip, a sound or an utterance.

A question is a dict: task; ask, the text; answer, a sentence; key, the word of the answer that decides. Every function returns all that can be
asked; the phrasing of each is drawn at random. Nothing names a held-out combination unless the scene shows one.
"""
from words import COLOURS, HELD_OUT, INSTRUMENTS, NUMBERS, SHAPES, THINGS, a, count_of, plural, there_are

PHRASES = {
    "shape": ["What shape is it?", "Which shape is in the picture?", "What shape do you see?", "Name the shape."],
    "colour": ["What colour is the {0}?", "Which colour does the {0} have?", "Tell me the colour of the {0}.", "What is the colour of the {0}?"],
    "colours": ["What colour are the {0}?", "Which colour do the {0} have?", "Tell me the colour of the {0}."],
    "describe": ["Describe the picture.", "What is in the picture?", "What do you see?", "Tell me what the picture shows."],
    "place": ["Where is the {0}?", "In which place is the {0}?", "Tell me where the {0} is."],
    "size": ["Is the {0} big or small?", "How big is the {0}?", "What is the size of the {0}?"],
    "exists": ["Is there {0}?", "Is there {0} in the picture?", "Do you see {0}?", "Can you see {0}?"],
    "ground": ["What colour is the background?", "Which colour does the background have?", "Tell me the colour of the background."],
    "by colour": ["What shape is {0}?", "Which shape is {0}?", "Name the {0} shape."],
    "relation": ["What is {0} the {1}?", "Which shape is {0} the {1}?"],
    "count": ["How many {0} are there?", "How many {0} do you see?", "Count the {0}.", "Tell me the number of {0}."],
    "letter": ["Which letter is this?", "What letter is in the picture?", "Read the letter.", "What is the letter?"],
    "digit": ["Which digit is this?", "What digit is in the picture?", "Read the digit.", "What is the digit?"],
    "thing": ["What is this?", "What is in the picture?", "What do you see?", "Name this thing."],
    "animal": ["Is it an animal?", "Is this an animal?", "Does the picture show an animal?"],
    "event": ["What happens in the video?", "What does the shape do?", "Describe the video.", "Tell me what happens."],
    "way": ["Which way does the {0} move?", "Where does the {0} move?", "In which direction does the {0} move?"],
    "does it move": ["Does the {0} move?", "Is the {0} moving?"],
    "moving colour": ["What colour is the {0}?", "Which colour does the {0} have?", "Which colours does the {0} have?"],
    "video shape": ["Which shape is in the video?", "What shape is it?", "What shape do you see?"],
    "sound": ["What do you hear?", "What sound is this?", "What is this sound?", "Describe the sound.", "Tell me what you hear."],
    "instrument": ["Which instrument is played?", "What instrument is this?", "Which instrument do you hear?", "Name the instrument."],
    "sound count": ["How many {0} are there?", "How many {0} do you hear?", "Count the {0}."],
    "melody": ["Does the melody go up or down?", "Which way does the melody go?"],
    "tempo": ["Are the clicks fast or slow?", "How fast are the clicks?"],
    "glide": ["Does the tone rise or fall?", "Which way does the tone go?"],
    "is it": ["Is it {0}?", "Is this {0}?", "Do you hear {0}?"],
    "transcribe": ["What is said?", "What does the voice say?", "Write down what the voice says.", "Repeat what is said."],
    "named colour": ["Which colour is named?", "What colour does the voice name?", "Tell me the colour."],
    "named number": ["Which number is named?", "What number does the voice say?", "Tell me the number."],
    "named animal": ["Which animal is named?", "What animal does the voice name?", "Tell me the animal."],
    "command": ["What should I do?", "What does the voice want?", "Which task is given?"],
    "answer": ["Answer the question.", "Answer what is asked.", "Please answer the voice.", ""],
}


def question(rng, task, phrase, answer, key, *words):
    return {"task": task, "ask": rng.choice(PHRASES[phrase]).format(*words), "answer": answer, "key": key}


def yes_no(rng, phrase, thing, true, otherwise=None):
    answer = f"Yes, there is {thing}." if true else otherwise or f"No, there is no {thing.split(' ', 1)[1]}."
    return question(rng, "exists", phrase, answer, "yes" if true else "no", thing)


def absent_pair(rng, items, shown_held_out):
    """A colour and a shape that no item has together; one of the two is often there. Held out only if the scene shows such a pair."""
    there = {(i["colour"], i["shape"]) for i in items}
    near = [(c, i["shape"]) for c in COLOURS for i in items] + [(i["colour"], s) for s in SHAPES for i in items]
    fits = [p for p in near if p not in there and (p in HELD_OUT) == shown_held_out]
    return rng.choice(fits or [p for p in near if p not in there and p not in HELD_OUT])


def absent_shape(rng, items):
    return rng.choice([s for s in SHAPES if s not in {i["shape"] for i in items}])


def about_items(rng, items):
    """What may be asked of one and of two shapes."""
    held_out = any((i["colour"], i["shape"]) in HELD_OUT for i in items)
    item, other = rng.choice(items), absent_shape(rng, items)
    named = f"{item['colour']} {item['shape']}"
    pair = " ".join(absent_pair(rng, items, held_out))
    return [
        question(rng, "colour", "colour", f"The {item['shape']} is {item['colour']}.", item["colour"], item["shape"]),
        yes_no(rng, "exists", a(named), True),
        yes_no(rng, "exists", a(pair), False),
        yes_no(rng, "exists", a(other), False),
        yes_no(rng, "exists", a(item["shape"]), True),
        question(rng, "none", "colour", f"There is no {other}.", "no", other),
        question(rng, "none", "place", f"There is no {other}.", "no", other),
    ]


def about_one(rng, facts):
    item = facts["items"][0]
    colour, shape = item["colour"], item["shape"]
    whole = a(" ".join(w for w in (item["size"], colour, shape) if w)) + (f" {item['place']}" if item["place"] else "")
    found = about_items(rng, facts["items"]) + [
        question(rng, "shape", "shape", f"It is {a(shape)}.", shape),
        question(rng, "describe", "describe", f"There is {whole}.", f"{colour} {shape}"),
        question(rng, "count", "count", there_are(1, shape), "one", plural(shape)),
    ]
    if item["place"]:
        found.append(question(rng, "place", "place", f"The {shape} is {item['place']}.", item["place"], shape))
    if item["size"]:
        found.append(question(rng, "size", "size", f"The {shape} is {item['size']}.", item["size"], shape))
    return found


def about_two(rng, facts):
    first, second = facts["items"]
    found = about_items(rng, facts["items"])
    for item, other, relation in ((first, second, facts["relation"][0]), (second, first, facts["relation"][1])):
        if not any(i["colour"] == item["colour"] and i is not item for i in facts["items"]):
            found.append(question(rng, "by colour", "by colour", f"The {item['shape']} is {item['colour']}.", item["shape"], item["colour"]))
        sentence = f"The {item['shape']} is {relation} the {other['shape']}."
        found.append(question(rng, "relation", "relation", sentence, item["shape"], relation, other["shape"]))
        found.append(question(rng, "relation", "place", sentence, relation, item["shape"]))
    named = [a(f"{i['colour']} {i['shape']}") for i in (first, second)]
    found.append(question(rng, "describe", "describe", f"There is {named[0]} {facts['relation'][0]} {named[1]}.", facts["relation"][0]))
    found.append(question(rng, "count", "count", "There are two shapes.", "two", "shapes"))
    return found


def about_group(rng, facts):
    n, colour, shape = facts["count"], facts["colour"], facts["shape"]
    items = [{"colour": colour, "shape": shape}]
    other = absent_shape(rng, items)
    found = [question(rng, "count", "count", there_are(n, shape), NUMBERS[n], plural(shape)) for _ in range(3)]
    found += [question(rng, "count", "count", there_are(n, "shape"), NUMBERS[n], "shapes"),
              question(rng, "none", "count", f"There are no {plural(other)}.", "no", plural(other))]
    if n > 1:
        found.append(question(rng, "colour", "colours", f"The {plural(shape)} are {colour}.", colour, plural(shape)))
        found.append(question(rng, "describe", "describe", f"There are {count_of(n, colour + ' ' + shape)}.", NUMBERS[n]))
    return found


def about_glyph(rng, facts):
    kind = "digit" if facts["glyph"].isdigit() else "letter"
    other = "letter" if kind == "digit" else "digit"
    found = [question(rng, "read", kind, f"It is the {kind} {facts['glyph']}.", facts["glyph"]) for _ in range(4)]
    found += [question(rng, "none", other, f"There is no {other}.", "no"), yes_no(rng, "exists", a(kind), True), yes_no(rng, "exists", a(other), False)]
    if "colour" in facts:
        found.append(question(rng, "colour", "colour", f"The {kind} is {facts['colour']}.", facts["colour"], kind))
    return found


def about_thing(rng, facts):
    name = facts["thing"]
    other = rng.choice([t for t in THINGS if t != name])
    animal = f"Yes, {a(name)} is an animal." if facts["animal"] else f"No, {a(name)} is not an animal."
    return [question(rng, "thing", "thing", f"It is {a(name)}.", name) for _ in range(4)] + [
        question(rng, "animal", "animal", animal, "yes" if facts["animal"] else "no"),
        yes_no(rng, "exists", a(name), True), yes_no(rng, "exists", a(other), False)]


def about_empty(rng, facts):
    del facts
    shape = rng.choice(SHAPES)
    return [question(rng, "none", "describe", "There is nothing in the picture.", "nothing"),
            question(rng, "none", "count", f"There are no {plural(shape)}.", "no", plural(shape)), yes_no(rng, "exists", a(shape), False)]


ABOUT = {"one": about_one, "two": about_two, "group": about_group, "glyph": about_glyph, "thing": about_thing, "empty": about_empty}


def of_picture(rng, facts):
    found = ABOUT[facts["scene"]](rng, facts)
    if facts.get("ground"):
        found.append(question(rng, "ground", "ground", f"The background is {facts['ground']}.", facts["ground"]))
    return found


def label_of_picture(facts):
    """The words for what a picture shows, in the order of a caption."""
    if facts["scene"] in ("one", "two"):
        named = [f"{i['colour']} {i['shape']}" for i in facts["items"]]
        item = facts["items"][0]
        words = [item["size"], named[0], item["place"]] if len(named) == 1 else [named[0], facts["relation"][0], named[1]]
    elif facts["scene"] == "group":
        words = [NUMBERS[facts["count"]], facts["colour"], facts["shape"] if facts["count"] == 1 else plural(facts["shape"])]
    elif facts["scene"] == "glyph":
        words = [facts.get("colour"), facts["glyph"]]
    else:
        words = [facts.get("thing", "nothing")]
    return " ".join(w for w in words + ([f"on {facts['ground']}"] if facts.get("ground") else []) if w)


def word_of_picture(facts):
    """The shape, character or thing of a picture that shows one of them, and not small; None of others."""
    item = facts["items"][0] if facts["scene"] == "one" else None
    return (item["shape"] if item["size"] != "small" else None) if item else facts.get("glyph") or facts.get("thing")


def label_of_clip(facts):
    """The words for what a clip shows."""
    event = facts["event"]
    does = {"moves": f"moves {towards(facts.get('direction', 'up'))}", "changes colour": f"and {facts.get('second')}"}.get(event, event)
    return f"{facts['colour']} {facts['shape']} {does}"


def label_of_sound(recipe):
    """The words for what a sound is: how many or how fast, its name, up or down."""
    name = recipe["name"]
    name = {"beeps": "beep" if recipe.get("count") == 1 else "beeps"}.get(name, name.removeprefix("a ").removeprefix("an "))
    more = [NUMBERS[recipe["count"]] if recipe.get("count") else None, recipe.get("tempo"), name, recipe.get("direction")]
    return " ".join(w for w in more if w)


def word_of_sound(recipe):
    """The name of a sound."""
    return recipe["name"].removeprefix("a ").removeprefix("an ")


def towards(direction):
    return direction if direction in ("up", "down") else f"to the {direction}"


def of_clip(rng, facts):
    shape, colour, event = facts["shape"], facts["colour"], facts["event"]
    items = [{"colour": colour, "shape": shape}]
    other = absent_shape(rng, items)
    does = {"moves": f"moves {towards(facts.get('direction', 'up'))}", "rests": "does not move", "changes colour": "changes its colour",
            "changes size": "changes its size", "blinks": "blinks"}[event]
    key = "not move" if event == "rests" else facts.get("direction", does)
    found = [question(rng, "event", "event", f"The {shape} {does}.", key) for _ in range(2)]
    found += [question(rng, "shape", "video shape", f"It is {a(shape)}.", shape),
              question(rng, "none", "way", f"There is no {other}.", "no", other), question(rng, "none", "colour", f"There is no {other}.", "no", other)]
    if event == "moves":
        found += [question(rng, "direction", "way", f"The {shape} moves {towards(facts['direction'])}.", facts["direction"], shape) for _ in range(2)]
        found.append(question(rng, "moves", "does it move", f"Yes, the {shape} moves.", "yes", shape))
    else:
        found.append(question(rng, "moves", "does it move", f"No, the {shape} does not move.", "no", shape))
        found.append(question(rng, "direction", "way", f"The {shape} does not move.", "not", shape))
    if event == "changes colour":
        both = [c for c in COLOURS if c in (colour, facts["second"])]
        found.append(question(rng, "colour", "moving colour", f"The {shape} is {both[0]} and {both[1]}.", f"{both[0]} and {both[1]}", shape))
    else:
        found.append(question(rng, "colour", "moving colour", f"The {shape} is {colour}.", colour, shape))
        named, pair = a(f"{colour} {shape}"), a(" ".join(absent_pair(rng, items, (colour, shape) in HELD_OUT)))
        found.append({**yes_no(rng, "exists", named, True), "ask": f"Is there {named} in the video?"})
        found.append({**yes_no(rng, "exists", pair, False), "ask": f"Is there {pair} in the video?"})
    return found


SILENCE = "silence"


def heard(recipe):
    """What a sound is, as a sentence."""
    name = recipe["name"]
    if name in INSTRUMENTS:
        return f"It is {a(name)}."
    if name == "beeps":
        return there_are(recipe["count"], "beep")
    if name == "clicks":
        return f"There are {recipe['tempo']} clicks."
    return "There is no sound." if name == SILENCE else f"It is {name}."


def of_sound(rng, recipe):
    name = recipe["name"]
    beeps = "beep" if recipe.get("count") == 1 else "beeps"
    key = {"beeps": beeps, "clicks": f"{recipe.get('tempo')} clicks", SILENCE: "no sound"}.get(name, name.removeprefix("a ").removeprefix("an "))
    found = [question(rng, "sound", "sound", heard(recipe), key) for _ in range(2)]
    if name in INSTRUMENTS:
        found += [question(rng, "instrument", "instrument", f"It is {a(name)}.", name) for _ in range(2)]
        other = rng.choice([i for i in INSTRUMENTS if i != name])
        found += [question(rng, "is it", "is it", f"Yes, it is {a(name)}.", "yes", a(name)),
                  question(rng, "is it", "is it", f"No, it is {a(name)}.", "no", a(other))]
        if "direction" in recipe:
            found += [question(rng, "melody", "melody", f"The melody goes {recipe['direction']}.", recipe["direction"]) for _ in range(2)]
        elif recipe.get("count"):
            what = "beat" if name == "drum" else "note"
            found += [question(rng, "count", "sound count", there_are(recipe["count"], what), NUMBERS[recipe["count"]], plural(what)) for _ in range(2)]
        return found
    found.append(question(rng, "none", "instrument", "There is no instrument.", "no"))
    if name == "beeps":
        found += [question(rng, "count", "sound count", there_are(recipe["count"], "beep"), NUMBERS[recipe["count"]], "beeps") for _ in range(3)]
        return found
    if name == "clicks":
        return found + [question(rng, "tempo", "tempo", f"The clicks are {recipe['tempo']}.", recipe["tempo"]) for _ in range(2)]
    if name == SILENCE:
        return found
    found.append(question(rng, "none", "sound count", "There are no beeps.", "no", "beeps"))
    if name.endswith("tone"):
        rises = name == "a rising tone"
        found += [question(rng, "glide", "glide", f"The tone {'rises' if rises else 'falls'}.", "rises" if rises else "falls") for _ in range(2)]
    other = rng.choice([n for n in ("a siren", "an alarm", "a buzz", "noise", "a plucked string") if n != name])
    return found + [question(rng, "is it", "is it", f"Yes, it is {name}.", "yes", name), question(rng, "is it", "is it", f"No, it is {name}.", "no", other)]


def of_speech(rng, facts):
    """Of an utterance (texts.py): what is said; the colour, number or animal that is named, or that none is; what a command wants."""
    if "text" not in facts:
        return [question(rng, "none", phrase, "Nobody speaks.", "nobody") for phrase in ("transcribe", "transcribe", "named colour", "named number")]
    if "answer" in facts:
        return [question(rng, "answer", "answer", facts["answer"], facts["key"]) for _ in range(3)] + [
            question(rng, "transcribe", "transcribe", f"The voice says: {facts['text']}", facts["text"])]
    found = [question(rng, "transcribe", "transcribe", f"The voice says: {facts['text']}.", facts["text"]) for _ in range(3)]
    for kind in ("colour", "number", "animal"):
        if kind in facts:
            found += [question(rng, f"named {kind}", f"named {kind}", f"The {kind} is {facts[kind]}.", facts[kind]) for _ in range(2)]
    lacking = rng.choice([k for k in ("colour", "number", "animal") if k not in facts])
    found.append(question(rng, "none", f"named {lacking}", f"No {lacking} is named.", "no"))
    if "command" in facts:
        found += [question(rng, "command", "command", f"You should {facts['command']}.", facts["command"]) for _ in range(2)]
    return found


