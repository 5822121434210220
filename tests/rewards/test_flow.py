"""The flow equals known motion, and its geometry equals plain loops."""

import math
import sys
import types

import cv2
import pytest
import torch

from vidrl.rewards import Composite, Samples, default, dynamic_degree, flow, warp_error
from vidrl.rewards._flow import estimators, planes
from vidrl.rewards._flow import raft as _raft
from vidrl.rewards._flow.camera import camera
from vidrl.rewards._flow.things import less_camera
from vidrl.rewards.flicker import Flicker
from vidrl.rewards.warp_error import WarpError
from vidrl.synthetic import corruptions, world


def cloud(frames: int, dx: float, dy: float, size: int = 48) -> torch.Tensor:
    """A smooth texture that moves by (dx, dy) pixels a frame, (1, F, 3, H, W)."""
    waves = torch.rand(12, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    t = torch.arange(frames)[:, None, None] / size
    u, v = x - dx * t, y - dy * t
    planes = [
        sum(torch.sin(25 * (a * u + b * v) + 9 * c * (k + 1) + d) for a, b, c, d in waves)
        for k in range(3)
    ]
    return 0.5 + 0.06 * torch.stack(planes, 1)[None]


def inner(field: torch.Tensor, margin: int = 6) -> torch.Tensor:
    return field[..., margin:-margin, margin:-margin]


@pytest.mark.parametrize("method", ["dis", "dis_fast", "farneback", "torch"])
@pytest.mark.parametrize(("dx", "dy"), [(1.5, 0.0), (-0.6, 1.1)])
def test_translation_is_found_both_ways(method, dx, dy):
    motion = flow.estimate(cloud(3, dx, dy), method)
    truth = torch.tensor([dx, dy]).view(1, 1, 2, 1, 1)
    assert inner(flow.length(motion.forward - truth)).mean() < 0.15
    assert inner(flow.length(motion.backward + truth)).mean() < 0.15


def test_world_objects_are_followed():
    """End-point error on objects and textured ground; half a pixel would be a plain failure
    at these speeds."""
    errors = {"object": [], "ground": []}
    for i, scene in enumerate(
        s for s in world.scenes("train", 40, 3) if s.motion in ("left", "right", "up", "down")
    ):
        clip = world.render(scene, frames=5, seed=i)
        wrong = flow.length(flow.estimate(clip.video[None]).forward[0] - clip.flow)
        seen = ~clip.occluded
        errors["object"].append(wrong[(clip.mask[:-1] > 0.5) & seen].mean())
        if scene.background in ("striped", "speckled"):
            errors["ground"].append(wrong[(clip.mask[:-1] < 0.01) & seen].mean())
    assert (
        torch.stack(errors["object"]).mean() < 0.25 and torch.stack(errors["ground"]).mean() < 0.25
    )


def test_dimming_and_flattening_leave_the_flow():
    clip = world.render(world.Scene("cross", "red", "left", "fast", "striped"), frames=4).video[
        None
    ]
    forward = flow.estimate(clip).forward
    for other in (clip * 0.4, clip * 0.6 + 0.2):
        assert flow.length(flow.estimate(other).forward - forward).mean() < 0.1


def test_a_shape_as_bright_as_its_ground_is_seen():
    """Same mean of channels inside and out: no edge in grey."""
    clip = world.render(world.Scene("square", "red", "right", "fast", "dark"), frames=4)
    colour = torch.tensor([0.8, 0.3, 0.4]).view(3, 1, 1)
    video = 0.5 + clip.mask[:, None] * (colour - 0.5)
    wrong = flow.length(flow.estimate(video[None]).forward[0] - clip.flow)
    assert wrong[(clip.mask[:-1] > 0.5)].mean() < 0.3


def test_still_ground_under_a_moving_thing_rests():
    clip = world.render(
        world.Scene("circle", "yellow", "down", "fast", "striped"), size=64, frames=4
    )
    found = flow.estimate(clip.video[None]).forward[0]
    far = torch.nn.functional.max_pool2d(clip.mask[:-1], 17, 1, 8) == 0
    assert flow.length(found)[far].mean() < 0.1


def test_threads_of_opencv_change_nothing_and_are_put_back():
    video, threads = cloud(3, 1.0, 0.5), cv2.getNumThreads()
    try:
        found = []
        for count in (1, 4):
            cv2.setNumThreads(count)
            found.append(flow.estimate(video).forward)
            assert cv2.getNumThreads() == count
        assert torch.equal(*found)
    finally:
        cv2.setNumThreads(threads)


def test_one_flow_a_clip_for_the_whole_composite_and_for_others_built_apart(monkeypatch):
    """The flow of each pair of frames is computed once for all rewards of the same samples.

    This holds for the parts of a composite and for two rewards built elsewhere.
    """
    pairs, real = [], estimators._pair
    monkeypatch.setattr(estimators, "_pair", lambda *a: pairs.append(1) or real(*a))
    samples = Samples(cloud(5, 1, 0, 16), ["clouds go by"], 8.0)
    default()(samples)
    WarpError()(samples)
    Composite({"flicker": Flicker(), "again": WarpError(relative=True)})(samples)
    assert len(pairs) == 4
    WarpError(flow="dis_fast")(samples)
    assert len(pairs) == 8


def test_phases_of_a_clip_share_their_flow_too(monkeypatch):
    pairs, real = [], estimators._pair
    monkeypatch.setattr(estimators, "_pair", lambda *a: pairs.append(1) or real(*a))
    samples = Samples(cloud(15, 1, 0, 16), ["clouds go by"], 24.0)
    default()(samples)
    Flicker()(samples)
    assert len(pairs) == 15 - 3  # three phases of five frames


def test_big_frames_are_measured_at_the_size_asked_for():
    motion = flow.estimate(torch.rand(1, 2, 3, 90, 120), size=45)
    assert motion.frames.shape[-2:] == (45, 60) and motion.forward.shape[-2:] == (45, 60)
    assert motion.diagonal == pytest.approx(75.0)


def test_unknown_method():
    with pytest.raises(
        ValueError, match="dis, dis_fast, farneback, torch, raft:PATH, or a function, got 'pwc'"
    ):
        flow.estimate(torch.rand(1, 2, 3, 16, 16), "pwc")


def test_warp_takes_from_where_the_flow_points():
    image, shift = torch.rand(1, 3, 7, 9), torch.zeros(1, 2, 7, 9)
    shift[:, 0], shift[:, 1] = 2.0, -1.0
    assert torch.allclose(flow.warp(image, shift)[..., 1:, :-2], image[..., :-1, 2:], atol=1e-5)
    half = flow.warp(image, torch.full((1, 2, 7, 9), 0.5), "bilinear")[0, 0, 2, 3]
    assert half == pytest.approx(image[0, 0, 2:4, 3:5].mean().item(), abs=1e-5)


def lai_masks(there, back):
    """Lai's occlusion and moving edge by loops over pixels, flows (2, H, W)."""
    _, height, width = there.shape
    occluded, edge = (
        torch.zeros(height, width, dtype=torch.bool),
        torch.zeros(height, width, dtype=torch.bool),
    )
    for y in range(height):
        for x in range(width):
            fx, fy = there[:, y, x].tolist()
            u, v = min(max(x + fx, 0.0), width - 1.0), min(max(y + fy, 0.0), height - 1.0)
            x0, y0 = min(int(u), width - 2), min(int(v), height - 2)
            a, b = u - x0, v - y0
            top = [(y0, x0, (1 - a) * (1 - b)), (y0, x0 + 1, a * (1 - b))]
            corners = [*top, (y0 + 1, x0, (1 - a) * b), (y0 + 1, x0 + 1, a * b)]
            wx, wy = (sum(w * back[k, r, c].item() for r, c, w in corners) for k in (0, 1))
            slack = 0.01 * (wx**2 + wy**2 + fx**2 + fy**2) + 0.5
            left = not (-0.5 <= x + fx <= width - 0.5 and -0.5 <= y + fy <= height - 0.5)
            occluded[y, x] = (wx + fx) ** 2 + (wy + fy) ** 2 > slack or left
            gx = there[:, y, x + 1] - there[:, y, x] if x + 1 < width else torch.zeros(2)
            gy = there[:, y + 1, x] - there[:, y, x] if y + 1 < height else torch.zeros(2)
            edge[y, x] = (gx**2).sum() + (gy**2).sum() > 0.01 * (fx**2 + fy**2) + 0.002
    return occluded, edge


def test_lai_masks_are_the_published_ones():
    draw = torch.Generator().manual_seed(4)
    there = torch.nn.functional.interpolate(
        torch.randn(1, 2, 4, 4, generator=draw) * 1.5, 14, mode="bicubic"
    )[0]
    back = -there + 0.5 * torch.randn(2, 14, 14, generator=draw)
    occluded, edge = lai_masks(there, back)
    assert torch.equal(flow.occluded(there[None], back[None])[0], occluded)
    assert torch.equal(flow.moving_edge(there[None])[0], edge)
    assert 0 < occluded.sum() < occluded.numel() and 0 < edge.sum() < edge.numel()


def test_the_camera_is_told_from_a_thing():
    """A texture that slides everywhere is camera motion; a thing on plain ground is not."""
    slide = flow.estimate(cloud(3, 2.0, 0.0))
    assert slide.camera_forward[0, 0, 0].mean().item() == pytest.approx(2.0, abs=0.15)
    thing = flow.estimate(
        world.render(world.Scene("circle", "red", "right", "fast"), frames=4).video[None]
    )
    assert thing.camera_forward.abs().max() == 0


def test_means_around_a_pixel_shrink_at_the_border():
    image = torch.rand(1, 1, 1, 10, 10)
    found = flow.around(image, 0.2)
    assert found[0, 0, 0, 5, 5] == pytest.approx(image[0, 0, 0, 4:7, 4:7].mean().item())
    assert found[0, 0, 0, 0, 0] == pytest.approx(image[0, 0, 0, :2, :2].mean().item())


def test_corruption_of_light_is_no_motion():
    still = cloud(1, 0, 0)[0].expand(6, -1, -1, -1)
    flickering = corruptions.corrupt(still, "flicker", 0.5)
    assert flow.length(flow.estimate(flickering[None]).forward).mean() < 0.3 and math.isfinite(
        flickering.sum()
    )


def slide(first, second):
    """Return a flow function that records its inputs."""
    slide.calls.append((tuple(first.shape), first.dtype))
    gain = (second - first).mean((1, 2, 3))
    return gain[:, None, None, None].expand(-1, 2, *first.shape[-2:])


def test_any_function_is_an_estimator(monkeypatch):
    """Both ways in one call, `pairs` at a time, three channels; there and back are not
    mixed up."""
    monkeypatch.setattr(slide, "calls", [], raising=False)
    monkeypatch.setattr(flow, "zero_where_still", lambda f, first, second: (f, second))
    light = torch.tensor([[0.1, 0.2, 0.4], [0.9, 0.8, 0.5]])
    video = light[:, :, None, None, None].expand(-1, -1, 1, 12, 16)
    motion = flow.estimate(video, slide, pairs=3)
    assert slide.calls == [((6, 3, 12, 16), torch.float32), ((2, 3, 12, 16), torch.float32)]
    assert torch.allclose(motion.forward[:, :, 0, 0, 0], light.diff(dim=1))
    assert torch.allclose(motion.backward, -motion.forward)
    assert motion.forward.shape == (2, 2, 2, 12, 16)


def test_a_function_of_another_shape_is_refused():
    with pytest.raises(
        ValueError,
        match=r"expected the flow function to return \(4, 2, 16, 16\), got \(4, 16, 16\)",
    ):
        flow.estimate(torch.rand(1, 3, 3, 16, 16), lambda a, b: a[:, 0])


@pytest.mark.parametrize("method", ["dis", "torch", lambda a, b: a[:, :2]])
def test_one_frame_has_no_flow(method):
    assert flow.estimate(torch.rand(2, 1, 3, 16, 20), method).forward.shape == (2, 0, 2, 16, 20)


def test_bytes_are_measured_as_floats_are():
    clip = (cloud(3, 1.5, 0.5, 60) * 255).round().byte()
    for size in (60, 30):
        bytes_, floats = (
            flow.estimate(clip, size=size),
            flow.estimate(clip.float() / 255, size=size),
        )
        assert (bytes_.frames - floats.frames).abs().max() <= 1.01 / 255
        assert flow.length(bytes_.forward - floats.forward).mean() < 0.02


def test_the_changing_colour_is_the_principal_axis_of_edges():
    """Against the matrix written out, of gradients of the change and of both frames."""
    frames = torch.rand(3, 3, 9, 11, generator=torch.Generator().manual_seed(5))
    for t, axis in enumerate(estimators.changing_colour(frames)):
        change, stay = frames[t + 1] - frames[t], 0.2 * frames[t : t + 2]
        steps = [step for x in (change, *stay) for step in (x.diff(dim=-1), x.diff(dim=-2))]
        edges = torch.cat([step.flatten(1) for step in steps], 1).double()
        expected = torch.linalg.svd(edges).U[:, 0]
        assert abs(float(expected @ axis.double())) == pytest.approx(1, abs=1e-5) and axis.sum() > 0


class Network(torch.nn.Module):
    """A stand-in for RAFT, which records its inputs and returns a flow from bright to dark."""

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Conv2d(6, 2, 1)
        self.seen = []

    def forward(self, first, second):
        self.seen.append((tuple(first.shape), first.min().item(), first.max().item()))
        last = self.mix(torch.cat([first, second], 1))
        return [torch.zeros_like(last), last]


@pytest.fixture
def raft_file(tmp_path, monkeypatch):
    """A file of weights, and a torchvision that is not there."""
    torch.manual_seed(0)
    torch.save(Network().state_dict(), tmp_path / "raft.pth")
    stub = types.ModuleType("torchvision.models.optical_flow")
    stub.raft_large = lambda weights, progress: Network()
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", stub)
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    _raft._read.cache_clear()
    yield tmp_path / "raft.pth"
    _raft._read.cache_clear()


def test_raft_pads_scales_and_crops(raft_file, monkeypatch):
    monkeypatch.setattr(flow, "zero_where_still", lambda f, first, second: (f, second))
    video = torch.rand(1, 3, 3, 36, 150)
    motion = flow.estimate(video, f"raft:{raft_file}")
    raft = _raft.load(str(raft_file))
    ((shape, low, high),) = raft.network.seen
    assert shape == (4, 3, 128, 152) and -1 <= low < -0.9 and 0.9 < high <= 1
    both = torch.cat([video[0, :2], video[0, 1:]], 1) * 2 - 1
    assert torch.allclose(motion.forward[0], raft.network.mix(both), atol=1e-5)
    monkeypatch.setenv("VIDRL_RAFT", str(raft_file))
    assert torch.equal(flow.estimate(video, "raft").forward, motion.forward)


def test_raft_says_what_it_lacks(raft_file, monkeypatch):
    video = torch.rand(1, 2, 3, 16, 16)
    monkeypatch.delenv("VIDRL_RAFT", raising=False)
    with pytest.raises(ValueError, match="raft:/path/to/raft_large.pth"):
        flow.estimate(video, "raft")
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        flow.estimate(video, "raft:nowhere.pth")
    torch.save({"other": torch.zeros(1)}, raft_file.with_name("other.pth"))
    with pytest.raises(ValueError, match="expected a state dict of torchvision's raft_large"):
        flow.estimate(video, f"raft:{raft_file.with_name('other.pth')}")
    _raft._read.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        flow.estimate(video, f"raft:{raft_file}")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_opencv_on_the_cpu_says_the_same_as_torch(channels):
    """Warps far beyond the border, means and quantiles, in float64 by torch against float32
    by OpenCV and numpy."""
    draw = torch.Generator().manual_seed(5)
    image, shift = (
        torch.rand(2, 3, channels, 20, 31, generator=draw),
        6 * torch.randn(2, 3, 2, 20, 31, generator=draw),
    )
    jobs = [
        lambda x, f: flow.warp(x, f),
        lambda x, f: flow.warp(x, f, "bilinear"),
        lambda x, f: flow.warp(f, f, "bilinear"),
        lambda x, f: flow.around(x, 0.3),
        lambda x, f: flow.quantile(x.flatten(2), 0.95),
    ]
    fast = [job(image, shift) for job in jobs]
    for found, job in zip(fast, jobs, strict=True):
        torch.testing.assert_close(
            found.double(), job(image.double(), shift.double()), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_kernels_of_one_picture_say_the_same_as_tensors_of_the_batch(channels, monkeypatch):
    """Rest, occlusion, contrast, residuals, speeds and the camera's fit, with and without."""
    draw = torch.Generator().manual_seed(6)
    rough = torch.rand(8, channels, 12, 16, generator=draw)
    frames = torch.nn.functional.interpolate(rough, size=(60, 83), mode="bicubic").clamp(0, 1)
    frames = frames.view(2, 4, channels, 60, 83)
    bends = torch.randn(6, 2, 5, 6, generator=draw) * 3 + 2
    there = torch.nn.functional.interpolate(bends, size=(60, 83), mode="bicubic")
    there = there.view(2, 3, 2, 60, 83)
    back = 0.3 * torch.randn(there.shape, generator=draw) - there

    def measured() -> dict[str, torch.Tensor]:
        motion = flow.Motion(frames, there, back)
        kept, warped = flow.zero_where_still(there, frames[:, :-1], frames[:, 1:])
        fit = camera(there, frames[:, :-1], motion.structure[:, :-1], motion.contrast[:, :-1])
        found = {"kept": kept, "warped": warped, "camera": fit.numbers, "agree": fit.agreement}
        found |= {"changes": warp_error.changes(motion)}
        moving = less_camera(motion, ["", "the camera pans"])
        found |= {"speeds": dynamic_degree.speeds(moving, motion.hold)}
        found |= {"calm": dynamic_degree.calm(motion), "panned": dynamic_degree.panned(motion)}
        names = ("seen_later", "seen_earlier", "edges", "contrast", "returned", "hold")
        return found | {name: getattr(motion, name) for name in names}

    fast = measured()
    monkeypatch.setattr(planes, "fits", lambda *_: False)
    slow = measured()
    assert 0.1 < slow["seen_later"].float().mean() < 0.9 and (slow["kept"] == 0).any()
    assert slow["camera"].abs().max() > 1e-3 and slow["speeds"].min() > 0.1
    assert slow["changes"].min() > 0 and 0 < slow["calm"].min() < slow["calm"].max() < 1
    for name, found in fast.items():
        # contrast is a small difference of squares, which float32 holds to about 1e-4;
        # the camera is fitted with it
        loose = 5e-4 if name in ("contrast", "agree", "speeds", "panned", "calm") else 2e-5
        torch.testing.assert_close(found, slow[name], atol=loose, rtol=1e-5)
