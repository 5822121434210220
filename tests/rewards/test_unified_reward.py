"""UnifiedReward sends what its authors send; only an answer in their form is a score."""

import base64

import cv2
import numpy as np
import pytest
import torch

from vidrl.rewards import Samples
from vidrl.rewards._prompts.chat import NoAnswer
from vidrl.rewards.unified_reward import UnifiedReward, marks

LINES = "Alignment Score (1-5): 2.4036\nPhysics Score (1-5): 3.0987\nStyle Score (1-5): 3.3889\n"


def clip(frames=20, height=48, width=64):
    """Frames of one grey level each, frame t of t."""
    return (
        torch.arange(frames)
        .float()
        .div(255)[None, :, None, None, None]
        .expand(1, frames, 3, height, width)
        .clone()
    )


def asked(video, prompt="a dog", **options):
    """The requests that a clip makes."""
    heard = []
    UnifiedReward(ask=lambda request: heard.append(request) or LINES, **options)(
        Samples(video, [prompt], 8.0)
    )
    return heard


def test_the_published_example_is_three_scores_and_their_mean():
    score = UnifiedReward(ask=lambda _: LINES)(Samples(clip(), ["a dog"], 8.0))
    parts = {name: round(part.value.item(), 4) for name, part in score.parts.items()}
    assert parts == {"alignment": 2.4036, "physics": 3.0987, "style": 3.3889}
    assert score.value.item() == pytest.approx((2.4036 + 3.0987 + 3.3889) / 3)


def test_weights_count_as_shares():
    score = UnifiedReward(ask=lambda _: LINES, weights=(0.0, 3.0, 1.0))(
        Samples(clip(), ["a dog"], 8.0)
    )
    assert score.value.item() == pytest.approx(0.75 * 3.0987 + 0.25 * 3.3889)


def test_frames_and_instruction_are_sent_as_its_authors_send_them():
    """One user message has the frames int(i * 20 / 8) for i = 0 ... 7, then the text.

    Each frame keeps its own size.
    """
    (request,) = asked(clip())
    (message,) = request["messages"]
    *pictures, text = message["content"]
    levels = []
    for picture in pictures:
        head, data = picture["image_url"]["url"].split(",")
        seen = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert (
            head == "data:image/jpeg;base64"
            and picture["type"] == "image_url"
            and seen.shape == (48, 64, 3)
        )
        levels.append(int(seen.mean().round()))
    assert levels == [int(i * 20 / 8) for i in range(8)]
    assert (
        message["role"] == "user"
        and request["model"] == "UnifiedReward"
        and request["max_tokens"] == 4096
    )
    assert request["temperature"] == 0
    assert text["text"].startswith(
        "You are presented with a generated video and its associated text caption. Your task"
    )
    assert text["text"].endswith(
        "Style Score (1-5): Z\n\nYour task is provided as follows:\nText Caption: [a dog]"
    )


def test_colours_arrive_as_they_were():
    video = torch.zeros(1, 1, 3, 32, 32)
    video[:, :, 0] = 1
    url = asked(video)[0]["messages"][0]["content"][0]["image_url"]["url"]
    seen = cv2.imdecode(
        np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_COLOR
    )
    # OpenCV's order is blue, green, red
    assert seen[..., 2].min() > 245 and seen[..., 0].max() < 10


def test_a_short_clip_sends_each_frame_once_and_braces_stay_braces():
    request = asked(clip(3), "a {text_prompt} {0}")[0]
    assert len(request["messages"][0]["content"]) == 4
    assert request["messages"][0]["content"][-1]["text"].endswith("[a {text_prompt} {0}]")


@pytest.mark.parametrize(
    "answer",
    [
        LINES.replace("\n", "\r\n"),
        "Well:\n" + LINES + "That is all.",
        "**Alignment Score (1-5):** 2.4036\n- Physics Score (1-5): 3.0987.\n**Style Score "
        "(1-5): 3.3889**",
    ],
)
def test_stars_and_words_around_the_lines_are_allowed(answer):
    assert marks(answer) == [2.4036, 3.0987, 3.3889]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "{}",
        LINES.replace("3.0987", "X"),
        LINES.replace("3.0987", "7"),
        LINES.replace("3.0987", "-3"),
        LINES.replace("3.0987", "0.5"),
        LINES.replace("3.0987", "3 of 5"),
        LINES + LINES,
        LINES.replace("Style", "Taste"),
        LINES.replace("3.0987", "nan"),
        LINES.replace("3.0987", "²"),
        "Physics Score (1-5): 3\n" * 100_000,
    ],
)
def test_any_other_answer_is_no_score_but_a_reason(answer):
    with pytest.raises(NoAnswer, match="expected"):
        marks(answer)
    score = UnifiedReward(ask=lambda _: answer)(Samples(clip(), ["a dog"], 8.0))
    assert score.value.isnan().all() and score.why[0].startswith(
        "unscored: UnifiedReward: expected"
    )


def test_one_bad_answer_spoils_only_its_clip():
    both = Samples(clip().expand(2, -1, -1, -1, -1), ["a dog", "a cat"], 8.0)
    score = UnifiedReward(ask=lambda request: LINES if "a dog" in str(request) else "no")(both)
    assert score.value.isnan().tolist() == [False, True] and score.why[0] is None
    assert score.parts["style"].value[0].item() == pytest.approx(3.3889)


def test_nobody_there_is_a_reason():
    reward = UnifiedReward("http://127.0.0.1:9/v1", key_from="", retries=0, timeout=2.0)
    score = reward(Samples(clip(), ["a dog"], 8.0))
    assert score.value.isnan().all() and score.why[0].startswith("unscored: UnifiedReward: ")


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 0},
        {"workers": 0},
        {"model": ""},
        {"weights": (0.0, 0.0, 0.0)},
        {"base_url": "file:///etc/passwd"},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        UnifiedReward(**options)


def test_a_key_is_not_shown_to_the_network(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with pytest.raises(ValueError, match="plain http would show the key"):
        UnifiedReward("http://far.example/v1")
    assert UnifiedReward("http://far.example/v1", insecure=True).ask.insecure
