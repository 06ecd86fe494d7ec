"""The seven expressions, in the order of the FER2013 codes 0-6, used everywhere."""

EMOTIONS: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

# Spellings found in the wild (FER+, CK+, RAF-DB, folders of other projects), all lower-case.
ALIASES: dict[str, str] = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}


def canonical(name: str) -> str:
    """Return the standard spelling of a class name (`Anger` -> `angry`); unknown names come back lower-case."""
    lowered = name.strip().lower()
    return ALIASES.get(lowered, lowered)
