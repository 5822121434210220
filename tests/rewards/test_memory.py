"""A clip's memory is freed when its last name is deleted: no reference cycle keeps it."""

import gc
import weakref
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from test_contract_rewards import NAMES, build

from vidrl.rewards import Reward, Samples, default

RATES = (8.0, 24.0)  # a reward with a rate of 8 takes clips apart into 1 and 3 phases


@pytest.fixture(scope="module", autouse=True)
def _only_new_objects_are_searched():
    """Else each search for cycles goes through all that was ever imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@contextmanager
def without_the_cyclic_collector():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def clips(device: str = "cpu", count: int = 2) -> tuple[torch.Tensor, weakref.ref]:
    """Clips (B, 13, 3, 32, 32), and a weak reference that is dead once their storage is
    freed."""
    made = np.random.default_rng(0).random((count, 13, 3, 32, 32), dtype=np.float32)
    return torch.from_numpy(made).to(device), weakref.ref(made)


def samples(video: torch.Tensor, fps: float) -> Samples:
    return Samples(video, ["a red circle moves left"] * len(video), fps)


def in_pieces(reward: Reward, video: torch.Tensor, fps: float) -> None:
    stream = reward.stream(fps)
    for piece in video[0].split(5):
        stream.update(piece)
    stream.result()


@pytest.mark.parametrize("name", ["default", *NAMES])
def test_the_clips_are_freed_when_their_last_name_goes(name):
    reward = default() if name == "default" else build(name)
    # importing a package for the first time leaves cycles of its own
    reward(samples(clips()[0], RATES[0]))
    with without_the_cyclic_collector():
        for fps in RATES:
            video, freed = clips()
            score = reward(samples(video.requires_grad_(reward.differentiable), fps))
            del video, score
            assert freed() is None, f"{name} at {fps} frames a second"
        video, _ = clips()
        video[1, 3, 0, 0, 0] = torch.nan  # so that one clip is picked
        reward(samples(video, 24.0), maps=True)
        if reward.streams:
            in_pieces(reward, video, 24.0)
        assert not tensors_in_cycles()


def tensors_in_cycles() -> list[torch.Size]:
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return [thing.shape for thing in gc.garbage if isinstance(thing, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


@pytest.mark.parametrize(
    "hold",
    [
        lambda s: s.phases(3),
        lambda s: s.phases(3)[1].phases(3),
        lambda s: s.pick([1]).phases(3),
        lambda s: s.phases(3)[0].pick([0]),
        lambda s: [part.small(16) for part in s.phases(3)],
        lambda s: s.memo("twice", lambda: s.video * 2),
        lambda s: s.frames,
        lambda s: s.about,
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_what_samples_remember_does_not_keep_them(hold, dtype):
    with without_the_cyclic_collector():
        video, freed = clips()
        if dtype == torch.uint8:
            video, freed = from_bytes()
        made = samples(video, 24.0)
        hold(made)
        del made, video
        assert freed() is None


def from_bytes() -> tuple[torch.Tensor, weakref.ref]:
    made = np.random.default_rng(0).integers(0, 256, (2, 13, 3, 32, 32), dtype=np.uint8)
    return torch.from_numpy(made), weakref.ref(made)


def test_phases_share_the_shrunk_clips_of_the_whole():
    made = samples(clips()[0], 24.0)
    for start, part in enumerate(made.phases(3)):
        assert part.small(16).data_ptr() == made.small(16)[:, start::3].data_ptr()
        assert torch.equal(part.phases(3)[0].small(16), made.small(16)[:, start::9])
        assert part.fps == 8.0 and made.phases(3)[start] is part


def test_neighbouring_rows_are_picked_without_a_copy():
    video = clips(count=4)[0]
    made = samples(video, 8.0)
    assert made.pick([1, 2]).video.data_ptr() == video[1].data_ptr()
    for rows in ([0, 2], [2, 1], [-1], [3, 3], [1, 2]):
        assert torch.equal(made.pick(rows).video, video[rows])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["default", *NAMES])
def test_the_clips_are_freed_on_cuda(name):
    reward = (default() if name == "default" else build(name)).to("cuda")
    reward(samples(clips("cuda")[0], 24.0))
    with without_the_cyclic_collector():
        for _ in range(2):  # the first call may fill caches of its own
            before = torch.cuda.memory_allocated()
            video = clips("cuda")[0]
            score = reward(samples(video, 24.0))
            del video, score
        assert torch.cuda.memory_allocated() == before


def test_a_clip_that_is_not_finite_has_no_map_and_the_others_have():
    video = clips()[0]
    expected = default()(samples(video[:1], 8.0), maps=True).maps
    video[1, 3, 0, 0, 0] = torch.nan
    for name, drawn in default()(samples(video, 8.0), maps=True).maps.items():
        assert drawn[1].isnan().all()
        torch.testing.assert_close(drawn[0], expected[name][0], equal_nan=True)
