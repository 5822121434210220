"""Any generator of torch as a policy of one step: exact density, gradients, and what is refused."""

import math

import pytest
import torch
import toys
from torch.distributions import Normal
from toys import rows

from vidrl import config
from vidrl.backbones.gan import Gan
from vidrl.diffusion import transition
from vidrl.diffusion.learned_gaussian import learned
from vidrl.diffusion.path import flow
from vidrl.diffusion.schedule import may_draw, stochastic_steps
from vidrl.report.run_folder import read
from vidrl.training import loop
from vidrl.training.policy import Policy, load_adapter
from vidrl.training.rollout import Plan, draws, sample

PLAN = {"sampler": "cps", "eta": 1.0, "stochastic": (0,), "keep": (0,), "noisy_end": True}


def recipe(folder, algorithm, options, **more):
    return toys.recipe(
        folder,
        backbone={"name": "gan", "options": {"model": "toys_gan:Clip"}},
        algorithm={"name": algorithm, "options": options},
        **more,
    )


# The path


def test_the_step_is_the_learned_gaussian_and_its_density_is_that_of_torch():
    gan = Gan.tiny()
    cond = gan.encode(["a red cross", "a blue circle"])
    rollout = sample(gan, cond, draws(0, [(0,), (1,)]), Plan([1.0, 0.0], segments=4, **PLAN))
    mean, log_scale = gan.predict(rollout.latents, torch.ones(2), cond).chunk(2, 1)
    expected = Normal(mean, log_scale.exp()).log_prob(rollout.latents)
    # every number of the latent belongs to one latent frame: the parts add up to the whole
    assert torch.allclose(rollout.log_density[:, 0], expected.mean((1, 3, 4)), atol=1e-5)
    assert float(log_scale.detach().std()) > 0.05


def test_draws_have_the_learned_mean_and_scale():
    path, n = learned(), 20000
    raw = torch.tensor([2.0, math.log(0.5)]).view(1, 2, 1).expand(n, -1, -1)
    noise, fresh = torch.randn(2, n, 1, 1, generator=torch.Generator().manual_seed(0))
    for sampler, eta in (("ode", 0.0), ("cps", 1.0), ("cps", 0.4), ("ddim", 0.7)):
        z = transition.step(path, sampler, raw, noise, 1.0, 0.0, eta).sample(fresh)
        assert float(z.mean()) == pytest.approx(2.0, abs=0.02)
        assert float(z.std()) == pytest.approx(0.5, abs=0.01)


def test_more_steps_draw_the_same_latent():
    gan = Gan.tiny()
    cond, noise = gan.encode(["a red cross"]), gan.noise(draws(0, [(0,)]))
    with torch.no_grad():
        one, many = gan.generate(noise, cond, 1), gan.generate(noise, cond, 5)
    assert torch.allclose(one, many, atol=1e-6)
    assert stochastic_steps(gan.path, "cps", gan.times(5), 1.0) == (4,)
    assert not may_draw(flow(), "cps", [1.0, 0.5, 0.0], 1.0)[1]


def test_the_divergence_is_the_kl_of_two_gaussians():
    one = transition.Step(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0]))
    other = transition.Step(torch.tensor([0.1, 0.5]), torch.tensor([1.5, 2.0]))
    exact = torch.distributions.kl_divergence(
        Normal(one.mean, one.std), Normal(other.mean, other.std)
    )
    assert torch.allclose(transition.divergence(one, other), exact)


def test_the_path_has_no_noise_levels():
    x = torch.ones(1, 2, 1, 1, 1)
    assert torch.equal(learned().noise(x, 3 * x, 1.0), 3 * x)
    with pytest.raises(ValueError, match="expected t = 1, pure noise.*use an algorithm on sampled"):
        learned().noise(x, x, 0.5)
    with pytest.raises(ValueError, match="mean and scale are learned"):
        learned().target(x, x, 1.0)
    with pytest.raises(ValueError, match="dance_sde needs the flow path.*use ddim or cps"):
        transition.step(learned(), "dance_sde", torch.ones(1, 4, 1, 1, 1), x, 1.0, 0.0, 0.3)


# A generator of one's own


def test_a_generator_of_images_and_one_of_clips_are_policies():
    image = Gan("toys_gan:Image", latent=[8], signed=True)
    assert image.shape == (8, 1, 1, 1) and image.clip_shape == (1, 3, 16, 16)
    clip = Gan("toys_gan:Clip")
    assert clip.shape == (4, 4, 1, 1) and clip.clip_shape == (8, 3, 8, 8)
    assert clip.frame_map == [(0, 2), (2, 4), (4, 6), (6, 8)]
    cond = clip.encode(["a", "a much longer prompt"])
    assert cond["condition"].shape == (2, 1)
    video = clip.decode_with(torch.zeros(2, *clip.shape), cond)
    assert not torch.allclose(video[0], video[1])


@pytest.mark.parametrize(
    "options, told",
    [
        ({"model": "toys_gan:Image"}, "the shape of the latent of toys_gan:Image.*got none"),
        ({"model": "toys_gan:Image", "latent": [0]}, r"got \[0\]: set it, as \[128\]"),
        ({"model": "toys_gan:Image", "latent": [9]}, "takes latents .3, 9., got an error"),
        ({"model": "toys_gan:Image", "latent": [8]}, "signed = true for pixels in"),
        ({"model": "toys_gan:NoLatent", "latent": [8], "signed": True}, "got 3 equal ones"),
        ({"model": "toys_gan:Grey", "latent": [8]}, r"got \(3, 1, 1, 16, 16\)"),
        ({"model": "toys_gan:Odd"}, "a multiple of the 4 latent frames"),
        ({"model": "toys_gan:Loud"}, r"expected pixels in \[0, 1\]"),
        ({"model": "toys_gan:Mixed", "latent": [8], "signed": True}, "own latents alone"),
        ({"model": "toys_gan:number"}, "expected a torch.nn.Module.*got int"),
        ({"model": "toys_gan:Clap"}, "has no 'Clap'"),
        ({"model": "assets"}, "assets without generator.json and generator.safetensors"),
    ],
)
def test_a_generator_that_cannot_be_a_policy_is_refused(options, told):
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        Gan(**options)


# Training


@pytest.mark.parametrize("name", ["grpo", "branch", "ddpo", "dpok", "rloo", "d3po"])
def test_algorithms_on_sampled_steps_train_the_gaussian_alone(name, tmp_path):
    options = {"steps": 1, "eta": 1.0, "segments": 4} | (
        {"at": [0], "factors": [4]} if name == "branch" else {}
    )
    options |= {"beta": 0.01} if name == "grpo" else {}
    loaded = config.load(recipe(tmp_path, name, options, train_rounds=2, train_group=4))
    trainer = loop.Trainer.from_recipe(loaded)
    before = {key: p.detach().clone() for key, p in trainer.policy.weights.items()}
    run = trainer.go()  # refuses a ratio that is not 1 before the first update
    moved = {k for k, p in trainer.policy.weights.items() if not torch.equal(p, before[k])}
    assert moved and all(key.startswith("latent.") for key in moved)
    assert rows(run)[-1]["kl"] > 0


@pytest.mark.parametrize("lora", [False, True])
def test_the_gradient_of_a_reward_reaches_the_generator(lora, tmp_path):
    policy = {"full": not lora} | ({"lora_targets": ["all-linear"]} if lora else {})
    loaded = config.load(
        recipe(
            tmp_path,
            "reward_backprop",
            {"steps": 1},
            reward={"name": "toys_gan:Light"},
            policy=policy,
            train_rounds=2,
        )
    )
    trainer = loop.Trainer.from_recipe(loaded)
    before = {key: p.detach().clone() for key, p in trainer.policy.weights.items()}
    run = trainer.go()
    moved = {k for k, p in trainer.policy.weights.items() if not torch.equal(p, before[k])}
    assert {key.partition(".")[0] for key in moved} == {"latent", "generator"}
    again = load_adapter(Gan("toys_gan:Clip"), run / "lora")
    assert isinstance(again, Policy)
    for key, value in again.weights.items():
        assert torch.allclose(value, trainer.policy.weights[key], atol=1e-6)


@pytest.mark.parametrize(
    "name, options, told",
    [
        ("nft", {}, "expected a backbone with noise levels for NFT, .* got Gan"),
        ("awm", {}, "expected a backbone with noise levels for AWM"),
        ("dpo", {}, "expected a backbone with noise levels for DPO"),
        ("reward_backprop", {"way": "refl"}, "set way = 'draft'"),
        ("grpo", {"ratio_norm": True}, "expected no ratio_norm with Gan"),
        ("grpo", {"kl": "velocity", "beta": 0.1}, "expected no kl with Gan"),
        ("grpo", {"sampler": "dance_sde"}, "dance_sde needs the flow path"),
        ("grpo", {"segments": 5}, "1 to 4 segments"),
    ],
)
def test_algorithms_whose_maths_does_not_hold_are_refused_before_any_work(
    name, options, told, tmp_path
):
    more = {"reward": {"name": "toys_gan:Light"}} if name == "reward_backprop" else {}
    with pytest.raises(ValueError, match=told):
        loop.Trainer.from_recipe(config.load(recipe(tmp_path, name, options, **more)))


def test_a_fixed_scale_stays_fixed():
    gan = Gan("toys_gan:Clip", log_scale=0)
    torch.nn.init.normal_(gan.network.get_parameter("latent.out.weight"))
    raw = gan.predict(torch.zeros(1, *gan.shape), torch.ones(1), gan.encode(["a cat"]))
    assert bool((gan.path.scale(raw) == 1).all()) and float(raw.detach().abs().max()) > 0
    with pytest.raises(ValueError, match="log_scale: expected a number from 0, got -1"):
        Gan("toys_gan:Clip", log_scale=-1)


@pytest.mark.slow
def test_the_recipe_makes_the_embedded_gan_move_as_its_captions_say(tmp_path):
    """A shortened run, 20 s of CPU time."""
    changes = [f"run={tmp_path / 'run'}", "train.rounds=15", "data.held_out_n=64", "train.show=1"]
    run = read(loop.run(config.load("scripts/recipes/tiny_gan.toml", changes)))
    assert run.held_out["composite"]["low"] > 0
    assert run.held_out["verifier"]["low"] > 0
    assert {run.verdict(name) for name in run.config["guard"]["bands"]} <= {
        "stays in band",
        "in band (not beyond doubt)",
    }


def test_its_cost_is_traced_without_a_run():
    """A generator is traced whole: its clip cannot be cut into latent frames."""
    from vidrl import config, cost

    found = cost.estimate(config.load("scripts/recipes/tiny_gan.toml"), gpu="h100-80")
    assert found.calls["sampling"] == found.calls["clips"]  # one step a clip
    assert found.flops["decode_a_clip"] > found.flops["call"] > 0
