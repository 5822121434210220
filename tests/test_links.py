"""A link where vidrl writes, at the name of the file or at any name that is used on the
way, leads to nothing that is overwritten: in a folder that others write to, it may lead to
any file of the reader."""

import os
import stat
import sys

import numpy as np
import pytest
import torch

from vidrl.bench import cache, features, manifest, results
from vidrl.bench.page import write as write_page
from vidrl.credit.influence import Influence
from vidrl.lora import writing
from vidrl.rewards import video
from vidrl.rewards._files import atomic_file
from vidrl.training import checkpoint, evaluate, resume

OPENED = []
RESULTS = {
    "suite": {"name": "s", "version": "1", "least": 20},
    "protocol": {"decoder": "none", "hash": "abcd"},
    "versions": {},
    "dims": [],
    "sets": [{"name": "a", "clips": []}],
}


@pytest.fixture(scope="module", autouse=True)
def listening():
    sys.addaudithook(lambda event, about: OPENED.append(about) if event == "open" else None)


def lora(form):
    weights = {
        f"blocks.0.attn1.to_q.lora_{name}.weight": torch.ones(shape)
        for name, shape in (("A", (2, 4)), ("B", (4, 2)))
    }
    return lambda folder: writing.folder(
        weights, {"r": 2, "lora_alpha": 2, "target_modules": ["to_q"]}, form, folder
    )


def influence(folder):
    part = torch.ones(1, 2, 3, 3)
    return Influence({"a": part}, {"a": torch.eye(3)}, torch.ones(3, 2), (0.5,)).save(
        folder / "influence.safetensors"
    )


def hashes(folder):
    known = cache.Hashes(folder)
    known.new = {"a.mp4": ["0" * 16, 1, 2, 3, 4]}
    known.save()


def held(folder):
    resume.hold(folder, "name another one")
    resume._HELD.pop(folder.resolve()).close()


WRITERS = {
    "video": lambda folder: video.write(folder / "clip.mp4", torch.zeros(2, 3, 16, 16), 8.0),
    "cache": lambda folder: cache.Cache(folder).put("ab" * 16, {"value": 1.0}),
    "hashes": hashes,
    "features": lambda folder: features._write(
        folder / "f.safetensors", np.ones((1, 2), np.float32)
    ),
    "page": lambda folder: write_page(RESULTS, folder, limit=0),
    "results": lambda folder: results.write({"a": 1}, folder),
    "table": lambda folder: manifest.write(
        folder / "prompts.csv", [{"path": "a.mp4", "prompt": "p"}]
    ),
    "text": lambda folder: checkpoint.write_text(folder / "summary.json", "{}"),
    "log": lambda folder: checkpoint.append(folder / "metrics.jsonl", {"round": 1}),
    "lock": held,
    "measures": lambda folder: evaluate.save(folder, 3, {"composite": np.ones(2)}),
    "checkpoint": lambda folder: checkpoint.save(folder, 1, {"a": torch.ones(2)}, 2),
    "influence": influence,
    "LoRA of diffusers": lora("diffusers"),
    "LoRA of peft": lora("peft"),
    "tensors": lambda folder: writing.save({"a": torch.ones(2)}, folder / "a.safetensors"),
}


def names(folder, write):
    """What a writer opens or leaves in a folder, as names in it."""
    OPENED.clear()
    write(folder)
    opened = [str(about[0]) for about in OPENED if isinstance(about[0], str)]
    inside = [
        os.path.relpath(name, folder)
        for name in opened
        if os.path.abspath(name).startswith(f"{folder}/")
    ]
    inside = [name for name in inside if not (folder / name).is_dir()]
    return {
        *inside,
        *(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
    }


@pytest.mark.parametrize("name", WRITERS)
def test_no_writer_follows_a_link_at_a_name_that_can_be_told_before(tmp_path, name):
    one, other, second, victim = (
        tmp_path / part for part in ("one", "other", "second", "precious.txt")
    )
    for folder in (one, other, second):
        folder.mkdir()
    victim.write_text("precious")
    planted = names(one, WRITERS[name]) & names(other, WRITERS[name])
    assert planted
    for one in planted:
        (second / one).parent.mkdir(parents=True, exist_ok=True)
        (second / one).symlink_to(victim)
    try:
        WRITERS[name](second)
    except (
        OSError,
        checkpoint.WriteError,
        checkpoint.CheckpointError,
        resume.RunFolderError,
    ) as error:
        assert "link" in str(error), error
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "name", ["video", "page", "text", "tensors", "LoRA of diffusers", "LoRA of peft", "measures"]
)
def test_a_file_that_was_written_replaces_the_link_and_has_the_mode_of_any_new_file(tmp_path, name):
    mask = os.umask(0o027)
    try:
        found = names(tmp_path, WRITERS[name])
    finally:
        os.umask(mask)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}
    assert not [path for path in files if path.name.startswith(atomic_file.PARTIAL)] and found


def test_a_writer_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    for way in (atomic_file.new_file, atomic_file.new_path):
        with pytest.raises(ZeroDivisionError), way(tmp_path / "a.txt"):
            1 / 0  # noqa: B018
    assert (tmp_path / "a.txt").read_text() == "before" and len(list(tmp_path.iterdir())) == 1
