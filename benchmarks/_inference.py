"""Keep former import names; `vidrl.inference` holds the functions."""

from vidrl.inference.families import holm
from vidrl.inference.flips import sign_flip_p
from vidrl.inference.student import t_quantile

__all__ = ["holm", "sign_flip_p", "t_quantile"]
