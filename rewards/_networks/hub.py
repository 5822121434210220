"""Loading of pretrained networks, and the class by which a reward holds a network.

A network is loaded at its first use, moves to the device of the clips, and may go back to
the CPU between calls. Weights come from a local path or from the Hugging Face hub, as
safetensors or as published .pt and .pth files. Only plain tensors are read: no file's code
is run.
"""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from ssl import SSLError
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from vidrl.lookup.extras import install

from .._files.memory import is_out_of_memory
from .budget import allowed, rows_within

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CURE = (
    "Pass the path of a local copy (on a machine with a network: "
    "`hf download OWNER/NAME --local-dir FOLDER`), "
    "or let this machine reach the hub: unset HF_HUB_OFFLINE"
)
PATIENCE = 5.0  # seconds within which the hub must accept a connection


class Network:
    """A frozen module that the function `make` builds at the first use.

    `with network.on(video) as module:` gives the module on the video's device. Clips of
    float64 are computed by a copy of the module in float64, so that gradients can be
    checked. With `offload` the module goes back to the CPU at the end of the block, unless
    the video requires a gradient: the backward pass still needs the weights on the device.
    """

    def __init__(self, make: Callable[[], nn.Module], offload: bool = False) -> None:
        self.make, self.offload = make, offload
        self.module: nn.Module | None = None
        self._double: nn.Module | None = None

    def setup(self) -> Any:
        """Return the module; the first call builds it."""
        if self.module is None:
            self.module = self.make().eval().requires_grad_(False)
        return self.module

    @contextmanager
    def on(self, like: Tensor) -> Iterator[Any]:
        """Give the module on the device of `like`, in float64 if `like` has float64."""
        module = self.setup()
        if like.dtype == torch.float64:
            self._double = self._double or copy.deepcopy(module).double()
            module = self._double
        yield module.to(like.device)
        if self.offload and not like.requires_grad:
            module.to("cpu")


def import_package(name: str) -> Any:
    """Return an optional package; raise ImportError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this reward needs {name}: {install('learned')}") from error


def pretrained(kind: str, source: str, dtype: str = "float32", **options: Any) -> Any:
    """Return transformers' model `kind` with the weights of a local folder or hub id.

    Weights are safetensors. Old models, as facebook/dino-vitb16, have only a .bin file, of
    which only plain tensors are read (`weights_only`). Raises OSError with the cure if
    nothing can be loaded.
    """
    cls = getattr(import_package("transformers"), kind)
    arguments = {"dtype": weight_dtype(dtype), **options}
    with explain_load_errors(source):
        try:
            return cls.from_pretrained(source, use_safetensors=True, **arguments)
        except OSError as first:
            try:
                return cls.from_pretrained(
                    source, use_safetensors=False, weights_only=True, **arguments
                )
            except OSError:
                # The first error says why the source has no safetensors, which is the cause.
                raise first from None


def tokenizer(source: str, **options: Any) -> Any:
    """Return the tokenizer of a local folder or hub id."""
    with explain_load_errors(source):
        return import_package("transformers").AutoTokenizer.from_pretrained(source, **options)


def build_model(
    kind: str, config: Any, state: Mapping[str, Tensor], dtype: str = "float32", **options: Any
) -> Any:
    """Return transformers' model `kind` of `config` with the tensors `state`.

    Raises ValueError that lists the names that do not fit, or whose sizes differ.
    """
    cls = getattr(import_package("transformers"), kind)
    model, report = cls.from_pretrained(
        None,  # no source: the weights are those of state_dict
        config=config,
        state_dict=dict(state),
        dtype=weight_dtype(dtype),
        # What does not fit is reported instead of raised, so that the message below names
        # the missing, the unexpected and the mismatched names together.
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    wrong = {
        what: sorted(map(str, report[f"{what}_keys"]))
        for what in ("missing", "unexpected", "mismatched")
    }
    _refuse_misfits(wrong, f"a {kind}")
    return model


def weights_file(source: str) -> Path:
    """Return the path of a file: a local path, or `owner/name/file` of the hub.

    A file of the hub is downloaded once and then read from the hub's local cache. Raises
    OSError with the cure if there is no such file.
    """
    local = Path(source).expanduser()
    if local.is_file():
        return local
    parts = source.split("/")
    # None of these can be owner/name/file, so the hub is not asked.
    if local.is_absolute() or source.startswith(".") or len(parts) < 3:
        raise OSError(f"no file {source!r}: expected a path, or owner/name/file of the hub. {CURE}")
    with explain_load_errors(source):
        return Path(
            import_package("huggingface_hub").hf_hub_download(
                "/".join(parts[:2]), "/".join(parts[2:])
            )
        )


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors, .pt or .pth file by their names.

    If the file of a training run has an entry "state_dict" or "model", the tensors of this
    entry are returned. The prefix "module." of DistributedDataParallel is removed.
    """
    if path.suffix == ".safetensors":
        return importlib.import_module("safetensors.torch").load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    return {
        name.removeprefix("module."): value
        for name, value in loaded.items()
        if isinstance(value, Tensor)
    }


def load_weights(module: nn.Module, state: Mapping[str, Tensor], whose: str) -> None:
    """Load the tensors `state` into `module`, as float32.

    Raises ValueError that lists the names that do not fit, or whose sizes differ; `whose` is
    the network's name in this message.

    >>> state = {"weight": torch.ones(1, 2), "scale": torch.ones(1)}
    >>> load_weights(nn.Linear(2, 1), state, "a linear layer")
    Traceback (most recent call last):
    ValueError: these weights are not those of a linear layer: missing: bias (1); unexpected: ...
    """
    wanted = module.state_dict()
    wrong = {
        "missing": [name for name in wanted if name not in state],
        "unexpected": [name for name in state if name not in wanted],
        "of another size": [
            f"{n} {tuple(x.shape)} for {tuple(wanted[n].shape)}"
            for n, x in state.items()
            if n in wanted and x.shape != wanted[n].shape
        ],
    }
    _refuse_misfits(wrong, whose)
    # integers, as the counter of a batch norm, keep their dtype
    module.load_state_dict({n: x.float() if x.is_floating_point() else x for n, x in state.items()})


def _refuse_misfits(wrong: Mapping[str, list[str]], whose: str) -> None:
    """Raise ValueError with up to three names of each kind of misfit, if there are any."""
    listed = "; ".join(
        f"{kind}: {', '.join(names[:3])} ({len(names)})" for kind, names in wrong.items() if names
    )
    if listed:
        raise ValueError(
            f"these weights are not those of {whose}: {listed}. "
            "Is it the file that the reward names?"
        )


def weight_dtype(name: str) -> torch.dtype:
    """Return the dtype called `name`; raise ValueError for another word."""
    if name not in DTYPES:
        raise ValueError(f"no dtype {name!r} for weights: {nearest(name, DTYPES)}")
    return DTYPES[name]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the most similar known word, and all known words.

    >>> nearest("dinov", ["clip", "dinov2"])
    "did you mean 'dinov2'? known: clip, dinov2"
    """
    ordered = sorted(known)
    close = difflib.get_close_matches(word, ordered, n=1, cutoff=0.5)
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {', '.join(ordered)}"


def chunked(run: Callable[..., Tensor], chunk: int, *batches: Tensor) -> Tensor:
    """Return `run` of the batches, computed for `chunk` rows at a time.

    The memory of a forward pass is that of one chunk. All batches have the same number of
    rows. Within `budget`, and without gradients, the first row is computed alone and measured, and
    the others for as many at a time as the budget holds, whatever `chunk` is. Where memory runs
    out, the rest of the rows is computed for half as many at a time. Raises
    torch.OutOfMemoryError where a single row does not fit.

    >>> chunked(lambda x: 2 * x, 2, torch.arange(5))
    tensor([0, 2, 4, 6, 8])
    """
    total = len(batches[0])
    if chunk < 1:
        raise ValueError(f"expected chunk, frames a forward pass, to be at least 1, got {chunk}")
    if any(len(batch) != total for batch in batches):
        raise ValueError(f"expected {total} rows in each batch, got {[len(b) for b in batches]}")
    done, parts = 0, list[Tensor]()
    learns = torch.is_grad_enabled() and any(batch.requires_grad for batch in batches)
    if (limit := allowed()) and total > 1 and not learns:
        row = [batch[:1] for batch in batches]
        first, chunk = rows_within(limit, partial(_unless_memory_runs_out, run, row))
        done, parts = 1, [cast(Tensor, first)]
    while done < total or not parts:  # an empty batch runs once, for the shape of the result
        size = min(chunk, total - done)
        part = _unless_memory_runs_out(run, [batch[done : done + size] for batch in batches])
        if part is None:
            chunk = size // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        parts.append(part)
        done += size
    return torch.cat(parts)


def _unless_memory_runs_out(run: Callable[..., Tensor], rows: Sequence[Tensor]) -> Tensor | None:
    """Return `run` of the rows, or None where memory runs out for more than one row.

    The caller tries again when this function has returned: the error, while it is handled,
    keeps the tensors of the failed computation.
    """
    try:
        return run(*rows)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(rows[0]) < 2:
            raise torch.OutOfMemoryError(
                "a reward's network does not fit into memory with one frame or clip at a time: "
                'take dtype = "bfloat16", offload = true or a smaller network, or another device '
                f"({str(error).strip().splitlines()[0] if str(error).strip() else 'no message'})"
            ) from error
    return None


@contextmanager
def explain_load_errors(source: str) -> Iterator[None]:
    """Give each OSError of the block a message with the source and the cure.

    If the hub cannot be reached, only local copies are read, see `silent_hub`.
    """
    # Before the block, because silent_hub() switches the hub's client to offline.
    silent = "" if Path(source).expanduser().exists() else silent_hub()
    try:
        yield
    except OSError as error:
        reason = silent or str(error).split("\n")[0]
        cure = f"{CURE}. A folder needs config.json and model.safetensors (or pytorch_model.bin)."
        raise OSError(f"cannot load {source!r}: {reason} {cure}") from error


@cache
def silent_hub() -> str:
    """Return why the hub cannot be reached; "" if it answers or the user has set it offline.

    Without a network the hub's client would repeat its requests for more than a minute for
    each file. So the first call tries one connection, and if it fails, sets the client
    offline for the rest of the process: only local copies are read. An answer with any HTTP
    status counts as an answer, and errors of certificates are left to the client, which may
    be configured for them. The result is cached.
    """
    constants = import_package("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE:
        return ""
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
    except OSError as error:
        cause = getattr(error, "reason", error)
        if isinstance(error, HTTPError) or isinstance(cause, SSLError):
            return ""
        constants.HF_HUB_OFFLINE = True
        return f"{constants.ENDPOINT} does not answer ({cause}), and there is no local copy."
    return ""
