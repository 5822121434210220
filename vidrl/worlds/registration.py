"""Name the environments of this package in Gymnasium's registry, where Gymnasium is installed."""

from __future__ import annotations

from importlib.util import find_spec

LIMIT = 20  # actions after which an episode is truncated
# id: the class and the function of `registered`, which are imported when an environment is made
NAMES = {
    "vidrl/World-v0": ("LearnedWorldEnv", "learned_worlds"),
    "vidrl/TrueWorld-v0": ("TrueWorldEnv", "true_worlds"),
}


def register() -> None:
    """Register the environments; do nothing without Gymnasium, or where they are registered.

    Example:
        >>> import gymnasium
        >>> register()
        >>> gymnasium.spec("vidrl/World-v0").max_episode_steps
        20
    """
    if find_spec("gymnasium") is None:
        return
    import gymnasium

    for name, (one, many) in NAMES.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point=f"vidrl.worlds.registered:{one}",
                vector_entry_point=f"vidrl.worlds.registered:{many}",
                max_episode_steps=LIMIT,
            )
