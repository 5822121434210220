"""Functions that load a reward by its name.

A name is "default", a reward of the folder `rewards`, or a class, object or function of the
user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidrl import plugin

from ..base import Reward
from ..compose import default
from ..flow import check_method
from .plain import as_reward


def load(name: str, /, **options: Any) -> Reward:
    """Return the reward `name` with its options.

    `name` is "default" (the default composite, which has no options), a reward of the
    folder `rewards` such as "flicker", or "package.module:attribute" for the user's own: a
    subclass of Reward, another class whose instances are called as fn(samples), an instance
    of a Reward, or a function fn(samples). The module is an installed module, or a file in
    the working folder. Only classes take options.

    Raises `vidrl.plugin.UnknownName` with the nearest right name, `vidrl.plugin.BadOption`
    with the nearest right option or the expected type, and ValueError for a function of
    other arguments.

    >>> load("flicker", flow="farneback").flow
    'farneback'
    >>> load("flikker")
    Traceback (most recent call last):
    vidrl.plugin.UnknownName: no plug-in 'flikker' among the rewards: did you mean 'flicker'? ...
    """
    found, checked_options = _checked(name, options)
    is_factory = isinstance(found, type) or found is default
    reward = as_reward(found(**checked_options) if is_factory else found, name)
    # Checked here, because a wrong method of flow would fail only at the first clip.
    flow: Any = getattr(reward, "flow", None)
    if name in plugin.names("rewards") and flow:
        check_method(flow)
    return reward


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raise what `load` raises for an unknown name or a wrong option.

    The reward itself is not created, so that no weights are loaded.
    """
    found, _ = _checked(name, options)
    if not isinstance(found, type) and found is not default:
        as_reward(found, name)


def _checked(name: str, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the class, object or function that `name` names, and the checked options."""
    if not isinstance(name, str):
        raise plugin.UnknownName(
            f"expected the name of a reward, as 'flicker' or 'package.module:Class', got {name!r}"
        )
    if name == "default":
        if options:
            raise plugin.BadOption(
                f"the default composite has no options, got {', '.join(options)}: name one of its "
                "parts, or write a composite of your own"
            )
        return default, {}
    found = plugin.import_object(name) if ":" in name else plugin.find("rewards", name)
    if isinstance(found, type):
        return found, plugin.check(found, options, f"rewards {name!r}")
    if options:
        raise plugin.BadOption(
            f"reward {name!r} is not a class, so that it takes no options, got "
            f"{', '.join(options)}: make it a class whose constructor takes them"
        )
    return found, {}
