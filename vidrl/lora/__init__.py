"""LoRA files (arXiv 2106.09685): four formats read and written, checked against the network
that they are for.

A LoRA adds scale · B A to the weight of a module, with scale = alpha / rank. `Lora` holds
it under diffusers' names.
"""

from .file import FORMATS, Lora, find, read
from .fit import complete, fitted
from .inject import begin, merge, put
from .targets import USUAL, resolve, usual
from .writing import write

__all__ = [
    "FORMATS",
    "USUAL",
    "Lora",
    "begin",
    "complete",
    "find",
    "fitted",
    "merge",
    "put",
    "read",
    "resolve",
    "usual",
    "write",
]
