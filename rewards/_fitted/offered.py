"""The features that `vidrl fit` offers by name, and the check that a feature is one of them."""

from __future__ import annotations

from typing import Any

from vidrl import plugin

from .picture import MEASURES

ENCODERS = ("efficientnet", "clip", "siglip", "dino", "dinov2", "dinov3")
# The curves that cost about as much as the default composite. Options are those of its parts.
REWARDS: dict[str, tuple[str, dict[str, Any]]] = {
    "motion_consistency": ("motion_consistency", {}),
    "warp_error": ("warp_error", {"relative": True}),
    "flicker": ("flicker", {"detail": 0.3}),
    "drift": ("drift", {}),
    "dynamic_degree": ("dynamic_degree", {}),
    "frame_quality": ("frame_quality", {"log": True}),
    "pumping": ("pumping", {}),
    "freeze": ("freeze", {}),
    "jerk": ("jerk", {}),
    "camera_object": ("camera_object", {}),
    "cut": ("cut", {}),
}


def offered(reward: Any, options: Any) -> bool:
    """Return whether `vidrl fit` writes such a feature where nobody names code.

    The options must be exactly those that `vidrl fit` writes: an option of a reward can name code,
    a file, or a server to which clips are sent. Nothing is imported, and nothing is built.

    >>> offered("flicker", {"detail": 0.3}), offered("flicker", {"flow": "package.module:function"})
    (True, False)
    >>> offered("subprocess:Popen", {"args": ["true"]})
    False
    """
    if not isinstance(reward, str) or not isinstance(options, dict):
        return False
    if reward == "picture":
        return any(options == {"measure": name} for name in MEASURES)
    if reward == "encoder":
        column = options.get("direction")
        known = any(options == {"encoder": name, "direction": column} for name in ENCODERS)
        return known and type(column) is int and column >= 0
    return reward in plugin.names("rewards") and options == REWARDS.get(reward, (reward, {}))[1]
