"""V-JEPA 2's surprise and features equal the published steps.

The steps are run by hand on transformers' own layers.
"""

import pytest
import torch
from torch.nn import functional as f

pytest.importorskip("transformers")

from vidrl.rewards import Samples, encoders
from vidrl.rewards._networks import hub, tiny, vjepa2
from vidrl.rewards.wm_reward import WmReward, curve, evenly

MEAN, DEVIATION = (
    torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)


def clip(frames=9, size=32, seed=0):
    return torch.rand(1, frames, 3, size, size, generator=torch.Generator().manual_seed(seed))


def model():
    """A V-JEPA 2 whose windows of 8 frames are 4 x 4 tokens, in float64, with mask tokens
    that are not 0."""
    made = tiny.vjepa2_model().double().eval()
    with torch.no_grad():
        made.predictor.embeddings.mask_tokens.normal_(generator=torch.Generator().manual_seed(5))
    return made


def masked_encoding(network, pixels, place):
    """Encode with a mask: only the tokens `place` pass the layers, at their own positions."""
    tokens = network.encoder.embeddings(pixels)[:, place]
    for layer in network.encoder.layer:
        tokens = layer(tokens, place[None])[0]
    return network.encoder.layernorm(tokens)


def predicted(network, known, past, future):
    """The predictor: embedded context, then mask token 1 at the places to predict, through
    its layers."""
    part = network.predictor
    asked = part.embeddings.mask_tokens[1].expand(1, len(future), -1)
    tokens = torch.cat([part.embeddings.predictor_embeddings(known), asked], 1)
    for layer in part.layer:
        tokens = layer(tokens, torch.cat([past, future])[None])[0]
    return part.proj(part.layernorm(tokens)[:, len(past) :])


def surprise(network, pixels, context):
    """Return 1 - F.cosine_similarity(z, h, dim=1).mean() of one window (1, T, 3, H, W).

    The formula is that of compute_wmreward.py.
    """
    grid = (network.config.crop_size // 16) ** 2
    past = torch.arange(context // 2 * grid)
    future = torch.arange(context // 2 * grid, pixels.shape[1] // 2 * grid)
    h = network.encoder(pixel_values_videos=pixels).last_hidden_state
    h = f.layer_norm(h, (h.size(-1),))[:, future]
    z = predicted(network, masked_encoding(network, pixels, past), past, future)
    z = f.layer_norm(z, (z.size(-1),))
    return 1 - ((z * h).sum(1) / (z.norm(dim=1) * h.norm(dim=1))).mean()


def test_a_window_has_the_published_surprise():
    network, pixels = (
        model(),
        torch.randn(1, 8, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double(),
    )
    with torch.no_grad():
        found = vjepa2.prediction_similarity(network, pixels, context=4)
        torch.testing.assert_close(
            1 - found, surprise(network, pixels, 4)[None], atol=1e-9, rtol=1e-9
        )


def test_a_clip_has_the_published_number():
    """Squeezed to the square, ImageNet's statistics, windows of 8 frames at every fourth,
    their mean."""
    reward, network = WmReward(window=8, past=4, stride=4), model()
    reward.network = hub.Network(lambda: network)
    video = torch.rand(1, 19, 3, 40, 56, generator=torch.Generator().manual_seed(2)).double()
    small = f.interpolate(
        video[0], size=(32, 32), mode="bilinear", antialias=True, align_corners=False
    )
    pixels = ((small - MEAN) / DEVIATION)[None].double()
    with torch.no_grad():
        windows = [surprise(network, pixels[:, start : start + 8], 4) for start in (0, 4, 8)]
    score = reward(Samples(video, [""], 8.0))
    torch.testing.assert_close(
        score.value[0], 1 - torch.stack(windows).mean(), atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(score.frames.mean(1), score.value)
    low = [float(1 - one) for one in windows]
    assert score.frames[0, 4:8].mean() - score.frames[0, 0] == pytest.approx(
        low[0] - sum(low) / 3, abs=1e-6
    )


def test_what_comes_later_does_not_leak_into_the_prediction():
    """The context must be encoded without the later frames.

    Encoded together, its tokens would contain the answer of the prediction.
    """
    network, pixels = (
        model(),
        torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(3)).double(),
    )
    pixels[1, :4] = pixels[0, :4]
    heard = []
    forward = network.predictor.forward
    network.predictor.forward = lambda known, **rest: heard.append(known) or forward(known, **rest)
    with torch.no_grad():
        vjepa2.prediction_similarity(network, pixels, context=4)
    torch.testing.assert_close(heard[0][0], heard[0][1])


def test_49_frames_are_chosen_as_published():
    assert (
        evenly(240, 49)[:4] == [0, 4, 9, 14]
        and evenly(240, 49)[-1] == 239
        and len(evenly(240, 49)) == 49
    )


def test_a_long_clip_has_the_mean_of_its_windows_too():
    found = torch.tensor([[0.1, 0.5, 0.9]])
    windows, chosen = [range(2, 4), range(4, 6), range(6, 8)], list(range(0, 24, 3))
    made = curve(found, windows, chosen, 22)
    assert made.shape == (1, 22) and made.mean().item() == pytest.approx(0.5)
    assert made[0, 7] < made[0, 13] < made[0, 21]


def test_a_clip_shorter_than_a_window_says_so():
    score = WmReward()(Samples(clip(15), [""], 8.0))
    assert score.value.isnan().all() and "at least 16 frames, got 15" in score.why[0]


@pytest.mark.parametrize(
    "options", [{"past": 7}, {"window": 15}, {"past": 16}, {"past": 0}, {"most": 8}, {"stride": 0}]
)
def test_windows_that_are_no_whole_tokens_are_refused(options):
    with pytest.raises(ValueError, match="even numbers 0 < past < window <= most"):
        WmReward(**options)


def test_weights_come_as_safetensors_from_a_folder(tmp_path):
    network = model().float()
    network.save_pretrained(tmp_path)
    reward = WmReward(str(tmp_path), window=4, past=2, stride=2)
    own = WmReward.tiny()
    own.network = hub.Network(lambda: network)
    score = reward(Samples(clip(), [""], 8.0))
    torch.testing.assert_close(score.value, own(Samples(clip(), [""], 8.0)).value)


# --- the encoder of sets


def test_a_clips_feature_is_the_mean_of_its_tokens(tmp_path):
    """V-JEPA 2 reads 8 of 17 frames at 8 a second: 4 a second, middles of equal segments."""
    made = model().float()
    made.config.frames_per_clip = 64
    made.save_pretrained(tmp_path)
    frames = (torch.rand(17, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 255).to(
        torch.uint8
    )
    chosen = [1, 3, 5, 7, 9, 11, 13, 15]
    pixels = ((frames[chosen].float() / 255 - MEAN) / DEVIATION)[None]
    with torch.no_grad():
        expected = made.encoder(pixel_values_videos=pixels).last_hidden_state.mean((0, 1))
    encoder = encoders.load(f"vjepa2:{tmp_path}")
    torch.testing.assert_close(encoder.clip(frames, 8.0), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(encoder.clip(frames.flip(0), 8.0), expected, atol=1e-4)


def test_a_frame_is_a_clip_that_stands_still(tmp_path):
    model().float().save_pretrained(tmp_path)
    encoder, images = encoders.load(f"vjepa2:{tmp_path}"), clip(2)[0]
    still = encoder.clip(images[:1].expand(2, -1, -1, -1), 8.0)
    torch.testing.assert_close(encoder(images)[0], still, atol=1e-5, rtol=1e-4)
