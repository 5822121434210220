"""Read a LoRA file of any of the four formats: its tensors, and its alpha.

alpha may be a tensor for each module, or in the file's metadata or configuration.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .names import to_diffusers

FORMATS = ("comfyui", "kohya", "diffusers", "peft")
KNOWN_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
FULL = "network.safetensors"  # what Policy.save writes where all weights were trained
A = "lora_A.weight"
B = "lora_B.weight"
BIAS = "lora_B.bias"
_ENDINGS = [  # a pattern of the end of a tensor's name, and what such a tensor is
    (
        re.compile(r"\.(lora_A(\.default)?|lora_down|lora\.down|lora_linear_layer\.down)\.weight$"),
        A,
    ),
    (re.compile(r"\.(lora_B(\.default)?|lora_up|lora\.up|lora_linear_layer\.up)\.weight$"), B),
    (re.compile(r"\.lora_B(\.default)?\.bias$"), BIAS),
    (re.compile(r"\.diff_b$"), "diff_b"),
    (re.compile(r"\.alpha$"), "alpha"),
    (re.compile(r"\.(dora_scale|lora_magnitude_vector(\.default)?(\.weight)?)$"), "magnitude"),
]
# LoRA initialisations for which peft also changes the network's own weights
_CHANGED = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Lora:
    """The change ΔW = alpha / rank · B A of each module, float32, by diffusers' module names.

    - `pairs`: module → {"lora_A.weight": (r, in), "lora_B.weight": (out, r)} and, in some
      files, "lora_B.bias" (out,), which is also multiplied by alpha / rank.
    - `alphas`: module → alpha.
    - `spare`: name of each tensor of the file that is no part of a pair → the reason.
    - `source`: the file.
    - `targets`: the module patterns of the file's own configuration.
    """

    pairs: dict[str, dict[str, Tensor]]
    alphas: dict[str, float]
    spare: dict[str, str] = field(default_factory=dict)
    source: Path = Path()
    targets: tuple[str, ...] = ()  # the patterns that the file's own configuration names

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors by peft's names, "MODULE.lora_A.weight".

        peft has biases for all modules or for none, so missing biases are zeros if any
        module has one.
        """
        created = {
            f"{name}.{part}": value
            for name, pair in self.pairs.items()
            for part, value in pair.items()
        }
        if self.biased:
            zeros = {
                f"{name}.{BIAS}": torch.zeros(len(pair[B])) for name, pair in self.pairs.items()
            }
            created = zeros | created
        return created

    @property
    def biased(self) -> bool:
        """Whether any module of the LoRA has a bias."""
        return any(BIAS in pair for pair in self.pairs.values())

    def scale(self, name: str) -> float:
        """Return alpha / rank of a module."""
        return self.alphas[name] / len(self.pairs[name][A])

    def config(self) -> dict[str, Any]:
        """Return keyword arguments of peft.LoraConfig.

        The most frequent rank and alpha are `r` and `lora_alpha`; modules that differ are
        patterns.
        """
        ranks = {name: len(pair[A]) for name, pair in self.pairs.items()}
        rank, alpha = (
            Counter(numbers.values()).most_common(1)[0][0] for numbers in (ranks, self.alphas)
        )
        patterns = {
            "rank_pattern": {f"^{name}": r for name, r in ranks.items() if r != rank},
            "alpha_pattern": {
                f"^{name}": _as_int(a) for name, a in self.alphas.items() if a != alpha
            },
        }
        created = {
            "r": rank,
            "lora_alpha": _as_int(alpha),
            "target_modules": list(self.targets) or sorted(self.pairs),
        }
        return (
            created
            | {key: value for key, value in patterns.items() if value}
            | ({"lora_bias": True} if self.biased else {})
        )


def find(path: str | Path) -> Path:
    """Return the safetensors file of a LoRA folder, or the file itself.

    Raises ValueError if there is none, or several without a known name, and for a folder of
    all weights.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(
            f"expected a LoRA file or folder on this machine, got {path}, which does not exist: "
            "name what training saved, as runs/demo/lora, or download the file first"
        )
    if path.is_file():
        return _checked_suffix(path)
    if (path / FULL).exists():
        raise ValueError(
            f"expected a LoRA in {path}, got {FULL}, all weights of a network, of which no LoRA "
            "is made; policy.full = true starts from them"
        )
    if (path / "lora").is_dir():
        raise ValueError(
            f"expected a LoRA file or folder, got {path}, a run's folder: name {path / 'lora'}"
        )
    files = [path / name for name in KNOWN_FILES if (path / name).exists()] or sorted(
        path.glob("*.safetensors")
    )
    if len(files) == 1:
        return files[0]
    inside = ", ".join(sorted(file.name for file in (files or path.iterdir()))[:8]) or "nothing"
    raise ValueError(
        f"expected a folder with one LoRA file ({' or '.join(KNOWN_FILES)}, or any "
        f"*.safetensors), got {path}, which holds {inside}: name the file itself"
    )


def _checked_suffix(path: Path) -> Path:
    """Return the path; raise ValueError if it is no safetensors file."""
    if path.suffix != ".safetensors":
        raise ValueError(
            f"expected a LoRA as *.safetensors, got {path}: other files may run code when they "
            "are read; convert it where you trust it"
        )
    return path


def read(path: str | Path, prefix: str = "") -> Lora:
    """Return the LoRA in a file or folder of any of `FORMATS`, as float32.

    Module names may have any of the known prefixes, or none; `prefix` is a further one,
    such as "unet.". alpha is a module's `alpha` tensor, else the value in the file's
    metadata (diffusers) or adapter_config.json (peft), else the rank. Raises ValueError for
    a file that is no LoRA, and for numbers that are not finite.
    """
    file = find(path)
    tensors, meta = _load(file)
    config = _config(file, meta, prefix)
    parts, spare = _by_module({key.removeprefix(prefix): value for key, value in tensors.items()})
    _check_finite(parts, file)
    alphas = {name: pair.pop("alpha") for name, pair in parts.items() if "alpha" in pair}
    pairs = {name: pair for name, pair in parts.items() if _is_complete(name, pair, spare)}
    if not pairs:
        raise ValueError(
            f"expected pairs of lora_A and lora_B (or lora_down and lora_up) in {file}, got "
            f"{len(tensors)} tensors, as {', '.join(list(tensors)[:3]) or 'none'}"
            + "".join(f"; {name} {why}" for name, why in list(spare.items())[:1])
        )
    alpha_of = {
        name: _number(alphas[name], name, file)
        if name in alphas
        else _alpha(config, name, len(pair[A]))
        for name, pair in pairs.items()
    }
    if not all(alpha_of.values()):
        raise ValueError(
            f"expected an alpha other than 0 in {file}, got 0 for "
            f"{sum(not a for a in alpha_of.values())} modules: such a LoRA changes nothing; "
            "correct alpha"
        )
    for name, pair in pairs.items():
        if "diff_b" in pair:  # this bias is added unscaled; lora_B.bias is scaled by alpha / rank
            pair[BIAS] = pair.pop("diff_b") * (len(pair[A]) / alpha_of[name])
    targets = config.get("target_modules") or ()
    return Lora(
        pairs, alpha_of, spare, file, () if isinstance(targets, str) else tuple(sorted(targets))
    )


def _number(alpha: Tensor, name: str, file: Path) -> float:
    """Return an alpha tensor as a number; raise ValueError for several numbers."""
    if alpha.numel() != 1:
        raise ValueError(
            f"expected one number as {name}.alpha in {file}, got a tensor of shape "
            f"{tuple(alpha.shape)}"
        )
    return float(alpha)


def _load(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            keys = opened.keys()  # the opened file itself cannot be iterated
            return {key: opened.get_tensor(key) for key in keys}, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"expected a file of safetensors, got {file}: {error}") from error


def _config(file: Path, meta: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """Return the LoraConfig arguments of diffusers' metadata or peft's adapter_config.json.

    Module names become diffusers'. Raises ValueError for variants of LoRA with other
    arithmetic.
    """
    peft_config = file.with_name("adapter_config.json")
    text = meta.get("lora_adapter_metadata") or (
        peft_config.read_text(encoding="utf-8") if peft_config.exists() else "{}"
    )
    where = f"the metadata of {file}" if "lora_adapter_metadata" in meta else str(peft_config)
    table = {
        key.removeprefix(prefix).removeprefix("transformer."): v
        for key, v in _parsed(text, where).items()
    }
    found = {key: value for key, value in table.items() if value is not None}
    initialisation = str(found.get("init_lora_weights"))
    if (
        found.get("peft_type", "LORA") != "LORA"
        or found.get("use_dora")
        or initialisation.startswith(_CHANGED)
    ):
        raise ValueError(
            f"expected a plain LoRA in {file}, got {found.get('peft_type', 'LORA')} with "
            f"use_dora = {bool(found.get('use_dora'))} and init_lora_weights = {initialisation}: "
            "convert it to a plain LoRA"
        )
    for key in ("rank_pattern", "alpha_pattern"):
        found[key] = {to_diffusers(name): value for name, value in (found.get(key) or {}).items()}
    return found


def _parsed(text: str, where: str) -> dict[str, Any]:
    """Return a JSON object; `where` names its place in the error."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        expectation = f"expected the configuration of a LoRA as JSON in {where}"
        raise ValueError(f"{expectation}, got {text[:40]!r}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(
            f"expected the configuration of a LoRA, a JSON object, in {where}, got {text[:40]!r}"
        )
    return found


def _by_module(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """Return float32 tensors by module and role, and the names of tensors of no LoRA."""
    parts: dict[str, dict[str, Tensor]] = {}
    spare: dict[str, str] = {}
    for key, value in tensors.items():
        part = next(((pattern, name) for pattern, name in _ENDINGS if pattern.search(key)), None)
        name = to_diffusers(part[0].sub("", key)) if part else ""
        if part and part[1] in parts.get(name, {}):
            spare[key] = f"is a second {part[1].split('.')[0]} of {name}"
        elif part:
            parts.setdefault(name, {})[part[1]] = value.float()
        # Some trainers also write differences of whole weights (".diff"). A difference of zeros
        # has no effect and is ignored; any other tensor would be lost, and is reported.
        elif not (key.endswith((".diff", ".diff_b")) and not value.any()):
            spare[key] = "is no tensor of a plain LoRA"
    return parts, spare


def _check_finite(parts: Mapping[str, Mapping[str, Tensor]], file: Path) -> None:
    """Raise ValueError if a tensor holds NaN or infinity."""
    bad = [
        f"{name}.{part}"
        for name, pair in parts.items()
        for part, v in pair.items()
        if not v.isfinite().all()
    ]
    if bad:
        raise ValueError(
            f"expected finite numbers in {file}, got NaN or infinity in {len(bad)} tensors, as "
            f"{', '.join(bad[:3])}: the file is damaged, or its training diverged; take an "
            f"earlier one"
        )


def _is_complete(name: str, pair: Mapping[str, Tensor], spare: dict[str, str]) -> bool:
    """Return whether both matrices exist and fit each other; else `spare` gets the reason."""
    if "magnitude" in pair:
        spare[name] = (
            "is of DoRA, which also scales the network's own weight: convert it to a plain LoRA"
        )
    elif A in pair and B in pair:
        if pair[A].dim() > 1 and pair[B].dim() > 1 and pair[A].shape[0] == pair[B].shape[1]:
            return True
        shapes = f"{tuple(pair[A].shape)} and {tuple(pair[B].shape)}"
        spare[name] = f"has matrices A and B of shapes {shapes}, which do not fit each other"
    else:
        have = [part.split(".")[0] for part in pair]
        missing = " and ".join(part.split(".")[0] for part in (A, B) if part not in pair)
        spare[name] = f"has no {missing}" + (
            f", only {', '.join(have)}" if have else ", only alpha"
        )
    return False


def _alpha(config: Mapping[str, Any], name: str, rank: int) -> float:
    """Return a module's alpha as peft does: by a pattern that matches, else the default."""
    patterns = config["alpha_pattern"].items()
    pattern_value = next(
        (value for key, value in patterns if re.match(rf"(.*\.)?({key})$", name)), None
    )
    alpha = float(pattern_value if pattern_value is not None else config.get("lora_alpha", rank))
    # rank-stabilised: scale = alpha / √rank
    return alpha * rank**0.5 if config.get("use_rslora") else alpha


def _as_int(number: float) -> float:
    """Return a whole number as int, so that a file of whole alphas is written with such."""
    return int(number) if float(number).is_integer() else float(number)
