"""LoRA files (arXiv 2106.09685): read and write four formats, and check them against a network.

A LoRA adds scale · B A to the weight of a module, with scale = alpha / rank. `Lora` holds a
LoRA under diffusers' names of the modules.
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
