"""vidrl.synthetic.scenes, splat, scene_fit and scene_verifier: scenes whose truth is known."""

import math

import pytest
import torch

from vidrl.rewards import Samples, load
from vidrl.synthetic import scene_fit, scene_verifier, scenes, splat
from vidrl.synthetic.corruptions import corrupt

VIEWS, ARCS = 12, 4
SCENES = scenes.scenes("held_out", 8)


def arcs(seed: int, fault=None) -> torch.Tensor:
    """The tokens (B, L, 20, 8) of the scenes, each with the fault in question."""
    draw = torch.Generator().manual_seed(seed)
    found = [scenes.made(scene, draw).repeat(ARCS, 1, 1) for scene in SCENES]
    for tokens in found if fault else ():
        fault(tokens, draw)
    return torch.stack(found)


def orbit(tokens: torch.Tensor, side: int = 32) -> torch.Tensor:
    made = splat.blobs(tokens.repeat_interleave(VIEWS // ARCS, 1))
    return splat.render(made, splat.cameras(VIEWS), side)


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    return orbit(arcs(0))


def captions() -> list[str]:
    return [scene.caption for scene in SCENES]


# The renderer


def one(place, size=0.1, colour=(1.0, 0.0, 0.0), opacity=0.9) -> splat.Blobs:
    return splat.Blobs(
        torch.tensor(place).view(1, 1, -1, 3),
        torch.full((1, 1, len(place)), size),
        torch.tensor(colour).view(1, 1, -1, 3).expand(1, 1, len(place), 3),
        torch.full((1, 1, len(place)), opacity),
    )


def test_a_blob_in_the_middle_is_the_gaussian_by_hand() -> None:
    side = 9
    picture = splat.render(one([[0.0, 0.0, 0.0]]), splat.cameras(2), side)[0, 0]
    axis = splat.pixel_axis(side)
    alpha = 0.9 * math.exp(-(float(axis[4]) ** 2 + float(axis[5]) ** 2) / (2 * 0.1**2))
    expected = [alpha + (1 - alpha) * splat.BACKGROUND, (1 - alpha) * splat.BACKGROUND]
    assert picture[:2, 5, 4].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_nearer_blob_covers_the_farther_one_and_half_a_turn_exchanges_them() -> None:
    both = one([[0.0, 0.0, 0.5], [0.0, 0.0, -0.5]], colour=((1.0, 0, 0), (0, 0, 1.0)), opacity=1.0)
    views = splat.render(both, splat.cameras(2, 0.0), 9)[0, :, :, 4, 4]
    assert views[0, 0] > 0.95 > 0.05 > views[0, 2] and views[1, 2] > 0.95 > 0.05 > views[1, 0]


def test_what_is_up_and_right_is_drawn_there_and_turns_to_the_left() -> None:
    views = splat.render(one([[0.6, 0.3, 0.0]]), splat.cameras(4, 0.0), 20)[0, :, 0]
    at = [divmod(int(view.argmax()), 20) for view in views]
    assert at[0][0] < 10 < at[0][1] and at[2][1] < 10 and at[1][1] in (9, 10)


def test_the_gradient_is_that_of_small_steps() -> None:
    tokens = torch.randn(1, 1, 2, 8, dtype=torch.float64) * 0.5
    cameras = splat.cameras(2).double()
    assert torch.autograd.gradcheck(
        lambda z: splat.render(splat.blobs(z), cameras, 4), tokens.requires_grad_(), atol=1e-4
    )


def test_an_orbit_of_one_view_and_things_outside_are_refused() -> None:
    with pytest.raises(ValueError, match="expected an orbit of 2 views or more, got 1"):
        splat.cameras(1)
    with pytest.raises(ValueError, match=r"stay in the picture.*put the things closer"):
        scenes.made(SCENES[0], torch.Generator(), distance=2.4)


def test_a_ply_file_has_the_numbers_of_the_blobs(tmp_path) -> None:
    made = splat.blobs(torch.randn(5, 8))
    raw = splat.write_ply(tmp_path / "new" / "a.ply", made).read_bytes()
    head, _, body = raw.partition(b"end_header\n")
    names = [line.split()[-1] for line in head.decode().splitlines() if "property" in line]
    table = torch.frombuffer(bytearray(body), dtype=torch.float32).view(5, len(names))
    assert torch.equal(table[:, :3], made.place) and names[:3] == ["x", "y", "z"]
    assert torch.allclose(table[:, names.index("opacity")].sigmoid(), made.opacity, atol=1e-5)
    assert torch.allclose(table[:, names.index("scale_2")].exp(), made.size)
    colour = 0.5 + 0.28209479177387814 * table[:, names.index("f_dc_1")]
    assert torch.allclose(colour, made.colour[:, 1], atol=1e-5)


# Captions and the corpus


def test_captions_are_read_back_and_no_held_out_one_is_in_the_corpus() -> None:
    assert all(scenes.parse(scene.caption) == scene for scene in scenes.all_scenes())
    made, held = scenes.corpus(0, ARCS), {scene.caption for scene in scenes.scenes("held_out")}
    found = [next(made) for _ in range(100)]
    assert not held & {caption for caption, _ in found}
    same = [bool((tokens == tokens[:1]).all()) for _, tokens in found]
    assert 40 < sum(same) < 75  # (1 - 0.25) (1 - 0.15) (1 - 0.25), about 48 %, and some swaps
    with pytest.raises(ValueError, match="expected a caption of vidrl.synthetic.scenes"):
        scenes.parse("a cat")
    with pytest.raises(ValueError, match='expected split "train" or "held_out"'):
        scenes.scenes("test")


# The verifier and the reward


def test_the_verifier_reads_clean_scenes_and_finds_each_fault(clean) -> None:
    assert scene_verifier.verify(clean, captions()).all.all()
    shifted = scene_verifier.verify(orbit(arcs(0, scenes.shift)), captions())
    assert shifted.rigid.float().mean() < 0.5
    recoloured = scene_verifier.verify(orbit(arcs(1, scenes.recolour)), captions())
    assert recoloured.rigid.float().mean() < 0.7
    swapped = scene_verifier.verify(orbit(arcs(0, scenes.swap)), captions())
    assert not swapped.relation.any() and swapped.colours.all()


def test_the_reward_falls_with_each_fault_and_with_another_caption(clean) -> None:
    def value(views, words=None):
        return scene_fit.SceneFit()(Samples(views, words or captions(), 8.0)).value

    right = value(clean)
    assert right.min() > 0.8
    for fault in scenes.FAULTS:
        assert value(orbit(arcs(0, fault))).mean() < right.mean() - 0.015, fault
    wrong = [scene.caption.replace(scene.colour, "red") for scene in SCENES]
    other = value(clean, [w if w in scenes._captions() else captions()[0] for w in wrong])
    assert other.mean() < right.mean() - 0.05
    assert value(clean, ["a cat"] * len(clean)).isnan().all()
    assert value(clean[:, :, :1].expand(-1, -1, 3, -1, -1)).max() < 0.4


@pytest.mark.parametrize("fault", scene_fit.SceneFit.lowered_by)
def test_faults_of_films_that_lower_both(clean, fault) -> None:
    """In the mean: two things above each other look alike in many views."""
    worse = torch.stack([corrupt(clip, fault, seed=i) for i, clip in enumerate(clean)])
    for reward in (scene_fit.SceneFit(), scene_verifier.SceneVerifier()):
        assert fault in reward.lowered_by
        before, after = (reward(Samples(x, captions(), 8.0)).value for x in (clean, worse))
        assert after.mean() < before.mean() - 0.2


def test_the_gradient_of_the_reward_moves_a_thing_back_to_its_place() -> None:
    tokens = arcs(0)[:1]
    tokens[:, 1, :8, :3] += 0.5  # the first thing of one arc
    z = tokens.clone().requires_grad_()
    reward, given = scene_fit.SceneFit(), captions()[:1]
    for _ in range(15):
        (slope,) = torch.autograd.grad(reward(Samples(orbit(z), given, 8.0)).value.sum(), z)
        z = (z + 2.0 * slope).detach().requires_grad_()
    before, after = (
        (x[0, 1, :8, :3].mean(0) - x[0, 0, :8, :3].mean(0)).norm() for x in (tokens, z)
    )
    assert after < 0.7 * before


def test_the_judge_is_a_reward_by_its_name(clean) -> None:
    judge = load("vidrl.synthetic.scene_verifier:SceneVerifier")
    assert judge(Samples(clean[:2], captions()[:2], 8.0)).value.tolist() == [1.0, 1.0]
    assert judge(Samples(clean[:2], captions()[1::-1], 8.0)).value.tolist() == [0.0, 0.0]
    assert judge(Samples(clean[:1], ["a cat"], 8.0)).value.isnan().all()


def test_a_reward_of_seams_finds_arcs_that_differ(clean) -> None:
    """Rewards that compare frames compare views: no reward knows what a scene is."""
    seam = load("segment_seam", every=VIEWS // ARCS)
    whole, broken = (
        seam(Samples(views[:4], captions()[:4], 8.0)).value.mean()
        for views in (clean, orbit(arcs(0, scenes.shift)))
    )
    assert broken < whole - 0.1
