"""Write the advice in errors on unknown names and options: the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the known word nearest to `word`, then all known words.

    >>> nearest("flikker", ["warp_error", "flicker"])
    "did you mean 'flicker'? known: flicker, warp_error"
    >>> nearest("zzz", [])
    'none is known'
    """
    ordered = sorted(known)
    close = difflib.get_close_matches(word, ordered, n=1, cutoff=0.5)  # half of the letters agree
    listed = f"known: {', '.join(ordered)}" if ordered else "none is known"
    return f"did you mean {close[0]!r}? {listed}" if close else listed


def unknown_options(
    what: str,
    unknown: Sequence[str],
    known: Iterable[str],
    owners: Mapping[str, Sequence[str]],
    show: str,
) -> str:
    """Return the error message on all options that a plug-in does not have.

    `what` names the plug-in, `unknown` the options given in vain and `known` its options.
    `owners` lists the other plug-ins of its kind that have an option; `show` is the command
    that explains the plug-in's options. A single option that no plug-in has is taken for a
    misspelling, and the nearest known option is suggested.

    >>> owners = {"sampler": ["ddpo", "grpo"], "eta": ["ddpo", "grpo"]}
    >>> message = unknown_options(
    ...     "algorithms 'nft'", ["sampler", "eta"], ["beta"], owners, "vidrl show algorithms nft"
    ... )
    >>> for part in message.split(": ", 1):
    ...     print(part)
    algorithms 'nft' has no options 'sampler', 'eta'
    'sampler', 'eta' are of ddpo, grpo; leave out what it does not have. Its own options: beta; \
`vidrl show algorithms nft` explains them
    """
    if len(unknown) == 1 and not owners.get(unknown[0]):
        return f"{what} has no option {unknown[0]!r}: {nearest(unknown[0], known)}"
    own, groups = sorted(known), dict[tuple[str, ...], list[str]]()
    for key in unknown:
        groups.setdefault(tuple(owners.get(key, ())), []).append(key)
    sentences = [
        _owned_by(keys, who) if who else "; ".join(_owned_by_none(key, own) for key in keys)
        for who, keys in groups.items()
    ]
    plural = "s" if len(unknown) > 1 else ""
    explained = f"; `{show}` explains them" if show else ""
    return (
        f"{what} has no option{plural} {_listed(unknown)}: {'; '.join(sentences)}; "
        f"leave out what it does not have. Its own options: {', '.join(own) or 'none'}{explained}"
    )


def _owned_by(keys: Sequence[str], who: Sequence[str]) -> str:
    """Return which plug-ins have these options."""
    return f"{_listed(keys)} {'are' if len(keys) > 1 else 'is'} of {', '.join(who)}"


def _owned_by_none(key: str, known: Sequence[str]) -> str:
    """Return that no plug-in has this option, with the nearest known option."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"{key!r} is of none" + (f", did you mean {close[0]!r}?" if close else "")


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys))
