"""Recordings that packages hold, where they are installed: handwritten digits, spoken channel names, sounds, instruments."""
import pathlib

import draw
import sounds

ALSA = pathlib.Path("/usr/share/sounds/alsa")
ICONS = pathlib.Path("/usr/share/sounds/sound-icons")

# The files of sound-icons that are plainly one of our sounds, by the start of their names.
ICON_NAMES = {"piano": "piano", "guitar": "guitar", "trumpet": "trumpet", "xylofon": "xylophone", "percussion": "drum"}
# Instruments of FreePats by General MIDI program. Percussion has no pitch and stays out.
PATCH_NAMES = {"000": "piano", "001": "piano", "016": "organ", "019": "organ", "024": "guitar", "025": "guitar", "040": "violin", "056": "trumpet",
               "073": "flute", "074": "flute", "013": "xylophone", "014": "bell"}


def digits():
    """Numbers of the handwritten digits that training may use, and of those it may not."""
    if not pathlib.Path(draw.DIGITS).exists():
        return [], []
    count = len(draw.handwritten()[0])
    return list(range(1000)), list(range(1000, count))  # by place in the file


def speech():
    """Files of people who name the channels of a loudspeaker, and what they say."""
    return [(str(path), path.stem.replace("_", " ").lower()) for path in sorted(ALSA.glob("*_*.wav"))]


def icons():
    return [(str(path), name) for path in sorted(ICONS.glob("*.wav")) for start, name in ICON_NAMES.items() if path.name.startswith(start + "-")]


def patches():
    """Files of FreePats, the instrument of each, and its number of samples."""
    found = []
    for path in sorted(pathlib.Path(sounds.FREEPATS, "Tone_000").glob("*.pat")):
        if path.name[:3] in PATCH_NAMES:
            found.append((str(path), PATCH_NAMES[path.name[:3]], len(sounds.read_patch(path))))
    return found


def lacking():
    """Packages whose recordings are not installed."""
    has = {"python3-sklearn": digits()[0], "alsa-utils": speech(), "sound-icons": icons(), "freepats": patches()}
    return [package for package, found in has.items() if not found]
