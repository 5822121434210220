"""Images are clips of one frame: every command takes them, leaves out what needs time, and
says so."""

import json
import re

import pytest
import torch
import toys

from vidrl import cli, config, plugin
from vidrl.bench.notes import observations
from vidrl.bench.protocol import Protocol
from vidrl.report.page.film import player
from vidrl.report.run_folder import read
from vidrl.rewards import Composite, load, score, score_files, video
from vidrl.synthetic import world
from vidrl.training import evaluate, stills

LEFT = "motion_consistency, warp_error, flicker, drift, dynamic_degree, pumping, freeze"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three images with names that make no film, one of them a .jpg."""
    import cv2

    made = tmp_path_factory.mktemp("images")
    for scene, name in zip(world.scenes("held_out", 3), ("a.png", "b.png", "c.jpg"), strict=True):
        clip = world.render(scene, 64, 1, seed=1).video
        if name.endswith("jpg"):
            cv2.imwrite(
                str(made / name),
                (clip[0].permute(1, 2, 0).numpy()[..., ::-1] * 255).astype("uint8"),
            )
        else:
            video.write(made / name, clip, 8.0)
    return made


def said(capsys, *arguments):
    status = cli.main(list(map(str, arguments)))
    return status, *capsys.readouterr()


# Files


def test_a_picture_keeps_every_bit_and_is_a_film_of_one_frame(tmp_path):
    clip = torch.randint(0, 256, (1, 3, 9, 14), dtype=torch.uint8)
    path = video.write(tmp_path / "a.png", clip, 8.0)
    film = video.Video(path)
    assert torch.equal(film.read(), clip) and (film.frames, film.size, film.fps) == (
        1,
        (14, 9),
        1.0,
    )
    with pytest.raises(
        ValueError, match="expected a clip of one frame for the picture 'b.png', got 2 frames"
    ):
        video.write(tmp_path / "b.png", clip.expand(2, -1, -1, -1), 8.0)


def test_a_folder_of_images_is_read_image_by_image(folder):
    rows = list(score_files([folder], {"q": load("frame_quality")}))
    assert [row["path"][-5:] for row in rows] == ["a.png", "b.png", "c.jpg"]
    assert all(
        row["frames"] == 1 and row["value"]["q"] is not None and row["note"] is None for row in rows
    )


def test_numbered_pictures_that_a_table_names_one_by_one_are_images(tmp_path):
    for i in range(3):
        video.write(tmp_path / f"{i:04d}.png", torch.rand(1, 3, 16, 16), 8.0)
    (film,) = score_files([tmp_path], {"q": load("frame_quality")})
    assert film["frames"] == 3 and "single images are named one by one" in film["note"]
    (tmp_path / "prompts.csv").write_text(
        "path,prompt\n0000.png,a dog\n0001.png,a cat\n0002.png,a cow\n"
    )
    assert [row["frames"] for row in score_files([tmp_path], {"q": load("frame_quality")})] == [
        1,
        1,
        1,
    ]


# vidrl score


def test_score_says_what_a_composite_leaves_out_of_an_image(folder):
    row = next(
        score_files([folder / "a.png"], {"default": load("default"), "flicker": load("flicker")})
    )
    assert row["note"] == f"default: {LEFT} need more frames than an image has, and are left out"
    assert (
        row["why"] == "flicker: inapplicable to an image: needs a clip of at least 3 frames, got 1"
    )
    quality = row["parts"]["default"].pop("frame_quality")
    assert row["value"]["default"] == pytest.approx(1.8 * (quality + 1.0) / 0.4, rel=1e-5)
    assert set(row["parts"]["default"].values()) == {None} and row["curve"]["default"] == [
        row["value"]["default"]
    ]
    (same,) = score(torch.rand(1, 1, 3, 32, 32), load("default"), fps=8.0)
    assert "are left out" in same["note"]


def test_images_among_clips_are_told(capsys, folder, tmp_path):
    video.write(tmp_path / "clip.mp4", torch.rand(9, 3, 32, 32), 8.0)
    status, out, err = said(capsys, "score", folder / "a.png", tmp_path / "clip.mp4", "--jobs", 0)
    assert status == 0 and len(out.splitlines()) == 2
    assert "1 of 2 files are images, whose composites lack the parts that need time" in err
    assert "images" not in said(capsys, "score", folder / "a.png", folder / "b.png", "--jobs", 0)[2]
    assert (
        "images"
        not in said(
            capsys,
            "score",
            folder / "a.png",
            tmp_path / "clip.mp4",
            "--jobs",
            0,
            "--reward",
            "frame_quality",
        )[2]
    )


# vidrl bench


def test_bench_leaves_dims_that_need_time_out_and_lists_them(capsys, folder, tmp_path):
    status, out, err = said(
        capsys,
        "bench",
        folder,
        "--dims",
        "default,flicker,drift,frame_quality",
        "--jobs",
        0,
        "--out",
        tmp_path / "out",
    )
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    values = [clip["value"] for clip in found["sets"][0]["clips"]]
    assert all(row["flicker"] is None and row["drift"] is None for row in values)
    assert all(row["default"] is not None and row["frame_quality"] is not None for row in values)
    notes = "\n".join(found["notes"])
    for name in ("flicker", "drift"):
        assert f"no clip has a number of {name}: inapplicable to an image" in notes
    assert (
        "all clips are images, of one frame" in notes
        and "the codec of" not in notes
        and status == 0
    )
    assert "6 that have no meaning for their clip" in err


def test_bench_tells_of_images_beside_clips():
    sets = [
        {
            "name": name,
            "clips": [
                {"fps": 8.0, "size": [8, 8], "frames": n, "reader": "PyAV", "value": {}}
                for n in frames
            ],
        }
        for name, frames in (("a", [1, 1]), ("b", [17, 1]))
    ]
    (note,) = [note for note in observations(sets, Protocol()) if "images" in note]
    assert note.startswith(
        "images beside clips (a: 2 of 2, b: 1 of 2): dims that need time have no number"
    )
    assert not any(
        "images" in note
        for note in observations([{"name": "c", "clips": sets[1]["clips"][:1]}], Protocol())
    )


# vidrl audit


def test_the_audit_leaves_out_the_hacks_that_one_frame_cannot_show(capsys, folder):
    status, out, err = said(
        capsys,
        "audit",
        "frame_quality",
        "--clips",
        folder,
        "--clips-count",
        2,
        "--frames",
        1,
        "--hacks",
        "freeze,blur,shuffle",
        "--strengths",
        1,
    )
    assert re.search(r"^blur ", out, re.M) and not re.search(r"^(freeze|shuffle) ", out, re.M)
    assert (
        "left out, 2:" in out
        and "hack freeze: needs more than one frame, and the clips are images" in out
    )
    assert "size-free" in out and "rate-free" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--clips-count", 2), "expected images or clips of several frames, got 3 images among 5"),
        (
            ("--clips-count", 0, "--hacks", "freeze,loop"),
            "expected hacks that an image can show, got freeze, loop",
        ),
        (("--frames", 1, "--optimise"), "expected --optimise without --frames 1"),
    ],
)
def test_the_audit_refuses_what_images_cannot_be_asked(capsys, folder, arguments, message):
    status, _, err = said(capsys, "audit", "frame_quality", "--clips", folder, *arguments)
    assert status == 2 and message in err


# vidrl train


def recipe(tmp_path, **more):
    rest = {
        "backbone": {"name": "toy", "options": {"latent_frames": 1}},
        "policy": {"full": True},
        "algorithm": {"name": "nft", "options": {"steps": 3}},
        "reward": {},
    } | more
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(scene.caption for scene in world.scenes("held_out", 8)) + "\n")
    data = {"prompts": str(prompts), "held_out": str(prompts), "held_out_n": 8}
    train = {
        "rounds": 1,
        "prompts_per_round": 2,
        "group": 2,
        "eval_steps": 2,
        "eval_every": 1,
        "show": 2,
    }
    return config.build({"run": str(tmp_path / "run"), "data": data, "train": train, **rest})


def test_a_run_on_images_says_what_it_leaves_out_and_shows_pictures(tmp_path):
    from vidrl.training import loop

    run = read(loop.run(recipe(tmp_path)))
    (note,) = [
        row["message"] for row in run.events if row["kind"] == "note" and "images" in row["message"]
    ]
    assert note == (
        f"the backbone makes images, clips of one frame: {LEFT} need more frames, and are left "
        "out of the "
        "reward"
    )
    assert set(run.held_out) == {
        "composite",
        "frame_quality",
        "unscored_share",
        "exposure",
        "diversity",
        "verifier",
        "verifier_shape",
        "verifier_colour",
    }
    assert (
        list(run.metrics[0]["parts"]) == ["frame_quality"]
        and run.metrics[0]["reward"]["mean"] is not None
    )
    assert {path.suffix for path in (run.folder / "clips").rglob("0*")} == {".png"}
    page = (run.folder / "report.html").read_text()
    assert (
        "<h2>Images</h2>" in page
        and "<video" not in page
        and page.count('<img class="still"') == 2 * 2 + 2
    )
    assert (
        "NaN"
        not in (run.folder / "metrics.jsonl").read_text() + (run.folder / "evals.jsonl").read_text()
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"reward": {"name": "jerk"}},
            "expected one that scores images.*got one that needs 4 frames",
        ),
        (
            {"reward": {"parts": {"jerk": 1.0, "flicker": 1.0}}},
            "got parts that all need more frames: jerk, flicker",
        ),
        (
            {"guard": {"bands": {"dynamic_degree": [0.9, 2.0]}}},
            r"guard.bands.dynamic_degree: expected a measure of images",
        ),
        (
            {"guard": {"bands": {"identity": [0.9, 2.0]}}},
            r"guard.bands.identity: expected a measure of images",
        ),
        ({"guard": {"bands": {"verifier_shap": [0.9, 2.0]}}}, "did you mean 'verifier_shape'"),
    ],
)
def test_a_run_on_images_refuses_what_needs_time_before_any_image_is_made(
    tmp_path, more, message, monkeypatch
):
    from vidrl.backbones.toy import Toy
    from vidrl.training.loop import Trainer

    monkeypatch.setattr(Toy, "decode", lambda *_: pytest.fail("an image was made"))
    with pytest.raises(ValueError, match=message):
        Trainer.from_recipe(recipe(tmp_path, **more))


def test_credit_per_part_is_that_of_the_parts_that_score_images():
    from vidrl.credit import advantages
    from vidrl.rewards import Samples

    images = Samples(
        torch.rand(4, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), ["a"] * 4, 8.0
    )
    group, spans = torch.tensor([0, 0, 1, 1]), [(0, 1)]
    parts = {"light": toys.Brightness(), "frame_quality": load("frame_quality")}
    alone = Composite(parts, {"light": 2.0})(images)
    whole = Composite({**parts, "jerk": load("jerk")}, {"light": 2.0, "jerk": 5.0})(images)
    for per_part in (False, True):
        given = (group, spans, "segment", 1.0, "none", per_part)
        torch.testing.assert_close(advantages(whole, *given), advantages(alone, *given))


def test_what_needs_time_by_its_frames():
    needs = {
        name: plugin.find("rewards", name).tiny().needed
        for name in ("drift", "loop", "wm_reward", "niqe")
    }
    assert needs == {"drift": 2, "loop": 2, "wm_reward": 4, "niqe": 1}
    assert stills.timed(load("flicker")) == {} and set(stills.timed(load("default"))) == set(
        LEFT.split(", ")
    )
    assert (
        evaluate.build_reward(config.RewardSection(parts={"default": 1.0, "jerk": 1.0})).needed == 1
    )


def test_the_player_shows_a_picture_as_a_picture(tmp_path):
    path = video.write(tmp_path / "a.png", torch.rand(1, 3, 8, 8), 8.0)
    assert player(path).startswith('<img class="still" alt="" src="data:image/png;base64,')


# The recipes


@pytest.mark.parametrize(
    "name", ["sd15", "sdxl", "sd35_medium", "flux", "qwen_image", "tiny_image"]
)
def test_the_recipes_of_images_are_right_but_for_their_weights(name):
    """Every option and plug-in is known, the reward scores images, and no guard needs
    time."""
    loaded = config.load(f"scripts/recipes/{name}.toml")
    if loaded.backbone.name not in plugin.names("backbones"):
        pytest.skip("the backbone pipeline is not here yet")
    evaluate.check_recipe(loaded)
    reward = evaluate.build_reward(loaded.reward)
    assert reward.needed == 1 and stills.check(reward, loaded.guard.bands) == ""
    assert loaded.algorithm.options["segments"] == 1 if name not in ("sd15", "sdxl") else True


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_paths_that_keep_variance_have_samplers_of_their_own(name):
    from vidrl.diffusion import transition
    from vidrl.diffusion.path import discrete

    path = discrete(torch.linspace(0.999, 0.005, 1000))
    algorithm = config.load(f"scripts/recipes/{name}.toml").algorithm
    t, s = torch.tensor([0.8, 0.6], dtype=torch.float64)
    std, keep = transition.coefficients(
        path, algorithm.options["sampler"], t, s, algorithm.options["eta"]
    )
    assert std > 0 and keep >= 0
    with pytest.raises(ValueError, match="flow_sde needs the flow path.*use ddim or cps"):
        transition.coefficients(path, "flow_sde", t, s, 0.7)


@pytest.mark.slow
def test_the_recipe_of_images_learns_what_another_reader_sees(tmp_path):
    """The whole recipe, 90 s of CPU time: the reward rises beyond doubt, the judge rises,
    and the guards hold."""
    from vidrl.training import loop

    changes = [f"run={tmp_path / 'run'}", "train.show=1"]
    run = read(loop.run(config.load("scripts/recipes/tiny_image.toml", changes)))
    assert run.held_out["composite"]["low"] > 0 and run.held_out["composite"]["n"] == 256
    assert run.held_out["verifier"]["difference"] > 0
    assert {run.verdict(name) for name in run.config["guard"]["bands"]} == {"stays in band"}
