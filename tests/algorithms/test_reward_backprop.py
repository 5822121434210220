"""The gradient of each way of reward back-propagation is the published one, worked out by
hand on a linear denoiser."""

from pathlib import Path

import pytest
import torch
from torch import nn
from toys import happened, recipe, rows

from vidrl import plugin
from vidrl.algorithms.base import Experience
from vidrl.algorithms.reward_backprop import RewardBackprop
from vidrl.backbones.base import Denoiser
from vidrl.backbones.toy import Toy
from vidrl.diffusion.path import flow
from vidrl.rewards import Composite, Reward, Samples, Score, default
from vidrl.training import loop
from vidrl.training.policy import Policy
from vidrl.training.rollout import draws, sample

WAYS = ("draft", "lv", "alignprop", "refl", "vader")


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor(-0.4))


class Line(Denoiser):
    """v = a x + b t; a pixel is 0.5 + x/20; the grid ends with a step of 0.001, as those of
    diffusers do."""

    def __init__(self) -> None:
        self.network, self.path, self.fps, self.shape = _Net(), flow(), 8.0, (3, 3, 8, 8)
        self.frame_map = [(0, 1), (1, 5), (5, 9)]
        # latent frames of each decode, and whether under autocast
        self.decoded: list[tuple[int, bool]] = []
        self.calls = 0

    @classmethod
    def tiny(cls) -> "Line":
        return cls()

    def encode(self, prompts):
        return {"text": torch.zeros(len(prompts), 1)}

    def times(self, n):
        return [1 - k / (n - 1) if k < n - 1 else 0.001 for k in range(n)] + [0.0]

    def predict(self, x, t, cond):
        self.calls += 1
        return self.network.a * x + self.network.b * t.view(-1, 1, 1, 1, 1)

    def decode(self, latents):
        self.decoded.append((latents.shape[2], torch.is_autocast_enabled("cpu")))
        frames = torch.cat([latents[:, :, :1], latents[:, :, 1:].repeat_interleave(4, 2)], 2)
        return 0.5 + frames.transpose(1, 2) / 20


class Square(Reward):
    """The mean square of a clip's pixels; NaN for prompts in `unscored`."""

    differentiable = True
    unscored = ""

    def forward(self, samples: Samples) -> Score:
        curve = samples.frames.square().mean((2, 3, 4))
        lost = torch.tensor([prompt == self.unscored for prompt in samples.prompts])
        return Score(curve.mean(1).masked_fill(lost, torch.nan), curve)


def ready(**options) -> tuple[RewardBackprop, Policy]:
    algorithm, policy = RewardBackprop(steps=4, updates=1, **options), Policy(Line(), full=True)
    algorithm.setup(policy, Square(), 1)
    return algorithm, policy


def round_of(algorithm: RewardBackprop, policy: Policy, n: int = 5, round: int = 0) -> Experience:
    plan = algorithm.plan(policy.backbone, round, draws(0, [("plan", round)])[0])
    prompts = [f"clip {i}" for i in range(n)]
    rollout = sample(
        policy, policy.backbone.encode(prompts), draws(0, [(round, i) for i in range(n)]), plan
    )
    return Experience(
        rollout, torch.zeros(n, 1), torch.arange(n), prompts, torch.arange(n), 0, round
    )


def batch_of(algorithm: RewardBackprop, policy: Policy, **more):
    return next(algorithm.minibatches(round_of(algorithm, policy, **more)))


def gradient(algorithm: RewardBackprop, policy: Policy, batch) -> list[float]:
    value = algorithm.loss(policy, batch).value
    return [
        float(g)
        for g in torch.autograd.grad(value, [policy.backbone.network.a, policy.backbone.network.b])
    ]


def by_hand(
    policy: Policy, x, first: int, last: int, frames=range(9), beta: float = 0.0, away=(0.0, 0.0)
):
    """The loss's gradient in a and b, in float64, by the derivatives (p, q) of x in a and b
    from step to step.

    x' = x + (s − t)(a x + b t), p' = p + (s − t)(x + a p), q' = q + (s − t)(a q + t).
    `away`: how far a and b are from the reference's, so that v − v_ref = away_a x + away_b
    t where x is the same; this distance is at the x that is visited, and has no derivative
    in x.
    """
    times = policy.backbone.times(4)
    a, b = (float(w.detach()) for w in (policy.backbone.network.a, policy.backbone.network.b))
    x, p, q = x.double(), torch.zeros_like(x.double()), torch.zeros_like(x.double())
    kl = [0.0, 0.0]
    for k in range(first, last):
        t, step = times[k], times[k + 1] - times[k]
        off = away[0] * x + away[1] * t
        kl = [kl[0] + 2 * float((off * x).mean()), kl[1] + 2 * float((off * t).mean())]
        x, p, q = x + step * (a * x + b * t), p + step * (x + a * p), q + step * (a * q + t)
    return [beta * kl[i] - reward_slope(x, d, frames) for i, d in enumerate((p, q))]


def reward_slope(x, d, frames) -> float:
    """The derivative of the mean square of pixels 0.5 + x/20 of some frames, where x moves
    by d."""
    latent = [0, *[1] * 4, *[2] * 4]
    each = [(2 * (0.5 + x[:, :, latent[f]] / 20) * d[:, :, latent[f]] / 20).mean() for f in frames]
    return float(sum(each) / len(each))


# --- formulas


@pytest.mark.parametrize(("last", "first"), [(1, 2), (2, 1), (3, 0), (0, 2)])
def test_draft_goes_through_the_last_wide_steps_and_those_after(last, first):
    algorithm, policy = ready(last=last)
    batch = batch_of(algorithm, policy)
    assert batch.plan.keep == (first,) and not batch.plan.scored
    assert gradient(algorithm, policy, batch) == pytest.approx(
        by_hand(policy, batch["x"], first, 4), rel=1e-5
    )


def test_draft_lv_takes_each_clip_as_it_was_and_from_x0_noised_anew():
    algorithm, policy = ready(way="lv", renoise=3)
    seen = round_of(algorithm, policy)
    batch = next(algorithm.minibatches(seen))
    assert len(batch) == 4 * 5 and batch.plan.keep == (2,)
    t = batch.plan.times[2]
    for i in range(5):
        own = batch["x"][[prompt == f"clip {i}" for prompt in batch.prompts]]
        noise = (own - (1 - t) * seen.rollout.latents[i]) / t
        kept = [torch.equal(x, seen.rollout.before[i, 0]) for x in own]
        anew = noise[[not one for one in kept]].flatten(1)
        assert (
            sum(kept) == 1
            and anew.mean(1).abs().max() < 0.25
            and (anew.std(1) - 1).abs().max() < 0.15
        )
        assert (torch.corrcoef(anew) - torch.eye(3)).abs().max() < 0.25  # of 576 numbers
    assert gradient(algorithm, policy, batch) == pytest.approx(
        by_hand(policy, batch["x"], 2, 4), rel=1e-5
    )


def test_alignprop_draws_one_truncation_a_round_and_cuts_nowhere_else():
    """TRL drew at every step whether to cut there: the gradient through k whole steps is
    another one."""
    algorithm, policy = ready(way="alignprop")
    firsts = [
        algorithm.plan(policy.backbone, r, draws(0, [("plan", r)])[0]).keep[0] for r in range(300)
    ]
    assert all(abs(firsts.count(k) - 100) < 30 for k in range(3)) and set(firsts) == {0, 1, 2}
    for round in (firsts.index(0), firsts.index(1)):
        batch = batch_of(algorithm, policy, round=round)
        found = gradient(algorithm, policy, batch)
        assert found == pytest.approx(by_hand(policy, batch["x"], firsts[round], 4), rel=1e-5)


def test_refl_scores_the_prediction_of_one_step():
    algorithm, policy = ready(way="refl", last=3)
    firsts = {
        algorithm.plan(policy.backbone, r, draws(0, [("plan", r)])[0]).keep[0] for r in range(50)
    }
    batch = batch_of(algorithm, policy)
    t, a, b = batch.plan.times[batch.plan.keep[0]], 0.7, -0.4
    x = batch["x"].double()
    x0 = x - t * (a * x + b * t)
    hand = [
        -reward_slope(x0, -t * x, range(9)),
        -reward_slope(x0, torch.full_like(x, -t * t), range(9)),
    ]
    assert firsts == {0, 1, 2} and gradient(algorithm, policy, batch) == pytest.approx(
        hand, rel=1e-5
    )


@pytest.mark.parametrize("segments", [2, 3])
def test_vader_decodes_one_segment_and_what_the_decoder_looks_back_at(segments):
    algorithm, policy = ready(way="vader", decode_segments=segments, context=1)
    spans, latents = (
        {2: [(0, 5), (5, 9)], 3: [(0, 1), (1, 5), (5, 9)]}[segments],
        {2: [2, 2], 3: [1, 2, 2]}[segments],
    )
    met = set()
    for round in range(12):
        batch = batch_of(algorithm, policy, round=round)
        j = int(batch["segment"][0])
        found = gradient(algorithm, policy, batch)
        assert found == pytest.approx(by_hand(policy, batch["x"], 2, 4, range(*spans[j])), rel=1e-5)
        assert policy.backbone.decoded[-1][0] == latents[j] and bool((batch["segment"] == j).all())
        met.add(j)
    assert met == set(range(segments))


@pytest.mark.parametrize("way", ["draft", "refl"])
def test_beta_weighs_the_distance_of_predictions_from_the_reference(way):
    algorithm, policy = ready(way=way, last=2 if way == "draft" else 1, beta=3.0)
    batch = batch_of(algorithm, policy)
    assert float(algorithm.divergence(policy, batch).detach()) == 0
    policy.weights["a"].data += 0.2
    policy.weights["b"].data -= 0.5
    plain = RewardBackprop(steps=4, way=way, last=algorithm.last)
    plain.setup(policy, Square(), 1)
    more = [
        w - wo
        for w, wo in zip(
            gradient(algorithm, policy, batch), gradient(plain, policy, batch), strict=True
        )
    ]
    first = batch.plan.keep[0]
    last = first + 1 if way == "refl" else 4
    with_kl, without = (
        by_hand(policy, batch["x"], first, last, beta=beta, away=(0.2, -0.5)) for beta in (3.0, 0.0)
    )
    assert more == pytest.approx([w - wo for w, wo in zip(with_kl, without, strict=True)], rel=1e-3)


def test_a_clip_without_a_score_adds_nothing_and_is_told():
    algorithm, policy = ready()
    batch = batch_of(algorithm, policy)
    algorithm.reward.unscored = batch.prompts[1]
    kept = torch.tensor([0, 2, 3, 4])
    loss = algorithm.loss(policy, batch)
    hand = [g * 4 / 5 for g in by_hand(policy, batch["x"][kept], 2, 4)]
    assert gradient(algorithm, policy, batch) == pytest.approx(hand, rel=1e-5)
    assert loss.metrics["reward"].isnan().tolist() == [False, True, False, False, False]


class Spoilt(Square):
    """Square, with an undefined number in the graph of some prompts: a value of 0/0, or 0
    with a slope of 0/0."""

    def __init__(self, kind: str = "value", prompts: str = "a cat") -> None:
        super().__init__()
        self.kind, self.prompts = kind, prompts.split(",")

    def forward(self, samples: Samples) -> Score:
        score = super().forward(samples)
        hit = torch.tensor([prompt in self.prompts for prompt in samples.prompts])
        std = (samples.frames - samples.frames.detach()).square().flatten(1).sum(1) + (~hit).float()
        bad = std / std if self.kind == "value" else std.sqrt()
        return Score(score.value + torch.where(hit, bad, 0.0), score.frames)


@pytest.mark.parametrize("kind", ["value", "slope"])
def test_an_undefined_number_in_the_graph_of_one_clip_leaves_that_clip_out(kind):
    algorithm, policy = ready()
    batch = batch_of(algorithm, policy)
    algorithm.reward = Spoilt(kind, batch.prompts[1])
    kept = torch.tensor([0, 2, 3, 4])
    hand = [g * 4 / 5 for g in by_hand(policy, batch["x"][kept], 2, 4)]
    assert gradient(algorithm, policy, batch) == pytest.approx(hand, rel=1e-5)
    loss = algorithm.loss(policy, batch)
    assert loss.metrics["reward"].isnan().tolist() == [False, True, False, False, False]
    assert float(loss.value) == pytest.approx(-float(loss.metrics["reward"].nansum()) / 5)


@pytest.mark.parametrize("kind", ["value", "slope"])
def test_clips_with_an_undefined_number_are_counted_and_told_and_all_of_them_end_the_run(
    tmp_path, kind
):
    own = {
        "algorithm": {"name": "reward_backprop", "options": {"steps": 4, "updates": 1}},
        "train_rounds": 3,
        "train_max_unscored": 0.9,
    }
    named = {"name": "test_reward_backprop:Spoilt", "options": {"kind": kind}}
    run = loop.run(recipe(tmp_path / "one", reward=named, **own))
    shares = [row["unscored_share"] for row in rows(run)]
    assert set(shares) == {0.0, 0.5} and all(row["grad_norm"] > 0 for row in rows(run))
    said = [row["message"] for row in happened(run) if row["kind"] == "unscored"]
    assert (
        len(said) == sum(share > 0 for share in shares)
        and "50% of the clips were left out of the loss" in said[0]
    )
    named["options"]["prompts"] = "a cat,a dog,a cow,a hen,a bee"
    held_out = tmp_path / "all" / "other.txt"
    held_out.parent.mkdir()
    held_out.write_text("a fox\n")
    every = recipe(
        tmp_path / "all", reward=named, data_held_out=str(held_out), data_held_out_n=1, **own
    )
    with pytest.raises(
        RuntimeError,
        match="100% of the samples are unscored.*no finite number, or no finite gradient",
    ):
        loop.run(every)


# --- what is run


def test_steps_run_again_in_the_backward_pass_and_nothing_is_decoded_under_autocast():
    algorithm, policy = ready(last=3)
    batch = batch_of(algorithm, policy)
    policy.backbone.calls = 0
    with torch.autocast("cpu", torch.bfloat16):
        loss = algorithm.loss(policy, batch)
    assert policy.backbone.calls == 4 and policy.backbone.decoded[-1] == (3, False)
    loss.value.backward()
    assert policy.backbone.calls == 8


def test_the_default_composite_gives_the_gradient_of_its_parts_that_carry_one():
    algorithm, policy = RewardBackprop(steps=3, blind_parts=True), Policy(Toy(), full=True)
    algorithm.setup(policy, default(), 1)
    seen = round_of(algorithm, policy, n=2)
    batch = next(algorithm.minibatches(seen))
    weights = list(policy.weights.values())
    whole = torch.autograd.grad(algorithm.loss(policy, batch).value, weights)
    composite, total = default(), [torch.zeros_like(w) for w in weights]
    for name, part in composite.parts.items():
        if part.differentiable:
            alone = RewardBackprop(steps=3)
            alone.setup(policy, part, 1)
            found = torch.autograd.grad(alone.loss(policy, batch).value, weights)
            scale = composite.weights[name] / composite.scales[name][1]
            total = [t + scale * f for t, f in zip(total, found, strict=True)]
    for one, other in zip(whole, total, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_loop_decodes_and_scores_nothing_where_the_loss_does(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("decoded in the loop")

    monkeypatch.setattr(loop.Trainer, "_decoded", never)
    algorithm = {"name": "reward_backprop", "options": {"steps": 4}}
    run = loop.run(recipe(tmp_path, algorithm=algorithm, reward={"name": "every:Light"}))
    table = rows(run)
    assert [set(row["reward"]) for row in table] == [{"mean", "std"}] * 5 and table[-1][
        "unscored_share"
    ] == 0
    assert 0 < table[0]["reward"]["mean"] < table[-1]["reward"]["mean"] < 1
    assert set(table[0]["seconds"]) == {"sample", "update"}
    assert "reward of the training clips" in (Path(run) / "report.html").read_text()


class Fussy(Square):
    """Leaves all but one prompt unscored."""

    def forward(self, samples: Samples) -> Score:
        score = super().forward(samples)
        lost = torch.tensor(
            [prompt in ("a dog", "a cow", "a hen", "a bee") for prompt in samples.prompts]
        )
        return Score(score.value.masked_fill(lost, torch.nan), score.frames)


def test_too_many_clips_that_the_loss_cannot_score_end_the_run(tmp_path):
    made = recipe(
        tmp_path,
        algorithm={"name": "reward_backprop", "options": {"steps": 4}},
        train_max_unscored=0.4,
        reward={"name": "test_reward_backprop:Fussy"},
        data_held_out_n=1,
        data_held_out=str(tmp_path / "cats.txt"),
    )
    (tmp_path / "cats.txt").write_text("a cat\n")
    with pytest.raises(RuntimeError, match=r"of the samples are unscored, at most 40% may be"):
        loop.run(made)


# --- bad input


class Numpy(Square):
    """Says that it carries gradient, and needs numpy."""

    def forward(self, samples: Samples) -> Score:
        return Score(torch.from_numpy(samples.frames.numpy()).mean((1, 2, 3, 4)))


class Cuts(Square):
    """Says that it carries gradient, and cuts it."""

    def forward(self, samples: Samples) -> Score:
        return Score(samples.frames.detach().mean((1, 2, 3, 4)))


class Blind(Square):
    differentiable = False


BAD = [
    ({}, Blind(), r"got Blind, which says differentiable = False.*an algorithm that needs none"),
    (
        {},
        default(),
        r"motion_consistency, dynamic_degree, freeze do not.*blind_parts = true.*guard\.bands",
    ),
    ({}, Composite({"a": Composite({"b": Blind()}), "c": Square()}), r"but a/b do not"),
    (
        {"blind_parts": True},
        Composite({"a": Blind()}),
        r"expected a reward that carries gradient, got a,",
    ),
    ({}, Composite({"a": Square()}, normalise="batch"), r"normalise = 'fixed', got 'batch'"),
    (
        {},
        Numpy(),
        r"scores clips on cpu with gradient, got an error \(RuntimeError: Can't call "
        r"numpy.*needs the CPU",
    ),
    (
        {},
        Cuts(),
        r"expected a gradient of Cuts, which says differentiable = True, got none.*detach",
    ),
    (
        {"last": 4},
        Square(),
        r"expected last from 1 to 3, because so many of 4 steps.*got 4: lower last",
    ),
    ({"min_width": 0.5}, Square(), r"expected last from 1 to 0.*min_width"),
    ({"way": "vader", "decode_segments": 4}, Square(), r"expected 1 to 3 segments"),
    (
        {"way": "vader", "decode_segments": 3},
        plugin.load("rewards", "flicker"),
        r"expected clips long enough.*got 1 frames.*fewer algorithm.options.decode_segments",
    ),
]


@pytest.mark.parametrize(("options", "reward", "words"), BAD)
def test_what_cannot_be_trained_is_refused_before_any_clip(options, reward, words):
    policy = Policy(Line(), full=True)
    with pytest.raises(ValueError, match=words):
        RewardBackprop(**{"steps": 4, **options}).setup(policy, reward, 1)
    assert policy.backbone.calls == 0 and not policy.backbone.decoded


class Whole(Line):
    """A line whose decoder needs all latent frames, or makes frames of its own number of
    fewer."""

    def __init__(self, frames: int | None = None) -> None:
        super().__init__()
        self.frames = frames

    def decode(self, latents):
        if latents.shape[2] < 3 and self.frames is None:
            raise RuntimeError("shape '[1, 3, 8, 8]' is invalid")
        return super().decode(latents)[:, : self.frames if latents.shape[2] < 3 else None]


@pytest.mark.parametrize(
    "frames, got",
    [
        (None, r"RuntimeError: shape '\[1, 3, 8, 8\]' is invalid"),
        (3, "3 pixel frames in place of 5"),
    ],
)
def test_a_backbone_that_decodes_whole_clips_alone_is_refused_before_any_sampling(frames, got):
    policy = Policy(Whole(frames), full=True)
    algorithm = RewardBackprop(steps=4, way="vader", context=1)
    with pytest.raises(
        ValueError, match=f"decodes 2 of its 3 latent frames alone.*got {got}.*decode_segments = 1"
    ):
        algorithm.setup(policy, Square(), 1)
    assert policy.backbone.calls == 0
    for cure in ({"way": "vader", "decode_segments": 1}, {"way": "draft"}):
        RewardBackprop(steps=4, **cure).setup(policy, Square(), 1)


@pytest.mark.parametrize(
    "options",
    [
        {"last": -1},
        {"beta": -0.1},
        {"steps": 0},
        {"updates": 0},
        {"renoise": 0},
        {"context": 0},
        {"way": "lv", "last": 2},
    ],
)
def test_options_out_of_range_say_which_are_allowed(options):
    with pytest.raises(ValueError, match="expected last"):
        RewardBackprop(**options)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"renoise": 4}, "no renoise with way = 'draft'"),
        ({"way": "lv", "context": 1}, "no context with way = 'lv'"),
        (
            {"way": "refl", "decode_segments": 3, "context": 3},
            "no decode_segments and no context with way = 'refl'",
        ),
    ],
)
def test_an_option_that_the_way_does_not_read_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        RewardBackprop(**options)


def test_a_recipe_is_refused_before_the_model_is_loaded(tmp_path):
    made = recipe(
        tmp_path,
        algorithm={"name": "reward_backprop"},
        reward={"name": "default"},
        backbone={"name": "wan", "options": {"model": "/nowhere"}},
    )
    with pytest.raises(ValueError, match="blind_parts"):
        loop.run(made)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_raises_the_reward_that_it_descends_on(way):
    algorithm, policy = ready(way=way)
    batch = batch_of(algorithm, policy)
    optimiser = torch.optim.SGD(policy.weights.values(), lr=0.1)
    before = float(algorithm.loss(policy, batch).value.detach())
    algorithm.loss(policy, batch).value.backward()
    optimiser.step()
    assert float(algorithm.loss(policy, batch).value.detach()) < before
