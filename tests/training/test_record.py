"""The run folder: every row is JSON that others can read, with null where there is no
number."""

import json
import math
import os
import resource

import numpy as np
import pytest
import torch

from vidrl.rewards import Samples, Score
from vidrl.training.progress import postfix
from vidrl.training.record import Record, extremes, summarise
from vidrl.training.rollout import Plan
from vidrl.training.scored import Scored

NAN = float("nan")
GROUP = torch.tensor([0, 0, 1, 1])


def strict(text: str):
    """JSON as the standard has it: no NaN, no Infinity."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def lines(path):
    return [strict(line) for line in path.read_text().splitlines()]


def score(values, parts=()):
    value = torch.tensor(values)
    return Score(
        value,
        value[:, None].repeat(1, 5),
        parts={name: Score(torch.tensor(v)) for name, v in parts},
    )


def clips(n=4):
    torch.manual_seed(0)
    return Samples(torch.rand(n, 5, 3, 16, 16), [f"{i}" for i in range(n)], 8.0)


def scored(values):
    """What a round keeps of four clips with these rewards, scored two at a time."""
    made = Scored(
        lambda samples: score([values[int(prompt)] for prompt in samples.prompts]), extremes
    )
    for pair in ([0, 1], [2, 3]):
        made.add(clips().pick(pair))
    return made


def test_what_a_rounds_scores_say_by_hand():
    row = summarise(score([1.0, 3.0, 5.0, NAN], [("a", [0.0, 0.0, 2.0, 2.0])]), GROUP)
    assert row["reward"]["mean"] == 3 and row["reward"]["std"] == pytest.approx(math.sqrt(8 / 3))
    # group 1 has one that is scored
    assert row["reward"]["within_group_std"] == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert row["parts"]["a"] == {"mean": 1.0, "std": 1.0, "within_group_std": 0.0}
    assert row["unscored_share"] == 0.25 and row["zero_std_share"] == 0.5
    assert "reward +3.000" in postfix(row)


def test_rows_are_json_with_null_for_nan(tmp_path):
    record = Record(tmp_path)
    record.metrics({"round": 1, "reward": {"mean": NAN}, "kl": float("inf")})
    assert lines(tmp_path / "metrics.jsonl") == [{"round": 1, "reward": {"mean": None}, "kl": None}]


def test_an_evaluation_of_a_round_takes_the_earlier_ones_place(tmp_path):
    record = Record(tmp_path)
    for round, value in ((0, 1.0), (2, 2.0), (2, 3.0)):
        record.evaluation(
            round, {"composite": np.array([value, NAN]), "exposure": np.array([NAN, NAN])}
        )
    rows = lines(tmp_path / "evals.jsonl")
    assert [(row["round"], row["n"], row["measures"]["composite"]["mean"]) for row in rows] == [
        (0, 2, 1),
        (2, 2, 3),
    ]
    assert rows[0]["measures"]["exposure"] == {"mean": None, "n_scored": 0}


def test_an_event_is_told_once(tmp_path):
    record = Record(tmp_path)
    for _ in range(2):
        record.event(1, "guard", "motion: zu wenig – “still”")
    record.event(2, "guard", "motion: zu wenig – “still”")
    assert [row["round"] for row in lines(tmp_path / "events.jsonl")] == [1, 2]


def test_credit_shows_the_best_and_the_worst_clip(tmp_path):
    plan, frame_map = Plan((1.0, 0.5, 0.0), segments=2), [(0, 1), (1, 5)]
    advantage = torch.arange(8.0).view(4, 2)
    Record(tmp_path).credit(scored([0.2, NAN, 0.9, 0.1]), advantage, plan, frame_map)
    best, worst = strict((tmp_path / "credit.json").read_text())
    assert (best["prompt"], best["advantage"], best["segments"]) == (
        "2",
        [4.0, 5.0],
        [[0, 1], [1, 5]],
    )
    assert (
        worst["prompt"] == "3" and len(worst["curve"]) == 5 and best["value"] == pytest.approx(0.9)
    )
    assert all((tmp_path / row["file"]).stat().st_size > 0 for row in (best, worst))


def test_clips_are_written_with_their_scores(tmp_path):
    Record(tmp_path).clips(
        "before", clips(), score([0.2, NAN, 0.9, 0.1], [("a", [NAN, 1.0, 1.0, 1.0])]), n=2
    )
    rows = strict((tmp_path / "clips" / "before.json").read_text())
    assert [row["value"] for row in rows] == [pytest.approx(0.2), None] and rows[0]["parts"] == {
        "a": None
    }
    assert rows[0]["curves"]["composite"] == [pytest.approx(0.2)] * 5
    assert sorted(path.name for path in (tmp_path / "clips" / "before").iterdir()) == [
        "0000.mp4",
        "0001.mp4",
    ]


WRITES = {
    "the clips": lambda record: record.clips("before", clips(), score([0.2] * 4), 2),
    "metrics.jsonl": lambda record: record.metrics({"round": 1, "text": "x" * 5000}),
    "events.jsonl": lambda record: record.event(1, "guard", "x" * 5000),
    "an evaluation": lambda record: record.evaluation(
        0, {"composite": np.random.default_rng(0).random(999)}
    ),
}


@pytest.mark.parametrize("what", WRITES)
def test_a_disk_that_refuses_is_told_with_the_cure_and_what_is_left(tmp_path, what):
    """In a child that may not write files of more than a kilobyte: what fails is the
    operating system's own write."""
    from toys import ended, forked

    from vidrl.cli import explains_itself
    from vidrl.training import checkpoint

    checkpoint.save(tmp_path / "run", 3, {})
    report, record = os.open(tmp_path / "said", os.O_CREAT | os.O_WRONLY), Record(tmp_path / "run")
    os.write(report, b" " * 1000)  # room for what the child says, taken before the limit

    def body():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            WRITES[what](record)
        except checkpoint.WriteError as error:
            os.pwrite(report, f"{explains_itself(error)} {error}"[:1000].encode(), 0)

    assert ended(forked(body)) == 0
    said = (tmp_path / "said").read_text().strip()
    assert (
        said.startswith(f"True could not write {what} of {tmp_path / 'run'}: ")
        and "File too large" in said
    ), said
    assert "checkpoint 000003 is intact" in said and "add --resume" in said


def test_a_full_disk_while_the_weights_are_saved_is_told(tmp_path):
    from vidrl.training import checkpoint

    class SafetensorError(Exception):
        """As safetensors' own, which no other class stands above."""

    full = pytest.raises(
        checkpoint.WriteError, match="could not write the weights of .*Make room on the disk"
    )
    with full, checkpoint.writing(tmp_path, "the weights"):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    with (
        pytest.raises(ValueError, match="not of the disk"),
        checkpoint.writing(tmp_path, "the weights"),
    ):
        raise ValueError("not of the disk")


def test_an_inactive_record_writes_nothing(tmp_path):
    record = Record(tmp_path / "x", active=False)
    record.metrics({"round": 1})
    record.event(1, "guard", "")
    record.evaluation(0, {"composite": np.ones(1)})
    record.clips("before", clips(), score([1.0] * 4), 2)
    record.credit(scored([1.0] * 4), torch.zeros(4, 1), Plan((1.0, 0.0)), [(0, 5)])
    assert not (tmp_path / "x").exists()


def test_cutting_back_takes_later_rows_and_checkpoints_away(tmp_path):
    record = Record(tmp_path)
    for round in (1, 2, 3):
        record.metrics({"round": round})
        (tmp_path / "checkpoints" / f"{round:06d}").mkdir(parents=True)
    record.cut_back(2)
    assert [row["round"] for row in lines(tmp_path / "metrics.jsonl")] == [1, 2]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "000001",
        "000002",
    ]
    assert lines(tmp_path / "events.jsonl")[0]["kind"] == "resume"
