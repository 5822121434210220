"""Write counts with their nouns and verbs in the right number."""

SINGULAR = {
    "are": "is",
    "were": "was",
    "have": "has",
    "lose": "loses",
    "count": "counts",
    "belong": "belongs",
    "come": "comes",
    "do": "does",
}


def counted(count: int, plural: str) -> str:
    """Return a count and what is counted; `plural` becomes singular for a count of 1.

    The first word that ends in s is the noun, the first verb of `SINGULAR` the verb.

    >>> counted(2, "ties are left out"), counted(1, "ties are left out")
    ('2 ties are left out', '1 tie is left out')
    >>> counted(1, "skipped items have no answer"), counted(0, "pairs")
    ('1 skipped item has no answer', '0 pairs')
    """
    words = plural.split(" ")
    if count == 1:
        noun = next((i for i, word in enumerate(words) if word.endswith("s")), None)
        verb = next((i for i, word in enumerate(words) if word in SINGULAR), None)
        if noun is not None:
            words[noun] = words[noun][:-1]
        if verb is not None:
            words[verb] = SINGULAR[words[verb]]
    return f"{count} {' '.join(words)}"
