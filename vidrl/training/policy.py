"""Define `Policy`: a backbone with trained weights, and named copies of these weights.

The trained weights are a LoRA (peft, arXiv 2106.09685) or all weights of the network, in
float32. A named set ("reference", "old", "ema") copies the trained weights alone, so that
the reference costs as much memory as an adapter, and not as a second model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidrl import lora
from vidrl.backbones.base import Cond, Denoiser
from vidrl.config import PolicySection
from vidrl.diffusion.precision import HALF, of_products
from vidrl.lora import writing
from vidrl.lora.file import FULL

from . import sharding


class Policy:
    """A policy that holds a denoiser, its trained weights, and named sets of them.

    `predict` uses the live weights, or the set that `using` has put in their place. The
    weights at construction are remembered as "reference".

    A new LoRA has `rank`, `alpha` and `targets` (see `vidrl.lora.resolve`), and is drawn
    with `seed`. `lora` names a LoRA whose training continues, with the rank, alpha and
    targets of its file. `full` trains all weights instead; a LoRA that `lora` names is then
    added to the model's weights first, as peft's `merge_and_unload` does. `partial` leaves
    out, with a warning, the part of a LoRA that does not fit the network, which is
    otherwise a ValueError.

    Example:
        >>> from vidrl.backbones.toy import Toy
        >>> policy = Policy(Toy.tiny(), full=True)
        >>> policy.weights["out.bias"].data += 1.0
        >>> with policy.using("reference"):
        ...     float(policy.weights["out.bias"].abs().max()) < 1
        True
    """

    def __init__(
        self,
        backbone: Denoiser,
        rank: int = 16,
        alpha: int = 16,
        targets: Sequence[str] = ("to_q", "to_k", "to_v", "to_out.0"),
        lora: str = "",
        full: bool = False,
        seed: int = 0,
        partial: bool = False,
    ):
        if full and backbone.only_lora:
            raise ValueError(
                f"expected policy.full = false with {backbone.only_lora}, got true: weights that "
                "are quantised or offloaded cannot be trained; train a LoRA, or leave that option "
                "out"
            )
        self.backbone = backbone
        self.half = _half(backbone.network) if full else None
        self.lora = None if full else _adapter(backbone, rank, alpha, targets, lora, seed, partial)
        self.weights = _trained(backbone, full)
        if full and lora:
            # after `_trained`, which makes the weights float32: a LoRA is added in float32
            _load_start(backbone, Path(lora), partial)
            # again, because peft freezes the own weights of a network that gets a LoRA
            self.weights = _trained(backbone, full)
        # the networks that `shard` has spread over processes
        self.sharded: list[nn.Module] = []
        self.sets: dict[str, list[Tensor]] = {}
        self.remember("reference")

    def to(self, device: torch.device | str) -> Policy:
        """Move the network and the named sets of weights to a device; return the policy."""
        self.backbone.to(device)
        self.sets = {name: [p.to(device) for p in values] for name, values in self.sets.items()}
        return self

    def shard(self, mesh: Any) -> None:
        """Spread the network's weights and the named sets over a mesh of processes.

        The trained weights become DTensors; see `vidrl.training.sharding`. Every process must
        call this method with equal weights.
        """
        self.sharded = sharding.shard(self.backbone.network, mesh)
        named = self.backbone.network.named_parameters()
        self.weights = {name: p for name, p in named if p.requires_grad}
        self.sets = {name: self._spread(values) for name, values in self.sets.items()}

    def _spread(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return copies of whole tensors, each spread as its trained weight."""
        pairs = zip(values, self.weights.values(), strict=True)
        return [sharding.like(value, p) for value, p in pairs]

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the network's prediction with the present weights; see `Denoiser.predict`."""
        with self._precision():
            return self.backbone.predict(x, t, cond)

    def _precision(self) -> AbstractContextManager[Any]:
        """Return the context of a prediction: autocast without its cache, or nothing.

        Autocast's cache keeps the half-precision copy of a trained weight until the context
        ends, also where the weight changes before: by `using`, by an optimiser step, or in
        place. A new copy costs little beside the network. Where all weights of a
        half-precision network are trained, they are float32, so that the network needs
        autocast to compute as before.
        """
        kind = self.backbone.device.type
        half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.half
        return nullcontext() if half is None else torch.autocast(kind, half, cache_enabled=False)

    def remember(self, name: str, decay: float = 0.0) -> None:
        """Set the named weights to decay · named + (1 − decay) · live.

        A new name starts with a copy of the live weights.
        """
        if name == "live":
            raise ValueError(
                "expected a name other than live, which the trained weights themselves have"
            )
        live = [p.detach() for p in self.weights.values()]
        if name not in self.sets or decay == 0:
            self.sets[name] = [p.clone() for p in live]
        else:
            torch._foreach_lerp_(self.sets[name], live, 1 - decay)

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Use a named set in place of the live weights; "live" changes nothing.

        Leave this context before `backward`, which needs the weights of the forward pass.
        """
        if name == "live":
            yield
            return
        if name not in self.sets:
            names = ", ".join(self.sets)
            raise KeyError(
                f"expected a set of weights out of live, {names}, got {name!r}: remember it first"
            )
        live = [sharding.kept(p) for p in self.weights.values()]
        self._put(self.sets[name])
        try:
            yield
        finally:
            self._put(live)

    def _put(self, values: Sequence[Tensor]) -> None:
        """Give the parameters other numbers; only those of sharded parameters are copied."""
        for parameter, value in zip(self.weights.values(), values, strict=True):
            sharding.replace(parameter, value)
        # code that calls the network without `predict` would see the former weights
        torch.clear_autocast_cache()

    def restore(self, name: str) -> None:
        """Copy a named set into the live weights."""
        for parameter, value in zip(self.weights.values(), self.sets[name], strict=True):
            parameter.data.copy_(value)
        torch.clear_autocast_cache()

    def state(self) -> dict[str, Tensor]:
        """Return the live weights and the named sets, by the names SET/PARAMETER.

        Of sharded weights, the main process gets the whole tensors and the others empty ones;
        every process must call this method.
        """
        named = {"live": [p.detach() for p in self.weights.values()]} | self.sets
        return {
            f"{name}/{key}": sharding.on_main(v)
            for name, kept in named.items()
            for key, v in zip(self.weights, kept, strict=True)
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned, in place; forget the sets that it does not hold.

        `state` holds whole tensors on every process, however the weights are spread.
        """
        for key, parameter in self.weights.items():
            parameter.data.copy_(sharding.like(state[f"live/{key}"], parameter))
        torch.clear_autocast_cache()
        names = sorted({key.split("/", 1)[0] for key in state} - {"live"})
        self.sets = {
            name: self._spread([state[f"{name}/{key}"] for key in self.weights]) for name in names
        }

    def checksum(self) -> str:
        """Return a digest of the live weights, which must be equal on every process.

        Where the weights are sharded, every process must call this method.
        """
        digest = hashlib.sha256()
        for key, p in self.weights.items():
            digest.update(key.encode() + sharding.whole(p.detach()).float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def gathered(self) -> dict[str, Tensor]:
        """Return the whole live weights by name, as `save` writes them.

        Of sharded weights, only the main process gets them; every process must call this
        method.
        """
        return {key: sharding.on_main(p.detach()) for key, p in self.weights.items()}

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the live weights: a LoRA in the family's own format, or all as safetensors.

        `weights` are those that `gathered` returned, so that one process can write alone.
        """
        weights = self.gathered() if weights is None else weights
        if self.lora is None:
            folder.mkdir(parents=True, exist_ok=True)
            writing.save(weights, folder / FULL)
            return
        # peft puts the adapter's name, "default", into the names of the weights
        weights = {key.replace(".default.", "."): p.cpu() for key, p in weights.items()}
        self.backbone.save_lora(folder, weights, self.lora)


def load_adapter(backbone: Denoiser, folder: str | Path, partial: bool = False) -> Policy:
    """Return a policy with the weights that `Policy.save` wrote, or of any LoRA file.

    Raises ValueError for a file that does not fit the network; `partial` uses the part of a
    LoRA that fits.
    """
    return Policy(backbone, lora=str(folder), full=(Path(folder) / FULL).exists(), partial=partial)


def unused(section: PolicySection, lora: Mapping[str, Any] | None) -> list[str]:
    """Return one sentence for each value of a recipe's [policy] that was set and not used.

    `lora`: the policy's `lora`, None where all weights are trained. A LoRA file brings its
    own rank, alpha and targets.

    Example:
        >>> lora = {"r": 8, "lora_alpha": 16, "target_modules": []}
        >>> unused(PolicySection(lora_rank=32, lora="runs/a/lora"), lora)
        ['policy.lora_rank = 32 is not used: the LoRA in policy.lora has 8']
    """
    defaults, sentences = PolicySection(), []
    for key, name in {
        "lora_rank": "r",
        "lora_alpha": "lora_alpha",
        "lora_targets": "target_modules",
    }.items():
        value, found = getattr(section, key), (lora or {}).get(name)
        if value == getattr(defaults, key) or not (section.full or section.lora):
            continue
        if section.full:
            sentences.append(
                f"policy.{key} = {value} is not used: policy.full = true trains all weights"
            )
        elif (
            sorted(value) != sorted(found) if isinstance(value, list) and found else value != found
        ):
            sentences.append(
                f"policy.{key} = {value} is not used: the LoRA in policy.lora has {found}"
            )
    return sentences


def _adapter(
    backbone: Denoiser,
    rank: int,
    alpha: int,
    targets: Sequence[str],
    folder: str,
    seed: int,
    partial: bool,
) -> dict[str, Any]:
    """Put a LoRA into the network, new or from a folder; return its configuration."""
    if not folder:
        chosen = lora.usual(backbone.network) if sorted(targets) == sorted(lora.USUAL) else targets
        return lora.begin(backbone.network, rank, alpha, chosen, seed)
    weights, config = backbone.load_lora(Path(folder), partial)
    lora.put(backbone.network, weights, config)
    return config


def _half(network: nn.Module) -> torch.dtype | None:
    """Return the half precision of the network's weights; None where they are float32."""
    found = of_products([network])
    return found if found in HALF else None


def _trained(backbone: Denoiser, full: bool) -> dict[str, nn.Parameter]:
    """Return the parameters to train, in float32 on the device: all, or those of the adapter."""
    network = backbone.network
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(full or ".lora_" in name)
        if parameter.requires_grad:
            # the layers of an offloaded network, and with them a new LoRA, are in host memory
            parameter.data = parameter.data.to(backbone.device, torch.float32)
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def _load_start(backbone: Denoiser, folder: Path, partial: bool) -> None:
    """Load a folder's weights into the network, whose weights are float32 already.

    The folder holds all weights, as network.safetensors, or a LoRA, which is added.
    """
    if not (folder / FULL).exists():
        lora.put(backbone.network, *backbone.load_lora(folder, partial))
        lora.merge(backbone.network)
        return
    from safetensors.torch import load_file

    found, own = load_file(folder / FULL), dict(backbone.network.named_parameters())
    wrong = [
        key
        for key in sorted(own.keys() | found.keys())
        if key not in own or key not in found or own[key].shape != found[key].shape
    ]
    if wrong:
        raise ValueError(
            f"expected the {len(own)} weights of the network in {folder / FULL}, got {len(found)}, "
            f"of which {len(wrong)} differ by name or shape, as {wrong[0]}: name the model that "
            "was trained"
        )
    bad = [key for key, value in found.items() if not value.isfinite().all()]
    if bad:
        raise ValueError(
            f"expected finite weights in {folder / FULL}, got NaN or infinity in {len(bad)} "
            f"tensors, as {bad[0]}: the training diverged; take an earlier run"
        )
    for key, parameter in own.items():
        parameter.data.copy_(found[key])
