"""What `vidrl cost --for influence` foretells, against a measurement whose calls are counted."""

import json
from collections import Counter

import pytest
from toys import PROMPTS, Brightness, recipe

from vidrl import config, cost
from vidrl.backbones.toy import Toy
from vidrl.cli import main
from vidrl.cost import influence as foretold
from vidrl.credit import influence
from vidrl.training.influence_plan import influence_plan


@pytest.fixture
def counts(monkeypatch):
    """The rows that go through the toy's network and decoder and through the reward."""
    seen = Counter()

    def counted(owner, method, name, rows):
        plain = getattr(owner, method)

        def call(self, *args, **kwargs):
            seen[name] += rows(*args)
            return plain(self, *args, **kwargs)

        monkeypatch.setattr(owner, method, call)

    counted(Toy, "predict", "calls", lambda x, *_: len(x))
    counted(Toy, "decode", "decoded", lambda latents: len(latents))
    counted(Brightness, "forward", "scored", len)
    return seen


@pytest.mark.parametrize("prompts", [3, 9])  # fewer and more than the decoder's map takes
def test_calls_and_clips_are_those_of_a_measurement(tmp_path, counts, prompts):
    made = config.build(recipe(tmp_path))
    found = cost.estimate(made, measure=False)
    told = foretold.of_recipe(made, found, prompts, 2)
    backbone = Toy()
    plan, _ = influence_plan(made, backbone)
    counts.clear()
    influence.measure(backbone, Brightness(), plan, (PROMPTS * 3)[:prompts])
    assert counts == {"calls": told.calls, "decoded": told.decoded, "scored": told.scored}
    flops = told.calls * found.flops["call"] + told.decoded * found.flops["decode_a_clip"]
    assert told.flops == flops and told.clips == 2 * prompts


def test_the_seconds_of_a_card_are_those_of_the_flops(tmp_path):
    """A call and a decode of the measurement take the seconds that they take in a round."""
    made = config.build(recipe(tmp_path))
    found = cost.estimate(made, gpu="h100-80")
    told = foretold.of_recipe(made, found, 4, 2)
    sampling = found.seconds["sample"] / found.calls["sampling"]
    decode = found.seconds["decode"] / found.calls["clips"]
    assert told.seconds == pytest.approx(told.calls * sampling + told.decoded * decode)


def test_the_command(tmp_path, capsys):
    made = config.build(recipe(tmp_path))
    (tmp_path / "made.toml").write_text(made.to_toml())
    command = ["cost", str(tmp_path / "made.toml"), "--gpu", "h100-80"]
    assert main([*command, "--for", "influence", "--prompts", "4", "--json"]) == 0
    told = foretold.of_recipe(made, cost.estimate(made, gpu="h100-80"), 4, 2)
    assert json.loads(capsys.readouterr().out)["influence"] == told.to_dict()
    assert main([*command, "--for", "influence"]) == 0
    assert "Influence of 128 clips" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--members", "3"], "expected --for influence with --prompts and --members"),
        (["--for", "influence", "--processes", "2"], "expected neither --fit nor --processes"),
    ],
)
def test_flags_that_do_not_fit_together(tmp_path, capsys, flags, words):
    made = config.build(recipe(tmp_path))
    (tmp_path / "made.toml").write_text(made.to_toml())
    assert main(["cost", str(tmp_path / "made.toml"), *flags]) != 0
    assert words in capsys.readouterr().err


def test_an_algorithm_without_noise_is_refused(tmp_path):
    made = config.build(recipe(tmp_path, algorithm={"name": "nft", "options": {}}))
    with pytest.raises(ValueError, match="whose sampling draws noise"):
        foretold.of_recipe(made, cost.estimate(made, measure=False), 4, 2)
