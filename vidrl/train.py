"""Keep the former place of `vidrl.training.loop`: `from vidrl.train import run` still works."""

from vidrl import config
from vidrl.training import assembly, loop
from vidrl.training.assembly import Options, Parts
from vidrl.training.held_out import Callback
from vidrl.training.loop import run

__all__ = ["Options", "Trainer", "run"]


class Trainer(loop.Trainer):
    """A trainer that is also made as it was before: `Trainer(recipe, look)`."""

    def __init__(
        self, recipe: config.Recipe | Parts, look: Callback = assembly.no_callback
    ) -> None:
        parts = recipe if isinstance(recipe, Parts) else assembly.from_recipe(recipe, look)
        super().__init__(parts)
