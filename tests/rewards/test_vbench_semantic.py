"""VBench's semantic dimensions against plain re-computations of the published arithmetic,
at equal random weights."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vidrl.rewards import Samples
from vidrl.rewards._vbench import kinetics, semantic, umt
from vidrl.rewards.vbench_appearance_style import VbenchAppearanceStyle
from vidrl.rewards.vbench_human_action import VbenchHumanAction, asked, prepared, sure
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
            assert semantic.middle_frames(total, count) == published_frames(total, count)


# --- appearance style


def by_pillow(frame: torch.Tensor) -> torch.Tensor:
    """clip_transform_Image(224) of one frame (3, H, W) of bytes: PIL's resize, centre crop,
    ToTensor, Normalize."""
    image = pytest.importorskip("PIL.Image")
    picture = image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    width, height = picture.size
    size = (224, int(224 * height / width)) if width <= height else (int(224 * width / height), 224)
    picture = picture.resize(size, image.Resampling.BICUBIC)
    left, top = (int(round((side - 224) / 2.0)) for side in picture.size)
    pixels = (
        torch.from_numpy(np.array(picture.crop((left, top, left + 224, top + 224)))).permute(
            2, 0, 1
        )
        / 255
    )
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)


@pytest.mark.parametrize("size", [(40, 56), (56, 40), (300, 450), (224, 300), (512, 512)])
def test_pictures_are_pillows(size):
    noise = torch.randint(
        0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    for frame in (noise, smooth(1, *size)[0]):
        levels = torch.tensor(DEVIATION).view(3, 1, 1) * 255
        away = (semantic.pictures_for_clip(frame)[0] - by_pillow(frame[0])).abs() * levels
        assert away.max() < 2.1 and (away > 0.1).float().mean() < 0.02


def published_appearance_style(reward, video, style) -> float:
    """vbench/appearance_style.py: logits_per_text of each frame, over 100, mean over
    frames."""
    model, words = reward.pair.network.setup(), reward.pair.words()([style], return_tensors="pt")
    with torch.no_grad():
        rows = [
            model(pixel_values=by_pillow(frame)[None], **words).logits_per_text[0][0] / 100
            for frame in video
        ]
    return float(np.mean([float(row) for row in rows]))


@pytest.mark.parametrize("size", [(40, 56), (56, 40), (300, 450), (224, 300), (224, 224)])
def test_appearance_style_is_the_published_number(size):
    reward, video = VbenchAppearanceStyle.tiny(), smooth(3, *size)
    wanted = published_appearance_style(reward, video[0], "oil painting")
    assert value(reward, video) == pytest.approx(wanted, abs=2e-5) and abs(wanted) > 1e-3


def test_the_style_is_that_of_the_clip_then_of_the_prompt_then_of_the_option():
    reward, video = VbenchAppearanceStyle.tiny(), smooth(3)
    pixel, oil, water = (
        published_appearance_style(reward, video[0], style)
        for style in ("pixel art", "oil painting", "watercolor painting")
    )
    assert len({round(pixel, 4), round(oil, 4), round(water, 4)}) == 3
    meta = [{"appearance_style": "watercolor painting"}]
    assert value(reward, video, "a shark, pixel art", meta) == pytest.approx(water, abs=2e-5)
    assert value(reward, video, "a shark, pixel art", [{"shot": 1}]) == pytest.approx(
        pixel, abs=2e-5
    )
    assert value(reward, video, "a shark") == pytest.approx(oil, abs=2e-5)
    reward.style = ""
    both = reward(Samples(video.repeat(2, 1, 1, 1, 1), ["a shark", "a shark, pixel art"], 8.0))
    assert both.value.isnan().tolist() == [True, False] and "no style is known" in both.why[0]
    assert both.value[1].item() == pytest.approx(pixel, abs=2e-5)


def test_appearance_style_in_pieces_is_that_of_the_whole():
    reward, video = VbenchAppearanceStyle.tiny(), smooth(7)
    stream = reward.stream(8.0, "a shark")
    for piece in video[0].split(3):
        stream.update(piece)
    assert stream.result().value.item() == pytest.approx(value(reward, video, "a shark"), abs=1e-6)


# --- overall consistency and temporal style


def clip_transform(frames: torch.Tensor) -> torch.Tensor:
    """clip_transform(224) of bytes (T, 3, H, W): torchvision's resize of a uint8 tensor,
    which rounds and clamps."""
    height, width = frames.shape[-2:]
    size = (224, int(224 * width / height)) if height <= width else (int(224 * height / width), 224)
    resized = F.interpolate(
        frames.float(), size=size, mode="bicubic", align_corners=False, antialias=False
    )
    resized = torch.round(resized.clamp(min=0, max=255)).to(torch.uint8)
    top, left = (int(round((side - 224) / 2.0)) for side in size)
    pixels = resized[:, :, top : top + 224, left : left + 224].float().div(255.0)
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)


def published_viclip(reward, video, prompt) -> float:
    """vbench/overall_consistency.py and temporal_style.py, which compute the same, of one
    clip (F, 3, H, W)."""
    images = clip_transform(video[published_frames(len(video), 8)])
    model = reward.pair.network.setup()
    words = reward.pair.words()(
        prompt, padding="max_length", truncation=True, max_length=32, return_tensors="pt"
    )
    with torch.no_grad():
        clip_feat, text_feat = (
            model.video(images[None]).float(),
            model.text(words.input_ids).float(),
        )
    clip_feat /= clip_feat.norm(dim=-1, keepdim=True)
    text_feat /= text_feat.norm(dim=-1, keepdim=True)
    return float((clip_feat @ text_feat.T)[0][0])


def noise(frames: int, height: int, width: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (1, frames, 3, height, width), generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize("cls", [VbenchOverallConsistency, VbenchTemporalStyle])
@pytest.mark.parametrize(
    ("frames", "size"), [(2, (40, 56)), (5, (56, 40)), (8, (300, 240)), (19, (40, 56))]
)
def test_viclips_dimensions_are_the_published_number(cls, frames, size):
    reward, prompt = cls.tiny(), "a red ball, zoom in"
    for video in (noise(frames, *size), smooth(frames, *size)):
        wanted = published_viclip(reward, video[0], prompt)
        assert (
            value(reward, video, prompt) == pytest.approx(wanted, abs=1e-6) and abs(wanted) > 1e-3
        )


def test_frames_for_viclip_are_whole_grey_levels_without_antialiasing():
    for frames in (noise(2, 300, 450)[0], smooth(2, 40, 56)[0]):
        ours = semantic.frames_for_viclip(frames)
        torch.testing.assert_close(ours, clip_transform(frames), atol=1e-6, rtol=0)


def test_only_the_eight_frames_count_and_a_clip_without_prompt_is_unscored():
    reward, video = VbenchOverallConsistency.tiny(), noise(19, 40, 56)
    changed = video.clone()
    changed[:, [i for i in range(19) if i not in published_frames(19, 8)]] = 0
    assert value(reward, changed, "a ball") == value(reward, video, "a ball")
    assert value(reward, video, "a cat") != value(reward, video, "a ball")
    both = reward(Samples(video.repeat(2, 1, 1, 1, 1), [" ", "a ball"], 8.0))
    assert both.value.isnan().tolist() == [True, False] and both.why[0].startswith(
        "inapplicable: needs the prompt"
    )
    assert both.value[1].item() == pytest.approx(value(reward, video, "a ball"), abs=1e-6)


# --- human action


def random_umt(
    classes: int = 400, width: int = 16, patch: int = 112, layers: int = 2
) -> dict[str, torch.Tensor]:
    """Random weights under the names of UMT's file."""
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "patch_embed.proj.weight": (width, 3, 1, patch, patch),
        "patch_embed.proj.bias": (width,),
        "fc_norm.weight": (width,),
        "fc_norm.bias": (width,),
        "head.weight": (classes, width),
        "head.bias": (classes,),
    }
    for i in range(layers):
        block = {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.q_bias": (width,),
            "attn.v_bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
        }
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    scale = {name: 4.0 if name.startswith("head") else 0.3 for name in shapes}
    return {
        name: scale[name] * torch.randn(shape, generator=draw) for name, shape in shapes.items()
    }


def published_positions(patches: int, width: int) -> torch.Tensor:
    """modeling_finetune.py, get_sinusoid_encoding_table with cur_frame=16: 8 frames of
    codes, stretched."""
    table = np.array(
        [
            [p / np.power(10000, 2 * (j // 2) / width) for j in range(width)]
            for p in range(8 * patches)
        ]
    )
    table[:, 0::2], table[:, 1::2] = np.sin(table[:, 0::2]), np.cos(table[:, 1::2])
    side = int(patches**0.5)
    codes = torch.tensor(table, dtype=torch.float).reshape(-1, 8, side, side, width)
    codes = F.interpolate(
        codes.permute(0, 2, 3, 4, 1).reshape(-1, width, 8), size=16, mode="linear"
    )
    return codes.reshape(1, side, side, width, 16).permute(0, 4, 1, 2, 3).flatten(1, 3)


def published_umt(state, video: torch.Tensor, heads: int) -> torch.Tensor:
    """modeling_finetune.py's VisionTransformer.forward of (N, 3, 16, 224, 224), with mean
    pooling and eps 1e-6."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    weight = state["patch_embed.proj.weight"]
    x = (
        F.conv3d(video, weight, state["patch_embed.proj.bias"], stride=weight.shape[2:])
        .flatten(2)
        .transpose(1, 2)
    )
    count, tokens, width = x.shape
    x = x + published_positions(tokens // 16, width)
    for i in range(
        1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    ):
        at = f"blocks.{i}."
        bias = torch.cat([state[f"{at}attn.q_bias"], torch.zeros(width), state[f"{at}attn.v_bias"]])
        qkv = F.linear(norm(x, f"{at}norm1"), state[f"{at}attn.qkv.weight"], bias)
        q, k, v = qkv.reshape(count, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        weights = ((q * (width // heads) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        seen = (weights @ v).transpose(1, 2).reshape(count, tokens, -1)
        x = x + F.linear(seen, state[f"{at}attn.proj.weight"], state[f"{at}attn.proj.bias"])
        inner = F.gelu(
            F.linear(
                norm(x, f"{at}norm2"), state[f"{at}mlp.fc1.weight"], state[f"{at}mlp.fc1.bias"]
            )
        )
        x = x + F.linear(inner, state[f"{at}mlp.fc2.weight"], state[f"{at}mlp.fc2.bias"])
    return F.linear(norm(x.mean(1), "fc_norm"), state["head.weight"], state["head.bias"])


def published_clip(video: torch.Tensor) -> torch.Tensor:
    """human_action.py's data_transform of load_video(num_frames=16): (1, 3, 16, 224,
    224)."""
    frames = [
        frame.permute(1, 2, 0).contiguous().numpy()
        for frame in video[published_frames(len(video), 16)]
    ]
    height, width, _ = frames[0].shape
    if min(height, width) != 256:
        size = (
            (256, int(256 * height / width)) if width < height else (int(256 * width / height), 256)
        )
        frames = [cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in frames]
    height, width, _ = frames[0].shape
    left, top = int(round((width - 224) / 2.0)), int(round((height - 224) / 2.0))
    clip = np.stack(
        [frame[top : top + 224, left : left + 224].transpose(2, 0, 1) for frame in frames], 1
    )
    mean, deviation = (
        torch.tensor(x).view(3, 1, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return ((torch.from_numpy(clip).float() / 255 - mean) / deviation)[None]


def published_answer(logits: torch.Tensor, prompt: str) -> bool:
    """human_action.py: the top five with 0.85 or more, by the names of the classes."""
    label = f"{prompt}-0.mp4".lower().split("-")[0].split("person is ")[-1].split("_")[0]
    results, indices = torch.topk(torch.sigmoid(logits), 5, dim=1)
    results, indices = [round(f, 4) for f in results.squeeze().tolist()], indices.squeeze().tolist()
    return label in [
        kinetics.ACTIONS[index] for index, result in zip(indices, results) if result >= 0.85
    ]


@pytest.mark.parametrize(("frames", "size"), [(5, (40, 56)), (16, (300, 240)), (33, (256, 341))])
def test_human_action_is_the_published_answer(frames, size, monkeypatch):
    state, reward = random_umt(), VbenchHumanAction.tiny()
    reward.network.module = umt.build_network(state, head=8).eval()
    video = noise(frames, *size)
    wanted = published_umt(state, published_clip(video[0]), heads=2)
    torch.testing.assert_close(reward.logits(video), wanted, atol=1e-4, rtol=1e-4)
    prompts = [f"A person is {action}" for action in kinetics.ACTIONS]
    answers = [published_answer(wanted, prompt) for prompt in prompts]
    assert 1 <= sum(answers) <= 5
    monkeypatch.setattr(reward, "logits", lambda clips: wanted.expand(len(clips), -1))
    small = video[:, :2, :, :8, :8].expand(400, -1, -1, -1, -1)
    assert reward(Samples(small, prompts, 8.0)).value.tolist() == [
        float(answer) for answer in answers
    ]


def test_clips_for_umt_are_the_published_ones_to_the_bit():
    for video in (noise(16, 300, 240), noise(16, 256, 341), smooth(16, 40, 56)):
        assert torch.equal(prepared(video[0]).transpose(0, 1)[None], published_clip(video[0]))


def test_position_codes_are_umts():
    torch.testing.assert_close(
        umt.positions(196, 32), published_positions(196, 32), atol=1e-6, rtol=0
    )


def test_five_likeliest_and_at_least_85_percent():
    """The sixth does not count whatever its probability, and 0.84995 is rounded up to
    0.85."""
    rows = torch.logit(
        torch.tensor(
            [[0.99, 0.98, 0.97, 0.96, 0.84996, 0.9], [0.84996, 0.84994, 0.1, 0.1, 0.1, 0.2]],
            dtype=torch.float64,
        )
    )
    assert [sure(rows[:1], torch.tensor([i])).item() for i in range(6)] == [1, 1, 1, 1, 0, 1]
    assert [sure(rows[1:], torch.tensor([i])).item() for i in range(3)] == [1, 0, 0]


def test_actions_are_those_of_vbenchs_prompts():
    assert len(set(kinetics.ACTIONS)) == 400 and kinetics.ACTIONS[:3] == (
        "riding a bike",
        "marching",
        "dodgeball",
    )
    for action in (
        "riding a bike",
        "petting animal (not cat)",
        "shooting goal (soccer)",
        "rock scissors paper",
    ):
        assert asked(f"A person is {action}") == action
    reward, video = VbenchHumanAction(weights="absent.pth"), noise(3, 40, 56)
    score = reward(Samples(video, ["a dog"], 8.0))
    assert score.value.isnan().all() and "names no action of Kinetics-400" in score.why[0]
    with pytest.raises(OSError, match="absent.pth"):
        value(reward, video, "A person is marching")
    with pytest.raises(ValueError, match="did you mean 'marching'"):
        VbenchHumanAction(action="marchin")


def test_other_weights_than_umts_are_refused():
    state = random_umt()
    for wrong in (
        {"visual.proj": torch.zeros(1)},
        state | {"cls_token": torch.zeros(1)},
        {name: value for name, value in state.items() if name != "blocks.1.mlp.fc1.bias"},
    ):
        with pytest.raises(ValueError, match="expected|these weights"):
            umt.build_network(wrong, head=8)
