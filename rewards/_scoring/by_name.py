"""Rewards by name: the default composite, a plug-in of this folder, or a class, object or
function of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidrl import plugin

from ..base import Reward
from ..compose import default
from ..flow import check_method
from .plain import as_reward


def load(name: str, /, **options: Any) -> Reward:
    """The reward `name` with its options.

    `name` is "default" (the default composite, which has no options), a reward of this
    folder such as "flicker", or "package.module:attribute" of your own: a subclass of
    Reward, any other class whose instances are called as fn(samples), a Reward that is made
    already, or a function fn(samples). The module is an installed one, or a file in the
    working folder. Only classes take options.

    Raises `vidrl.plugin.UnknownName` with the nearest right name, `vidrl.plugin.BadOption`
    with the nearest right option or the type expected, and ValueError for a function of
    other arguments.

    >>> load("flicker", flow="farneback").flow
    'farneback'
    >>> load("flikker")
    Traceback (most recent call last):
    vidrl.plugin.UnknownName: no plug-in 'flikker' among the rewards: did you mean 'flicker'? ...
    """
    found, given = _checked(name, options)
    made = as_reward(found(**given) if isinstance(found, type) or found is default else found, name)
    flow: Any = getattr(made, "flow", None)
    if name in plugin.names("rewards") and flow:
        check_method(flow)
    return made


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raise what `load` raises for an unknown name or a wrong option, without making the
    reward."""
    found, _ = _checked(name, options)
    if not isinstance(found, type) and found is not default:
        as_reward(found, name)


def _checked(name: str, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What `name` names, and its options as it takes them."""
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
    found = plugin.outside(name) if ":" in name else plugin.find("rewards", name)
    if isinstance(found, type):
        return found, plugin.check(found, options, f"rewards {name!r}")
    if options:
        raise plugin.BadOption(
            f"reward {name!r} is not a class, so that it takes no options, got "
            f"{', '.join(options)}: make it a class whose constructor takes them"
        )
    return found, {}
