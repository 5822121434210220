"""Recipes are read strictly: each mistake is answered with what was expected, what came and
the cure."""

import re
import tomllib
from pathlib import Path

import pytest

from vidrl import config
from vidrl.data import prompts
from vidrl.recipe import toml

RECIPES = sorted((Path(__file__).parent.parent / "scripts" / "recipes").glob("*.toml"))


@pytest.fixture
def recipe(tmp_path):
    """A writer of recipe files that are right but for the given text."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")

    def write(text=""):
        path = tmp_path / "mine.toml"
        data = f'[data]\nprompts = "{prompts}"\nheld_out = "{prompts}"\nheld_out_n = 2\n'
        path.write_text(text if "[data]" in text else f"{text}\n{data}")
        return path

    return write


def test_defaults_and_overrides(recipe):
    loaded = config.load(
        recipe("seed = 4\n[train]\nrounds = 7"), ["train.group=4", "train.learning_rate=1e-4"]
    )
    assert (loaded.seed, loaded.train.rounds, loaded.train.group, loaded.train.learning_rate) == (
        4,
        7,
        4,
        1e-4,
    )
    assert loaded.run == "runs/mine" and loaded.train.keep_checkpoints == 3
    assert loaded.policy.lora_targets == ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("run=7", ("run",), "7"),
        ("run=a b", ("run",), "a b"),
        ('run="quoted"', ("run",), "quoted"),
        ("policy.full=true", ("policy", "full"), True),
        ("train.trackers=['wandb']", ("train", "trackers"), ["wandb"]),
        ("train.mixed_precision=bf16", ("train", "mixed_precision"), "bf16"),
        ("guard.bands.exposure=[0.5, 2]", ("guard", "bands"), {"exposure": (0.5, 2.0)}),
        ("reward.parts.flicker=2", ("reward", "parts"), {"flicker": 2.0}),
        (
            'reward.parts."vidrl.synthetic.motion_fit:MotionFit"=0.5',
            ("reward", "parts"),
            {"vidrl.synthetic.motion_fit:MotionFit": 0.5},
        ),
        ("algorithm.options.alpha=0.5", ("algorithm", "options"), {"alpha": 0.5}),
        ("backbone.options.model=assets/x", ("backbone", "options"), {"model": "assets/x"}),
    ],
)
def test_an_override_is_read_as_its_field_wants(recipe, override, path, value):
    got = config.load(recipe(), [override])
    for name in path:
        got = getattr(got, name)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nround = 3", "unknown key 'train.round': did you mean 'train.rounds'"),
        ("rounds = 3", "unknown key 'rounds': did you mean 'train.rounds'"),
        ("[trian]\nrounds = 3", "unknown key 'trian'"),
        (
            "[train]\nrounds = '3'",
            r"train.rounds: expected int, got '3' \(str\); the default is 30",
        ),
        ("[train]\nlearning_rate = 'fast'", "train.learning_rate: expected float"),
        ("[train]\nmixed_precision = 'fp8'", "'no', 'bf16', 'fp16'.*got 'fp8'"),
        ("train = 3", r"expected a table \[train\], got 3"),
        ("[train]\ngroup = 0", "train.group: expected at least 1, got 0"),
        (
            "[train]\nlr_end = 0.5",
            'train.lr_end: expected train.lr_schedule = "linear".*lr_end = 0.5, got "constant"',
        ),
        ("[train]\nrounds = 0", "train.rounds: expected at least 1, got 0"),
        ("[train]\nmax_unscored = 1.5", "train.max_unscored"),
        ("[train]\nema = 1.0", "train.ema"),
        ("[train]\nlearning_rate = 0.0", "train.learning_rate"),
        (
            "[train]\nlr_end = 1.5",
            r"train.lr_end: expected a fraction of train.learning_rate in \[0, 1\], got 1.5",
        ),
        ("[train]\nlr_end = -0.1", "train.lr_end: expected a fraction"),
        (
            "[train]\nlr_schedule = 'cosin'",
            "train.lr_schedule: expected.*'constant', 'linear', 'cosine'.*got 'cosin'",
        ),
        (
            "[train]\nwarmup = 30",
            "train.warmup: expected 0 to 29 rounds, fewer than the 30 of train.rounds, got",
        ),
        (
            "[train]\neval_n = 300",
            "train.eval_n: expected 0 .all prompts. to data.held_out_n = .*, got 300",
        ),
        ("[train]\neval_n = -1", "train.eval_n: expected 0"),
        ("[policy]\nlora_alpha = 0", "policy.lora_alpha: expected more than 0, got 0"),
        (
            "[policy]\nlora_partial = true",
            "policy.lora_partial: expected policy.lora, the LoRA of which",
        ),
        ("run = ''", "run: expected the run's folder"),
        ("[guard.bands]\nverifier = [2, 1]", r"guard.bands.verifier: expected \[low, high\]"),
        ("[guard.bands]\nverifier = 0.5", r"guard.bands: expected tuple\[float, float\], got 0.5"),
        (
            "[reward]\nname = 'flicker'\n[reward.parts]\nflicker = 1",
            "expected name or parts, got both",
        ),
        ("this is no TOML", "is not TOML.*line 1"),
    ],
)
def test_mistakes_are_explained(recipe, text, message):
    with pytest.raises(config.BadRecipe, match=message):
        config.load(recipe(text))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.rounds", "expected key=value"),
        ("train.rounds=many", r"train.rounds: expected int, got 'many'"),
        ("policy.full=True", "policy.full: expected bool, got 'True'"),
        ("seed.x=3", "'seed' is a value, not a section"),
        ("train.rounds.x=3", "train.rounds: expected int"),
        ('reward.parts."my_package.rewards:f=0', "expected a name that has dots in double quotes"),
        ("reward.parts.my_package.rewards:f=0", "expected a name that has dots in double quotes"),
        ("guard.bands.my_package.rewards:f=[0.9, 1.1]", "expected a name that has dots in double"),
    ],
)
def test_bad_overrides_are_explained(recipe, override, message):
    with pytest.raises(config.BadRecipe, match=message):
        config.load(recipe("seed = 1"), [override])


def test_a_name_with_a_colon_and_no_dots_needs_no_quotes(recipe):
    overrides = ["reward.parts.my_module:f=0.3", "reward.parts.my_module:g.weight=1"]
    loaded = config.load(recipe(), overrides)
    assert loaded.reward.parts == {"my_module:f": 0.3, "my_module:g": {"weight": 1}}


def test_an_option_is_set_after_the_section_was_emptied(recipe):
    text = "[algorithm]\nname = 'grpo'\n[algorithm.options]\neta = 0.5"
    loaded = config.load(
        recipe(text), ["algorithm.name=nft", "algorithm.options={}", "algorithm.options.beta=0.5"]
    )
    assert loaded.algorithm.options == {"beta": 0.5}


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(config.BadRecipe, match="nothing.toml: expected a TOML file, found none"):
        config.load(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "prompts.txt is empty"),
        ("a\n\nb\n", "prompts.txt, line 2 is blank"),
        ("a\n   \n", "line 2 is blank"),
        (None, "prompts.txt: expected a UTF-8 text file"),
    ],
)
def test_a_bad_prompt_file_is_named_with_its_line(recipe, tmp_path, text, message):
    path = recipe()
    (tmp_path / "prompts.txt").unlink() if text is None else (tmp_path / "prompts.txt").write_text(
        text
    )
    with pytest.raises(config.BadRecipe, match=message):
        config.load(path)


MARKED = "\ufeffa red circle\r\n# a comment\r\n\ufeffa blue square \u2028 shines\r\n"


def test_only_prompts_become_prompts(tmp_path):
    """No byte-order mark, no comment; and none of the rare characters that `str.splitlines`
    ends a line at."""
    path = tmp_path / "prompts.txt"
    path.write_bytes(MARKED.encode())
    assert config.read_prompts(path) == ["a red circle", "a blue square \u2028 shines"]
    path.write_text("#my prompts\ntext, in neon, glows over a street\n[wide] a cat\n{a} dog\n")
    assert config.read_prompts(path) == [
        "text, in neon, glows over a street",
        "[wide] a cat",
        "{a} dog",
    ]


@pytest.mark.parametrize(
    "first",
    [
        "path,prompt",
        "prompt",
        '"path";"caption"',
        "id\tText",
        ",prompt",
        "video id, prompt",
        '{"prompt": "a cat"}',
        '["a cat"]',
        "[",
    ],
)
def test_a_table_is_no_prompt_file(tmp_path, first):
    path = tmp_path / "table.txt"
    path.write_text(f"# a comment\n{first}\n0.mp4,a red circle\n")
    with pytest.raises(
        config.BadRecipe, match=r"table.txt, line 2: expected plain text.*got (the header|JSON)"
    ):
        config.read_prompts(path)


def test_a_file_of_comments_alone_is_empty(tmp_path):
    (tmp_path / "none.txt").write_text("# a\n# b\n")
    with pytest.raises(config.BadRecipe, match="none.txt is empty"):
        config.read_prompts(tmp_path / "none.txt")


def test_prompts_that_are_trained_on_and_measured_get_a_note(tmp_path):
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("# mine\na cat\na dog\n")
    other.write_text("a cow\na dog\na cat\n")
    same = prompts.notes(one, one, 2)
    assert "one.txt: 1 lines begin with #" in same[0] and len(same) == 2
    assert same[1].startswith(
        "data.prompts and data.held_out are one file: 2 of 2 held-out prompts are trained on"
    )
    assert prompts.notes(other, one, 1)[1].startswith("1 of 1 held-out prompts")
    # of the held-out prompts only those that are evaluated count
    assert prompts.notes(one, other, 1) == same[:1]


def test_more_held_out_prompts_than_there_are(recipe):
    with pytest.raises(config.BadRecipe, match=r"data.held_out_n: expected 1 to 2 .*got 3"):
        config.load(recipe(), ["data.held_out_n=3"])
    with pytest.raises(config.BadRecipe, match="data.prompts: expected a text file"):
        config.load({"run": "x"})


def test_a_recipe_survives_toml(recipe):
    loaded = config.load(
        recipe(),
        [
            "guard.bands.exposure=[0.5,2]",
            "reward.parts.flicker=2",
            "algorithm.options.x=[1]",
            'algorithm.options.deep={a = "b"}',
            "train.learning_rate=3e-7",
        ],
    )
    again = config.load(tomllib.loads(loaded.to_toml()))
    assert again == loaded and config.diff(loaded, again) == []


def test_diff_shows_each_difference_and_ignores_the_folder(recipe):
    one = config.load(recipe())
    two = config.load(one, ["run=elsewhere", "train.rounds=3", "algorithm.options.alpha=0.5"])
    assert sorted(config.diff(one, two)) == [
        "algorithm.options.alpha: (absent) -> 0.5",
        "train.rounds: 30 -> 3",
    ]


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        'quote " and \\ and \n newline',
        "\x7f\x01",
        "ünïcødé 🎬",
        True,
        -3,
        1e-12,
        1e300,
        float("inf"),
        [],
        [[1], ["a"]],
        {"a b": {"": 1}},
        {},
    ],
)
def test_toml_reads_back_what_was_written(value):
    assert tomllib.loads(toml.write({"key": value, "odd key.": value})) == {
        "key": value,
        "odd key.": value,
    }


def test_toml_cannot_hold_none():
    with pytest.raises(TypeError, match="cannot hold None"):
        toml.write({"a": None})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path, monkeypatch):
    monkeypatch.chdir(path.parent.parent.parent)
    recipe = config.load(path)
    config.check_plugins(recipe)
    assert recipe.run == f"runs/{path.stem}"


VIDEO = ("wan22_5b", "wan_14b", "cogvideox_2b", "cogvideox_5b", "ltx", "hunyuan_video15")


@pytest.mark.parametrize("name", VIDEO)
def test_the_recipes_of_video_models_are_right_but_for_their_weights(name, monkeypatch):
    """The reward suits the algorithm, the memory options go together, each latent frame of the
    clip is a segment, and the header says that nobody has run the recipe."""
    from vidrl.backbones._memory import Memory
    from vidrl.training import evaluate

    path = next(path for path in RECIPES if path.stem == name)
    monkeypatch.chdir(path.parent.parent.parent)
    recipe = config.load(path)
    evaluate.check_recipe(recipe)
    options = recipe.backbone.options
    Memory(**{key: options[key] for key in Memory.__dataclass_fields__ if key in options})
    frames = options.get("frames") or options["call"]["num_frames"]
    step = 8 if name == "ltx" else 4  # pixel frames of a latent frame; the first stands alone
    assert frames % step == 1 and recipe.algorithm.options["segments"] == (frames - 1) // step + 1
    header = path.read_text().partition("run =")[0]
    assert "NOT YET RUN ON A GPU" in header and re.search(r"a GPU of (24|48|80) GB", header)


# --- the parts of a reward

PARTS = """
[reward.parts]
default = 2
jerk = {weight = 0.5, options = {flow = "farneback"}, scale = 0.1, band = [0.2, 0.8]}
freeze = {gate = 0.5, scale = [0.25, 2]}
cut = {}
"""


def test_parts_are_numbers_or_tables(recipe):
    from vidrl.rewards import default
    from vidrl.training.evaluate import build_reward

    loaded = config.load(recipe(PARTS), ["reward.parts.cut.weight=3", "reward.parts.loop=1"])
    config.check_plugins(loaded)
    made, usual = build_reward(loaded.reward), default()
    assert (
        made.weights["jerk"] == 0.5
        and made.parts["jerk"].flow == "farneback"
        and made.bands == {"jerk": (0.2, 0.8)}
    )
    assert (
        made.scales["jerk"] == (0.0, 0.1)
        and made.scales["freeze"] == (0.25, 2.0)
        and made.gates == {"freeze": 0.5}
    )
    assert (
        made.weights["cut"] == 3.0
        and made.weights["loop"] == 1.0
        and made.scales["cut"] == (0.0, 1.0)
    )
    for name, weight in usual.weights.items():
        # freeze has an entry of its own beside it
        own = "default/freeze" if name == "freeze" else name
        assert made.weights[own] == 2 * weight and made.scales[own] == usual.scales[name]
        assert type(made.parts[own]) is type(usual.parts[name])


def test_the_default_and_mine_are_their_weighted_sum(recipe):
    import torch

    from vidrl.rewards import Samples, default
    from vidrl.rewards.frame_quality import FrameQuality
    from vidrl.training.evaluate import build_reward

    loaded = config.load(
        recipe("[reward.parts]\ndefault = 0.5\nframe_quality = {weight = 2, scale = 0.1}")
    )
    samples = Samples(torch.rand(2, 9, 3, 32, 32), ["", ""], 8.0)
    score, usual, mine = (
        build_reward(loaded.reward)(samples),
        default()(samples),
        FrameQuality()(samples),
    )
    torch.testing.assert_close(score.value, 0.5 * usual.value + 20 * mine.value)
    torch.testing.assert_close(score.frames, 0.5 * usual.frames + 20 * mine.frames)
    torch.testing.assert_close(
        score.parts["default/frame_quality"].value, usual.parts["frame_quality"].value
    )


def test_parts_survive_the_resolved_recipe(recipe):
    loaded = config.load(recipe(PARTS + '"package.module:Mine" = {weight = 1.5}'))
    assert config.load(tomllib.loads(loaded.to_toml())) == loaded
    assert config.diff(loaded, config.load(tomllib.loads(loaded.to_toml()))) == []


def test_a_reward_may_be_called_default(recipe):
    from vidrl.rewards import default
    from vidrl.training.evaluate import build_reward

    loaded = config.load(recipe("[reward]\nname = 'default'"))
    config.check_plugins(loaded)
    assert build_reward(loaded.reward).weights == default().weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "flicker = 'much'",
            r"reward.parts.flicker: expected a weight, as 1.0, or a table .*got 'much' \(str\)",
        ),
        ("flicker = true", "reward.parts.flicker: expected a weight.*got True"),
        ("flicker = [1.0]", "reward.parts.flicker: expected a weight"),
        (
            "flicker = {wieght = 1.0}",
            "reward.parts.flicker: unknown key 'wieght': did you mean 'weight'",
        ),
        (
            "flicker = {weight = '1'}",
            "reward.parts.flicker: weight: expected float, got '1'.*write weight = 0.5",
        ),
        ("flicker = {weight = inf}", "reward.parts.flicker: weight: expected a finite number"),
        ("flicker = {scale = 0.0}", "reward.parts.flicker: scale: expected a number above 0"),
        (
            "flicker = {scale = [1.0, -1.0]}",
            "scale: expected a number above 0, or .centre, scale., got",
        ),
        (
            "flicker = {scale = 'wide'}",
            "scale: expected float | tuple.*write scale = 0.1, or scale = .centre, scale.",
        ),
        ("flicker = {band = 0.5}", r"band: expected .*got 0.5.*write band = \[low, high\]"),
        ("flicker = {band = [0.8, 0.2]}", "band: expected .low, high. with low < high"),
        ("flicker = {gate = -1}", "gate: expected a number above 0, got -1"),
        ("flicker = {options = 3}", "options: expected a table.*write options = {name = value}"),
        (
            "flicker = {flow = 'dis'}",
            "unknown key 'flow'.*known: band, gate, options, scale, weight",
        ),
        (
            "default = {band = [0.0, 1.0]}",
            "reward.parts.default: the default composite takes a weight only",
        ),
        ("flicker = 0", "expected a weight other than 0"),
    ],
)
def test_mistakes_in_parts_are_explained(recipe, text, message):
    with pytest.raises(config.BadRecipe, match=message):
        config.load(recipe(f"[reward.parts]\n{text}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[reward.parts]\nflikker = {weight = 1.0}", "did you mean 'flicker'"),
        ("[reward.parts]\nflicker = {options = {flwo = 'dis'}}", "did you mean 'flow'"),
        (
            "[reward.parts]\nflicker = {options = {flow = 3}}",
            "option 'flow' of rewards 'flicker': expected str",
        ),
        (
            "[reward]\nname = 'default'\noptions = {flow = 'dis'}",
            "default composite has no options",
        ),
        ("[reward.parts]\n'math:sqrt' = {options = {a = 1}}", "takes no options"),
        ("[reward.parts]\n'math:pi' = 1.0", r"expected a Reward or a function fn\(samples\)"),
    ],
)
def test_wrong_names_and_options_of_parts_show_before_any_work(recipe, text, message):
    loaded = config.load(recipe(text))
    with pytest.raises((ValueError, TypeError), match=message):
        config.check_plugins(loaded)


def test_options_without_a_name_are_refused(recipe):
    with pytest.raises(
        config.BadRecipe, match="reward.options: expected reward.name, whose options these are"
    ):
        config.load(recipe("[reward]\noptions = {flow = 'dis'}\n[reward.parts]\nflicker = 1"))


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("train.lr=1e-4", "train.learning_rate"),
        ("epochs=3", "train.rounds"),
        ("train.epochs=3", "train.rounds"),
    ],
)
def test_a_key_of_another_trainer_is_answered_with_ours(override, meant):
    with pytest.raises(config.BadRecipe, match=f"it is '{meant}' here"):
        config.build({"run": "runs/x"}, [override], files=False)


def test_each_key_of_another_trainer_leads_to_a_key_of_a_recipe():
    known = {name for name, _ in toml.flat(config.Recipe().to_dict())}
    assert set(config.ELSEWHERE.values()) <= known
