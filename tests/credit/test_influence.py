"""How far noise moves rewards: on a denoiser whose frames do not see each other, and on
files."""

import json
import os

import pytest
import torch
from toys import Brightness, recipe, rows

from vidrl import config
from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.toy import Toy
from vidrl.cli import main
from vidrl.credit import influence
from vidrl.credit.influence import FILE, Influence
from vidrl.rewards import Reward, Score
from vidrl.training import loop
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

PROMPTS = ["a cat", "a dog", "a cow"]


@pytest.fixture
def backbone(monkeypatch):
    made = Toy()
    plain = Toy.predict

    # each latent frame repeated over the whole clip, so that it meets itself alone
    def apart(self, x, t, cond):
        frames = [
            plain(self, x[:, :, [k]].expand_as(x), t, cond)[:, :, [k]] for k in range(x.shape[2])
        ]
        return torch.cat(frames, 2)

    monkeypatch.setattr(Toy, "predict", apart)
    return made


def plan(backbone, eta=0.5, stochastic=(0, 1, 2)):
    return Plan(backbone.times(4), "dance_sde", eta, 1, stochastic, stochastic)


def test_noise_moves_its_own_frames_alone_where_frames_are_apart(backbone):
    energy = influence.measure(backbone, Brightness(), plan(backbone), PROMPTS).energy()
    assert energy.shape == (3, 3, 9)
    for latent, (a, b) in enumerate(backbone.frame_map):
        own = energy[:, latent, a:b]
        assert (own > 0).all() and torch.equal(energy[:, latent].sum(1), own.sum(1))


def test_it_is_half_the_expected_square_of_the_difference(backbone):
    """Of the last stochastic step, against ten times as many draws by hand; and it grows
    with η²."""
    small, large = (
        influence.measure(backbone, Brightness(), plan(backbone, eta), PROMPTS * 8).energy()
        for eta in (0.05, 0.1)
    )
    assert (
        torch.allclose(large / small, torch.tensor(4.0), rtol=0.1)
        or (large.sum() / small.sum() - 4).abs() < 0.2
    )


def test_moments_are_symmetric_and_positive(backbone):
    made = influence.measure(backbone, Brightness(), plan(backbone), PROMPTS)
    moment = made.moment["composite"]
    assert (
        torch.allclose(moment, moment.mT) and torch.linalg.eigvalsh(moment.double()).min() > -1e-9
    )
    assert made.times == tuple(backbone.times(4)[:3]) and made.covariance["composite"].shape == (
        9,
        9,
    )


def test_the_map_of_a_decoder_that_shows_each_latent_in_its_own_frames():
    backbone = Toy()
    share = influence.decoder_map(backbone, backbone.encode(PROMPTS))
    expected = torch.zeros(9, 3)
    for latent, (a, b) in enumerate(backbone.frame_map):
        expected[a:b, latent] = 1
    assert torch.equal(share, expected)


def test_a_file_holds_it_all(tmp_path, backbone):
    made = influence.measure(backbone, Brightness(), plan(backbone), PROMPTS)
    again = Influence.load(made.save(tmp_path / "a.safetensors"))
    assert again.times == made.times and again.meta == made.meta
    assert torch.equal(again.moment["composite"], made.moment["composite"]) and torch.equal(
        again.decoder, made.decoder
    )


def test_segments_add_their_latent_frames(backbone):
    made = influence.measure(backbone, Brightness(), plan(backbone), PROMPTS)
    two = made.segment_moments("composite", [made.times[1]], 2)
    assert torch.allclose(two[0, 0], made.moment["composite"][1, :2].sum(0))
    with pytest.raises(ValueError, match="expected an influence of the step at t = 0.9000"):
        made.segment_moments("composite", [0.9], 2)
    with pytest.raises(ValueError, match="expected an influence on 'flicker', got composite"):
        made.segment_moments("flicker", [made.times[1]], 2)


class Flat(Reward):
    def forward(self, samples):
        return Score(samples.frames.mean((1, 2, 3, 4)))


def test_what_cannot_be_measured(tmp_path, backbone):
    with pytest.raises(ValueError, match="a reward with a curve over frames"):
        influence.measure(backbone, Flat(), plan(backbone), PROMPTS)
    with pytest.raises(ValueError, match="2 members or more"):
        influence.measure(backbone, Brightness(), plan(backbone), PROMPTS, members=1)
    (tmp_path / "a.safetensors").write_text("no")
    with pytest.raises(ValueError, match="a file that `vidrl influence` wrote"):
        Influence.load(tmp_path / "a.safetensors")


def test_it_is_found_in_the_models_folder(tmp_path, backbone):
    asked, policy = (
        GRPO(credit="gls", sampler="dance_sde", eta=0.5, steps=4, segments=3),
        Policy(backbone, full=True),
    )
    with pytest.raises(
        ValueError, match="expected a measured influence, found none at a backbone without a folder"
    ):
        asked.setup(policy, Brightness(), 2)
    backbone.folder = tmp_path
    with pytest.raises(
        ValueError, match=f"found none at {tmp_path / FILE}.*vidrl influence RECIPE"
    ):
        asked.setup(policy, Brightness(), 2)
    influence.measure(backbone, Brightness(), plan(backbone), PROMPTS).save(tmp_path / FILE)
    asked.setup(policy, Brightness(), 2)
    assert asked.measured_influence is not None
    with pytest.raises(
        ValueError,
        match=r"latent shape \['dance_sde', 0.3, \[3, 3.*got one of \['dance_sde', 0.5, ",
    ):
        GRPO(credit="gls", eta=0.3, steps=4, segments=3).setup(policy, Brightness(), 2)
    other = GRPO(eta=0.3, steps=4, segments=3)  # does not need it
    other.setup(policy, Brightness(), 2)
    assert other.measured_influence is None


def test_that_of_another_length_or_reward_is_not_taken_for_this_ones(tmp_path, backbone):
    made = influence.measure(backbone, Brightness(), plan(backbone), PROMPTS)
    made.save(tmp_path / FILE)
    longer = Toy(latent_frames=4)
    longer.folder = tmp_path
    options = {"sampler": "dance_sde", "eta": 0.5, "steps": 4, "segments": 4}
    plain = GRPO(**options)
    policy = Policy(longer, full=True)
    plain.setup(policy, Brightness(), 2)
    assert plain.measured_influence is None
    with pytest.raises(
        ValueError, match=r"0.5, \[3, 4, 4, 4\]\], got one of \['dance_sde', 0.5, \[3, 3, 4, 4\]\]"
    ):
        GRPO(**options, credit="gls").setup(policy, Brightness(), 2)
    part = Score(torch.randn(4), torch.randn(4, 9))
    other = Score(torch.randn(4), torch.randn(4, 9), parts={"flicker": part})
    assert made.fits(part) and not made.fits(other)
    with pytest.raises(
        ValueError, match="expected an influence on composite, flicker, got one on composite"
    ):
        made.moments(other, [made.times[0]], 3)


@pytest.mark.parametrize("estimator", ["influence", "gls", "posterior"])
def test_a_run_credits_by_it_and_shows_it(tmp_path, estimator, capsys):
    made = recipe(tmp_path, train_rounds=2)
    made["algorithm"]["options"] |= {
        "sampler": "dance_sde",
        "credit": estimator,
        "alpha": 1.0,
        "equalise": True,
    }
    text = tmp_path / "toy.toml"
    from vidrl.recipe.toml import write

    text.write_text(write(config.load(made).to_dict()))
    file = tmp_path / "i.safetensors"
    assert main(["influence", str(text), "--prompts", "3", "--out", str(file)]) == 0
    made["algorithm"]["options"]["influence"] = str(file)
    run = loop.run(made)
    assert len(rows(run)) == 2
    row = json.loads((run / "credit.json").read_text())[0]
    assert len(row["advantage_steps"]) == len(row["times"]) == 3 and len(row["advantage"]) == 3
    shown = json.loads((run / "influence.json").read_text())
    assert len(shown["parts"]["composite"]) == 3 and len(shown["parts"]["composite"][0]) == 9
    assert (
        shown["segments"] == [[0, 1], [1, 5], [5, 9]] and os.path.getsize(run / "report.html") > 0
    )


def written(tmp_path, made):
    from vidrl.recipe.toml import write

    text = tmp_path / "toy.toml"
    text.write_text(write(config.load(made).to_dict()))
    return text


def test_one_measurement_serves_every_place_of_a_window(tmp_path):
    made = recipe(tmp_path, train_rounds=4)
    made["algorithm"]["options"] |= {
        "sampler": "dance_sde",
        "credit": "gls",
        "alpha": 1.0,
        "window": 1,
    }
    text, file = written(tmp_path, made), tmp_path / "i.safetensors"
    assert main(["cost", str(text), "--no-measure", "--json"]) == 0  # before anything was measured
    assert main(["influence", str(text), "--prompts", "2", "--out", str(file)]) == 0
    made["algorithm"]["options"]["influence"] = str(file)
    assert len(rows(loop.run(made))) == 4


def test_what_does_not_fit_shows_before_any_work(tmp_path, capsys, backbone):
    made = recipe(tmp_path, train_rounds=1)
    made["algorithm"]["options"] |= {
        "sampler": "dance_sde",
        "eta": 0.5,
        "credit": "gls",
        "alpha": 1.0,
        "steps": 5,
    }
    text, file = written(tmp_path, made), tmp_path / "i.safetensors"
    with pytest.raises(SystemExit):
        main(["influence", str(text), "--out", str(tmp_path / "none" / "i.safetensors")])
    assert "create it" in capsys.readouterr().err
    influence.measure(Toy(), Brightness(), plan(Toy()), PROMPTS).save(file)  # of four steps
    made["algorithm"]["options"]["influence"] = str(file)
    with pytest.raises(ValueError, match="expected an influence of the step at t = 0.8000"):
        loop.run(made)
    made["algorithm"]["options"]["steps"] = 4
    made["reward"] = {"parts": {"flicker": 1.0, "drift": 1.0}}
    other = influence.measure(Toy(), Brightness(), plan(Toy()), PROMPTS)
    other.moment["sharpness"] = other.moment["composite"].clone()
    other.save(file)
    with pytest.raises(
        ValueError, match="expected an influence on composite, flicker, drift, got one on sharpness"
    ):
        loop.run(made)
    assert not list(tmp_path.glob("**/evals/*"))


@pytest.mark.parametrize("name", ["nft", "awm", "dpo", "rwr", "reward_backprop"])
def test_an_algorithm_that_draws_no_noise_is_refused_before_the_model(
    tmp_path, capsys, monkeypatch, name
):
    monkeypatch.setattr(
        Toy, "__init__", lambda self, **options: pytest.fail("the model was loaded")
    )
    text = written(tmp_path, recipe(tmp_path, algorithm={"name": name, "options": {}}))
    assert main(["influence", str(text), "--out", str(tmp_path / "i.safetensors")]) != 0
    said = capsys.readouterr().err
    assert (
        "expected an algorithm whose sampling draws noise" in said
        and "grpo" in said
        and "Traceback" not in said
    )


def test_clips_in_pieces_are_the_same_clips(backbone):
    one, many = (
        influence.measure(backbone, Brightness(), plan(backbone), PROMPTS, batch=batch)
        for batch in (3, 100)
    )
    assert torch.allclose(one.moment["composite"], many.moment["composite"], atol=1e-7)


def test_memory_that_runs_out_halves_the_pieces_of_an_influence(backbone, monkeypatch):
    whole, seen = influence.measure(backbone, Brightness(), plan(backbone), PROMPTS), []
    decode = backbone.decode

    def tight(latents):
        seen.append(len(latents))
        if len(latents) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents)

    monkeypatch.setattr(backbone, "decode", tight)
    members = influence.measure(backbone, Brightness(), plan(backbone), PROMPTS)
    assert max(seen) > 3 and torch.allclose(
        whole.moment["composite"], members.moment["composite"], atol=1e-7
    )
