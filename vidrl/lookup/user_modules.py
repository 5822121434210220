"""Import the modules that a user names as `module:attribute`, and nothing else, from the
working folder.

A folder of downloaded clips may hold Python files. The working folder is therefore never on
the import path while vidrl or its libraries are imported: a file called `pynvml.py` beside
a clip would run as soon as torch asks for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import ModuleType

# what a reward imports: loaded before the folder is looked into
LIBRARIES = ("numpy", "torch", "cv2", "decord")
_FOLDERS: dict[str, str] = {}  # the modules that were found in a working folder, and that folder


def find(name: str) -> ModuleType:
    """The module `name` of a user: an installed one, else one in the working folder.

    The working folder is on the import path only while that module is imported. A module
    that imports another one of the same folder must therefore do so at its top. Raises
    ModuleNotFoundError.

    Example:
        >>> find("math").__name__
        'math'
    """
    return _find(name, os.getcwd())


def found_in_folders() -> dict[str, str]:
    """The modules that `find` took from a working folder, each with that folder; a copy.

    Example:
        >>> found_in_folders().get("math") is None
        True
    """
    return dict(_FOLDERS)


def find_again(folders: Mapping[str, str]) -> None:
    """Import, in another process, the modules that `found_in_folders` returned in the first
    one.

    Example:
        >>> find_again({})
    """
    for name, folder in folders.items():
        _find(name, folder)


class FindAgain:
    """Pickled in front of a user's object: its unpickling imports the modules that the
    object needs.

    Example:
        >>> import pickle
        >>> pickle.loads(pickle.dumps((FindAgain(), 3)))[1]
        3
    """

    def __reduce__(self) -> tuple[object, ...]:
        return find_again, (found_in_folders(),)


@contextmanager
def safe_path() -> Iterator[None]:
    """Python processes that start in this block leave their working folder off the import
    path (PYTHONSAFEPATH)."""
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
    """Take off the import path the working folder that `python -m` puts first, unless vidrl
    itself lies there.

    An entry that the user wrote into PYTHONPATH stays.
    """
    folder = os.getcwd()
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    first = sys.path[0] if sys.path and not sys.flags.safe_path else None
    if first is not None and os.path.abspath(first) == folder and not os.path.samefile(folder, own):
        del sys.path[0]


def _find(name: str, folder: str) -> ModuleType:
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
    sys.path.append(folder)
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        yield
    finally:
        sys.path.remove(folder)
