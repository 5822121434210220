"""Rewards called by other trainers, each in the trainer's own way, shapes and types.

The stand-ins below repeat what the trainers' code does with a reward; the files are named
in vidrl.rewards.adapt.
"""

import asyncio
import concurrent.futures
import doctest
import inspect
import json
import math
import re
import textwrap
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import stand_ins
import torch

from vidrl.rewards import Composite, Reward, Samples, Score, adapt, default
from vidrl.rewards.flicker import Flicker
from vidrl.rewards.frame_quality import FrameQuality
from vidrl.synthetic import world

SCENES = [
    world.Scene("circle", "red", "left", "fast", "speckled"),
    world.Scene("cross", "blue", "up", "slow", "light"),
]
# (B, F, C, H, W)
VIDEO = torch.stack([world.render(s, 48, 9, seed=i).video for i, s in enumerate(SCENES)])
BYTES = (VIDEO * 255).round().to(torch.uint8)
PROMPTS = [scene.caption for scene in SCENES]
BROKEN = VIDEO.clone()
BROKEN[1, 3] = math.nan
TRUTH = FrameQuality()(Samples(VIDEO, PROMPTS, 16.0)).value
OF_BYTES = FrameQuality()(Samples(BYTES, PROMPTS, 16.0)).value


# --- Flow-GRPO


def multi_score(score_functions, score_dict):
    """Do what flow_grpo.rewards.multi_score does with an entry of its table."""
    made = {name: score_functions[name]() for name in score_dict}

    def fn(images, prompts, metadata, ref_images=None, only_strict=True):
        totals, details = [], {}
        for name, weight in score_dict.items():
            scores, _ = made[name](images, prompts, metadata)
            details[name] = scores
            weighted = [weight * score for score in scores]
            totals = [a + b for a, b in zip(totals, weighted)] if totals else weighted
        details["avg"] = totals
        return details, {}

    return fn


def flow_grpo_round(reward_fn, videos):
    """Do what scripts/train_wan2_1.py does: score in a thread, and return float tensors."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        rewards, _ = executor.submit(
            reward_fn, videos, PROMPTS, [{}, {}], only_strict=True
        ).result()
    return {key: torch.as_tensor(value, device="cpu").float() for key, value in rewards.items()}


def test_flow_grpo_calls_it():
    table = {
        "vidrl": lambda: adapt.flow_grpo(FrameQuality(), fps=16),
        "again": lambda: adapt.flow_grpo(Flicker(), 16),
    }
    rewards = flow_grpo_round(multi_score(table, {"vidrl": 0.5, "again": 2.0}), VIDEO)
    flicker = Flicker()(Samples(VIDEO, PROMPTS, 16.0)).value
    torch.testing.assert_close(rewards["vidrl"], TRUTH)
    torch.testing.assert_close(rewards["avg"], 0.5 * TRUTH + 2 * flicker)


def test_flow_grpo_can_be_replaced_whole():
    rewards = flow_grpo_round(adapt.flow_grpo(default(), fps=16, whole=True), VIDEO)
    truth = default()(Samples(VIDEO, PROMPTS, 16.0))
    torch.testing.assert_close(rewards["avg"], truth.value)
    torch.testing.assert_close(rewards["flicker"], truth.parts["flicker"].value)


def test_flow_grpo_arrays_images_and_halves():
    fn = adapt.flow_grpo(FrameQuality(), fps=16)
    arrays = BYTES.permute(0, 1, 3, 4, 2).numpy()
    np.testing.assert_allclose(fn(arrays, PROMPTS, [])[0], OF_BYTES, atol=1e-6)
    first = FrameQuality()(Samples(BYTES[:, :1], PROMPTS, 16.0)).value
    np.testing.assert_allclose(fn(arrays[:, 0], PROMPTS, [])[0], first, atol=1e-6)
    np.testing.assert_allclose(fn(VIDEO.half(), PROMPTS, [])[0], TRUTH, atol=2e-3)
    assert fn.__name__ == "vidrl_framequality"


def test_what_is_not_scored_is_told_to_flow_grpo():
    with pytest.raises(
        adapt.Unscored, match="clip 1: unscored: NaN or infinity in frame 3"
    ) as caught:
        adapt.flow_grpo(FrameQuality(), fps=16)(BROKEN, PROMPTS, [])
    assert caught.value.rows == [1]
    scores, info = adapt.flow_grpo(FrameQuality(), fps=16, unscored="nan")(BROKEN, PROMPTS, [])
    assert (
        math.isnan(scores[1])
        and scores[0] == pytest.approx(TRUTH[0].item())
        and "frame 3" in info["why"][1]
    )
    with pytest.warns(UserWarning, match="-1.0 stands for the score of 1 clips"):
        scores, info = adapt.flow_grpo(FrameQuality(), fps=16, unscored=-1.0)(BROKEN, PROMPTS, [])
    assert scores[1] == -1 and info["why"][0] is None


# --- Flow-Factory


@pytest.fixture
def hosts():
    """Stand in for Flow-Factory and UniRL, with the parts that the adapters use."""
    with stand_ins.installed():
        yield


def processed(model, videos):
    """Do what RewardProcessor does with samples.

    The fields are those that __call__ names and all samples have; media become tensors if
    the reward asks for tensors.
    """
    fields = {"prompt": PROMPTS, "video": videos, "image": [None, None], "latents": [0, 0]}
    named = [name for name in inspect.signature(model.__call__).parameters if name in fields]
    given = {name: fields[name] for name in named if all(one is not None for one in fields[name])}
    assert model.use_tensor_inputs and set(model.required_fields) <= set(given)
    output = model(**given)
    return torch.as_tensor(output.rewards, device="cpu", dtype=torch.float32)


def test_flow_factory_loads_and_calls_it(hosts):
    model = adapt.flow_factory(FrameQuality(), fps=16)(config=None, accelerator=None)
    assert isinstance(model, stand_ins.PointwiseRewardModel)
    torch.testing.assert_close(processed(model, list(VIDEO)), TRUTH)
    mixed = processed(model, [VIDEO[0], VIDEO[1, :, :, :40]])
    assert mixed[0] == pytest.approx(TRUTH[0].item()) and mixed[1] != pytest.approx(TRUTH[1].item())
    with pytest.raises(adapt.Unscored):
        processed(model, list(BROKEN))


def test_flow_factory_groups_are_ranked(hosts):
    model = adapt.flow_factory_groupwise(FrameQuality(), fps=16)(None, None)
    assert isinstance(model, stand_ins.GroupwiseRewardModel)
    assert processed(model, list(VIDEO)).tolist() == (TRUTH.flip(0) < TRUTH).float().tolist()
    centred = adapt.flow_factory_groupwise(FrameQuality(), fps=16, within=lambda v: v - v.mean())(
        None, None
    )
    torch.testing.assert_close(processed(centred, list(VIDEO)), TRUTH - TRUTH.mean())


@pytest.mark.parametrize(
    ("make", "host"), [(adapt.flow_factory, "Flow-Factory"), (adapt.unirl, "UniRL")]
)
def test_a_host_that_is_not_installed_is_named(make, host):
    with pytest.raises(ImportError, match=f"{host} is needed here"):
        make(FrameQuality(), fps=16)


# --- VeRL-Omni


def run_single(compute_score, clip, extra_info):
    """Do what VisualRewardManager does with a result."""
    assert clip.dtype == torch.uint8 and not inspect.iscoroutinefunction(compute_score)
    result = compute_score(
        data_source="d",
        solution_image=clip,
        ground_truth="a truth",
        extra_info=extra_info,
        reward_router_address="unused",
        sampling_params={},
    )
    return result["score"], {key: value for key, value in result.items() if key != "score"}


def test_verl_omni_calls_it():
    score, rest = run_single(
        adapt.verl_omni(FrameQuality()), BYTES[0], {"fps": 16.0, "num_turns": None}
    )
    assert (
        isinstance(score, float)
        and score == pytest.approx(OF_BYTES[0].item())
        and rest["why"] == ""
    )
    _, rest = run_single(adapt.verl_omni(default(), fps=16), BYTES[0], {})
    assert set(rest) == {*default().parts, "why"}
    with pytest.raises(ValueError, match="frames a second, got None"):
        run_single(adapt.verl_omni(FrameQuality()), BYTES[0], {})


def test_verl_omni_keys_are_those_of_any_call():
    small, sound = BYTES[0, :, :, :4, :4], BYTES[0]
    compute_score = adapt.verl_omni(default(), fps=16, unscored="nan")
    scores, keys = zip(*(run_single(compute_score, clip, {}) for clip in (small, sound)))
    assert (
        set(keys[0]) == set(keys[1])
        and math.isnan(scores[0])
        and keys[0]["why"].startswith("inapplicable")
    )
    with pytest.raises(adapt.Unscored, match="4 x 4"):
        run_single(adapt.verl_omni(default(), fps=16), small, {})


def multi_reward(entries, clip, extra_info=None):
    """Do what MultiVisualRewardManager does with its entries.

    The options of an entry are passed to its function; an error counts 0 or stops the run.
    """
    total = 0.0
    for entry in entries.values():
        options = {
            key: value for key, value in entry.items() if key not in ("fn", "weight", "required")
        }
        given = {
            "data_source": "d",
            "solution_image": clip,
            "ground_truth": "a truth",
            "extra_info": extra_info or {},
        }
        try:
            score = float(entry["fn"](**given, **options)["score"])
        except Exception as error:
            if entry.get("required", False):
                raise RuntimeError(f"Required sub-reward failed: {error}") from error
            score = 0.0
        total += entry["weight"] * score
    return total


class Rate(Reward):
    """The rate of the clips, as their score."""

    def forward(self, samples):
        return Score(torch.full((len(samples),), samples.fps), support="clip")


def test_verl_omni_takes_the_rate_of_its_entry():
    """The entry's fps before the adapter's, and that before the data's."""
    entry = {"fn": adapt.verl_omni(Rate()), "weight": 1.0, "required": True}
    assert multi_reward({"a": {**entry, "fps": 8}}, BYTES[0], {"fps": 30.0}) == 8
    assert multi_reward({"a": entry}, BYTES[0], {"fps": 30.0}) == 30
    fixed = {**entry, "fn": adapt.verl_omni(Rate(), fps=16)}
    assert multi_reward({"a": fixed}, BYTES[0], {"fps": 30.0}) == 16
    assert multi_reward({"a": {**fixed, "fps": 8}}, BYTES[0]) == 8
    with pytest.raises(RuntimeError, match="frames a second, got 0"):
        multi_reward({"a": {**entry, "fps": 0}}, BYTES[0], {"fps": 30.0})


@pytest.mark.parametrize("axes", ["FCHW", "CFHW", "FHWC"])
@pytest.mark.parametrize("batched", [False, True])
def test_verl_omni_takes_the_axes_of_each_pipeline(axes, batched):
    clip = BYTES[0].permute(*("FCHW".index(axis) for axis in axes))
    clip = clip[None] if batched else clip
    assert adapt.verl_omni(FrameQuality())("d", clip, "", {}, fps=16)["score"] == pytest.approx(
        OF_BYTES[0].item()
    )


def test_what_verl_omni_makes_of_a_clip_that_is_not_scored():
    """An unscored clip stops the run with `required: true`, and counts 0 without it.

    VeRL-Omni itself counts 0, and the documentation warns of this.
    """
    entry = {"fn": adapt.verl_omni(FrameQuality(), fps=16), "weight": 1.0}
    with pytest.raises(RuntimeError, match="4 x 4"):
        multi_reward({"a": {**entry, "required": True}}, BYTES[0, :, :, :4, :4])
    assert multi_reward({"a": entry}, BYTES[0, :, :, :4, :4]) == 0.0
    warned = Path(__file__).parents[2] / "docs" / "guides" / "adapters.md"
    assert "required=true" in warned.read_text()


# --- a list of clips


def trl_rewards(reward_funcs, inputs, completions):
    """Do what GRPOTrainer does: pass columns as lists, and count None as NaN."""
    rewards = torch.zeros(len(inputs), len(reward_funcs))
    prompts = [one["prompt"] for one in inputs]
    for i, reward_func in enumerate(reward_funcs):
        columns = {
            key: [one[key] for one in inputs]
            for key in inputs[0]
            if key not in ("prompt", "completion")
        }
        assert reward_func.__name__
        output = reward_func(
            prompts=prompts, completions=completions, completion_ids=[[1], [2]], **columns
        )
        output = [reward if reward is not None else torch.nan for reward in output]
        rewards[:, i] = torch.tensor(output, dtype=torch.float32)
    return rewards


def test_trl_calls_clips():
    inputs = [{"prompt": PROMPTS[0], "fps": 16}, {"prompt": PROMPTS[1], "fps": 8}]
    found = trl_rewards([adapt.clips(FrameQuality()), adapt.clips(Flicker())], inputs, list(VIDEO))
    torch.testing.assert_close(found[:, 0], TRUTH)
    one = Flicker()(Samples(VIDEO[1:], PROMPTS[1:], 8.0)).value
    torch.testing.assert_close(found[1:, 1], one)


def test_clips_takes_conversations_pictures_arrays_and_files(tmp_path):
    pytest.importorskip("av")
    from PIL import Image

    from vidrl.rewards import video

    path = video.write(tmp_path / "a.mkv", BYTES[0], 8.0, lossless=True)
    pictures = [Image.fromarray(frame) for frame in BYTES[0].permute(0, 2, 3, 1).numpy()]
    array = BYTES[0].permute(0, 2, 3, 1).numpy()
    talk = [
        {"role": "system", "content": "no"},
        {"role": "user", "content": [{"type": "text", "text": "a thing"}]},
    ]
    given = []

    class Hears(FrameQuality):
        def forward(self, samples):
            given.extend([*samples.prompts, samples.fps])
            return super().forward(samples)

    found = adapt.clips(Hears(), fps=16)(
        prompts=[talk] * 4, completions=[str(path), pictures, array, BYTES[0]]
    )
    assert (
        found == pytest.approx([OF_BYTES[0].item()] * 4)
        and given[:2] == ["a thing", 8.0]
        and 16.0 in given
    )


def test_none_stands_for_a_clip_that_is_not_scored():
    found = trl_rewards(
        [adapt.clips(FrameQuality(), fps=16)], [{"prompt": "a"}, {"prompt": "b"}], list(BROKEN)
    )
    assert math.isnan(found[1, 0]) and math.isfinite(found[0, 0])
    assert adapt.clips(FrameQuality(), fps=16)(prompts=PROMPTS, completions=list(BROKEN))[1] is None
    with pytest.raises(adapt.Unscored):
        adapt.clips(FrameQuality(), fps=16, unscored="raise")(
            prompts=PROMPTS, completions=list(BROKEN)
        )


def test_clips_takes_a_list_of_tensors_with_channels_first(tmp_path):
    pytest.importorskip("av")
    from vidrl.rewards import video

    path = video.write(tmp_path / "a.mkv", BYTES[0], 16.0, lossless=True)
    score = adapt.clips(FrameQuality(), fps=16)
    first = [clip.transpose(0, 1) for clip in VIDEO]  # (C, F, H, W)
    assert score(first, PROMPTS) == pytest.approx(TRUTH.tolist())
    assert score(VIDEO.transpose(1, 2), PROMPTS) == pytest.approx(TRUTH.tolist())  # a batch of them
    assert score([clip.numpy() for clip in first], PROMPTS) == pytest.approx(TRUTH.tolist())
    # pathlib or text, without prompts
    assert score([path, str(path)]) == pytest.approx([OF_BYTES[0].item()] * 2)
    mixed = [first[0], VIDEO[1, :, :, :40], path]  # of any sizes, axes and kinds
    assert score(mixed, ["a", "b", "c"])[::2] == pytest.approx(
        [TRUTH[0].item(), OF_BYTES[0].item()]
    )
    assert score([], []) == []


def test_clips_reads_each_rate_from_its_file(tmp_path):
    pytest.importorskip("av")
    from vidrl.rewards import video

    paths = [
        video.write(tmp_path / f"{fps}.mkv", BYTES[0], float(fps), lossless=True) for fps in (8, 30)
    ]
    score = adapt.clips(Rate(), fps=16)
    assert score([*paths, VIDEO[0]]) == pytest.approx([8, 30, 16], abs=0.05)
    assert adapt.clips(Rate())([VIDEO[0], VIDEO[1]], PROMPTS, fps=[5, 7]) == [5, 7]
    assert adapt.dance_grpo(Rate()).reward(paths, PROMPTS)[1]["VQ"] == pytest.approx(30, abs=0.05)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a.mp4", "got 'a.mp4': one clip is"),
        (None, "got nothing"),
        (VIDEO[0], r"got shape \(9, 3, 48, 48\): one clip is"),
        ([torch.rand(3, 3, 32, 32)], r"one axis of 1 or 3 channels.* got shape \(3, 3, 32, 32\)"),
        ([torch.rand(9, 4, 32, 32)], r"one axis of 1 or 3 channels.* got shape \(9, 4, 32, 32\)"),
    ],
)
def test_clips_says_what_it_expects(given, words):
    with pytest.raises(ValueError, match=words):
        adapt.clips(FrameQuality(), fps=16)(given)


def test_clips_needs_a_rate_and_a_prompt_a_clip():
    with pytest.raises(ValueError, match="frames a second, got None"):
        adapt.clips(FrameQuality())(list(VIDEO), PROMPTS)
    with pytest.raises(ValueError, match="expected 2 prompts, one a clip, got 1"):
        adapt.clips(FrameQuality(), fps=16)(list(VIDEO), ["a"])
    with pytest.raises(ValueError, match="got one string"):
        adapt.clips(FrameQuality(), fps=16)(list(VIDEO), "ab")


# --- VideoX-Fun


def test_videox_fun_goes_down_along_its_gradient():
    """Do what train_reward_lora.py does, with the frames themselves instead of a generator."""
    frames = VIDEO.transpose(1, 2).clone().requires_grad_()  # (B, C, F, H, W)
    loss_fn = adapt.videox_fun(FrameQuality(), fps=16)
    loss, reward = loss_fn(frames, PROMPTS)
    assert (
        loss.dim() == 0
        and reward.item() == pytest.approx(TRUTH.mean().item())
        and loss.item() == -reward.item()
    )
    loss.backward()
    assert torch.isfinite(frames.grad).all() and (frames.grad.abs().sum((1, 2, 3, 4)) > 0).all()
    with torch.no_grad():
        better = (frames - 0.02 * frames.grad.sign()).clamp(0, 1)
    assert loss_fn(better, PROMPTS)[0] < loss


def test_videox_fun_best_and_bfloat16():
    loss, reward = adapt.videox_fun(FrameQuality(), fps=16, best=10, scale=0.1)(
        VIDEO.transpose(1, 2).bfloat16(), None
    )
    assert loss.item() == pytest.approx(0.1 * (10 - reward.item()), rel=1e-5)


def test_videox_fun_refuses_what_has_no_gradient():
    class Judge(FrameQuality):
        differentiable = False

    with pytest.raises(ValueError, match="Judge, which says differentiable = False"):
        adapt.videox_fun(Judge(), fps=16)
    with pytest.raises(ValueError, match="differentiable = False"):
        adapt.videox_fun(Composite({"judge": Judge(), "flicker": Flicker()}), fps=16)


def test_videox_fun_leaves_out_a_clip_only_when_told():
    frames = BROKEN.transpose(1, 2).clone().requires_grad_()
    with pytest.raises(adapt.Unscored, match="clip 1"):
        adapt.videox_fun(FrameQuality(), fps=16)(frames, PROMPTS)
    with pytest.warns(UserWarning, match="stands for"):
        loss, _ = adapt.videox_fun(FrameQuality(), fps=16, unscored=0.0)(frames, PROMPTS)
    loss.backward()
    assert (frames.grad[0] != 0).any() and (frames.grad[1] == 0).all()


# --- FastVideo


def multi_reward_scorer(scorers, media, prompts):
    """Do what FastVideo's MultiRewardScorer does."""
    total = torch.zeros(len(prompts))
    for scorer in scorers.values():
        scores = scorer(media, prompts).detach().float()
        assert scores.ndim == 1 and scores.shape[0] == len(prompts)
        total = total + scores
    return {"avg": total}


def test_fastvideo_calls_it():
    found = multi_reward_scorer(
        {"a": adapt.fastvideo(FrameQuality(), fps=16)}, VIDEO.transpose(1, 2), PROMPTS
    )
    torch.testing.assert_close(found["avg"], TRUTH)
    images = adapt.fastvideo(FrameQuality(), fps=16)(VIDEO[:, 0], PROMPTS)
    torch.testing.assert_close(images, FrameQuality()(Samples(VIDEO[:, :1], PROMPTS, 16.0)).value)
    with pytest.raises(ValueError, match=r"\(batch, channels, frames, height, width\)"):
        adapt.fastvideo(FrameQuality(), fps=16)(VIDEO, PROMPTS)  # channels and frames the other way


# --- UniRL


def score_and_attach(backend, videos, prompts):
    """Do what RewardService does: pack (C, F, H, W) into a request, stop at flagged samples."""
    assert backend.input_kind == "video" and backend.is_available()
    request = types.SimpleNamespace(
        videos=[v.permute(1, 0, 2, 3).contiguous() for v in videos], prompts=prompts
    )
    response = backend.compute_rewards(request)
    failed = [
        (i, why) for i, (ok, why) in enumerate(zip(response.successes, response.errors)) if not ok
    ]
    if failed:
        raise RuntimeError(
            f"Reward computation flagged {len(failed)} sample(s) as failure. First few: "
            f"{failed[:3]}"
        )
    parts = {name: torch.tensor(values) for name, values in response.component_rewards.items()}
    return torch.tensor(response.rewards, dtype=torch.float32), parts


def test_unirl_calls_it(hosts):
    backend = adapt.unirl(FrameQuality(), fps=16)(base_device="cuda")
    assert (
        isinstance(backend, stand_ins.RewardBackend) and backend.model_name == "vidrl_framequality"
    )
    torch.testing.assert_close(score_and_attach(backend, VIDEO, PROMPTS)[0], TRUTH)
    rewards, parts = score_and_attach(adapt.unirl(default(), fps=16)(), VIDEO, PROMPTS)
    truth = default()(Samples(VIDEO, PROMPTS, 16.0))
    torch.testing.assert_close(rewards, truth.value)
    torch.testing.assert_close(parts["flicker"], truth.parts["flicker"].value)


def test_unirl_stops_at_a_clip_that_is_not_scored(hosts):
    with pytest.raises(RuntimeError, match="flagged 1 .*NaN or infinity in frame 3"):
        score_and_attach(adapt.unirl(FrameQuality(), fps=16)(), BROKEN, PROMPTS)
    with pytest.warns(UserWarning, match="-1.0 stands for the score of 1 clips"):
        rewards, _ = score_and_attach(
            adapt.unirl(FrameQuality(), fps=16, unscored=-1.0)(), BROKEN, PROMPTS
        )
    assert rewards[1] == -1 and rewards[0] == pytest.approx(TRUTH[0].item())
    with pytest.raises(ValueError, match="expected a request with videos"):
        adapt.unirl(FrameQuality(), fps=16)().compute_rewards(
            types.SimpleNamespace(videos=None, prompts=["a"])
        )
    with pytest.raises(ValueError, match="expected unscored to be 'raise' or a number"):
        adapt.unirl(FrameQuality(), fps=16, unscored="nan")


# --- DanceGRPO


def dance_grpo_rewards(inferencer, paths):
    """Do what sample_reference_model does: one file per call, and -1 for every Exception."""
    vq, mq = [], []
    for path, prompt in zip(paths, PROMPTS):
        try:
            reward = inferencer.reward([str(path)], [prompt], use_norm=True)
            vq.append(reward[0]["VQ"])
            mq.append(reward[0]["MQ"])
        except Exception:  # noqa: BLE001  as theirs
            vq.append(-1.0)
            mq.append(-1.0)
    return torch.tensor(vq), torch.tensor(mq)


def test_dance_grpo_calls_it(tmp_path):
    pytest.importorskip("av")
    from vidrl.rewards import video

    paths = [
        video.write(tmp_path / f"{i}.mkv", clip, 8.0, lossless=True) for i, clip in enumerate(BYTES)
    ]
    vq, mq = dance_grpo_rewards(adapt.dance_grpo(Flicker()), paths)
    want = Flicker()(Samples(BYTES, PROMPTS, 8.0)).value
    torch.testing.assert_close(vq, want, atol=1e-4, rtol=0)
    assert torch.equal(vq, mq)
    both = adapt.dance_grpo(Flicker()).reward(paths, PROMPTS)
    assert [one["Overall"] for one in both] == pytest.approx((3 * want).tolist(), abs=1e-3)


def test_dance_grpo_cannot_make_a_number_of_an_error(tmp_path):
    """Its `except Exception` would make of each of these the reward -1."""
    pytest.importorskip("av")
    from vidrl.rewards import video

    small = video.write(
        tmp_path / "small.mkv", BYTES[0, :, :, :4, :4].contiguous(), 8.0, lossless=True
    )
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for path, words in [
        (small, "4 x 4"),
        (tmp_path / "broken.mp4", "broken.mp4"),
        (tmp_path / "no.mp4", "no.mp4"),
    ]:
        with pytest.raises(SystemExit, match=words):
            dance_grpo_rewards(adapt.dance_grpo(FrameQuality()), [path])
    with pytest.raises(SystemExit, match="expected no fps"):
        adapt.dance_grpo(FrameQuality()).reward([small], ["a"], num_frames=8)
    with pytest.raises(SystemExit, match=r"one clip is \[path\]"):
        adapt.dance_grpo(FrameQuality()).reward(str(small), ["a"])
    with pytest.warns(UserWarning, match="-2.0 stands for"):
        assert dance_grpo_rewards(adapt.dance_grpo(FrameQuality(), unscored=-2.0), [small])[
            0
        ].tolist() == [-2.0]
    with pytest.raises(ValueError, match="expected unscored to be 'raise' or a number"):
        adapt.dance_grpo(FrameQuality(), unscored="nan")


# --- all of them


@pytest.mark.parametrize(
    "make", [adapt.flow_grpo, adapt.verl_omni, adapt.clips, adapt.videox_fun, adapt.fastvideo]
)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fps": 0}, "frames a second"),
        ({"fps": "fast"}, "frames a second"),
        ({"fps": 8, "unscored": "ignore"}, "'raise', 'nan'"),
    ],
)
def test_options_are_checked_at_once(make, options, words):
    with pytest.raises(ValueError, match=words):
        make(FrameQuality(), **options)


def brightness(samples):
    return samples.frames.mean((1, 2, 3, 4))


def test_every_adapter_takes_a_plain_function_under_its_name(hosts):
    want = brightness(Samples(VIDEO, PROMPTS, 16.0))
    flow = adapt.flow_factory(brightness, fps=16)
    assert flow.__name__ == "Vidrlbrightness"
    torch.testing.assert_close(processed(flow(None, None), list(VIDEO)), want)
    backend = adapt.unirl(brightness, fps=16)()
    assert backend.model_name == "vidrl_brightness"
    torch.testing.assert_close(score_and_attach(backend, VIDEO, PROMPTS)[0], want)
    score = adapt.clips(lambda samples: brightness(samples), fps=16)
    assert score(list(VIDEO)) == pytest.approx(want.tolist()) and score.__name__ == "vidrl_lambda"
    assert math.isfinite(adapt.verl_omni(brightness, fps=16)("d", BYTES[0], "", {})["score"])
    with pytest.raises(ValueError, match="got brightness, which says differentiable = False"):
        adapt.videox_fun(brightness, fps=16)


@pytest.mark.parametrize(
    "make",
    [
        adapt.flow_grpo,
        adapt.verl_omni,
        adapt.clips,
        adapt.videox_fun,
        adapt.fastvideo,
        adapt.flow_factory,
        adapt.unirl,
        adapt.dance_grpo,
    ],
)
@pytest.mark.parametrize(
    ("reward", "words"),
    [("flicker", "got str"), (FrameQuality, "make an instance"), (None, "got NoneType")],
)
def test_what_is_no_reward_is_refused_at_once(make, reward, words):
    """Before any clip: a trainer calls the reward after hours of sampling, and some make a
    number of its error."""
    with pytest.raises(ValueError, match=words):
        make(reward, **({} if make is adapt.dance_grpo else {"fps": 16}))


def test_prompts_are_one_a_clip():
    with pytest.raises(ValueError, match="expected 2 prompts"):
        adapt.flow_grpo(FrameQuality(), fps=16)(VIDEO, ["one"], [])
    with pytest.raises(ValueError, match="one string"):
        adapt.fastvideo(FrameQuality(), fps=16)(VIDEO.transpose(1, 2), "ab")


# --- the other way


def light(images, prompts, metadata):
    """A Flow-GRPO reward of images or videos."""
    assert len(images) == len(prompts) == len(metadata)
    return images.flatten(1).mean(1), {}


class Light:
    """A VideoX-Fun reward."""

    def __call__(self, frames, prompts=None):
        rewards = self.get_reward(frames, prompts)
        return -rewards.mean(), rewards.mean()

    def get_reward(self, frames, prompts=None):
        assert frames.shape[1] == 3
        return frames.mean((1, 2, 3, 4))


async def judged(data_source, solution_image, ground_truth, extra_info):
    assert solution_image.dtype == torch.uint8 and extra_info["fps"] == 16
    await asyncio.sleep(0)
    return {"score": solution_image.float().mean().item() / 255}


@dataclass
class Model:
    """A Flow-Factory model that takes PIL images."""

    use_tensor_inputs: bool = False

    def __call__(self, prompt, video=None, **rest):
        look = (
            (lambda x: x.mean())
            if self.use_tensor_inputs
            else (lambda x: np.mean([np.asarray(p) for p in x]) / 255)
        )
        return types.SimpleNamespace(rewards=[float(look(clip)) for clip in video])


FOREIGN = {
    "flow_grpo": lambda: adapt.from_flow_grpo(light),
    "flow_grpo images": lambda: adapt.from_flow_grpo(light, frames=9),
    "flow_grpo whole": lambda: adapt.from_flow_grpo(
        lambda *given: ({"avg": light(*given)[0].tolist()}, {})
    ),
    "flow_factory": lambda: adapt.from_flow_factory(Model()),
    "flow_factory tensors": lambda: adapt.from_flow_factory(Model(True)),
    "verl_omni": lambda: adapt.from_verl_omni(judged),
    "trl": lambda: adapt.from_trl(
        lambda prompts, completions, fps, **kw: [c.mean().item() for c in completions]
    ),
    "videox_fun": lambda: adapt.from_videox_fun(Light()),
    "videox_fun plain": lambda: adapt.from_videox_fun(lambda f, p: (-f.mean(), f.mean())),
    "fastvideo": lambda: adapt.from_fastvideo(lambda media, prompts: media.mean((1, 2, 3, 4))),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_reward_is_a_reward(name):
    reward = FOREIGN[name]()
    score = reward(Samples(VIDEO, PROMPTS, 16.0))
    assert isinstance(reward, Reward) and isinstance(score, Score) and score.why == [None, None]
    # bytes round
    torch.testing.assert_close(score.value, VIDEO.mean((1, 2, 3, 4)), atol=2e-3, rtol=0)
    torch.testing.assert_close(score.frames.mean(1), score.value)
    part = Composite({"theirs": reward, "ours": FrameQuality()})(Samples(BROKEN, PROMPTS, 16.0))
    assert math.isfinite(part.value[0]) and math.isnan(part.value[1]) and "frame 3" in part.why[1]


def test_only_videox_fun_passes_gradients():
    frames = VIDEO.clone().requires_grad_()
    adapt.from_videox_fun(Light())(Samples(frames, PROMPTS, 16.0)).value.sum().backward()
    torch.testing.assert_close(frames.grad, torch.full_like(frames, 1 / VIDEO[0].numel()))
    assert (
        adapt.from_videox_fun(Light()).differentiable
        and not adapt.from_flow_grpo(light).differentiable
    )
    assert not adapt.from_flow_grpo(light)(Samples(frames, PROMPTS, 16.0)).value.requires_grad


def test_there_and_back_is_the_same():
    reward = adapt.from_trl(adapt.clips(FrameQuality()))
    torch.testing.assert_close(reward(Samples(VIDEO, PROMPTS, 16.0)).value, TRUTH)
    video = adapt.from_videox_fun(adapt.videox_fun(FrameQuality(), fps=16))
    torch.testing.assert_close(video(Samples(VIDEO, PROMPTS, 16.0)).value, TRUTH)


def test_none_and_nan_are_not_scored():
    score = adapt.from_trl(lambda prompts, completions, **kw: [None, 0.5])(
        Samples(VIDEO, PROMPTS, 16.0)
    )
    assert (
        math.isnan(score.value[0]) and score.value[1] == 0.5 and "no finite number" in score.why[0]
    )


def fails_on_dark(prompts, completions, **columns):
    if any(c.max() == 0 for c in completions):
        raise RuntimeError("too dark")
    return [1.0] * len(completions)


def test_errors_propagate_or_are_the_clips_own():
    video = VIDEO.clone()
    video[0] = 0
    with pytest.raises(RuntimeError, match="too dark"):
        adapt.from_trl(fails_on_dark)(Samples(video, PROMPTS, 16.0))
    score = adapt.from_trl(fails_on_dark, errors="nan")(Samples(video, PROMPTS, 16.0))
    assert score.why == ["unscored: RuntimeError: too dark", None] and score.value[1] == 1


@pytest.mark.parametrize("scores", [[0.5], [0.1, 0.2, 0.3], torch.zeros(2, 1)])
def test_another_number_of_scores_is_an_error(scores):
    with pytest.raises(ValueError, match="expected 2 scores of <lambda>, one a clip"):
        adapt.from_flow_grpo(lambda *given: (scores, {}))(Samples(VIDEO, PROMPTS, 16.0))


def test_meta_goes_to_the_function():
    seen = {}
    meta = [{"source": "a"}, {"source": "b"}]
    adapt.from_trl(lambda prompts, completions, **kw: seen.update(kw) or [0.0, 0.0])(
        Samples(VIDEO, PROMPTS, 16.0, meta=meta)
    )
    assert seen == {"source": ["a", "b"], "fps": [16.0, 16.0]}


PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "adapters.md").read_text()


def to_paste(section):
    """The block of lines to paste of a section: the first one that is no example and no
    shell."""
    text = PAGE[PAGE.index(f"\n## {section}\n") :].split("\n## ", 2)[1]
    return textwrap.dedent(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0])


def test_the_lines_to_paste_are_taken_by_their_trainers():
    names = {"adapt": adapt, "default": default}
    table = eval("{" + to_paste("Flow-GRPO") + "\n}", names)  # an entry of a table of functions
    # multi_score asks so, and would pass one
    assert "device" not in table["vidrl"].__code__.co_varnames
    assert table["vidrl"]()(VIDEO, PROMPTS, [{}, {}])[0].shape == (2,)

    exec(to_paste("VideoX-Fun"), names)
    options = json.loads(re.findall(r"--reward_fn_kwargs='(.*?)'", PAGE)[0])
    loss, _ = names["VidrlReward"](device="cpu", dtype=torch.float16, **options)(
        VIDEO.transpose(1, 2), PROMPTS
    )
    assert loss.dim() == 0 and torch.isfinite(loss)

    listed, entry = to_paste("FastVideo").splitlines()
    known = re.findall(r'"(\w+)"', listed)
    scorers = eval("{" + entry + "\n}", names)
    assert known[-1] in scorers and scorers["vidrl"](VIDEO.transpose(1, 2), PROMPTS).shape == (2,)

    exec(to_paste("DanceGRPO"), names)
    assert isinstance(names["inferencer"], adapt.DanceGRPO)


def test_every_trainer_of_the_page_says_its_version_and_what_an_unscored_clip_does():
    rows = re.findall(r"^\| \[.*?\]\(#(\S+)\) \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 8 and all(re.search(r"[0-9a-f]{7}", commit) for _, commit, _, _ in rows)
    for title in re.findall(r"^## (.*)$", PAGE, re.MULTILINE):
        if title.lower().replace(" ", "-") in {anchor for anchor, *_ in rows}:
            assert "\nUnscored" in PAGE[PAGE.index(f"\n## {title}\n") :].split("\n## ", 2)[1], title


def test_the_examples_of_the_page_run(hosts):
    page = Path(__file__).parents[2] / "docs" / "guides" / "adapters.md"
    failed, tried = doctest.testfile(
        str(page),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert failed == 0 and tried >= 40
