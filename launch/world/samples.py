"""Draws the samples of every split: which media they have, what is asked, and what is true.

A split has its own media: nothing is shared between training, validation and the tests. Files of one split are shared among its samples.
"""
import others
import questions
import recipes
import scenes
import sounds
import speak
import texts
from words import HELD_OUT, INSTRUMENTS, NOISES, SHAPES, THINGS, a, plural

TWO = "two modalities"
PLAYABLE = [name for name in INSTRUMENTS if name in THINGS]
WEIGHTS = {"read": 3, "thing": 3, "transcribe": 4, "count": 2, "sound": 2, "event": 2, "exists": 2}  # of tasks; the others have 1
CAPTIONS = {"image": ("describe", "read", "thing", "none"), "speech": ("transcribe", "none"), "sound": ("sound",), "video": ("event",)}
TAGS = {"image": "<image>\n", "voice": "<audio>\n", "sound": "<audio>\n", "video": "<video>\n"}


class Split:
    """The samples of one split. held_out, unheard, unseen: only held-out combinations, voices, fonts.
    voices: draws the recipe of an utterance."""

    def __init__(self, media, seed, name, held_out=False, unheard=False, unseen=False, voices=speak.recipe_of):
        self.media, self.name = media, name
        self.rng = recipes.random_of(seed, name)
        self.held_out, self.unheard, self.unseen = held_out, unheard, unseen
        self.voices = voices
        self.samples, self.captions, self.labels, self.words = [], [], [], []
        self.spoken = {}  # text -> the clips that say it
        self.pictures, self.clips, self.sounds = [], [], []

    # --- media ---

    def picture(self, scene):
        path = self.media.add("pictures", self.name, scene["ending"], scene["recipe"])
        self.pictures.append((path, scene["facts"]))
        self.label("image", {"image": path}, questions.label_of_picture(scene["facts"]), questions.word_of_picture(scene["facts"]))
        return self.pictures[-1]

    def voice(self, text, copies=1):
        """A clip that says the text; once there are that many of them, one of those."""
        known = self.spoken.setdefault(text, [])
        if len(known) < copies:
            recipe = self.voices(self.rng, text, self.unheard)
            known.append((self.audio("speech", recipe), recipe["voice"]))
            self.label("speech", {"voice": [known[-1][0]]}, text, text if len(text.split()) <= 2 else None)
            self.caption("speech", {"voice": [known[-1][0]]}, questions.of_speech(self.rng, {"text": text}))
            return known[-1]
        return self.rng.choice(known)

    def audio(self, folder, recipe):
        return self.media.add(folder, self.name, recipes.pick(self.rng, {"wav": 72, "flac": 24, "ogg": 4}), recipe)

    def sound(self, recipe):
        self.sounds.append((self.audio("sounds", recipe), recipe))
        self.label("sound", {"sound": [self.sounds[-1][0]]}, questions.label_of_sound(recipe), questions.word_of_sound(recipe))
        return self.sounds[-1]

    def clip(self, scene):
        """A film; one in four without a sound track is a list of frames instead."""
        recipe = scene["recipe"]
        if "track" not in recipe and self.rng.random() < 0.25:
            ending = self.rng.choice(["jpg", "png"])
            n = recipe["frames"]
            path = [self.media.add("frames", self.name, ending, {"kind": "frame", "clip": recipe, "index": i * (n // 8)}) for i in range(8)]
        else:
            path = self.media.add("clips", self.name, scene["ending"], recipe)
        self.clips.append((path, scene["facts"]))
        self.label("video", {"video": path}, questions.label_of_clip(scene["facts"]), scene["facts"]["shape"])
        return self.clips[-1]

    # --- samples ---

    def sample(self, number, modality, media, turns, speaker=None):
        """A sample: modality names its kind; media = {key of the data format: path or paths}; turns = questions, the first one's
        placeholders are put in front."""
        front = "".join(TAGS[key] * (len(media[key]) if key in ("voice", "sound") else 1) for key in TAGS if key in media)
        asks = [(front + turn["ask"] if i == 0 else turn["ask"] or questions.PHRASES["answer"][0]).strip("\n") for i, turn in enumerate(turns)]
        turns = [{**turn, "ask": ask} for turn, ask in zip(turns, asks)]
        made = {"id": f"{self.name}-{number}", "split": self.name, "modality": modality, "media": media, "turns": turns}
        return {**made, "speaker": speaker} if speaker else made

    def add(self, modality, media, turns, speaker=None):
        self.samples.append(self.sample(f"{len(self.samples):05d}", modality, media, turns, speaker))

    def caption(self, modality, media, found):
        """One more sample, for stage 1, that says what a medium is."""
        found = [q for task in CAPTIONS[modality] for q in found if q["task"] == task][:1]
        if found:
            self.captions.append(self.sample(f"caption-{len(self.captions):05d}", modality, media, found))

    def label(self, modality, media, words, word):
        """More samples, for the beginning of stage 0: a medium and the words for what it shows, without a question or a sentence; and, where there
        is one, the word for what can be recognised in it at once."""
        for kind, found, said in (("label", self.labels, words), ("word", self.words, word)):
            if said:
                made = self.sample(f"{kind}-{len(found):05d}", modality, media, [{"ask": "", "answer": said}])
                found.append({**made, "system": ""})

    def one_of(self, found):
        """A question: its task first, by weight, so that tasks with many questions do not crowd out the others."""
        task = recipes.pick(self.rng, {q["task"]: WEIGHTS.get(q["task"], 1) for q in found})
        return self.rng.choice([q for q in found if q["task"] == task])

    def some(self, found, most=5):
        """Questions of different tasks."""
        chosen = []
        while found and len(chosen) < most:
            chosen.append(self.one_of(found))
            found = [q for q in found if q["task"] != chosen[-1]["task"]]
        return chosen

    def ask(self, modality, media, found, talks, speaker=None):
        """One sample with one question, in that share of cases another with up to five; and what the medium is."""
        self.add(modality, media, [self.one_of(found)], speaker)
        if self.rng.random() < talks:
            self.add(modality, media, self.some(found), speaker)
        if modality != "speech":  # voice() does it
            self.caption(modality, media, found)

    def add_pictures(self, n, talks=0.0, kinds=None):
        for _ in range(n):
            make = scenes.PICTURES[recipes.pick(self.rng, kinds or scenes.PICTURE_WEIGHTS)]
            if make is scenes.glyph:
                scene = make(self.rng, self.unseen)
            elif make in (scenes.one_shape, scenes.two_shapes, scenes.group):
                scene = make(self.rng, self.held_out)
            else:
                scene = make(self.rng)
            path, facts = self.picture(scene)
            self.ask("image", {"image": path}, self.of_picture(facts), talks)

    def of_picture(self, facts):
        found = questions.of_picture(self.rng, facts)
        if self.held_out and facts["scene"] == "two":  # only what concerns the combination
            shape = next(i["shape"] for i in facts["items"] if (i["colour"], i["shape"]) in HELD_OUT)
            found = [q for q in found if shape in q["answer"]] or found
        return found

    def add_digits(self, indexes, talks=0.0):
        for index in indexes:
            path, facts = self.picture(scenes.digit(self.rng, index))
            self.ask("image", {"image": path}, [q for q in questions.of_picture(self.rng, facts) if q["task"] == "read"], talks)

    def add_clips(self, n, talks=0.0):
        for _ in range(n):
            path, facts = self.clip(scenes.clip(self.rng, self.held_out))
            self.ask("video", {"video": path}, questions.of_clip(self.rng, facts), talks)

    def draw_sound(self):
        name = self.rng.choice(list(INSTRUMENTS) + ["drum"] + NOISES + ["beeps"] * 2 + ["clicks"] * 2 + ["silence"])
        tuned = name in INSTRUMENTS and name not in ("drum", "bell")
        direction = self.rng.choice(["up", "down"]) if tuned and self.rng.random() < 0.4 else None
        return sounds.recipe_of(self.rng, name, direction=direction)

    def add_sounds(self, n, talks=0.0):
        for _ in range(n):
            path, recipe = self.sound(self.draw_sound())
            self.ask("sound", {"sound": [path]}, questions.of_sound(self.rng, recipe), talks)

    def add_speech(self, n, talks=0.0):
        """Sentences and words; one in twelve is a question about the world; one in thirty has nobody speaking."""
        known = list(texts.knowledge())
        for _ in range(n):
            draw = self.rng.random()
            if draw < 0.033:
                recipe = sounds.recipe_of(self.rng, self.rng.choice(["noise", "silence"]))
                self.ask("speech", {"voice": [self.audio("speech", recipe)]}, questions.of_speech(self.rng, {}), talks)
                continue
            if draw < 0.12:
                fact = self.rng.choice(known)
                facts = {"text": min(fact["asks"], key=len), "answer": fact["answer"], "key": fact["key"]}
            else:
                facts = texts.sentence(self.rng)
            path, speaker = self.voice(facts["text"], copies=10 ** 9)
            self.ask("speech", {"voice": [path]}, questions.of_speech(self.rng, facts), talks, speaker)

    def add_texts(self, n, part):
        """Facts about the world: training has all but one phrasing of each; that one is asked in validation of one half of the facts, in the
        tests of the other half. part: 0 validation, 1 tests, 2 training."""
        found = []
        for i, fact in enumerate(texts.knowledge()):
            asks = list(fact["asks"])
            recipes.random_of("phrasing", fact["answer"]).shuffle(asks)
            if part == 2 or i % 2 == part:
                found += [{**fact, "ask": ask} for ask in (asks[1:] if part == 2 else asks[:1])]
        for q in found * (n // len(found)) + self.rng.sample(found, n % len(found)):
            self.add("text", {}, [{k: q[k] for k in ("task", "ask", "answer", "key")}])

    def add_copying(self, n):
        for _ in range(n):
            self.add("text", {}, [texts.copying(self.rng)])

    # --- two modalities ---

    def speak_question(self, media, found, copies):
        """A question that a voice asks about the media."""
        q = self.one_of([q for q in found if len(q["ask"]) <= 44] or found)
        path, speaker = self.voice(q["ask"].replace("?", "").replace(".", ""), copies)
        self.add(TWO, {**media, "voice": [path]}, [{**q, "task": f"spoken {q['task']}", "ask": self.rng.choice(questions.PHRASES["answer"])}], speaker)

    def add_spoken(self, n, copies):
        """Spoken questions: four of six about pictures, one about a sound, one about a clip."""
        for i in range(n):
            if i % 6 < 4:
                path, facts = self.rng.choice(self.pictures)
                self.speak_question({"image": path}, self.of_picture(facts), copies)
            elif i % 6 == 4 and self.sounds:
                path, recipe = self.rng.choice(self.sounds)
                self.speak_question({"sound": [path]}, questions.of_sound(self.rng, recipe), copies)
            elif self.clips:
                path, facts = self.rng.choice(self.clips)
                self.speak_question({"video": path}, questions.of_clip(self.rng, facts), copies)

    def add_named(self, n, copies):
        """Is the colour, the shape, or the coloured shape that a voice names in the picture?"""
        usable = [(p, f) for p, f in self.pictures if f["scene"] in ("one", "two")] or [self.picture(scenes.two_shapes(self.rng))]
        for _ in range(n):
            path, facts = self.rng.choice(usable)
            true, item = self.rng.random() < 0.5, self.rng.choice(facts["items"])
            kind = self.rng.choice(["colour", "shape", "pair"])
            if kind == "pair":
                colour, shape = (item["colour"], item["shape"]) if true else questions.absent_pair(self.rng, facts["items"], False)
                named = f"{colour} {shape}"
            else:
                there = {i[kind] for i in facts["items"]} | ({facts["ground"]} if kind == "colour" else set())
                known = SHAPES if kind == "shape" else list(questions.COLOURS)
                named = item[kind] if true else self.rng.choice([w for w in known if w not in there])
            q = self.named_question(kind, named, true, facts["items"])
            voice, speaker = self.voice(named, copies)
            self.add(TWO, {"image": path, "voice": [voice]}, [q], speaker)

    def named_question(self, kind, named, true, items):
        if kind == "colour":
            ask = self.rng.choice(["Is the spoken colour in the picture?", "Does a shape have the colour that the voice names?"])
            shape = next((i["shape"] for i in items if i["colour"] == named), None)
            answer = f"Yes, the {shape} is {named}." if true else f"No, nothing is {named}."
        else:
            ask = self.rng.choice(["Is there what the voice names?", "Is the thing that the voice names in the picture?"])
            answer = f"Yes, there is {a(named)}." if true else f"No, there is no {named}."
        return {"task": f"named {kind}", "ask": ask, "answer": answer, "key": "yes" if true else "no"}

    def add_fits(self, n):
        """Does the sound come from the thing in the picture?"""
        for _ in range(n):
            true, name = self.rng.random() < 0.5, self.rng.choice(PLAYABLE)
            other = name if true else self.rng.choice([t for t in PLAYABLE if t != name])
            path = self.picture(scenes.pictogram(self.rng, [name]))[0]
            sound = self.sound(sounds.recipe_of(self.rng, other))[0]
            answer = f"Yes, both are {a(name)}." if true else f"No, the picture shows {a(name)}, the sound is {a(other)}."
            ask = self.rng.choice(["Does the sound fit the picture?", "Do the sound and the picture go together?", "Is this the sound of the thing in the picture?"])
            self.add(TWO, {"image": path, "sound": [sound]}, [{"task": "sound fits picture", "ask": ask, "answer": answer, "key": "yes" if true else "no"}])

    def add_counts(self, n):
        """Are there as many beeps as shapes?"""
        for _ in range(n):
            path, facts = self.picture(scenes.group(self.rng, self.held_out))
            count = facts["count"] if self.rng.random() < 0.5 and facts["count"] < 5 else self.rng.randint(1, 4)
            sound = self.sound(sounds.recipe_of(self.rng, "beeps", count=count))[0]
            true = count == facts["count"]
            shown, beeps = questions.count_of(facts["count"], facts["shape"]), questions.count_of(count, "beep")
            answer = f"Yes, {shown} and {beeps}." if true else f"No, {shown} and {beeps}."
            ask = self.rng.choice(["Are there as many beeps as {0}?", "Is the number of beeps the number of {0}?"]).format(plural(facts["shape"]))
            self.add(TWO, {"image": path, "sound": [sound]}, [{"task": "counts match", "ask": ask, "answer": answer, "key": "yes" if true else "no"}])

    def add_tracks(self, n):
        """Clips with a sound track, which is also a file beside them: does the tone rise while the shape moves up, or fall while it moves down?"""
        for _ in range(n):
            tone = self.rng.choice(["a rising tone", "a falling tone"])
            scene = scenes.clip(self.rng, self.held_out, "moves", tone)
            sound = self.sound(scene["recipe"]["track"])[0]
            path, facts = self.clip(scene)
            rises, up = tone == "a rising tone", facts["direction"] == "up"
            does = f"the shape moves {facts['direction']} and the tone {'rises' if rises else 'falls'}"
            ask = self.rng.choice(["Does the tone go the way of the shape?", "Do the tone and the shape go the same way?"])
            true = rises == up
            q = {"task": "tone fits video", "ask": ask, "answer": f"{'Yes' if true else 'No'}, {does}.", "key": "yes" if true else "no"}
            found = [q, q, *[{**x, "task": f"video {x['task']}"} for x in questions.of_clip(self.rng, facts)[:2]]]
            self.add(TWO, {"sound": [sound], "video": path}, [self.rng.choice(found)])

    def add_named_sounds(self, n, copies):
        """Is the instrument the one that a voice names?"""
        names = list(INSTRUMENTS)
        for _ in range(n):
            true, name = self.rng.random() < 0.5, self.rng.choice(names)
            named = name if true else self.rng.choice([i for i in names if i != name])
            sound = self.sound(sounds.recipe_of(self.rng, name))[0]
            voice, speaker = self.voice(named, copies)
            ask = self.rng.choice(["Is it the instrument that the voice names?", "Does the voice name what is played?"])
            answer = f"{'Yes' if true else 'No'}, it is {a(name)}."
            self.add(TWO, {"voice": [voice], "sound": [sound]}, [{"task": "named sound", "ask": ask, "answer": answer, "key": "yes" if true else "no"}], speaker)

    # --- recordings of packages ---

    def add_recordings(self, found):
        """found = (path, name of a sound)."""
        for path, name in found:
            recipe = {"kind": "sound", "name": name, "maker": "file", "file": path, "how": sounds.recording_of(self.rng, seconds=sounds.SECONDS, hiss=0, low=0)}
            self.heard_questions(recipe)

    def add_patches(self, n, found):
        for _ in range(n):
            path, name, samples = self.rng.choice(found)
            recipe = {"kind": "sound", "name": name, "maker": "patch", "file": path, "sample": self.rng.randrange(samples),
                      "hz": round(440 * 2 ** (self.rng.randint(-9, 7) / 12), 2), "seconds": round(self.rng.uniform(0.8, 1.6), 3),
                      "how": sounds.recording_of(self.rng)}
            self.heard_questions(recipe)

    def add_others(self, pictures, heard):
        """Pictures and sounds of other programs."""
        for _ in range(pictures):
            path, facts = self.picture(others.scene(self.rng))
            self.ask("image", {"image": path}, self.of_picture(facts), 0)
        for _ in range(heard):
            path, recipe = self.sound(others.sound_recipe(self.rng))
            self.ask("sound", {"sound": [path]}, questions.of_sound(self.rng, recipe), 0)

    def heard_questions(self, recipe):
        path, _ = self.sound(recipe)
        self.add("sound", {"sound": [path]}, [self.rng.choice([q for q in questions.of_sound(self.rng, recipe) if q["task"] in ("sound", "instrument")])])

    def add_people(self, found):
        """found = (path, what somebody says there)."""
        for path, said in found:
            recipe = {"kind": "sound", "name": said, "maker": "file", "file": path, "how": {"seconds": speak.SECONDS, "lead": 0.05, "tail": 0.05, "gain": 0.8, "seed": 0}}
            audio = self.audio("speech", recipe)
            for _ in range(2):
                q = questions.question(self.rng, "transcribe", "transcribe", f"The voice says: {said}.", said)
                self.add("speech", {"voice": [audio]}, [q], "alsa-utils")
