"""The clips of a suite's prompts, made by a model: the same noise for every model, none
made twice, none lost.

`out/clips` holds 0003-1.mp4 (the suite's prompt 3, its second clip) and prompts.csv, so
that `vidrl bench out/clips` measures them again; `out/sampling.json` says what made them.
Files are lossless, that the model be measured and not the codec: of 16 clips of
tiny-wan-32, H.264 at crf 16 moved motion_target by 0.20 a clip, a lossless file by 0.003.
`lossless = false` in the suite's [sampling] writes what browsers play, for large pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl import plugin
from vidrl.backbones.base import Cond, Denoiser, PromptCache
from vidrl.bench import dims, manifest
from vidrl.bench.items import Found, Item
from vidrl.bench.protocol import digest
from vidrl.bench.suite import BadSuite, Suite
from vidrl.data import prompts as prompt_files
from vidrl.data import references
from vidrl.data.prompt import of
from vidrl.rewards._files import manifests
from vidrl.training import checkpoint
from vidrl.training.policy import Policy, load_adapter
from vidrl.training.rollout import draws, generate

Row = Mapping[str, Any]
Encode = Callable[[Sequence[str]], Cond]
SAMPLING_KEYS = (
    "steps",
    "lossless",
    "world",
)  # keys of [sampling] that are no options of the backbone
EXPECT = "expect"  # of a prompt's row: for tests and people, the dims read the words


class Changed(ValueError):
    """A folder whose clips another model, adapter, seed or number of steps made."""


@dataclass(frozen=True)
class Task:
    """One clip to be made. Its noise is named by seed and prompt, and by nothing else."""

    name: str
    row: Row
    seed: int

    @property
    def prompt(self) -> str:
        """The prompt, with its references."""
        prompt: str = self.row["prompt"]
        return prompt

    def draw(self) -> torch.Generator:
        return draws(self.seed, [("bench", str(self.prompt))])[0]

    def item(self, folder: Path) -> Item:
        own = (*manifests.COLUMNS, *of(self.prompt), EXPECT)
        given = references.columns(self.prompt)
        image = Path(given.pop("reference")) if "reference" in given else None
        meta = {key: str(value) for key, value in self.row.items() if key not in own} | given
        return Item(folder / self.name, str(self.prompt), self.seed, image, meta)


def sample(
    model: str,
    lora: str | Path | None,
    suite: Suite,
    out: str | Path,
    *,
    backbone: str = "wan",
    options: Mapping[str, Any] | None = None,
    limit: int = 0,
    per_prompt: int = 0,
    steps: int = 0,
    seed: int = 0,
    device: str = "",
    anew: bool = False,
    progress: bool = True,
    partial: bool = False,
) -> Found:
    """Clips of the suite's prompts, the first `limit` (0: all), from a model folder or hub
    id, with or without a LoRA.

    0 for `per_prompt` and `steps` is the suite's. Clip k of a prompt has seed `seed` + k;
    `vidrl.training.rollout.draws(seed + k, [("bench", prompt)])` is its noise. What is in
    the folder already is not made again. `options` are the backbone's; `partial` allows a
    LoRA of which a part does not fit. Raises Changed where the folder's clips come from
    something else and not `anew`, BadSuite for a suite without prompts, RuntimeError where
    no clip could be made.
    """
    rows, note = suite_prompts(suite, _folder(model))
    given = {
        key: value for key, value in suite.sampling.items() if key not in SAMPLING_KEYS
    } | dict(options or {})
    makes = _load(backbone, model, given)
    steps, lossless = (
        steps or int(suite.sampling.get("steps", 20)),
        bool(suite.sampling.get("lossless", True)),
    )
    made_by = {
        "model": _identity(model),
        "backbone": backbone,
        "options": given,
        "steps": steps,
        "seed": seed,
        "lora": _identity(lora) if lora else None,
        "prompts": prompts_digest(rows),
        "lossless": lossless,
    }
    check_prompts(suite, rows, makes)
    makes.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    policy = load_adapter(makes, lora, partial) if lora else makes
    record_origin(Path(out), made_by, anew)
    jobs = clip_tasks(rows[: limit or None], per_prompt or suite.per_prompt, seed)
    done = make_clips(policy, jobs, Path(out), steps, lossless, progress)
    return Found(done.items, done.skipped, [note, *makes.notes, *done.notes])


def suite_prompts(suite: Suite, model: Path | None = None) -> tuple[list[Row], str]:
    """The rows of the suite's prompts that the model understands, and a note that says
    which they are.

    A model whose vidrl.json says `"prompts": "world"` knows the captions of
    `vidrl.synthetic.world` alone, and gets the file that the suite's [sampling] names
    `world`. Raises BadSuite where there is none.

    >>> from vidrl.bench import suite
    >>> rows, note = suite_prompts(suite.load("motion"))
    >>> rows[0]["prompt"], note
    ('A chestnut horse walks slowly to the left along a sandy beach. A clip of two seconds.', \
'prompts are those of motion.jsonl (176)')
    """
    if suite.prompts is None:
        raise BadSuite(
            f"the suite {suite.name!r} has no prompts to sample: measure a folder with it, or "
            "take one that has, as --suite motion"
        )
    language, file = _language(model), suite.prompts
    if language:
        if language not in suite.sampling:
            raise BadSuite(
                f"{model} understands {language!r} prompts alone, and the suite "
                f"{suite.name!r} names no "
                f'file of them: write [sampling] {language} = "FILE.jsonl" into it, or take --suite motion'
            )
        file = suite.prompts.parent / str(suite.sampling[language])
    rows = _rows(file)
    said = f", since the model understands {language!r} prompts alone" if language else ""
    return rows, f"prompts are those of {file.name} ({len(rows)}){said}"


def check_prompts(suite: Suite, rows: Sequence[Row], makes: Denoiser) -> None:
    """Raise BadSuite where the model needs more than a suite's prompts bring, as an image,
    or does not read it."""
    try:
        makes.check_prompts([row["prompt"] for row in rows])
    except ValueError as error:
        raise BadSuite(
            f"the prompts of the suite {suite.name!r} do not suit the model: {error}; name "
            "that file as prompts in a suite of your own, a .toml file"
        ) from error


def prompts_digest(rows: Sequence[Row]) -> str:
    """A digest of the prompts of rows and of the content of what goes with them."""
    return digest([references.identity(row["prompt"]) for row in rows])


def clip_tasks(rows: Sequence[Row], per_prompt: int, seed: int) -> list[Task]:
    """The clips to be made: every prompt once, then every prompt a second time ..., so that
    a stop leaves all of them.

    >>> [(task.name, task.seed) for task in clip_tasks([{"prompt": "a"}, {"prompt": "b"}], 2, seed=5)]
    [('0000-0.mp4', 5), ('0001-0.mp4', 5), ('0000-1.mp4', 6), ('0001-1.mp4', 6)]
    """
    return [
        Task(f"{i:04d}-{k}.mp4", row, seed + k)
        for k in range(per_prompt)
        for i, row in enumerate(rows)
    ]


def record_origin(out: Path, made_by: Mapping[str, Any], anew: bool = False) -> None:
    """Say in out/sampling.json what makes the clips there. Raises Changed where something
    else made them."""
    file = out / "sampling.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    now = json.loads(json.dumps(made_by))
    if before is not None and before != now and not anew:
        told = [
            f"{key} {before.get(key)!r} -> {now.get(key)!r}"
            for key in now
            if before.get(key) != now.get(key)
        ]
        raise Changed(
            f"{out / 'clips'} holds clips made otherwise ({'; '.join(told)}): give another "
            "--out, or delete the folder"
        )
    if before != now:
        for clip in (out / "clips").glob("*.mp4"):
            clip.unlink()
    (out / "clips").mkdir(parents=True, exist_ok=True)
    checkpoint.write_text(file, json.dumps(now, indent=1))


def make_clips(
    policy: Policy | Denoiser,
    jobs: Sequence[Task],
    out: Path,
    steps: int,
    lossless: bool = True,
    progress: bool = True,
    encode: Encode | None = None,
) -> Found:
    """Make the clips that are missing in out/clips.

    Each is made alone, so that the other clips of the call cannot change its last bits. A
    clip that fails is skipped with the reason. Raises RuntimeError if no clip could be
    made.
    """
    folder = out / "clips"
    missing = [task for task in jobs if not (folder / task.name).is_file()]
    write_table(folder, jobs)
    encode = encode or PromptCache(policy.backbone if isinstance(policy, Policy) else policy)
    if isinstance(encode, PromptCache):  # in one visit of an offloaded text encoder to the device
        encode.learn([task.prompt for task in missing])
    done = list_clips(
        jobs,
        folder,
        make_missing_clips(
            policy, _bar(missing, len(jobs), progress), folder, steps, lossless, encode
        ),
    )
    if not done.items:
        raise RuntimeError(
            f"not one of {len(jobs)} clips could be made; the first: {done.skipped[0]['why']}"
        )
    kept = len(jobs) - len(missing)
    return replace(done, notes=[f"{kept} of {len(jobs)} clips were there already"] if kept else [])


def make_missing_clips(
    policy: Policy | Denoiser,
    jobs: Iterable[Task],
    folder: Path,
    steps: int,
    lossless: bool = True,
    encode: Encode | None = None,
) -> dict[str, str]:
    """Make the clips that the folder lacks; why each of the others could not be made, by
    name."""
    encode = encode or PromptCache(policy.backbone if isinstance(policy, Policy) else policy)
    missing = (task for task in jobs if not (folder / task.name).is_file())
    lost = {
        task.name: _make_clip(policy, task, folder / task.name, steps, lossless, encode)
        for task in missing
    }
    return {name: why for name, why in lost.items() if why}


def list_clips(
    jobs: Iterable[Task], folder: Path, lost: Mapping[str, str], unknown: str = "not made"
) -> Found:
    """The clips that are there, in order of path, and those that are not, with the
    reason."""
    ordered = sorted(jobs, key=lambda task: task.name)
    there = [task for task in ordered if (folder / task.name).is_file()]
    skipped = [
        {
            "path": str(folder / task.name),
            "why": lost.get(task.name, unknown),
            "prompt": task.prompt,
            "seed": task.seed,
        }
        for task in ordered
        if task not in there
    ]
    return Found([task.item(folder) for task in there], skipped)


def write_table(folder: Path, jobs: Sequence[Task]) -> None:
    """folder/prompts.csv: the prompts of these clips, and of those that it names and that
    are still there."""
    file = folder / "prompts.csv"
    rows = {
        row.path: _listed(row.path, row.prompt, row.seed, row.reference, row.meta)
        for row in (manifest.read(file) if file.is_file() else [])
        if (folder / row.path).is_file()
    }
    for task in jobs:
        item = task.item(folder)
        rows[task.name] = _listed(
            task.name, item.prompt, item.seed, str(item.reference or ""), item.meta
        )
    manifest.write(file, [row for _, row in sorted(rows.items())])


def _listed(
    path: str, prompt: str, seed: int | None, reference: str, meta: Mapping[str, Any]
) -> dict[str, Any]:
    """A row of prompts.csv."""
    return {
        "path": path,
        "prompt": prompt,
        "seed": seed,
        **({"reference": reference} if reference else {}),
        **meta,
    }


def _make_clip(
    policy: Policy | Denoiser, task: Task, path: Path, steps: int, lossless: bool, encode: Encode
) -> str:
    """Make one clip; the reason where it could not be."""
    from vidrl.rewards import video

    try:
        clip = generate(policy, [task.prompt], [task.draw()], steps, encode=encode)
        if not bool(torch.isfinite(clip.video).all()):
            return f"not made: NaN in frame {_first_bad(clip.video[0])}; the model diverged"
        video.write(path, clip.video[0], clip.fps, lossless)
    except ImportError:
        raise  # of every clip alike
    except Exception as error:  # noqa: BLE001  whatever a model raises on one prompt, the others go on
        return f"not made: {type(error).__name__}: {error}"
    return ""


def _first_bad(clip: Tensor) -> int:
    return int((~torch.isfinite(clip).flatten(1).all(1)).nonzero()[0])


def _bar(missing: Sequence[Task], total: int, shown: bool) -> Iterator[Task]:
    if not shown:
        yield from missing
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield from missing
        return
    yield from tqdm(
        missing,
        initial=total - len(missing),
        total=total,
        desc="clips",
        unit="clip",
        disable=not missing,
    )


# --- what makes them ------------------------------------------------------------------


def _load(backbone: str, model: str, options: Mapping[str, Any]) -> Denoiser:
    """The model; a backbone that takes no folder, such as toy, is its own model."""
    takes = plugin.facts("backbones", backbone)["options"]
    named = {"model": model} if any(option["name"] == "model" for option in takes) else {}
    return plugin.load("backbones", backbone, **named, **options)


def _folder(model: str | Path) -> Path | None:
    return Path(model) if Path(model).is_dir() else None


def _language(model: Path | None) -> str:
    file = model / "vidrl.json" if model else None
    return (
        str(json.loads(file.read_text(encoding="utf-8")).get("prompts", ""))
        if file and file.is_file()
        else ""
    )


def _identity(model: str | Path) -> str:
    """Of a folder or file on this machine its last name and what is in it, else the
    name."""
    path = Path(model)
    return f"{path.resolve().name} {dims.content_hash(path)}" if path.exists() else str(model)


def _rows(file: Path) -> list[Row]:
    """The rows of a prompt file, each with a prompt, with which its references go."""
    try:
        listed = prompt_files.rows(file)
    except prompt_files.BadPrompts as error:
        raise BadSuite(str(error)) from error
    return [{**cells, "prompt": prompt} for prompt, cells in listed]
