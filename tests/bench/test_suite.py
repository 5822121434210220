"""Suites are data: every one that is shipped loads and measures; a person's own is read
strictly."""

import math

import pytest
from _clips import Counted, folder, write

from vidrl import plugin
from vidrl.bench import dims, measure, suite
from vidrl.bench.dims import Dim
from vidrl.bench.items import Item
from vidrl.bench.suite import BadSuite
from vidrl.rewards.compose import WEIGHTS

WEIGHT_FREE = ("temporal", "orbit")  # these must score everything


@pytest.mark.parametrize("name", suite.names())
def test_every_suite_measures_two_clips(tmp_path, name):
    found = suite.load(name)
    assert found.name == name and found.about.endswith(".") and found.least >= 1
    assert len({dim.name for dim in found.dims}) == len(found.dims)
    paths = [write(tmp_path / f"{i}.mkv", seed=i) for i in range(2)]
    rows = measure.run([Item(path, "a red circle moves left quickly") for path in paths], found)
    for row in rows:
        assert set(row["value"]) == {dim.name for dim in found.dims}
        for dim in found.dims:
            value, (low, high) = row["value"][dim.name], dim.range
            assert (value is None) == (dim.name in row["why"])
            assert value is None or low <= value <= high, dim.name
    assert name not in WEIGHT_FREE or not rows[0]["why"]


def test_the_suites_are_those_that_are_promised():
    assert {"temporal", "motion", "long", "i2v", "orbit", "image", "vbench"} <= set(suite.names())
    assert not any(
        plugin.find("rewards", dim.reward).learned
        for dim in suite.load("temporal").dims
        if dim.reward != "default"
    )
    assert all(dim.profile == "vbench" for dim in suite.load("vbench").dims)
    assert suite.load("image").protocol.frames == 1


# --- a person's own -------------------------------------------------------------------


def own(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_a_suite_of_ones_own(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a dog"}\n')
    found = suite.load(
        own(
            tmp_path,
            """
        version = "3"
        about = "Mine."
        least = 5
        prompts = "p.jsonl"
        per_prompt = 2
        [protocol]
        fps = 8
        [sampling]
        steps = 4
        [dims.light]
        reward = "_clips:Counted"
        options = { weight = 2 }
        [dims.flicker]
    """,
        )
    )
    assert (found.name, found.version, found.least, found.per_prompt) == ("mine", "3", 5, 2)
    assert found.sampling == {"steps": 4}
    assert found.protocol.fps == 8.0 and found.prompts == tmp_path / "p.jsonl"
    assert [dim.name for dim in found.dims] == ["light", "flicker"] and isinstance(
        found.dims[0].build(), Counted
    )


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "expected dims"),
        ("abuot = 'x'\n[dims.flicker]", "did you mean 'about'"),
        ("least = 'x'\n[dims.flicker]", "expected int, got 'x'"),
        ("[protocol]\nfsp = 8\n[dims.flicker]", "did you mean 'fps'"),
        ("[protocol]\nfps = -8\n[dims.flicker]", "fps to be 0"),
        ("[dims.flikker]", "did you mean 'flicker'"),
        ("[dims.x]\nreward = 'flikker'", "did you mean 'flicker'"),
        ("[dims.x]\nrewards = 'flicker'", "did you mean 'reward'"),
        ("[dims.warp_error]\noptions = {relativ = true}", "did you mean 'relative'"),
        ("[dims.default]\noptions = {x = 1}", "has no options"),
        ("[dims.flicker]\nprofile = 'theirs'", "one of vidrl, vbench"),
        ("dims = 3", "expected a table of KEY = VALUE, got 3"),
        ("[dims]\nflicker = 3", "expected a table, got 3"),
        ("prompts = 'nowhere.jsonl'\n[dims.flicker]", "found no file"),
        ("[dims", "is no TOML"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said_with_the_cure(tmp_path, text, said):
    with pytest.raises((BadSuite, ValueError, plugin.BadOption), match=said):
        suite.load(own(tmp_path, text))


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(BadSuite, match="did you mean 'temporal'"):
        suite.load("temporel")


def test_some_dims_alone_and_rewards_beside_them():
    found = suite.load("temporal").only(["drift", "warp_error", "loop"])
    assert [dim.name for dim in found.dims] == ["drift", "warp_error", "loop"]
    assert found.dims[1].options == {"relative": True}  # the suite's, not the reward's default
    with pytest.raises(plugin.UnknownName, match="did you mean 'drift'"):
        suite.load("temporal").only(["drit"])


def test_options_of_dims_from_outside():
    found = suite.load("temporal").changed({"warp_error.relative": False})
    assert found.dims[2].options == {"relative": False}
    assert found.dims[2].hash != suite.load("temporal").dims[2].hash
    with pytest.raises(BadSuite, match="did you mean 'warp_error'"):
        suite.load("temporal").changed({"warp_eror.relative": False})
    with pytest.raises(plugin.BadOption, match="did you mean 'relative'"):
        suite.load("temporal").changed({"warp_error.relatif": False})


# --- dims -----------------------------------------------------------------------------


def test_a_hash_tells_reward_options_and_version():
    one = Dim("x", "warp_error")
    assert (
        one.hash == Dim("y", "warp_error").hash == Dim("x", "warp_error", {"relative": False}).hash
    )
    assert (
        len(
            {
                one.hash,
                Dim("x", "flicker").hash,
                Dim("x", "warp_error", {"relative": True}).hash,
                Dim("x", "warp_error", version="2").hash,
            }
        )
        == 4
    )


def test_a_hash_tells_weights_by_their_content(tmp_path):
    (tmp_path / "w").mkdir()
    file = tmp_path / "w" / "model.safetensors"
    file.write_bytes(bytes(5_000_000))
    dim = Dim("x", "vbench_subject_consistency", {"weights": str(tmp_path / "w")})
    first = dim.hash
    changed = bytearray(5_000_000)
    changed[-1] = 1
    file.write_bytes(changed)
    assert dim.hash != first
    elsewhere = folder(tmp_path / "other", 0) / "w"
    elsewhere.mkdir(parents=True)
    (elsewhere / "model.safetensors").write_bytes(changed)
    assert Dim("x", "vbench_subject_consistency", {"weights": str(elsewhere)}).hash == dim.hash


def test_facts_of_a_dim_come_from_its_reward():
    row = Dim("f", "flicker").to_dict(trained=True)
    assert row["trained"] and row["about"] and "eighth" in row["blind"]
    assert Dim("j", "jerk").to_dict()["range"] == [None, 0.0] and Dim("d", "default").range == (
        -math.inf,
        math.inf,
    )


def test_dims_that_were_trained_on():
    found = suite.load("temporal").dims
    assert dims.trained_dims(found, {"name": "flicker"}) == ["default", "flicker"]
    assert set(dims.trained_dims(found, {})) == {"default", *WEIGHTS}
    assert dims.trained_dims(found, {"parts": {"cut": 1.0}}) == ["cut"]


def test_the_default_composite_is_another_dim_where_a_part_has_another_version(monkeypatch):
    """Else a cache would give the numbers of the earlier part for those of the present
    one."""
    from vidrl.bench.dims import Dim
    from vidrl.rewards.pumping import Pumping

    before = Dim("default", "default").hash
    monkeypatch.setattr(Pumping, "version", "another")
    assert Dim("default", "default").hash != before
