"""Pretrained networks: where their weights lie, and how a reward holds them.

A network is loaded at its first use, follows the clips to their device, and may be put away
between calls. Weights come from a local path or a hub id, as safetensors, or from published
.pt and .pth files as plain tensors; nothing is unpickled.
"""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from vidrl.lookup.extras import install

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CURE = (
    "Pass the path of a local copy (on a machine with a network: `hf download OWNER/NAME --local-dir FOLDER`), "
    "or let this machine reach the hub: unset HF_HUB_OFFLINE"
)
PATIENCE = 5.0  # seconds for the hub to answer


class Network:
    """A frozen module that `make` builds at first use.

    `with network.on(video) as module:` gives it on the video's device. Clips of float64 are
    computed by a copy in float64, so that gradients can be checked. With `offload` it goes
    back to the CPU when the block ends, but not where a gradient is asked of the video,
    because the backward pass still needs it there.
    """

    def __init__(self, make: Callable[[], nn.Module], offload: bool = False) -> None:
        self.make, self.offload = make, offload
        self.module: nn.Module | None = None
        self._double: nn.Module | None = None

    def setup(self) -> Any:
        """The module, loaded if it was not."""
        if self.module is None:
            self.module = self.make().eval().requires_grad_(False)
        return self.module

    @contextmanager
    def on(self, like: Tensor) -> Iterator[Any]:
        """The module where `like` is."""
        module = self.setup()
        if like.dtype == torch.float64:
            self._double = self._double or copy.deepcopy(module).double()
            module = self._double
        yield module.to(like.device)
        if self.offload and not like.requires_grad:
            module.to("cpu")


def import_package(name: str) -> Any:
    """An optional package, or an ImportError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this reward needs {name}: {install('learned')}") from error


def pretrained(kind: str, source: str, dtype: str = "float32", **options: Any) -> Any:
    """transformers' model `kind` of a local folder or hub id; OSError names the cure.

    Weights are safetensors, or, where there are none, as of facebook/dino-vitb16, a .bin
    file, of which nothing but plain tensors is read (`weights_only`).
    """
    cls = getattr(import_package("transformers"), kind)
    given = {"dtype": weight_dtype(dtype), **options}
    with explain_load_errors(source):
        try:
            return cls.from_pretrained(source, use_safetensors=True, **given)
        except OSError as first:
            try:
                return cls.from_pretrained(
                    source, use_safetensors=False, weights_only=True, **given
                )
            except OSError:
                raise first from None


def tokenizer(source: str, **options: Any) -> Any:
    """The tokenizer of a local folder or hub id."""
    with explain_load_errors(source):
        return import_package("transformers").AutoTokenizer.from_pretrained(source, **options)


def build_model(
    kind: str, config: Any, state: Mapping[str, Tensor], dtype: str = "float32", **options: Any
) -> Any:
    """transformers' model `kind` of `config` with the weights `state`; ValueError where
    names or sizes do not fit."""
    cls = getattr(import_package("transformers"), kind)
    model, report = cls.from_pretrained(
        None,
        config=config,
        state_dict=dict(state),
        dtype=weight_dtype(dtype),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    wrong = {
        what: sorted(map(str, report[f"{what}_keys"]))
        for what in ("missing", "unexpected", "mismatched")
    }
    if any(wrong.values()):
        told = "; ".join(
            f"{what}: {', '.join(names[:3])} ({len(names)})"
            for what, names in wrong.items()
            if names
        )
        raise ValueError(
            f"these weights are not those of a {kind}: {told}. Is it the file that the reward names?"
        )
    return model


def weights_file(source: str) -> Path:
    """A file: a local path, or `owner/name/file` on the hub, fetched once; OSError names
    the cure."""
    local = Path(source).expanduser()
    if local.is_file():
        return local
    parts = source.split("/")
    if local.is_absolute() or source.startswith(".") or len(parts) < 3:
        raise OSError(f"no file {source!r}: expected a path, or owner/name/file of the hub. {CURE}")
    with explain_load_errors(source):
        return Path(
            import_package("huggingface_hub").hf_hub_download(
                "/".join(parts[:2]), "/".join(parts[2:])
            )
        )


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pt or .pth file; those under "state_dict" or "model",
    if it has such an entry."""
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
    """Gives `module` the weights `state`, as float32; ValueError where names or sizes are
    not those of `whose`.

    >>> load_weights(nn.Linear(2, 1), {"weight": torch.ones(1, 2), "scale": torch.ones(1)}, "a linear layer")
    Traceback (most recent call last):
    ValueError: these weights are not those of a linear layer: missing: bias (1); unexpected: scale (1). Is it the ...
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
    if any(wrong.values()):
        told = "; ".join(
            f"{what}: {', '.join(names[:3])} ({len(names)})"
            for what, names in wrong.items()
            if names
        )
        raise ValueError(
            f"these weights are not those of {whose}: {told}. Is it the file that the reward names?"
        )
    module.load_state_dict({n: x.float() if x.is_floating_point() else x for n, x in state.items()})


def weight_dtype(name: str) -> torch.dtype:
    """The dtype called `name`; ValueError for another word."""
    if name not in DTYPES:
        raise ValueError(f"no dtype {name!r} for weights: {nearest(name, DTYPES)}")
    return DTYPES[name]


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word nearest to `word`, then all of them.

    >>> nearest("dinov", ["clip", "dinov2"])
    "did you mean 'dinov2'? known: clip, dinov2"
    """
    ordered = sorted(known)
    close = difflib.get_close_matches(word, ordered, n=1, cutoff=0.5)
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {', '.join(ordered)}"


def chunked(run: Callable[..., Tensor], chunk: int, *batches: Tensor) -> Tensor:
    """`run` of `chunk` rows at a time, joined: the memory of a forward pass is that of a
    chunk.

    >>> chunked(lambda x: 2 * x, 2, torch.arange(5))
    tensor([0, 2, 4, 6, 8])
    """
    if chunk < 1:
        raise ValueError(f"expected chunk, frames a forward pass, to be at least 1, got {chunk}")
    return torch.cat(
        [run(*rows) for rows in zip(*(batch.split(chunk) for batch in batches), strict=True)]
    )


@contextmanager
def explain_load_errors(source: str) -> Iterator[None]:
    """An OSError within says what could not be loaded, and the cure; a hub that does not
    answer is asked once."""
    silent = "" if Path(source).expanduser().exists() else silent_hub()
    try:
        yield
    except OSError as error:
        reason = silent or str(error).split("\n")[0]
        cure = f"{CURE}. A folder needs config.json and model.safetensors (or pytorch_model.bin)."
        raise OSError(f"cannot load {source!r}: {reason} {cure}") from error


@cache
def silent_hub() -> str:
    """Why only local copies are read from now on, "" where the hub answers or the user has
    switched it off.

    Without a network the hub's client asks again and again, for over a minute a file. Only
    that no connection comes about counts as silence: an answer of any status is one, and
    certificates are the client's business.
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
