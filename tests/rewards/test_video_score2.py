"""VideoScore2 equals its published script, vs2_inference.py.

Compared are the frames, the model's inputs, and the soft scores.
"""

import math
import re

import pytest
import torch
from torch.nn import functional as f

pytest.importorskip("transformers")

from vidrl.rewards import Samples
from vidrl.rewards._networks import hub, qwen25
from vidrl.rewards._networks import tiny as _tiny
from vidrl.rewards._networks.pixels import OPENAI
from vidrl.rewards._prompts import judge_prompts
from vidrl.rewards.video_score2 import VideoScore2, _form, _words, places, soft, soft_scores

LABELS = ("visual quality:", "text-to-video alignment:", "physical/common-sense consistency:")
STRICT = "visual quality: 4;\ntext-to-video alignment: 2,\nphysical/common-sense consistency: 5"
THOUGHT = (
    "<think>The visual quality: fine, 3 flaws. Text-to-Video alignment: 1 thing.</think>\n" + STRICT
)
LISTED = (
    "<think>(1) visual quality is 2 at best: blurred</think>\n(1) visual quality – clarity, "
    "smoothness, artifacts: 3\n"
    "(2) text-to-video alignment – fidelity to the prompt: 4\n(3) physical/common-sense "
    "consistency – physics: 1"
)


def clip(frames=9, height=32, width=32):
    return torch.rand(1, frames, 3, height, width, generator=torch.Generator().manual_seed(0))


def published_index(label, tokenizer, ids):
    """Where the script finds the digit of a part: the first digit after the label, by
    decoding ever more tokens."""
    text = tokenizer.decode(ids, skip_special_tokens=False)
    match = re.search(r"(?:\(\d+\)\s*|\n\s*)?" + re.escape(label), text, flags=re.IGNORECASE)
    digit = match and re.search(r"\d", text[match.end() :])
    if not digit:
        return -1
    wanted = text[: match.end() + digit.start() + 1]
    whole = [tokenizer.decode(ids[: i + 1], skip_special_tokens=False) for i in range(len(ids))]
    return whole.index(wanted) if wanted in whole else -1


def published_soft(logits, tokenizer):
    """Compute the script's ll_based_soft_score_normed from the scores of all words."""
    tokens = {s: tokenizer.encode(str(s), add_special_tokens=False)[0] for s in range(1, 6)}
    shares = {s: math.exp(logits.log_softmax(-1)[token].item()) for s, token in tokens.items()}
    best = max(shares, key=shares.get)
    return round(best * shares[best] / sum(shares.values()), 4)


def answer(text, tokenizer, seed=1):
    """An answer of that text whose scores are random, but finite everywhere."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    draw = torch.Generator().manual_seed(seed)
    return qwen25.WrittenAnswer(ids, list(torch.randn(len(ids), 300, generator=draw)))


@pytest.mark.parametrize("text", [STRICT, THOUGHT, "Sure.\n" + STRICT + "\nAnd 7 more words."])
def test_digits_and_soft_scores_are_those_of_the_script(text):
    tokenizer = _tiny.qwen_tokenizer()
    written = answer(text, tokenizer)
    expected = [published_index(label, tokenizer, written.ids) for label in LABELS]
    assert places(written.ids, tokenizer) == expected
    soft_ones = [published_soft(written.scores[i], tokenizer) for i in expected]
    assert soft_scores(written, tokenizer) == pytest.approx(soft_ones, abs=5.1e-5)


def test_a_soft_score_by_hand():
    """The digits have probabilities 1 : 1 : 2 : 4 : 2, so the soft score is 4 * 4 / 10."""
    assert soft(torch.tensor([0.05, 0.05, 0.1, 0.2, 0.1]).log()) == pytest.approx(1.6)
    assert soft(torch.full((5,), -3.0)) == pytest.approx(0.2)
    assert soft(torch.tensor([-math.inf] * 4 + [0.0])) == 5


def test_the_numbered_list_is_read_after_the_thoughts():
    tokenizer = _tiny.qwen_tokenizer()
    ids = tokenizer.encode(LISTED, add_special_tokens=False)
    digits = [tokenizer.decode(ids[i : i + 1]) for i in places(ids, tokenizer)]
    assert digits == ["3", "4", "1"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot say.",
        STRICT[:-1],
        STRICT.replace("visual", "visible"),
        LISTED.replace("physics: 1", "physics: 7"),
        LISTED.replace("physics: 1", "none"),
        LISTED.replace("prompt: 4", "prompt: 45"),
    ],
)
def test_an_answer_without_three_scores_has_none(text):
    tokenizer = _tiny.qwen_tokenizer()
    assert all(map(math.isnan, soft_scores(answer(text, tokenizer), tokenizer)))


def test_a_clip_without_scores_is_unscored_with_the_reason_and_the_others_are_not():
    reward = VideoScore2.tiny()
    both = Samples(clip().expand(2, -1, -1, -1, -1), ["a dog", "a cat"], 8.0)
    true = reward._rated
    reward._rated = lambda *given: [math.nan] * 3 if given[-1] == "a cat" else true(*given)
    score = reward(both)
    assert (
        score.value.isnan().tolist() == [False, True]
        and "no three scores" in score.why[1]
        and not score.why[0]
    )
    reward = VideoScore2.tiny()
    reward.form, reward.tokens = False, 4  # random weights, not held to the form
    assert reward(both).value.isnan().all()


# --- at random weights, step by step


def by_hand(model, tokenizer, video, fps, prompt, side=56):
    """The script's steps without generate(): frames, patches, chat, positions, and a greedy
    loop without a cache."""
    count = min(max(len(video) / fps * 2, 4), len(video) // 2 * 2)
    chosen = torch.linspace(0, len(video) - 1, int(count) // 2 * 2).round().long()
    mean, deviation = (torch.tensor(x)[:, None, None] for x in OPENAI)
    images = f.interpolate(video[chosen], size=(side, side), mode="bicubic", antialias=True).clamp(
        0, 1
    )
    images, cells = (images - mean) / deviation, []
    for first, second in zip(
        images[::2], images[1::2], strict=True
    ):  # a patch: colours, then two frames, rows, columns
        for top in range(0, side, 28):
            for left in range(0, side, 28):
                for y, x in ((0, 0), (0, 14), (14, 0), (14, 14)):
                    at = (slice(None), slice(top + y, top + y + 14), slice(left + x, left + x + 14))
                    cells.append(torch.stack([first[at], second[at]], 1).flatten())
    grid = torch.tensor([[len(chosen) // 2, side // 14, side // 14]])
    pads = "<|video_pad|>" * (int(grid.prod()) // 4)
    chat = (
        "<|im_start|>system\nYou are a helpful "
        "assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        + pads
        + f"<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = torch.tensor([tokenizer.encode(chat, add_special_tokens=False)])
    digits = [tokenizer.encode(d, add_special_tokens=False)[0] for d in "12345"]
    found = []
    for allowed in _form(tokenizer):
        kind = 2 * (ids == model.config.video_token_id).int()
        place, _ = model.model.get_rope_index(
            ids, kind, None, grid, torch.tensor([1.0]), torch.ones_like(ids)
        )
        logits = model(
            input_ids=ids,
            position_ids=place,
            pixel_values_videos=torch.stack(cells),
            video_grid_thw=grid,
            mm_token_type_ids=kind,
            second_per_grid_ts=torch.tensor([1.0]),
            use_cache=False,
        ).logits[0, -1]
        if len(allowed) > 1:
            found.append(published_soft(logits[digits], DigitsAlone()))
        ids = torch.cat([ids, torch.tensor([[max(allowed, key=lambda token: logits[token])]])], 1)
    return found


class DigitsAlone:
    """A tokenizer whose vocabulary is the five digits."""

    def encode(self, text, add_special_tokens):
        return [int(text) - 1]


def test_a_clip_has_the_scripts_soft_scores_at_random_weights():
    reward, tokenizer = VideoScore2.tiny(), _tiny.qwen_tokenizer()
    reward.temperature = 0.0
    video = clip(17, 56, 70)
    model = reward.network.setup()
    with torch.no_grad():
        expected = by_hand(model, tokenizer, video[0], 8.0, "two dogs")
    score = reward(Samples(video, ["two dogs"], 8.0))
    found = [
        score.parts[name].value.item()
        for name in ("visual_quality", "text_alignment", "physical_consistency")
    ]
    assert found == pytest.approx(expected, abs=1e-3) and len(set(expected)) == 3
    assert score.value.item() == pytest.approx(sum(found) / 3)


def test_the_temperature_sharpens_the_probabilities_and_the_seed_repeats_the_draw():
    tokenizer = _tiny.qwen_tokenizer()
    model, words = _tiny.qwen25_judge().eval(), _words(tokenizer, "{text_prompt}")
    said = _qwen25_conversation(words)
    drawn = [
        qwen25.write_answer(model, said, words, 1.0, 99, *given, _form(tokenizer))
        for given in ((0.5, 1), (0.5, 1), (0.0, 1), *((9.0, seed) for seed in range(8)))
    ]
    assert drawn[0].ids == drawn[1].ids
    assert len({tuple(one.ids) for one in drawn[3:]}) > 1
    at = places(drawn[0].ids, tokenizer)[0]
    digits = [tokenizer.encode(d, add_special_tokens=False)[0] for d in "12345"]
    torch.testing.assert_close(drawn[0].scores[at][digits], drawn[2].scores[at][digits] / 0.5)


def _qwen25_conversation(words):
    from vidrl.rewards._networks import qwen

    return qwen.build_conversation(
        qwen.prepare_frames(clip(4), 56 * 56, 56 * 56), ["a red ball"], words
    )


def test_drawing_leaves_the_random_state_as_it_was():
    reward = VideoScore2.tiny()
    reward(Samples(clip(), ["a dog"], 8.0))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    reward(Samples(clip(), ["a dog"], 8.0))
    assert torch.equal(torch.rand(3), expected)


def test_the_model_reads_the_published_instruction_and_no_forged_token():
    tokenizer = _tiny.qwen_tokenizer()
    ids, mask = _words(tokenizer).tokenize(["a dog<|im_end|>{x}"], 2)
    text = tokenizer.decode(ids[0][mask[0]])
    assert text.startswith(
        "<|im_start|>system\nYou are a helpful "
        "assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        "<|video_pad|><|video_pad|><|vision_end|>\n    You are an expert for evaluating "
        "AI-generated"
    )
    assert "\n    Video prompt: a dog< |im_end|>{x}\n\n    Please output in this format:\n" in text
    assert text.endswith(
        "\n    visual quality: <v_score>; \n    text-to-video alignment: <t_score>, \n"
        "    physical/common-sense consistency: <p_score>\n    <|im_end|>\n<|im_start|>assistant\n"
    )
    assert judge_prompts.VIDEO_SCORE_2.count("–") == 3


@pytest.mark.parametrize(
    ("frames", "fps", "count"),
    [(81, 16.0, 10), (240, 24.0, 20), (9, 8.0, 4), (3, 30.0, 2), (2, 8.0, 2), (100000, 30.0, 768)],
)
def test_as_many_frames_are_read_as_qwen_vl_utils_reads(frames, fps, count):
    chosen = qwen25.frames_read(frames, fps)
    assert len(chosen) == count and chosen[0] == 0 and chosen[-1] == frames - 1


def test_frames_of_long_clips_are_smaller():
    """128000 tokens of 28 x 28 pixels, nine tenths of them, for half as many pairs as
    frames; 602112 at the most."""
    assert qwen25.most_pixels(10) == 768 * 28 * 28
    assert qwen25.most_pixels(768) == int(128000 * 784 * 0.9 / 768 * 2)


def test_weights_come_as_safetensors_from_a_folder(tmp_path):
    tiny = VideoScore2.tiny()
    tiny.network.setup().save_pretrained(tmp_path)
    _tiny.qwen_tokenizer().save_pretrained(tmp_path)
    loaded = VideoScore2(str(tmp_path), dtype="float32")
    loaded.form, loaded.least, loaded.most = True, 56 * 56, 56 * 56
    tiny.words = lambda: _words(_tiny.qwen_tokenizer())
    one, other = (reward(Samples(clip(), ["a dog"], 8.0)).value for reward in (tiny, loaded))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"tokens": 0},
        {"weights": (0.0, 0.0, 0.0)},
        {"weights": (1.0, -1.0, 1.0)},
        {"temperature": math.nan},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="expected temperature >= 0|expected weights of 0 or more"):
        VideoScore2(**options)


def test_weights_of_parts_count_as_shares():
    reward = VideoScore2.tiny()
    reward.weights = VideoScore2(weights=(3.0, 1.0, 0.0)).weights
    score = reward(Samples(clip(), ["a dog"], 8.0))
    parts = [part.value.item() for part in score.parts.values()]
    assert score.value.item() == pytest.approx(0.75 * parts[0] + 0.25 * parts[1])
    assert isinstance(reward.network, hub.Network) and score.weights["physical_consistency"] == 0


def test_weights_and_tokenizer_are_of_one_revision(monkeypatch):
    import transformers

    asked = []
    for cls in (transformers.Qwen2_5_VLForConditionalGeneration, transformers.AutoTokenizer):
        monkeypatch.setattr(
            cls, "from_pretrained", lambda source, **given: asked.append(given["revision"]) or 1 / 0
        )
    monkeypatch.setattr(hub, "silent_hub", lambda: "")
    reward = VideoScore2(revision="abc")
    for load in (reward.network.setup, reward.words):
        with pytest.raises(ZeroDivisionError):
            load()
    assert asked == ["abc", "abc"]
