"""The words of the world: what can be seen, heard and named, and which combinations training never meets."""

NUMBERS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen "
           "twenty").split()

# name: ranges of hue (degrees, may run below 0), saturation and value
COLOURS = {
    "red": ((-8, 8), (0.8, 1.0), (0.7, 1.0)),
    "orange": ((24, 40), (0.85, 1.0), (0.9, 1.0)),
    "yellow": ((51, 61), (0.75, 1.0), (0.85, 1.0)),
    "green": ((96, 146), (0.6, 1.0), (0.42, 1.0)),
    "blue": ((208, 242), (0.7, 1.0), (0.6, 1.0)),
    "purple": ((270, 302), (0.6, 1.0), (0.42, 0.8)),
    "black": ((0, 360), (0.0, 0.3), (0.0, 0.1)),
    "white": ((0, 360), (0.0, 0.04), (0.94, 1.0)),
}
GREY = ((0, 360), (0.0, 0.05), (0.42, 0.62))  # only a background
SHAPES = "circle square triangle star heart cross ring diamond".split()
PLURALS = {"cross": "crosses"}

# No picture, clip, text or voice of training or validation has one of these colours on this shape: the split "combinations" is made of them.
HELD_OUT = {(colour, SHAPES[(3 * i + 1) % 8]) for i, colour in enumerate(COLOURS)}

PLACES = {  # name: centre of the cell, as parts of width and height
    "at the top left": (0.2, 0.2), "at the top": (0.5, 0.2), "at the top right": (0.8, 0.2),
    "on the left": (0.2, 0.5), "in the middle": (0.5, 0.5), "on the right": (0.8, 0.5),
    "at the bottom left": (0.2, 0.8), "at the bottom": (0.5, 0.8), "at the bottom right": (0.8, 0.8),
}

THINGS = {  # pictograms of the emoji font, several of a kind
    "dog": "🐶🐕", "cat": "🐱🐈", "fish": "🐟🐠", "bird": "🐦🐤", "frog": "🐸", "horse": "🐴🐎", "pig": "🐷🐖", "spider": "🕷",
    "house": "🏠🏡", "tree": "🌳🌲", "car": "🚗🚙", "bus": "🚌", "boat": "⛵", "plane": "✈🛩", "flower": "🌸🌻🌼", "sun": "☀🌞",
    "apple": "🍎🍏", "banana": "🍌", "key": "🔑🗝", "book": "📕📗📘", "telephone": "☎📞",
    "piano": "🎹", "guitar": "🎸", "violin": "🎻", "trumpet": "🎺", "drum": "🥁", "bell": "🔔",
}
ANIMALS = "dog cat fish bird frog horse pig spider".split()
FRUITS = ["apple", "banana"]

INSTRUMENTS = {  # General MIDI programs, from 0; of "drum", keys of its percussion channel
    "piano": (0, 1, 2), "organ": (16, 19), "guitar": (24, 25), "violin": (40, 110), "trumpet": (56, 61), "flute": (73, 74),
    "xylophone": (12, 13), "bell": (14,), "drum": (36, 38, 41, 45, 48),
}
NOISES = ["a siren", "an alarm", "a buzz", "noise", "a rising tone", "a falling tone", "a plucked string", "beeps", "clicks"]

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

OPPOSITES = [("hot", "cold"), ("big", "small"), ("fast", "slow"), ("up", "down"), ("left", "right"), ("day", "night"), ("open", "closed"),
             ("old", "young"), ("loud", "quiet"), ("light", "dark"), ("wet", "dry"), ("full", "empty"), ("hard", "soft"), ("happy", "sad"),
             ("high", "low"), ("good", "bad"), ("long", "short"), ("black", "white"), ("front", "rear"), ("top", "bottom")]
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def a(noun):
    return ("an " if noun[0] in "aeio" else "a ") + noun


def plural(noun):
    return PLURALS.get(noun, noun + "s")


def count_of(n, noun):
    return f"{NUMBERS[n]} {noun if n == 1 else plural(noun)}"


def there_are(n, noun):
    return f"There is one {noun}." if n == 1 else f"There are {count_of(n, noun)}."


def pairs(held_out):
    """The combinations of a colour and a shape that may be used: those held out, or all the others."""
    return [(c, s) for c in COLOURS for s in SHAPES if ((c, s) in HELD_OUT) == held_out]
