"""Attention kernels by plain names: put into one network, proven where they run, measured.

`kernels` names them; `switch` lets a network use one, and no other network; `proof` and `in_place`
compare a kernel with the formula of attention before it is used; `measure` finds the fastest.
"""

from vidrl.diffusion.precision import RATIO_TOLERANCE

from .agreement import ALONE, Agreement
from .in_place import Proof, Trial, prove_in, ratio
from .kernels import AUTO, KERNELS, AttentionError, Kernel, find, names_of_diffusers, register
from .measure import Report, Row, fastest, recorded
from .proof import Function, check, choose, dtypes, function, prove, takes_mask, using
from .switch import put, restore, used

__all__ = [
    "ALONE",
    "AUTO",
    "KERNELS",
    "RATIO_TOLERANCE",
    "Agreement",
    "AttentionError",
    "Function",
    "Kernel",
    "Proof",
    "Report",
    "Row",
    "Trial",
    "check",
    "choose",
    "dtypes",
    "fastest",
    "find",
    "function",
    "names_of_diffusers",
    "prove",
    "prove_in",
    "put",
    "ratio",
    "recorded",
    "register",
    "restore",
    "takes_mask",
    "used",
    "using",
]
