"""Import from the working folder only the modules that a user names as `module:attribute`.

A folder of downloaded clips may contain Python files. The working folder is therefore never
on the import path while vidrl or its libraries are imported: otherwise a file `pynvml.py` in
the folder of the clips would run as soon as torch imports `pynvml`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

# Libraries of rewards: imported before the working folder is on the path, so that no file in
# the folder can take the place of a module that they import.
LIBRARIES = ("numpy", "torch", "cv2", "decord")
_FOLDERS: dict[str, str] = {}  # module found in a working folder -> that folder


def find(name: str) -> ModuleType:
    """Import the user's module `name`: an installed one, else one in the working folder.

    The working folder is on the import path only while that module is imported. A module
    must therefore import other modules of its folder at its top, not inside functions.
    Raises ModuleNotFoundError if neither place has the module.

    Example:
        >>> find("math").__name__
        'math'
    """
    return _find(name, os.getcwd())


def found_in_folders() -> dict[str, str]:
    """Return a copy of the table of modules that `find` imported from a working folder.

    The table maps each module to its folder.

    Example:
        >>> found_in_folders().get("math") is None
        True
    """
    return dict(_FOLDERS)


def find_again(folders: Mapping[str, str]) -> None:
    """Import in a new process the modules that `found_in_folders` returned in the first one.

    Example:
        >>> find_again({})
    """
    for name, folder in folders.items():
        _find(name, folder)


class FindAgain:
    """An object whose unpickling imports the user's modules; pickle it before a user's object.

    Pickle stores a class by its module's name, so that the other process must be able to
    import the module first.

    Example:
        >>> import pickle
        >>> pickle.loads(pickle.dumps((FindAgain(), 3)))[1]
        3
    """

    def __reduce__(self) -> tuple[object, ...]:
        return find_again, (found_in_folders(),)


@contextmanager
def safe_path() -> Iterator[None]:
    """Keep the working folder off the import path of processes that start in this block.

    Sets PYTHONSAFEPATH, and restores its former value afterwards.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def leave_working_folder() -> None:
    """Remove the working folder from the import path, where `python -m` has put it first.

    The folder stays if vidrl itself is in it, as in a checkout. An entry that the user wrote
    into PYTHONPATH stays.
    """
    folder = os.getcwd()
    own = Path(__file__).absolute().parents[2]  # the folder that contains the package vidrl
    first = sys.path[0] if sys.path and not sys.flags.safe_path else None
    if first is not None and os.path.abspath(first) == folder and not os.path.samefile(folder, own):
        del sys.path[0]


def _find(name: str, folder: str) -> ModuleType:
    """Import a module; where only `folder` has it, remember that for other processes."""
    top = name.partition(".")[0]
    if top in sys.modules or importlib.util.find_spec(top) is not None:
        return importlib.import_module(name)
    for library in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(library)
    with _on_path(folder):
        module = importlib.import_module(name)
    _FOLDERS[name] = folder
    return module


@contextmanager
def _on_path(folder: str) -> Iterator[None]:
    """Put a folder at the end of the import path in this block."""
    sys.path.append(folder)
    importlib.invalidate_caches()  # the file may be newer than the cached listing
    try:
        yield
    finally:
        sys.path.remove(folder)
