"""VMAF calls ffmpeg and reads its answer, with a stand-in for ffmpeg.

Real clips are scored where ffmpeg has VMAF.
"""

import importlib.util
import json
import stat
import sys

import pytest
import torch
from _real import clip

from vidrl.rewards import Samples
from vidrl.rewards.vmaf import CURE, Vmaf, call, parsed, raw
from vidrl.synthetic import corruptions

STAND_IN = """#!{python}
import json, os, sys, time
if "-filters" in sys.argv:
    print(" .. libvmaf           VV->V      Calculate the VMAF" if {knows} else " .. psnr  VV->V")
    sys.exit(0)
json.dump(sys.argv[1:], open({seen!r}, "w"))
{then}
size = os.path.getsize("clip")
assert size == os.path.getsize("reference")
width, height = map(int, sys.argv[sys.argv.index("-s") + 1].split("x"))
frames = [{{"metrics": {{"vmaf": 100.0 - 10 * t}}}} for t in range(size // (3 * width * height))]
json.dump({{"frames": frames}}, open("vmaf.json", "w"))
"""


@pytest.fixture
def stand_in(tmp_path):
    def make(knows=True, then=""):
        path = tmp_path / "ffmpeg"
        path.write_text(
            STAND_IN.format(
                python=sys.executable, knows=knows, then=then, seen=str(tmp_path / "seen")
            )
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


def clips(frames=3):
    return torch.rand(1, frames, 3, 16, 20)


@pytest.fixture(scope="module")
def real():
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        pytest.skip(CURE)
    reward = Vmaf()
    try:
        reward.setup()
    except ImportError as error:
        pytest.skip(str(error))
    return reward


def test_the_log_becomes_the_curve(stand_in, tmp_path):
    score = Vmaf(ffmpeg=stand_in())(Samples(clips(), [""], 8.0, reference=clips()))
    assert score.frames.tolist() == [[100.0, 90.0, 80.0]] and score.value.item() == pytest.approx(
        90.0
    )
    seen = json.loads((tmp_path / "seen").read_text())
    assert (
        "20x16" in seen
        and seen[seen.index("-r") + 1] == "8"
        and "version=vmaf_v0.6.1neg" in seen[-4]
    )


def test_the_reference_is_resized_and_may_be_bytes(stand_in):
    other = torch.randint(0, 256, (1, 3, 3, 40, 50), dtype=torch.uint8)
    assert Vmaf(ffmpeg=stand_in())(
        Samples(clips(), [""], 8.0, reference=other)
    ).value.item() == pytest.approx(90.0)


def test_without_a_reference_or_with_another_length_it_does_not_apply(stand_in):
    alone = Vmaf(ffmpeg=stand_in())(Samples(clips(), [""], 8.0))
    assert (
        alone.value.isnan().all()
        and alone.why[0].startswith("inapplicable")
        and "reference" in alone.why[0]
    )
    short = Vmaf(ffmpeg=stand_in())(Samples(clips(), [""], 8.0, reference=clips(2)))
    assert short.why[0] == "inapplicable: needs a reference of 3 frames, got 2"
    still = Vmaf(ffmpeg=stand_in(), still=True)(Samples(clips(), [""], 8.0, reference=clips(1)))
    assert still.value.item() == pytest.approx(90.0)


def test_what_goes_wrong_is_said(stand_in):
    failed = Vmaf(ffmpeg=stand_in(then="sys.exit('no such model')"))(
        Samples(clips(), [""], 8.0, reference=clips())
    )
    assert failed.value.isnan().all() and "ffmpeg failed: no such model" in failed.why[0]
    slow = Vmaf(ffmpeg=stand_in(then="time.sleep(9)"), limit=0.5)(
        Samples(clips(), [""], 8.0, reference=clips())
    )
    assert slow.value.isnan().all() and "more than 0.5 seconds" in slow.why[0]
    assert "something else" in parsed("{}", 2) and "expected 2 frames" in parsed(
        '{"frames": []}', 2
    )


def test_an_ffmpeg_that_cannot_is_named_with_the_cure(stand_in):
    with pytest.raises(ImportError, match="pip install .*\\[vmaf\\].*has no libvmaf"):
        Vmaf(ffmpeg=stand_in(knows=False)).setup()
    with pytest.raises(ImportError, match="does not run"):
        Vmaf(ffmpeg="/no/such/ffmpeg").setup()
    with pytest.raises(ValueError, match="model"):
        Vmaf(model="a:b=c")


def test_no_shell_and_bytes_in_order():
    arguments = call("ffmpeg", 20, 16, 29.97, "vmaf_v0.6.1")
    assert isinstance(arguments, list) and all(isinstance(a, str) for a in arguments)
    frame = torch.tensor([0.0, 1.0, 0.2]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    assert raw(frame) == bytes([0, 255, 51, 0, 255, 51])


def test_on_real_clips(real):
    pristine, fps = clip("carphone_pristine", 0, 12)
    distorted, _ = clip("carphone_distorted", 0, 12)
    same, worse = real(
        Samples(
            torch.stack([pristine, distorted]),
            [""] * 2,
            fps,
            reference=torch.stack([pristine, pristine]),
        )
    ).value.tolist()
    assert same > 97 and worse < 60


@pytest.mark.parametrize("fault", Vmaf.lowered_by)
def test_lowered_by_what_it_says(real, fault):
    video, fps = clip("bikes", 140, 143)
    bad = corruptions.corrupt(video, fault, seed=0)
    values = real(
        Samples(torch.stack([video, bad]), [""] * 2, fps, reference=torch.stack([video, video]))
    ).value
    assert values[1] < values[0] - 3


def test_sharpening_does_not_pay_by_default(real):
    video, fps = clip("bikes", 140, 143)
    sharp = corruptions.corrupt(video, "sharpen", seed=0)
    samples = Samples(sharp[None], [""], fps, reference=video[None])
    assert (
        real(samples).value.item()
        <= real(Samples(video[None], [""], fps, reference=video[None])).value.item()
    )
