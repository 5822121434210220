"""Rewards that run in workers: the same numbers, whatever dies or raises, and no hang."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest
import torch
from toys import PROMPTS, Brightness, recipe, rows, weights

from vidrl import config
from vidrl.algorithms.grpo import GRPO
from vidrl.algorithms.reward_backprop import RewardBackprop
from vidrl.backbones.toy import Toy
from vidrl.config import RewardSection
from vidrl.rewards import Samples, default, load
from vidrl.rewards.compose import Composite
from vidrl.rewards.http_scorer import HttpScorer
from vidrl.training import evaluate, loop
from vidrl.training.assembly import Options
from vidrl.training.loop import Trainer
from vidrl.training.policy import Policy
from vidrl.training.reward_workers import (
    Chunk,
    RewardThreads,
    RewardWorkers,
    ScoreChunks,
    open_workers,
)
from vidrl.training.scored import Scored

PARTS = {
    "toys:Picky": {"weight": 1.0, "options": {"prompt": PROMPTS[0], "how": "raise"}},
    "flicker": {"weight": 0.5, "scale": 0.1},
}


def samples(prompts, seed=0) -> Samples:
    video = torch.rand(len(prompts), 5, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Samples(video, prompts, 8.0)


class Secret(Exception):
    """An error that pickle would make from other arguments, and so refuses."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Odd(Brightness):
    """Brightness that does what the prompt of a clip says.

    "die N" kills the process, until `folder` has a file for each of N deaths.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def forward(self, samples):
        for word, _, rest in (prompt.partition(" ") for prompt in samples.prompts):
            if word == "raise":
                raise ArithmeticError("no, thanks")
            if word == "secret":
                raise Secret(1, 2)
            if word == "fill":
                raise torch.OutOfMemoryError("full")
            if word == "facts":
                assert samples.video.dtype == torch.uint8 and samples.fps == 23.976
                assert samples.reference.shape[2:] == (3, 16, 16)
                assert [entry["seed"] for entry in samples.meta] == [1, 2][: len(samples)]
            if word == "die" and len(os.listdir(self.folder)) < int(rest):
                (self.folder / str(len(os.listdir(self.folder)))).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(samples)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Two workers that score with `Odd`, and that reward."""
    reward = Odd(str(tmp_path_factory.mktemp("deaths")))
    workers = RewardWorkers(ScoreChunks(reward), 2)
    workers.wait()
    yield workers, reward
    workers.close()
    assert not workers_that_stay()


def run(folder: Path, **changes) -> Path:
    made = recipe(folder, train_rounds=2, train_score_batch=3, train_max_unscored=1.0, **changes)
    return loop.run(made)


def numbers(run: Path) -> list:
    """What the run measured, without the seconds."""
    kept = ("reward", "parts", "unscored_share", "diversity", "zero_std_share", "loss")
    found = [{key: row.get(key) for key in kept} for row in rows(run)]
    return [found, rows(run, "evals"), weights(run)]


def scored_by(workers, reward, chunks) -> evaluate.Score:
    scored = Scored(reward, lambda values: (), workers)
    for chunk in chunks:
        scored.add(chunk)
    return scored.score


def same(far, near) -> bool:
    alike = torch.equal(far.value.nan_to_num(7), near.value.nan_to_num(7))
    return alike and torch.equal(far.frames.nan_to_num(7), near.frames.nan_to_num(7))


def test_workers_give_the_run_of_this_process_bit_for_bit(tmp_path):
    near, far = (run(tmp_path / str(n), reward={"parts": PARTS, "workers": n}) for n in (0, 2))
    assert numbers(near) == numbers(far)
    assert rows(far)[0]["parts"]["flicker"]["std"] > 0
    assert rows(far)[0]["unscored_share"] > 0  # a part raises on one of the prompts
    assert not workers_that_stay()


def test_what_a_reward_raises_is_the_same_reason_as_in_this_process(odd):
    chunks = [samples(["a cat", "raise it"]), samples(["a dog"], 1), samples(["secret"], 2)]
    far, near = (scored_by(one, odd[1], chunks) for one in (odd[0], None))
    assert same(far, near) and far.why == near.why
    assert far.why[1] == "unscored: the reward raised ArithmeticError('no, thanks')"
    assert far.why[3] == "unscored: the reward raised Secret('1 and 2')"


def test_the_error_says_where_it_was_raised(odd):
    (found,) = odd[0].submit(samples(["raise it"])).result()
    assert "in forward" in found.error.__notes__[0]


def test_too_little_memory_for_one_clip_ends_the_run_as_in_this_process(odd):
    for workers in (odd[0], None):
        with pytest.raises(torch.OutOfMemoryError, match="not enough memory for one clip"):
            scored_by(workers, odd[1], [samples(["fill it", "a dog"])])


def test_facts_and_references_reach_the_worker_unchanged(odd):
    video = (torch.rand(2, 5, 3, 16, 16) * 255).to(torch.uint8)
    image, meta = torch.rand(2, 1, 3, 16, 16), [{"seed": 1}, {"seed": 2}]
    clips = Samples(video, ["facts", "facts"], 23.976, image, meta)
    assert torch.isfinite(scored_by(odd[0], odd[1], [clips]).value).all()


def test_the_layout_of_memory_reaches_the_worker_because_sums_round_by_it():
    plain = torch.rand(2, 3, 3, 8, 6)
    for there in (plain, plain.transpose(1, 2), plain.transpose(3, 4)):
        back = Chunk.of(Samples(there, ["a", "b"], 8.0)).samples.video
        assert torch.equal(back, there) and back.stride() == there.stride()
    part = plain[:, ::2]
    assert torch.equal(Chunk.of(Samples(part, ["a", "b"], 8.0)).samples.video, part)


def test_clips_of_a_worker_that_dies_are_scored_by_a_new_one(odd, capfd):
    chunks = [samples(["a cow"]), samples(["die 1", "a hen"], 1), samples(["a dog"], 2)]
    assert same(scored_by(*odd, chunks), scored_by(None, Brightness(), chunks))
    assert "signal 9" in capfd.readouterr().err


def test_clips_that_kill_each_worker_have_the_reason_and_the_others_a_score(odd):
    deaths = len(os.listdir(odd[1].folder))
    chunks = [samples(["a cow"]), samples(["die 99", "a hen"], 1), samples(["a dog"], 2)]
    found = scored_by(*odd, chunks)
    assert found.value.isnan().tolist() == [False, True, True, False]
    assert "the reward's worker process crashed (signal 9" in found.why[1]
    assert len(os.listdir(odd[1].folder)) == deaths + 2  # one more try, and no third


def test_a_worker_killed_from_outside_costs_no_clip(odd):
    os.kill(own_workers()[0], signal.SIGKILL)
    chunks = [samples([prompt], seed) for seed, prompt in enumerate(PROMPTS)]
    assert same(scored_by(*odd, chunks), scored_by(None, Brightness(), chunks))


def test_at_most_as_many_chunks_wait_as_there_are_workers():
    class Counts:
        count, most, alive = 2, 0, 0

        def submit(self, chunk):
            self.alive += 1
            self.most = max(self.most, self.alive)
            future = Future()
            future.result = lambda: self.done(chunk)
            return future

        def done(self, chunk):
            self.alive -= 1
            return evaluate.score_some(Brightness(), chunk)

    counts = Counts()
    scored = Scored(Brightness(), lambda values: (), counts)
    for seed in range(6):
        scored.add(samples(["a cat"], seed))
        assert counts.alive == min(seed + 1, 2)  # with the next chunk that is made: three
    assert len(scored.score.value) == 6 and counts.most == 3 and counts.alive == 0


# --- what is refused, early


def trainer(folder: Path, **changes) -> Trainer:
    given = {"policy": Policy(Toy(), full=True), "algorithm": GRPO(steps=4), "folder": folder}
    options = Options(rounds=1, prompts_per_round=1, group=2, eval_steps=2, reward_workers=1)
    given |= {"prompts": PROMPTS, "held_out": PROMPTS, "options": options}
    return Trainer.from_objects(**(given | changes))


@pytest.mark.slow
def test_objects_train_with_workers(tmp_path):
    others = own_workers()  # those of the module's fixture
    made = trainer(tmp_path, reward=Brightness())
    try:
        assert rows(made.go())[0]["reward"]["std"] > 0
    finally:
        made.close()
    assert not workers_that_stay(others)


def test_a_reward_that_cannot_be_pickled_is_refused_with_the_cure(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be pickled.*pass reward.workers = 0"):
        trainer(tmp_path, reward=lambda samples: samples.frames.mean((1, 2, 3, 4)))


class Unbuildable(Brightness):
    """A reward that only this process can build."""

    def __reduce__(self):
        return eval, ("1 / 0",)


@pytest.mark.slow
def test_what_a_worker_raises_at_its_start_is_raised_before_the_first_round(tmp_path):
    with pytest.raises(Exception, match="division by zero"):
        trainer(tmp_path, reward=Unbuildable())


def test_a_loss_that_follows_the_gradient_of_the_reward_refuses_workers(tmp_path):
    with pytest.raises(ValueError, match="needs the reward's gradient.*set workers = 0"):
        trainer(tmp_path, reward=load("flicker"), algorithm=RewardBackprop(steps=2))


def test_networks_beside_a_gpu_refuse_workers_and_rewards_without_networks_do_not():
    section, gpu = RewardSection(workers=1), torch.device("cuda")
    both = Composite({"niqe": load("niqe"), "flicker": load("flicker")})
    with pytest.raises(ValueError, match=r"expected 0 with niqe, whose networks.*http_scorer"):
        open_workers(GRPO(), both, section, gpu)
    made = open_workers(GRPO(), default(), section, gpu)
    made.close()
    assert isinstance(made, RewardWorkers)


def test_a_reward_of_a_server_gets_threads():
    section = RewardSection(workers=2)
    made = open_workers(GRPO(), HttpScorer.tiny(), section, torch.device("cuda"))
    assert isinstance(made, RewardThreads)
    chunks = [samples(["a"], seed) for seed in range(4)]
    found = scored_by(made, HttpScorer.tiny(), chunks)
    assert torch.equal(found.value, scored_by(None, HttpScorer.tiny(), chunks).value)
    made.close()


def test_fewer_than_no_workers_are_refused():
    with pytest.raises(config.BadRecipe, match="reward.workers: expected 0 or more, got -1"):
        config.build({"run": "r", "reward": {"workers": -1}}, files=False)


# --- signals


def own_workers(of: int | None = None) -> list[int]:
    """The worker processes of a process, without multiprocessing's own helper."""
    found = psutil.Process(of).children(recursive=True)
    return [p.pid for p in found if "spawn_main" in " ".join(p.cmdline())]


def workers_that_stay(others: Sequence[int] = ()) -> set[int]:
    """The worker processes that have not ended after a while: a busy machine ends them late."""
    end = time.monotonic() + 30
    while (found := set(own_workers()) - set(others)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


SCRIPT = """
    import sys
    from pathlib import Path
    from toys import recipe
    from vidrl.training import loop

    if __name__ == "__main__":
        made = recipe(Path(sys.argv[1]), train_rounds=400, train_score_batch=1)
        made["reward"] = {"name": "toys:Slow", "options": {"seconds": 0.05}, "workers": 2}
        loop.run(made)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT twice", "SIGKILL"])
def test_the_workers_end_with_the_run(tmp_path, how):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not rows(tmp_path / "run") and time.monotonic() < deadline:
        time.sleep(0.1)
    started = own_workers(process.pid)
    assert len(started) == 2
    name, *twice = how.split()
    process.send_signal(getattr(signal, name))
    if twice:
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    while any(map(psutil.pid_exists, started)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, started)), said
    assert process.returncode == (0 if how == "SIGTERM" else process.returncode), said
