"""Make clips of a suite's prompts with a model, with the same noise for every model.

`out/clips` holds 0003-1.mp4 (the suite's prompt 3, its second clip) and prompts.csv, so
that `vidrl bench out/clips` measures the clips again. `out/sampling.json` says what made
them. Clips that are there already are not made again.

Files are lossless, because codecs change the numbers: for 16 clips of tiny-wan-32, H.264 at
crf 16 moved motion_target by 0.20 a clip, a lossless file by 0.003. `lossless = false` in
the suite's [sampling] writes files that browsers play, for large pictures.
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
# A column of a suite's prompts that tests and people read; the dims read the prompt.
EXPECT = "expect"


class Changed(ValueError):
    """A folder whose clips were made by another model, adapter, seed or number of steps."""


@dataclass(frozen=True)
class Task:
    """One clip to be made; its noise depends on its seed and prompt alone."""

    name: str
    row: Row
    seed: int

    @property
    def prompt(self) -> str:
        """Return the prompt, with its references."""
        prompt: str = self.row["prompt"]
        return prompt

    def draw(self) -> torch.Generator:
        """Return the random generator of the clip's noise."""
        return draws(self.seed, [("bench", str(self.prompt))])[0]

    def item(self, folder: Path) -> Item:
        """Return the clip as an item to measure."""
        own_columns = (*manifests.COLUMNS, *of(self.prompt), EXPECT)
        reference_columns = references.columns(self.prompt)
        image = (
            Path(reference_columns.pop("reference")) if "reference" in reference_columns else None
        )
        meta = {
            key: str(value) for key, value in self.row.items() if key not in own_columns
        } | reference_columns
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
    """Make clips of the suite's prompts with a model, with or without a LoRA.

    `model` is a folder or a hub id. The first `limit` prompts are used, 0: all. 0 for
    `per_prompt` and `steps` takes the suite's value. Clip k of a prompt has seed `seed` +
    k, and its noise is `vidrl.training.rollout.draws(seed + k, [("bench", prompt)])`.
    Existing clips are kept. `options` are the backbone's; `partial` allows a LoRA of which
    a part does not fit the model. Raises Changed if the folder's clips were made otherwise
    and not `anew`, BadSuite for a suite without prompts, and RuntimeError if no clip could
    be made.
    """
    rows, note = suite_prompts(suite, _folder(model))
    backbone_options = {
        key: value for key, value in suite.sampling.items() if key not in SAMPLING_KEYS
    } | dict(options or {})
    generator = _load(backbone, model, backbone_options)
    steps, lossless = (
        steps or int(suite.sampling.get("steps", 20)),
        bool(suite.sampling.get("lossless", True)),
    )
    made_by = {
        "model": _identity(model),
        "backbone": backbone,
        "options": backbone_options,
        "steps": steps,
        "seed": seed,
        "lora": _identity(lora) if lora else None,
        "prompts": prompts_digest(rows),
        "lossless": lossless,
    }
    check_prompts(suite, rows, generator)
    generator.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    policy = load_adapter(generator, lora, partial) if lora else generator
    record_origin(Path(out), made_by, anew)
    tasks = clip_tasks(rows[: limit or None], per_prompt or suite.per_prompt, seed)
    done = make_clips(policy, tasks, Path(out), steps, lossless, progress)
    return Found(done.items, done.skipped, [note, *generator.notes, *done.notes])


def suite_prompts(suite: Suite, model: Path | None = None) -> tuple[list[Row], str]:
    """Return the rows of the suite's prompts that the model understands, and a note on them.

    A model whose vidrl.json says `"prompts": "world"` understands only captions of
    `vidrl.synthetic.world`; it gets the file that the suite's [sampling] names `world`.
    Raises BadSuite if there is none.

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
                f"{suite.name!r} names no file of them: write "
                f'[sampling] {language} = "FILE.jsonl" into it, or take --suite motion'
            )
        file = suite.prompts.parent / str(suite.sampling[language])
    rows = _rows(file)
    said = f", since the model understands {language!r} prompts alone" if language else ""
    return rows, f"prompts are those of {file.name} ({len(rows)}){said}"


def check_prompts(suite: Suite, rows: Sequence[Row], generator: Denoiser) -> None:
    """Raise BadSuite if the model cannot make the suite's prompts.

    For example, an image-to-video model needs an image with each prompt.
    """
    try:
        generator.check_prompts([row["prompt"] for row in rows])
    except ValueError as error:
        raise BadSuite(
            f"the prompts of the suite {suite.name!r} do not suit the model: {error}; name "
            "that file as prompts in a suite of your own, a .toml file"
        ) from error


def prompts_digest(rows: Sequence[Row]) -> str:
    """Return a hash of the rows' prompts and of the content of their references."""
    return digest([references.identity(row["prompt"]) for row in rows])


def clip_tasks(rows: Sequence[Row], per_prompt: int, seed: int) -> list[Task]:
    """Return the clips to make: every prompt once, then every prompt a second time, and so on.

    So a run that is stopped early has clips of all prompts.

    >>> rows = [{"prompt": "a"}, {"prompt": "b"}]
    >>> [(task.name, task.seed) for task in clip_tasks(rows, 2, seed=5)]
    [('0000-0.mp4', 5), ('0001-0.mp4', 5), ('0000-1.mp4', 6), ('0001-1.mp4', 6)]
    """
    return [
        Task(f"{i:04d}-{k}.mp4", row, seed + k)
        for k in range(per_prompt)
        for i, row in enumerate(rows)
    ]


def record_origin(out: Path, made_by: Mapping[str, Any], anew: bool = False) -> None:
    """Write to out/sampling.json what makes the clips there.

    Raises Changed if something else made the existing clips and not `anew`; with `anew`
    those clips are deleted.
    """
    file = out / "sampling.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    now = json.loads(json.dumps(made_by))
    if before is not None and before != now and not anew:
        changes = [
            f"{key} {before.get(key)!r} -> {now.get(key)!r}"
            for key in now
            if before.get(key) != now.get(key)
        ]
        raise Changed(
            f"{out / 'clips'} holds clips made otherwise ({'; '.join(changes)}): give another "
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

    Each clip is made in a batch of its own, so that other clips cannot change its last
    bits. A clip that fails is skipped with the reason. Raises RuntimeError if no clip could
    be made.
    """
    folder = out / "clips"
    missing = [task for task in jobs if not (folder / task.name).is_file()]
    write_table(folder, jobs)
    encode = encode or PromptCache(policy.backbone if isinstance(policy, Policy) else policy)
    if isinstance(
        encode, PromptCache
    ):  # all prompts while an offloaded text encoder is on the device
        encode.learn([task.prompt for task in missing])
    clips = list_clips(
        jobs,
        folder,
        make_missing_clips(
            policy, _bar(missing, len(jobs), progress), folder, steps, lossless, encode
        ),
    )
    if not clips.items:
        raise RuntimeError(
            f"not one of {len(jobs)} clips could be made; the first: {clips.skipped[0]['why']}"
        )
    existing = len(jobs) - len(missing)
    return replace(
        clips, notes=[f"{existing} of {len(jobs)} clips were there already"] if existing else []
    )


def make_missing_clips(
    policy: Policy | Denoiser,
    jobs: Iterable[Task],
    folder: Path,
    steps: int,
    lossless: bool = True,
    encode: Encode | None = None,
) -> dict[str, str]:
    """Make the clips that the folder lacks; return the reasons of those that failed, by name."""
    encode = encode or PromptCache(policy.backbone if isinstance(policy, Policy) else policy)
    missing = (task for task in jobs if not (folder / task.name).is_file())
    reasons = {
        task.name: _make_clip(policy, task, folder / task.name, steps, lossless, encode)
        for task in missing
    }
    return {name: why for name, why in reasons.items() if why}


def list_clips(
    jobs: Iterable[Task], folder: Path, lost: Mapping[str, str], unknown: str = "not made"
) -> Found:
    """Return the clips that exist, in order of path, and those that do not, with reasons."""
    ordered = sorted(jobs, key=lambda task: task.name)
    existing = [task for task in ordered if (folder / task.name).is_file()]
    skipped = [
        {
            "path": str(folder / task.name),
            "why": lost.get(task.name, unknown),
            "prompt": task.prompt,
            "seed": task.seed,
        }
        for task in ordered
        if task not in existing
    ]
    return Found([task.item(folder) for task in existing], skipped)


def write_table(folder: Path, jobs: Sequence[Task]) -> None:
    """Write folder/prompts.csv with these clips, and keep its rows of other existing clips."""
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
    """Return a row of prompts.csv."""
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
    """Make one clip; return the reason if it failed, else ""."""
    from vidrl.rewards import video

    try:
        clip = generate(policy, [task.prompt], [task.draw()], steps, encode=encode)
        if not bool(torch.isfinite(clip.video).all()):
            return f"not made: NaN in frame {_first_bad(clip.video[0])}; the model diverged"
        video.write(path, clip.video[0], clip.fps, lossless)
    except ImportError:
        raise  # a missing package would fail for every clip
    except Exception as error:  # noqa: BLE001  a failing prompt must not stop the others
        return f"not made: {type(error).__name__}: {error}"
    return ""


def _first_bad(clip: Tensor) -> int:
    """Return the first frame that is not finite."""
    return int((~torch.isfinite(clip).flatten(1).all(1)).nonzero()[0])


def _bar(missing: Sequence[Task], total: int, shown: bool) -> Iterator[Task]:
    """Yield the tasks, with a progress bar if tqdm is installed."""
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
    """Load the model; a backbone without the option "model", such as toy, needs no folder."""
    options_of_backbone = plugin.facts("backbones", backbone)["options"]
    model_option = (
        {"model": model} if any(option["name"] == "model" for option in options_of_backbone) else {}
    )
    return plugin.load("backbones", backbone, **model_option, **options)


def _folder(model: str | Path) -> Path | None:
    return Path(model) if Path(model).is_dir() else None


def _language(model: Path | None) -> str:
    """Return which prompts the model understands alone, "" for any."""
    file = model / "vidrl.json" if model else None
    return (
        str(json.loads(file.read_text(encoding="utf-8")).get("prompts", ""))
        if file and file.is_file()
        else ""
    )


def _identity(model: str | Path) -> str:
    """Return the name of a folder or file with a hash of its content, or a hub id unchanged."""
    path = Path(model)
    return f"{path.resolve().name} {dims.content_hash(path)}" if path.exists() else str(model)


def _rows(file: Path) -> list[Row]:
    """Return the rows of a prompt file; each prompt carries its references."""
    try:
        listed = prompt_files.rows(file)
    except prompt_files.BadPrompts as error:
        raise BadSuite(str(error)) from error
    return [{**cells, "prompt": prompt} for prompt, cells in listed]
