"""Recipes of media files: what to make, as plain JSON, before anything is made.

Planning is one sequence of random numbers from the seed, done in seconds by one process. Rendering a recipe needs nothing but the recipe, so
files can be made in any order, by any number of processes, and again after an interruption, with the same bytes.
"""
import hashlib
import json
import random

REVISION = 1  # part of every file's name: raise it when a renderer changes what it makes


def random_of(*words):
    """A random.Random that depends on the words alone."""
    return random.Random(int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "big"))


def pick(rng, weights):
    """A key of the dict, by weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


class Media:
    """The media files of a world: path, relative to its folder -> recipe."""

    def __init__(self):
        self.recipes = {}

    def add(self, folder, split, ending, recipe):
        text = json.dumps([REVISION, recipe], sort_keys=True)
        path = f"media/{folder}/{split}/{hashlib.sha256(text.encode()).hexdigest()[:16]}.{ending}"
        self.recipes[path] = recipe
        return path
