"""Rounds out of files: what is drawn, what is left out, what is refused, and the loss on
clips beside another loss."""

import json
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import ClassVar

import pytest
import torch
from toys import PROMPTS, happened, recipe, rows, summary, with_clips

from vidrl import config
from vidrl.algorithms.base import Experience
from vidrl.algorithms.grpo import GRPO
from vidrl.algorithms.sft import SFT
from vidrl.backbones.toy import Toy
from vidrl.data import clip_files, clip_latents
from vidrl.data.clip_latents import BadData
from vidrl.data.file_rounds import dealt
from vidrl.feedback.judgments import Fault
from vidrl.feedback.questionnaire import Questionnaire
from vidrl.feedback.store import Answer, Shown, Store
from vidrl.rewards import video
from vidrl.training import checkpoint, evaluate, loop
from vidrl.training.processes import Workers

pytest.importorskip("av", reason="needs vidrl[train]")
SFT_TOY = {"name": "sft", "options": {"noises": 2, "segments": 3}}


@dataclass(eq=False, kw_only=True)
class Paired(SFT):
    """Learns from pairs where a recipe names them, and keeps what it was given."""

    data: ClassVar[str] = "optional pairs"
    seen: ClassVar[list[Experience]] = []

    def minibatches(self, seen):
        Paired.seen.append(seen)
        yield from super().minibatches(seen)


def sft(folder: Path, **changes) -> dict:
    made = recipe(folder, **({"algorithm": deepcopy(SFT_TOY)} | changes))
    made["data"]["prompts"] = ""
    return with_clips(folder, made)


def paired(folder: Path, labels=None, **changes) -> dict:
    algorithm = {"name": "test_offline:Paired", "options": {"segments": 3}}
    made = recipe(folder, **({"algorithm": algorithm, "train_rounds": 1} | changes))
    return with_clips(folder, made, 6, True, labels)


def trainer(made: dict) -> loop.Trainer:
    return loop.Trainer.from_recipe(config.load(made))


# --- what a round has


def test_items_are_dealt_each_once_an_epoch_in_an_order_of_its_own():
    chosen = [item for round in range(6) for item in dealt(4, 2, round, 0, "data")]
    epochs = [chosen[i : i + 4] for i in range(0, 12, 4)]
    assert (
        all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
        and len({tuple(epoch) for epoch in epochs}) > 1
    )
    assert [item for round in range(3) for item in dealt(4, 4, round, 0, "data")] == chosen
    assert [item for round in range(6) for item in dealt(4, 2, round, 1, "data")] != chosen


def test_the_samples_of_a_round_are_the_files_latents_and_prompts(tmp_path):
    made = trainer(sft(tmp_path))
    made.files.read()
    seen = made.files.experience(0, made._plan())
    table = clip_files.read_clips(made.parts.recipe.data.clips)
    chosen = dealt(6, 8, 0, 0, "data")
    assert list(seen.prompts) == [table.entries[e].prompt for e in chosen]
    for row, entry in enumerate(chosen):
        clip, _ = video.read(table.entries[entry].clips[0])
        assert torch.equal(seen.rollout.latents[row], made.backbone.encode_video(clip[None])[0])
    assert torch.equal(seen.rollout.cond["text"], made.backbone.encode(seen.prompts)["text"])
    assert seen.pairs is None and seen.labels is None


@pytest.mark.parametrize(
    "labels, expected",
    [(None, [1, 1, 1]), ([1], [1, 1, 1]), ([-1], [-1, -1, -1]), ([1, 0, -1], [1, 0, -1])],
)
def test_the_clips_of_a_pair_are_neighbours_and_have_its_labels(tmp_path, labels, expected):
    Paired.seen.clear()
    run = loop.run(paired(tmp_path, labels))
    seen = Paired.seen[-1]
    assert (
        seen.pairs.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
        and seen.labels.tolist() == [expected] * 4
    )
    assert seen.prompts[::2] == seen.prompts[1::2] and seen.group.tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    light = Toy().decode(seen.rollout.latents).mean((1, 2, 3, 4))
    # each row's own two clips
    assert torch.allclose(light[1::2] - light[::2], torch.full((4,), 0.1), atol=0.01)
    assert "reward" not in rows(run)[0]  # nothing was scored


def test_without_pairs_the_same_algorithm_samples(tmp_path):
    Paired.seen.clear()
    made = paired(tmp_path)
    made["data"]["pairs"] = ""
    loop.run(made)
    assert (
        Paired.seen[-1].pairs is None and Paired.seen[-1].prompts[0] == Paired.seen[-1].prompts[3]
    )


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_preferences_of_files_are_learned(name, tmp_path):
    """The rejected clip of each pair is the brighter one: the policy learns to prefer the
    darker, and makes darker."""
    algorithm = {"name": name, "options": {"segments": 3, "beta": 100.0}}
    run = loop.run(
        paired(tmp_path, [1, 1, 1], algorithm=algorithm, train_rounds=12, train_eval_every=100)
    )
    assert rows(run)[-1]["winner_displacement"] > rows(run)[-1]["loser_displacement"]
    # the toy recipe's reward is the brightness
    assert summary(run)["held_out"]["composite"]["difference"] < 0


# --- what is left out, and what is refused


def broken(folder: Path) -> dict:
    """Of six clips one is no video, one too small, one too short, one is not there."""
    made = sft(folder, train_rounds=1)
    clips = folder / "clips"
    (clips / "1.mp4").write_text("no video")
    video.write(clips / "2.mp4", torch.rand(9, 3, 16, 16), 8.0)
    video.write(clips / "3.mp4", torch.rand(5, 3, 32, 32), 8.0)
    (clips / "4.mp4").unlink()
    return made


def test_clips_that_cannot_be_used_are_listed_with_reasons_and_left_out(tmp_path):
    run = loop.run(broken(tmp_path))
    told = next(
        row["message"] for row in rows(run, "events") if row["message"].startswith("data.clips")
    )
    assert (
        told.startswith("data.clips: 2 clips are learned from; 4 left out: ")
        and "and it is not there" in told
    )
    made = clip_latents.read(
        config.read_table(config.load(broken(tmp_path)).data, "clips"), Toy(), Workers()
    )
    assert len(made.left_out) == 4
    for word in ("1.mp4", "2.mp4: expected 32 x 32 pixels", "3.mp4: expected 9 frames", "4.mp4"):
        assert any(word in line for line in made.left_out), word


def test_strict_refuses_what_would_be_left_out(tmp_path):
    made = broken(tmp_path)
    made["data"]["strict"] = True
    with pytest.raises(BadData, match="data.strict expects every clip .* 4 are not: .*4.mp4"):
        loop.run(made)


def test_a_set_of_which_nothing_is_left_is_refused(tmp_path):
    made = sft(tmp_path)
    for file in (tmp_path / "clips").glob("*.mp4"):
        file.write_text("no video")
    with pytest.raises(BadData, match="none of 6 rows is left.*and 3 more"):
        loop.run(made)
    assert not (Path(made["run"]) / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "change, told",
    [
        (
            lambda m: m["data"].update(clips=""),
            "data.prompts|data.clips: sft learns from clips of files",
        ),
        (
            lambda m: m["data"].update(clips="nowhere.jsonl"),
            "data.clips: expected a table at nowhere.jsonl",
        ),
        (
            lambda m: m["data"].update(pairs=m["data"]["clips"]),
            "(?s)data.pairs: .*nearest is trl, with no column chosen",
        ),
        (
            lambda m: m.update(algorithm={"name": "grpo"}),
            "data.clips: grpo learns from clips that the policy samples.*sft",
        ),
        (lambda m: m["train"].update(data_weight=0.1), "train.data_weight: expected 0 with sft"),
        (
            lambda m: m["train"].update(data_weight=-1.0),
            "train.data_weight: expected 0 .none. or more, got -1",
        ),
        (
            lambda m: m["algorithm"].update(options={"noises": 0}),
            "noises, updates and segments of at least 1",
        ),
        (
            lambda m: m["algorithm"].update(options={"low": 0.9, "high": 0.1}),
            "0 <= low < high <= 1",
        ),
    ],
)
def test_a_recipe_whose_files_do_not_suit_its_algorithm_is_refused(tmp_path, change, told):
    made = sft(tmp_path)
    change(made)
    with pytest.raises(ValueError, match=told):
        evaluate.check_recipe(config.load(made))


def test_a_weight_without_clips_and_pairs_without_use_are_refused(tmp_path):
    made = recipe(tmp_path, train_data_weight=0.1)
    with pytest.raises(
        config.BadRecipe, match="train.data_weight: expected data.clips with a weight of 0.1"
    ):
        evaluate.check_recipe(config.load(made))
    made = with_clips(tmp_path, recipe(tmp_path), pairs=True)
    with pytest.raises(config.BadRecipe, match="data.pairs: grpo does not learn from pairs"):
        evaluate.check_recipe(config.load(made))
    made["data"] |= {"prompts": ""}
    made["data"].pop("pairs")
    with pytest.raises(config.BadRecipe, match="data.prompts: expected a text file"):
        config.load(made)


def stored(folder: Path, faults: dict[str, list[tuple[float, float]]]) -> Path:
    """A store with one answer: clip 1 is better than clip 0; and marked faults of the clips."""
    where = Store(folder / "taste.db", Questionnaire())
    shown = [Shown(str(folder / "clips" / f"{i}.mp4"), seconds=9 / 8) for i in (0, 1)]
    marks = [
        Fault(str(folder / "clips" / name), *span)
        for name, spans in faults.items()
        for span in spans
    ]
    where.add(Answer("Ann", tuple(shown), {"overall": "B"}, tuple(marks), PROMPTS[0]))
    where.close()
    return folder / "taste.db"


@pytest.mark.parametrize(
    "faults, segments, expected",
    [
        ({}, 3, [1, 1, 1]),
        ({"0.mp4": [(0.8, 0.9)]}, 3, [0, 0, 1]),  # the toy's nine frames are 1.125 s: 3, 3, 3
        ({"0.mp4": [(0.0, 0.1)], "1.mp4": [(0.5, 0.5)]}, 3, [1, -1, 0]),
        ({"1.mp4": [(0.0, 0.1)]}, 1, [1]),  # one segment: the choice counts
    ],
)
def test_marked_faults_of_a_store_are_the_labels_of_segments(tmp_path, faults, segments, expected):
    """DenseDPO straight from a store: 1 where only the rejected clip has a fault."""
    Paired.seen.clear()
    made = paired(tmp_path)
    made["algorithm"]["options"]["segments"] = segments
    made["data"]["pairs"] = str(stored(tmp_path, faults))
    loop.run(made)
    seen = Paired.seen[-1]
    assert seen.labels.tolist() == [expected] * len(seen.pairs)


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_preferences_learn_from_a_store_with_marked_faults(tmp_path, name):
    """The policy moves where a mark says which clip is better, and the note counts the pairs."""
    options = {"segments": 3, "steps": 2, "noises": 1}
    made = recipe(tmp_path, algorithm={"name": name, "options": options}, train_rounds=1)
    with_clips(tmp_path, made, 2, True)
    made["data"]["pairs"] = str(stored(tmp_path, {"0.mp4": [(0.8, 0.9)]}))
    run = loop.run(made)
    (row,) = rows(run)
    assert row["grad_norm"] > 0
    notes = [event["message"] for event in rows(run, "events") if event["kind"] == "note"]
    assert any("marked faults label the segments of 1 pair" in note for note in notes)


def test_labels_of_another_number_of_segments_and_a_round_that_cuts_a_pair_are_refused(tmp_path):
    with pytest.raises(
        BadData, match="line 1: expected one label for each segment, 3, got 2.*segments = 2"
    ):
        trainer(paired(tmp_path, labels=[1, -1]))
    with pytest.raises(BadData, match="multiple of 2 .*got 3"):
        trainer(paired(tmp_path, train_prompts_per_round=1, train_group=3))


def test_a_backbone_without_encoder_is_refused_before_any_clip_is_read(tmp_path, monkeypatch):
    monkeypatch.delattr(Toy, "latents_of")
    with pytest.raises(NotImplementedError, match="no video encoder"):
        trainer(sft(tmp_path))


def test_edited_clips_are_another_run(tmp_path):
    made = sft(tmp_path, train_rounds=1)
    loop.run(made)
    made["train"]["rounds"] = 2
    moved = tmp_path / "moved"
    (tmp_path / "clips").rename(moved)
    made["data"]["clips"] = str(moved)  # the folder, in place of its table: the same content
    loop.run(made, resume=True)
    made["train"]["rounds"] = 3
    video.write(moved / "2.mp4", torch.rand(9, 3, 32, 32), 8.0)
    with pytest.raises(checkpoint.RunFolderError, match="data.clips: 2.mp4: sha256"):
        loop.run(made, resume=True)


class OneOfThree:
    """A thread that gathers as a process does; it notes how many rows it hands over at a
    time."""

    count, barrier, handed = 3, Barrier(3, timeout=60), {}

    def __init__(self, rank):
        self.rank, self.rows = rank, []

    def all(self, values):
        self.handed[self.rank] = values
        self.rows.append(len(values))
        self.barrier.wait()
        everyones = torch.cat([self.handed[rank] for rank in range(3)])
        self.barrier.wait()
        return everyones

    def names(self, own):
        return sorted(own)


def test_processes_gather_a_clip_each_at_a_time_in_the_order_of_the_table(tmp_path):
    """Gathering is on the device, which has no room for the latents of a whole table."""
    table = clip_files.read_clips(with_clips(tmp_path, recipe(tmp_path), n=7)["data"]["clips"])
    whole, processes = (
        clip_latents.read(table, Toy(), Workers()),
        [OneOfThree(rank) for rank in range(3)],
    )
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda one: clip_latents.read(table, Toy(), one), processes))
    assert all(torch.equal(one.latents, whole.latents) for one in made)
    assert max(max(one.rows) for one in processes) == 1


# --- the loss on clips beside another


def gradient(made: loop.Trainer, parts) -> torch.Tensor:
    made.updater._accumulate(parts, ["a prompt"])
    return torch.cat([p.grad.flatten().clone() for p in made.policy.weights.values()])


def test_the_gradient_beside_is_the_weighted_gradient_of_sft(tmp_path):
    made = trainer(with_clips(tmp_path, recipe(tmp_path, train_data_weight=0.3)))
    made.files.read()
    own = next(made.algorithm.minibatches(made._sampled(made._plan())))
    beside = next(made.files.data_loss_parts(0))
    assert beside[2] == 0.3 and len(beside[1]) == 4  # 8 clips a round, half of them a step
    both = gradient(made, [(made.algorithm, own, 1.0), beside])
    alone = gradient(made, [(made.algorithm, own, 1.0)])
    made.updater.optimiser.zero_grad()
    beside[0].loss(made.policy, beside[1]).value.backward()
    data = torch.cat([p.grad.flatten() for p in made.policy.weights.values()])
    assert torch.allclose(both, alone + 0.3 * data, atol=1e-6) and data.norm() > 0.1


def test_a_round_of_fewer_clips_than_optimiser_steps_has_a_data_loss_in_each(tmp_path):
    made = recipe(tmp_path, train_data_weight=0.3, train_prompts_per_round=1, train_group=2)
    made["algorithm"] = {"name": "nft", "options": {"steps": 3, "noises": 4, "updates": 5}}
    made = trainer(with_clips(tmp_path, made))
    beside = made.files.data_loss_parts(0)
    assert [len(next(beside)[1]) for _ in range(5)] == [2, 1, 1, 1, 1]  # 2 clips, 3 noises each


def test_the_weight_holds_the_policy_to_the_clips(tmp_path):
    """The error on the clips ends lower with the weight than without it, under the same
    reward."""
    ends = {}
    for weight in (1e-9, 3.0):
        folder = tmp_path / str(weight)
        run = loop.run(with_clips(folder, recipe(folder, train_data_weight=weight, train_rounds=6)))
        ends[weight] = [row["data_error"] for row in rows(run)]
        assert all("ratio" in row and "reward" in row for row in rows(run))
    assert ends[1e-9][0] == pytest.approx(ends[3.0][0], rel=0.05)
    assert ends[3.0][-1] < 0.9 * ends[3.0][0] and ends[3.0][-1] < 0.9 * ends[1e-9][-1]


def test_a_round_without_a_minibatch_still_learns_from_the_clips(tmp_path, monkeypatch):
    """As where the samples of every group tie, and an algorithm of pairs has no pair."""
    whole, seen = GRPO.minibatches, []

    def minibatches(self, experience):
        return iter(()) if experience.round == 1 else whole(self, experience)

    monkeypatch.setattr(GRPO, "minibatches", minibatches)
    monkeypatch.setattr(GRPO, "after", lambda self, policy, round: seen.append(policy.checksum()))
    run = loop.run(with_clips(tmp_path, recipe(tmp_path, train_data_weight=0.3, train_rounds=3)))
    assert len(set(seen)) == 3
    assert [("kl" in row, "data_error" in row, row["grad_norm"] > 0) for row in rows(run)] == [
        (True, True, True),
        (False, True, True),
        (True, True, True),
    ]
    told = [(row["round"], row["message"]) for row in happened(run) if row["kind"] == "skipped"]
    assert (
        len(told) == 1
        and told[0][0] == 2
        and told[0][1].startswith("only data.clips were learned from")
    )


# --- a whole run


def test_a_run_on_clips_lowers_the_error_and_has_its_page_and_guards(tmp_path):
    made = sft(
        tmp_path, train_rounds=12, guard={"action": "warn", "bands": {"exposure": [0.999, 1.001]}}
    )
    run = loop.run(made)
    error = [row["data_error"] for row in rows(run)]
    assert sum(error[-3:]) < 0.8 * sum(error[:3])
    last = rows(run)[-1]
    assert {"data_error_0", "data_error_1", "data_error_2", "kl", "grad_norm"} <= set(
        last
    ) and "ratio" not in last
    assert summary(run)["status"] == "finished" and "composite" in summary(run)["held_out"]
    assert any(row["kind"] == "guard" for row in happened(run))
    page = (run / "report.html").read_text()
    assert "squared error on data.clips" in page and "reward of the training clips" not in page
    assert json.loads((run / "inputs.json").read_text())["data.clips"].keys() >= {
        "metadata.jsonl",
        "0.mp4",
    }


@pytest.mark.parametrize(
    "made",
    [
        lambda folder: sft(folder, train_ema=0.5),
        lambda folder: paired(folder, [1, 0, -1]),
        lambda folder: with_clips(folder, recipe(folder, train_data_weight=0.5)),
    ],
    ids=["clips", "pairs", "beside"],
)
def test_a_resumed_run_ends_with_the_weights_of_one_that_went_through(tmp_path, made):
    whole, parts = made(tmp_path / "whole"), made(tmp_path / "parts")
    whole["train"]["rounds"], parts["train"]["rounds"] = 3, 1
    loop.run(whole)
    loop.run(parts)
    parts["train"]["rounds"] = 3
    loop.run(parts, resume=True)
    one, other = (checkpoint.load(each["run"])["policy"] for each in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [row["round"] for row in rows(parts["run"])] == [1, 2, 3]
