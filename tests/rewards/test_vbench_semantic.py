"""VBench's semantic dimensions against plain re-computations of the published arithmetic, at equal random weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vidrl.rewards import Samples, _vbench_semantic
from vidrl.rewards.vbench_appearance_style import VbenchAppearanceStyle
from vidrl.rewards.vbench_overall_consistency import VbenchOverallConsistency
from vidrl.rewards.vbench_temporal_style import VbenchTemporalStyle

pytest.importorskip("transformers")
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def smooth(frames: int, height: int = 40, width: int = 56) -> torch.Tensor:
    """A clip (1, F, 3, H, W) of bytes that changes from one picture to another."""
    draw = torch.Generator().manual_seed(0)
    ends = (torch.rand(1, 3, 9, 11, generator=draw) for _ in range(2))
    start, end = (F.interpolate(picture, (height, width), mode="bilinear") for picture in ends)
    mix = torch.linspace(0, 1, frames).view(-1, 1, 1, 1)
    return ((start * (1 - mix) + end * mix) * 255).round().to(torch.uint8)[None]


def value(reward, video, prompt="", meta=()) -> float:
    return reward(Samples(video, [prompt] * len(video), 8.0, None, meta)).value[0].item()


def published_frames(total: int, count: int) -> list[int]:
    """vbench/utils.py, get_frame_indices with sample="middle"."""
    accepted = min(count, total)
    intervals = np.linspace(start=0, stop=total, num=accepted + 1).astype(int)
    ranges = [(start, intervals[i + 1] - 1) for i, start in enumerate(intervals[:-1])]
    indices = [(first + last) // 2 for first, last in ranges]
    if len(indices) < count:
        padded = [indices[-1]] * count
        padded[: len(indices)] = indices
        indices = padded
    return indices


def test_the_frames_chosen_are_the_published_ones():
    for total in [*range(1, 40), 49, 81, 97, 121, 129, 161, 241]:
        for count in (8, 16):
            assert _vbench_semantic.middle_frames(total, count) == published_frames(total, count)


# --- appearance style ------------------------------------------------------------------------------------------------


def by_pillow(frame: torch.Tensor) -> torch.Tensor:
    """clip_transform_Image(224) of one frame (3, H, W) of bytes: PIL's resize, centre crop, ToTensor, Normalize."""
    image = pytest.importorskip("PIL.Image")
    picture = image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    width, height = picture.size
    size = (224, int(224 * height / width)) if width <= height else (int(224 * width / height), 224)
    picture = picture.resize(size, image.Resampling.BICUBIC)
    left, top = (int(round((side - 224) / 2.0)) for side in picture.size)
    pixels = torch.from_numpy(np.array(picture.crop((left, top, left + 224, top + 224)))).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)


@pytest.mark.parametrize("size", [(40, 56), (56, 40), (300, 450), (224, 300), (512, 512)])
def test_pictures_are_pillows(size):
    noise = torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for frame in (noise, smooth(1, *size)[0]):
        levels = torch.tensor(DEVIATION).view(3, 1, 1) * 255
        away = (_vbench_semantic.pictures_for_clip(frame)[0] - by_pillow(frame[0])).abs() * levels
        assert away.max() < 2.1 and (away > 0.1).float().mean() < 0.02


def published_appearance_style(reward, video, style) -> float:
    """vbench/appearance_style.py: logits_per_text of each frame, over 100, mean over frames."""
    model, words = reward.pair.network.setup(), reward.pair.words()([style], return_tensors="pt")
    with torch.no_grad():
        rows = [model(pixel_values=by_pillow(frame)[None], **words).logits_per_text[0][0] / 100 for frame in video]
    return float(np.mean([float(row) for row in rows]))


@pytest.mark.parametrize("size", [(40, 56), (56, 40), (300, 450), (224, 300), (224, 224)])
def test_appearance_style_is_the_published_number(size):
    reward, video = VbenchAppearanceStyle.tiny(), smooth(3, *size)
    wanted = published_appearance_style(reward, video[0], "oil painting")
    assert value(reward, video) == pytest.approx(wanted, abs=2e-5) and abs(wanted) > 1e-3


def test_the_style_is_that_of_the_clip_then_of_the_option_then_of_the_prompt():
    reward, video = VbenchAppearanceStyle.tiny(), smooth(3)
    pixel, oil, water = (published_appearance_style(reward, video[0], style)
                         for style in ("pixel art", "oil painting", "watercolor painting"))
    assert len({round(pixel, 4), round(oil, 4), round(water, 4)}) == 3
    meta = [{"appearance_style": "watercolor painting"}]
    assert value(reward, video, "a shark, pixel art", meta) == pytest.approx(water, abs=2e-5)
    assert value(reward, video, "a shark, pixel art") == pytest.approx(oil, abs=2e-5)
    reward.style = ""
    assert value(reward, video, "a shark, pixel art") == pytest.approx(pixel, abs=2e-5)
    assert value(reward, video, "a shark, pixel art", [{"shot": 1}]) == pytest.approx(pixel, abs=2e-5)
    both = reward(Samples(video.repeat(2, 1, 1, 1, 1), ["a shark", "a shark, pixel art"], 8.0))
    assert both.value.isnan().tolist() == [True, False] and "no style is known" in both.why[0]
    assert both.value[1].item() == pytest.approx(pixel, abs=2e-5)


def test_appearance_style_in_pieces_is_that_of_the_whole():
    reward, video = VbenchAppearanceStyle.tiny(), smooth(7)
    stream = reward.stream(8.0, "a shark")
    for piece in video[0].split(3):
        stream.update(piece)
    assert stream.result().value.item() == pytest.approx(value(reward, video, "a shark"), abs=1e-6)


# --- overall consistency and temporal style --------------------------------------------------------------------------


def clip_transform(frames: torch.Tensor) -> torch.Tensor:
    """clip_transform(224) of bytes (T, 3, H, W): torchvision's resize of a uint8 tensor, which rounds and clamps."""
    height, width = frames.shape[-2:]
    size = (224, int(224 * width / height)) if height <= width else (int(224 * height / width), 224)
    resized = F.interpolate(frames.float(), size=size, mode="bicubic", align_corners=False, antialias=False)
    resized = torch.round(resized.clamp(min=0, max=255)).to(torch.uint8)
    top, left = (int(round((side - 224) / 2.0)) for side in size)
    pixels = resized[:, :, top : top + 224, left : left + 224].float().div(255.0)
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)


def published_viclip(reward, video, prompt) -> float:
    """vbench/overall_consistency.py and temporal_style.py, which compute the same, of one clip (F, 3, H, W)."""
    images = clip_transform(video[published_frames(len(video), 8)])
    model = reward.pair.network.setup()
    words = reward.pair.words()(prompt, padding="max_length", truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        clip_feat, text_feat = model.video(images[None]).float(), model.text(words.input_ids).float()
    clip_feat /= clip_feat.norm(dim=-1, keepdim=True)
    text_feat /= text_feat.norm(dim=-1, keepdim=True)
    return float((clip_feat @ text_feat.T)[0][0])


def noise(frames: int, height: int, width: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (1, frames, 3, height, width), generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize("cls", [VbenchOverallConsistency, VbenchTemporalStyle])
@pytest.mark.parametrize(("frames", "size"), [(1, (40, 56)), (5, (56, 40)), (8, (300, 240)), (19, (40, 56))])
def test_viclips_dimensions_are_the_published_number(cls, frames, size):
    reward, prompt = cls.tiny(), "a red ball, zoom in"
    for video in (noise(frames, *size), smooth(frames, *size)):
        wanted = published_viclip(reward, video[0], prompt)
        assert value(reward, video, prompt) == pytest.approx(wanted, abs=1e-6) and abs(wanted) > 1e-3


def test_frames_for_viclip_are_whole_grey_levels_without_antialiasing():
    for frames in (noise(2, 300, 450)[0], smooth(2, 40, 56)[0]):
        ours = _vbench_semantic.frames_for_viclip(frames)
        torch.testing.assert_close(ours, clip_transform(frames), atol=1e-6, rtol=0)


def test_only_the_eight_frames_count_and_a_clip_without_prompt_is_unscored():
    reward, video = VbenchOverallConsistency.tiny(), noise(19, 40, 56)
    changed = video.clone()
    changed[:, [i for i in range(19) if i not in published_frames(19, 8)]] = 0
    assert value(reward, changed, "a ball") == value(reward, video, "a ball")
    assert value(reward, video, "a cat") != value(reward, video, "a ball")
    both = reward(Samples(video.repeat(2, 1, 1, 1, 1), [" ", "a ball"], 8.0))
    assert both.value.isnan().tolist() == [True, False] and both.why[0].startswith("inapplicable: needs the prompt")
    assert both.value[1].item() == pytest.approx(value(reward, video, "a ball"), abs=1e-6)
