"""What an error says of a name or an option that is not there: the nearest right one, and
who has it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


def nearest(word: str, known: Iterable[str]) -> str:
    """The advice that ends an error message: the known word nearest to `word`, then all of
    them.

    >>> nearest("flikker", ["warp_error", "flicker"])
    "did you mean 'flicker'? known: flicker, warp_error"
    >>> nearest("zzz", [])
    'none is known'
    """
    ordered = sorted(known)
    close = difflib.get_close_matches(word, ordered, n=1, cutoff=0.5)
    listed = f"known: {', '.join(ordered)}" if ordered else "none is known"
    return f"did you mean {close[0]!r}? {listed}" if close else listed


def unknown_options(
    what: str,
    unknown: Sequence[str],
    known: Iterable[str],
    owners: Mapping[str, Sequence[str]],
    show: str,
) -> str:
    """The message on all options that a plug-in lacks.

    `owners` names the plug-ins of its kind that have an option; `show` is the command that
    explains its own options. Where one option is unknown to all of them, which is a slip of
    the pen, the nearest one is named.

    >>> owners = {"sampler": ["ddpo", "grpo"], "eta": ["ddpo", "grpo"]}
    >>> print(unknown_options("algorithms 'nft'", ["sampler", "eta"], ["beta"], owners, "vidrl show algorithms nft"))
    algorithms 'nft' has no options 'sampler', 'eta': 'sampler', 'eta' are of ddpo, grpo; leave out what it does not \
have. Its own options: beta; `vidrl show algorithms nft` explains them
    """
    if len(unknown) == 1 and not owners.get(unknown[0]):
        return f"{what} has no option {unknown[0]!r}: {nearest(unknown[0], known)}"
    own, groups = sorted(known), dict[tuple[str, ...], list[str]]()
    for key in unknown:
        groups.setdefault(tuple(owners.get(key, ())), []).append(key)
    told = [
        _of(keys, who) if who else "; ".join(_alone(key, own) for key in keys)
        for who, keys in groups.items()
    ]
    plural = "s" if len(unknown) > 1 else ""
    explained = f"; `{show}` explains them" if show else ""
    return (
        f"{what} has no option{plural} {_listed(unknown)}: {'; '.join(told)}; leave out what it does not have. "
        f"Its own options: {', '.join(own) or 'none'}{explained}"
    )


def _of(keys: Sequence[str], who: Sequence[str]) -> str:
    return f"{_listed(keys)} {'are' if len(keys) > 1 else 'is'} of {', '.join(who)}"


def _alone(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"{key!r} is of none" + (f", did you mean {close[0]!r}?" if close else "")


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys))
