"""Work in pieces: where memory runs out the piece is halved, the results are those of the
whole, and little is kept."""

import weakref

import pytest
import torch
from toys import Brightness, recipe, rows, timeless, weights

from vidrl import config
from vidrl.backbones.toy import Toy
from vidrl.rewards import Samples
from vidrl.training import checkpoint, evaluate, loop
from vidrl.training.clips import clips, generate
from vidrl.training.held_out import GROUP_PAIRS
from vidrl.training.pieces import Pieces, out_of_memory
from vidrl.training.rollout import SCORE_BATCH, draws
from vidrl.training.scored import Scored

TOY = Toy()


def full(what: str = "CUDA out of memory. Tried to allocate 20.00 GiB") -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError(what)


def tight(monkeypatch, owner, name: str, most: int, error=full, when=lambda *_: True) -> list[int]:
    """Let a method of (self, tensor or samples, ...) run out of memory above `most` rows;
    the sizes it was given."""
    seen, real = [], getattr(owner, name)

    def method(self, batch, *rest):
        seen.append(len(batch))
        if len(batch) > most and when():
            raise error()
        return real(self, batch, *rest)

    monkeypatch.setattr(owner, name, method)
    return seen


# --- pieces


def test_each_piece_is_halved_until_it_fits_and_none_is_lost_or_made_twice():
    def work(part):
        if part.stop - part.start > 3:
            raise full()
        return list(range(part.start, part.stop))

    pieces = Pieces(16)
    made = list(pieces.each(11, work))
    assert [i for part in made for i in part] == list(range(11)) and max(map(len, made)) <= 3
    # 11 → 5 → 2: half of the piece that was worked on, and so for the rest of the run
    assert pieces.size == 2
    assert list(Pieces(4).each(0, work)) == []


@pytest.mark.parametrize(
    "error",
    [
        full(),
        MemoryError("Unable to allocate 23 GiB"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate "
            "92 bytes"
        ),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_every_kind_of_full_memory_is_known(error):
    tried = []

    def work(size):
        tried.append(size)
        if size > 1:
            raise error
        return size

    assert Pieces(4).attempt(4, work) == 1 and tried == [4, 2, 1]


def test_other_errors_are_not_taken_for_a_full_memory():
    others = [
        RuntimeError("shapes do not fit"),
        ValueError("CUDA out of memory"),
        RuntimeError("out of memory, say"),
    ]
    assert not any(map(out_of_memory, others))
    with pytest.raises(RuntimeError, match="shapes"):
        Pieces(4).attempt(4, lambda size: (_ for _ in ()).throw(RuntimeError("shapes do not fit")))


def test_one_item_that_does_not_fit_is_told_with_what_to_do():
    pieces = Pieces(3, "decoding one clip", "use a smaller clip")
    with pytest.raises(
        torch.OutOfMemoryError,
        match="decoding one clip alone does not fit into memory: use a smaller "
        r"clip \(CUDA out of memory",
    ):
        list(pieces.each(3, lambda part: (_ for _ in ()).throw(full())))


# --- every stage of a run


def stages(monkeypatch, stage: str) -> list[int]:
    if stage == "rollout and evaluation":
        return tight(monkeypatch, Toy, "predict", 2, when=lambda: not torch.is_grad_enabled())
    if stage == "update":
        return tight(monkeypatch, Toy, "predict", 3, when=torch.is_grad_enabled)
    if stage == "decode":
        return tight(monkeypatch, Toy, "decode", 1)
    return tight(monkeypatch, Brightness, "forward", 1, MemoryError)


@pytest.mark.parametrize("stage", ["rollout and evaluation", "update", "decode", "reward"])
def test_memory_that_runs_out_in_a_stage_changes_no_result(tmp_path, monkeypatch, stage):
    options = {"steps": 4, "segments": 3, "eta": 0.5, "same_start": stage == "decode"}
    same = {"algorithm": {"name": "grpo", "options": options}}
    plain = loop.run(recipe(tmp_path / "plain", train_rounds=2, **same))
    seen = stages(monkeypatch, stage)
    run = loop.run(recipe(tmp_path / "tight", train_rounds=2, **same))
    assert max(seen) > 3  # so memory did run out
    for a, b in zip(rows(plain), rows(run), strict=True):
        a, b = timeless(a), timeless(b)
        assert a.keys() == b.keys()
        assert a["reward"]["mean"] == pytest.approx(b["reward"]["mean"], abs=1e-5)
        assert a["ratio"]["max"] == pytest.approx(b["ratio"]["max"], abs=1e-5)
        assert a["diversity"] == pytest.approx(b["diversity"], abs=1e-5)
    ours, theirs = (checkpoint.load(folder)["policy"] for folder in (run, plain))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)
    for a, b in zip(rows(plain, "evals"), rows(run, "evals"), strict=True):
        assert a["measures"]["composite"]["mean"] == pytest.approx(
            b["measures"]["composite"]["mean"], abs=1e-5
        )
        assert a["measures"]["diversity"]["mean"] == pytest.approx(
            b["measures"]["diversity"]["mean"], abs=1e-5
        )


def test_the_sizes_that_fitted_are_kept_in_the_checkpoint_and_a_resumed_run_goes_on_with_them(
    tmp_path, monkeypatch
):
    tight(monkeypatch, Toy, "decode", 1)
    tight(monkeypatch, Toy, "predict", 5)
    made = recipe(tmp_path / "a")
    whole = loop.run(recipe(tmp_path / "b"))
    real = loop.Trainer._train_round

    def stops(trainer):
        trainer.state.stop = "interrupted" if trainer.state.round == 2 else ""
        return real(trainer)

    monkeypatch.setattr(loop.Trainer, "_train_round", stops)
    loop.run(made)
    sizes = checkpoint.load(made["run"])["pieces"]
    assert sizes["decode"] == 1 and sizes["sample"] <= 5 and sizes["update"] <= 5
    monkeypatch.setattr(loop.Trainer, "_train_round", real)
    loop.run(made, resume=True)
    assert weights(made["run"]) == weights(whole)  # to the last bit


@pytest.mark.parametrize(
    "stage, owner, name, what",
    [
        ("sample", Toy, "predict", "sampling one clip"),
        ("decode", Toy, "decode", "decoding one clip"),
        ("reward", Brightness, "forward", "the reward has not enough memory for one clip"),
    ],
)
def test_a_single_clip_that_does_not_fit_ends_the_run_and_says_so(
    tmp_path, monkeypatch, stage, owner, name, what
):
    tight(monkeypatch, owner, name, 0)
    with pytest.raises(torch.OutOfMemoryError, match=what):
        loop.run(recipe(tmp_path))


def test_clips_begin_again_with_the_noise_that_they_began_with(monkeypatch):
    prompts, names = ["a", "b", "c", "d", "e"], [(i,) for i in range(5)]
    whole = generate(TOY, prompts, draws(0, names), steps=3)
    calls, real = [0], Toy.predict

    # memory runs out in the second step, when the generators have drawn already
    def late(self, x, t, cond):
        calls[0] += 1
        if len(x) > 2 and calls[0] % 2 == 0:
            raise full()
        return real(self, x, t, cond)

    monkeypatch.setattr(Toy, "predict", late)
    again = generate(TOY, prompts, draws(0, names), steps=3)
    assert torch.allclose(again.video, whole.video, atol=1e-5)


# --- a reward in pieces


class Fussy(Brightness):
    """Raises on whole batches that hold a named prompt."""

    def forward(self, samples):
        if "a cat" in samples.prompts:
            raise ArithmeticError("no cat, please")
        return super().forward(samples)


def test_a_reward_that_fails_on_a_whole_piece_leaves_only_its_clips_unscored():
    torch.manual_seed(0)
    video, made = torch.rand(6, 5, 3, 16, 16), Scored(Fussy(), lambda values: ())
    for part, prompt in ((slice(0, 2), "a cat"), (slice(2, 4), "a dog"), (slice(4, 6), "a cat")):
        made.add(Samples(video[part], [prompt] * 2, 8.0))
    score = made.score
    assert score.value.isnan().tolist() == [True, True, False, False, True, True]
    assert torch.allclose(
        score.value[2:4], video[2:4].mean((1, 2, 3, 4))
    ) and score.frames.shape == (6, 5)
    assert score.why[2] is None and "no cat, please" in score.why[5]


def test_a_reward_that_fails_everywhere_ends_the_run():
    made = Scored(Fussy(), lambda values: ())
    for _ in range(2):
        made.add(Samples(torch.rand(2, 5, 3, 16, 16), ["a cat"] * 2, 8.0))
    with pytest.raises(
        RuntimeError, match="the reward failed on all of 4 clips; the first: ArithmeticError"
    ):
        _ = made.score


def test_scores_in_pieces_are_those_of_the_whole():
    torch.manual_seed(0)
    reward = evaluate.build_reward(
        config.RewardSection(parts={"freeze": 1.0, "frame_quality": 0.5})
    )
    whole = Samples(torch.rand(5, 9, 3, 32, 32), list("abcde"), 8.0)
    made = Scored(reward, lambda values: ())
    for part in ([0, 1], [2, 3], [4]):
        made.add(whole.pick(part))
    one, other = made.score, evaluate.score_each(reward, whole)
    assert torch.allclose(one.value, other.value, atol=1e-6) and torch.allclose(
        one.frames, other.frames, atol=1e-6
    )
    assert one.parts.keys() == other.parts.keys() and one.weights == other.weights
    for name in one.slopes:
        assert torch.allclose(one.slopes[name], other.slopes[name])
    assert torch.equal(made.thumbnails, evaluate.thumbnails(whole.video))


# --- what host memory holds


class Counting(Brightness):
    """Notes how many clips it is given at once, and which of the batches before are still
    in memory."""

    def __init__(self):
        super().__init__()
        self.sizes, self.alive, self.given = [], [], []

    def forward(self, samples):
        self.alive.append(sum(ref() is not None for ref in self.given))
        self.given.append(weakref.ref(samples.video))
        self.sizes.append(len(samples))
        score = super().forward(samples)
        score.frames = samples.video[:, :, 0, 0, 0]  # a view: its base must not be kept for it
        return score


@pytest.mark.parametrize("n", [1, 3, 4])
def test_a_round_and_an_evaluation_hold_a_few_clips_at_a_time(tmp_path, monkeypatch, n):
    given, real = [], Toy.decode
    monkeypatch.setattr(Toy, "decode", lambda self, z: (given.append(len(z)), real(self, z))[1])
    made = recipe(tmp_path, train_score_batch=n, train_group=8, data_held_out_n=5, train_rounds=2)
    trainer = loop.Trainer.from_recipe(config.load(made))
    trainer.reward = trainer.held_out.reward = reward = Counting()
    trainer.go(resume=False)
    assert max(reward.sizes) == max(given) == n and sum(reward.sizes) == 2 * 16 + 2 * 5
    assert set(reward.alive) == {0}  # no batch of clips lives on when the next is scored
    assert sum(given) == 2 * 16 + 2 * (5 + min(5, GROUP_PAIRS))


def test_the_default_is_a_few_clips():
    assert config.Train().score_batch == SCORE_BATCH <= 8
    assert (
        max(len(one) for one in clips(TOY, ["x"] * 9, draws(0, [(i,) for i in range(9)]), 2))
        == SCORE_BATCH
    )
    with pytest.raises(config.BadRecipe, match="train.score_batch: expected at least 1, got 0"):
        config.build({"run": "r"}, ["train.score_batch=0"], files=False)


def test_shown_clips_are_the_very_clips(tmp_path):
    torch.manual_seed(0)
    whole = Samples(torch.rand(7, 5, 3, 16, 16), list("abcdefg"), 8.0)
    from vidrl.training.record import extremes

    made = Scored(Brightness(), extremes)
    for start in range(0, 7, 2):
        made.add(whole.pick(range(start, min(start + 2, 7))))
    light = whole.video.mean((1, 2, 3, 4))
    assert set(made.clips) == {int(light.argmax()), int(light.argmin())}
    assert all(torch.equal(clip, whole.video[i]) for i, clip in made.clips.items())
    assert all(clip.untyped_storage().nbytes() == clip.nbytes for clip in made.clips.values())


# --- precision


@pytest.fixture
def other_precision():
    """Accelerate holds one precision a process: forget it before and after."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_no_decode_and_no_reward_runs_under_autocast_and_all_sampling_does(
    tmp_path, monkeypatch, other_precision
):
    told = {"predict": set(), "decode": set(), "encode": set(), "reward": set()}

    def noting(owner, name, stage):
        real = getattr(owner, name)
        monkeypatch.setattr(
            owner,
            name,
            lambda self, *given: (
                told[stage].add(torch.is_autocast_enabled("cpu")),
                real(self, *given),
            )[1],
        )

    for owner, name, stage in (
        (Toy, "predict", "predict"),
        (Toy, "decode", "decode"),
        (Toy, "encode", "encode"),
        (Brightness, "forward", "reward"),
    ):
        noting(owner, name, stage)
    loop.run(recipe(tmp_path, train_mixed_precision="bf16", train_rounds=1))
    assert told == {"predict": {True}, "decode": {False}, "encode": {False}, "reward": {False}}
