"""The former place of `vidrl.training.loop`: `from vidrl.train import run` keeps
working."""

from vidrl.training.loop import Trainer, run

__all__ = ["Trainer", "run"]
