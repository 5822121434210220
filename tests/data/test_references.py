"""Prompts with references: tables of them, what is refused, and the whole way of an image
through a run."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conditioned import COLOURS, TEXT, Tinted, conditioned, pictures, table
from toys import recipe, rows, summary, weights, with_clips

from vidrl import config, plugin
from vidrl.backbones.base import PromptCache
from vidrl.backbones.toy import Toy
from vidrl.data import prompts, references
from vidrl.data.prompt import Prompt
from vidrl.report import run_report
from vidrl.rewards import Reward, Samples, Score, video
from vidrl.training import loop
from vidrl.training.checkpoint import RunFolderError


class Near(Reward):
    """How near the mean colour of a clip is to that of its reference."""

    def terms(self, samples: Samples) -> torch.Tensor:
        given = samples.reference.float().mean((1, 3, 4))
        given = given / 255 if samples.reference.dtype == torch.uint8 else given
        return -(samples.frames.mean((3, 4)) - given[:, None]).abs().mean(2)


class Gradient(Near):
    """The same, differentiable."""

    differentiable = True


NAMES = list(COLOURS)
NEAR = -0.06  # of a clip and its image; other images are at least 0.2 away


def level(name: str) -> torch.Tensor:
    return torch.tensor(COLOURS[name]) / 255


# --- tables


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_table_gives_prompts_with_their_images(tmp_path, suffix):
    found = prompts.table(table(tmp_path, suffix))
    assert found.prompts == [
        Prompt(TEXT, {"image": tmp_path / "pictures" / f"{name}.png"}) for name in COLOURS
    ]
    assert not found.left_out and not found.notes


def test_a_parquet_table_is_read_or_the_cure_is_told(tmp_path):
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    file = pictures(tmp_path)["red"]
    parquet.write_table(
        pyarrow.table({"prompt": [TEXT], "image": ["pictures/red.png"]}), tmp_path / "a.parquet"
    )
    assert prompts.read(tmp_path / "a.parquet") == [Prompt(TEXT, {"image": file})]


def test_a_parquet_table_without_pyarrow_tells_the_cure(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        prompts.BadPrompts, match="pip install .*tables.*, or save the table as .csv"
    ):
        prompts.read(tmp_path / "a.parquet")


FAULTY = """\
{"prompt": "a", "image": "pictures/red.png"}
{"prompt": "a", "image": "pictures/none.png"}
{"prompt": " ", "image": "pictures/red.png"}
{"prompt": "a", "image": "pictures/red.png"}
{"prompt": "b"}
{"prompt": "b", "image": "pictures/broken.png"}
{"prompt": "c", "image": "pictures/blue.png", "negative_prompt": "blur"}
"""


def faulty(folder: Path, more: str = "") -> Path:
    pictures(folder)
    (folder / "pictures" / "broken.png").write_text("no picture")
    (folder / "faulty.jsonl").write_text(FAULTY + more)
    return folder / "faulty.jsonl"


def test_rows_that_cannot_be_used_are_left_out_each_with_its_line(tmp_path):
    found = prompts.table(faulty(tmp_path))
    red, blue = (tmp_path / "pictures" / f"{name}.png" for name in ("red", "blue"))
    assert found.prompts == [
        Prompt("a", {"image": red}),
        Prompt("c", {"image": blue, "negative_prompt": "blur"}),
    ]
    assert [re.sub(r": .*", "", line) for line in found.left_out] == [
        "line 2 has a bad image",
        "line 3 has no prompt",
        "line 4 repeats line 1",
        "line 5 has no image, which other rows have",
        "line 6 has a bad image",
    ]
    assert "there is no file" in found.left_out[0] and "could not read" in found.left_out[4]


def test_strict_refuses_them_all_in_one_message(tmp_path):
    made = recipe(tmp_path, data_prompts=str(faulty(tmp_path)), data_strict=True)
    with pytest.raises(config.BadRecipe) as told:
        config.load(made)
    assert all(
        f"\n  line {n} " in str(told.value) for n in (2, 3, 4, 5, 6)
    ) and "data.strict" in str(told.value)
    assert "line 1 " not in str(told.value).replace("repeats line 1", "")


def test_what_is_wrong_of_the_table_is_refused_with_every_line(tmp_path):
    more = '{"prompt": "d", "imge": "x.png"}\n{"prompt": "e", "image": "../x.png"}\n{"prompt": 3}\n'
    more += '{"prompt": "f", "image": ["x.png"]}\n{"prompt": "g", "image": "http://x/y.png"}\n'
    with pytest.raises(prompts.BadPrompts) as told:
        prompts.table(faulty(tmp_path, more))
    for line in (
        "line 8: unknown column 'imge': did you mean 'image'",
        "line 9: expected a path inside the folder",
        "line 10: expected prompt to be text, got '3'",
        "line 11: expected image to be the path of a file",
        "line 12: expected the path of a file, got the address",
        "line 2 has a bad image",
    ):
        assert line in str(told.value), line


def test_a_table_of_captions_is_read_and_told_and_one_without_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("caption\na cat\n")
    assert prompts.table(tmp_path / "a.csv").prompts == ["a cat"]
    assert (
        "the column 'caption' is read as the prompt" in prompts.table(tmp_path / "a.csv").notes[0]
    )
    (tmp_path / "b.csv").write_text("image\na.png\n")
    with pytest.raises(prompts.BadPrompts, match="expected a column prompt, got image"):
        prompts.table(tmp_path / "b.csv")
    (tmp_path / "c.jsonl").write_text("\n")
    with pytest.raises(prompts.BadPrompts, match="is empty: expected rows as"):
        prompts.table(tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    "asked", [["a", "b c"], ["a\nb"], ["# a"], [Prompt("a", {"image": "/x/a.png"}), Prompt("b")]]
)
def test_prompts_as_a_file_are_the_same_prompts(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(references, "faults", lambda asked: [])
    suffix, text = prompts.as_text(asked)
    (tmp_path / f"kept{suffix}").write_text(text)
    if Prompt("b") in asked and len(asked) == 2:
        assert prompts.table(tmp_path / f"kept{suffix}").left_out == [
            "line 2 has no image, which other rows have"
        ]
    else:
        assert prompts.read(tmp_path / f"kept{suffix}") == asked


def test_a_video_where_an_image_belongs_is_refused_and_the_other_way_round(tmp_path):
    pytest.importorskip("av", reason="needs vidrl[train]")
    video.write(tmp_path / "a.mp4", torch.zeros(3, 3, 16, 16, dtype=torch.uint8), 8.0)
    red = pictures(tmp_path)["red"]
    for name, file, told in (
        ("image", tmp_path / "a.mp4", "could not read"),
        ("video", red, "got the image"),
        ("control_video", tmp_path / "a.mp4", ""),
        ("mask", red, ""),
        ("mask", tmp_path / "a.mp4", ""),
    ):
        found = references.faults(Prompt("a", {name: file}))
        assert (told in found[0]) if told else found == [], (name, file)


# --- the images that rewards see


def test_the_reference_is_the_image_of_each_prompt_stretched_to_the_clip(tmp_path):
    files = pictures(tmp_path)
    asked = [Prompt(TEXT, {"image": files[name]}) for name in ("blue", "red", "blue")] + [
        "text alone"
    ]
    seen = references.images(asked, 32, 48)
    assert seen.shape == (4, 1, 3, 32, 48)
    for row, name in zip(seen, ("blue", "red", "blue"), strict=False):
        assert torch.allclose(row, level(name).view(3, 1, 1), atol=1e-6)
    assert bool(seen[3].isnan().all()) and references.images(["a", "b"], 32, 48) is None


def test_a_changed_image_is_read_anew(tmp_path):
    files = pictures(tmp_path)
    asked = [Prompt(TEXT, {"image": files["red"]})]
    before, identity = references.images(asked, 8, 8), references.identity(asked[0])
    shutil.copy(files["blue"], files["red"])
    assert (
        not torch.equal(references.images(asked, 8, 8), before)
        and references.identity(asked[0]) != identity
    )


def test_a_cache_keeps_prompts_of_one_text_and_different_images_apart(tmp_path):
    asked = prompts.read(table(tmp_path))
    cache = PromptCache(Tinted())
    cache.learn(asked)
    assert len(cache.kept) == 5
    for name, colour in zip([*NAMES, "red"], cache([*asked, asked[0]])["image"], strict=True):
        assert torch.allclose(colour, level(name), atol=1e-6)


def test_ddpo_remembers_the_rewards_of_each_image_apart(tmp_path):
    red, blue = prompts.read(table(tmp_path))[:3:2]
    made = plugin.load("algorithms", "ddpo", least=2)
    made.backbone = Toy()
    plan = made.plan(made.backbone, 0, torch.Generator())
    # of the reds all rewards are 1, of the blues 3: neither has an advantage within its own
    # past
    for _ in range(2):
        advantage = made.advantages(
            Score(torch.tensor([1.0, 1, 3, 3])),
            torch.tensor([0, 0, 1, 1]),
            [red, red, blue, blue],
            plan,
        )
        assert torch.equal(advantage.abs().amax(), torch.tensor(0.0))
    kept = json.loads(json.dumps(made.state()))["past"]
    assert len(kept) == 2 and list(map(len, kept.values())) == [4, 4]
    assert references.key("a cat") == "a cat"


# --- the whole way


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[dict, Path]:
    """Two rounds on five prompts of one text and different images."""
    pytest.importorskip("av", reason="needs vidrl[train]")
    made = conditioned(
        tmp_path_factory.mktemp("whole"), train_rounds=2, train_eval_every=1, train_show=2
    )
    return made, loop.run(made)


def test_every_clip_is_compared_with_its_own_image(run):
    metrics, evals = rows(run[1]), rows(run[1], "evals")
    assert len(metrics) == 2 and all(
        row["reward"]["mean"] > NEAR and row["unscored_share"] == 0 for row in metrics
    )
    assert len(evals) == 3 and all(row["measures"]["composite"]["mean"] > NEAR for row in evals)
    # the noise of the network shows, so that there is something to learn
    assert metrics[0]["reward"]["std"] > 0


def test_a_run_keeps_its_prompts_with_their_images(run):
    made, folder = run
    kept = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    assert kept == [
        {"prompt": TEXT, "image": str(Path(made["run"]).parent / "pictures" / f"{name}.png")}
        for name in COLOURS
    ]
    assert prompts.read(folder / "held_out.jsonl") == prompts.read(made["data"]["prompts"])
    assert not (folder / "prompts.txt").exists()
    assert [*json.loads((folder / "inputs.json").read_text())["data.prompts"]][
        1
    ] == "prompt 2, image: green.png"


def test_records_and_the_page_show_the_image_beside_the_clip(run):
    shown = json.loads((run[1] / "timelines.json").read_text())
    assert [Path(row["references"]["image"]).name for row in shown] == ["red.png", "green.png"]
    for row, name in zip(shown, NAMES, strict=False):
        seen = references.picture.read(run[1] / "clips" / "after" / row["reference"])
        assert seen.shape == (3, 32, 32) and torch.allclose(
            seen, level(name).view(3, 1, 1), atol=1 / 255
        )
        clip = video.read(run[1] / "clips" / "after" / row["file"])[0].float().mean((0, 2, 3)) / 255
        assert (clip - level(name)).abs().max() < 0.1
    credit = json.loads((run[1] / "credit.json").read_text())
    assert all((run[1] / "clips" / "train" / row["reference"]).is_file() for row in credit)
    page = run_report.write(run[1]).read_text()
    assert (
        page.count(
            '<figure class="given"><img alt="the image that was given" src="data:image/png;base64,'
        )
        == 4
    )


def test_a_page_opens_no_image_outside_the_run_folder_and_escapes_what_was_given(run, tmp_path):
    copy = shutil.copytree(run[1], tmp_path / "run")
    secret = pictures(tmp_path)["white"]
    found = json.loads((copy / "timelines.json").read_text())
    found[0] |= {
        "reference": str(secret),
        "references": {"negative_prompt": "<script>alert(1)</script>"},
    }
    found[1] |= {"reference": "../../config.toml", "references": ["no mapping"]}
    (copy / "timelines.json").write_text(json.dumps(found))
    page = run_report.write(copy).read_text()
    assert (
        "<script>alert(1)" not in page and "given negative_prompt: &lt;script&gt;alert(1)" in page
    )
    assert page.count('<figure class="given"><img') == 2  # those of credit.json


def test_a_resumed_run_ends_with_the_same_weights_and_moved_images_are_the_same(run, tmp_path):
    made, _ = run
    whole = conditioned(tmp_path / "whole", train_rounds=4, train_eval_every=1, train_show=2)
    loop.run(whole)
    half = conditioned(tmp_path / "half", train_rounds=2, train_eval_every=1, train_show=2)
    loop.run(half)
    shutil.move(tmp_path / "half" / "pictures", tmp_path / "half" / "moved")
    path = tmp_path / "half" / "prompts.jsonl"
    path.write_text(path.read_text().replace("pictures", "moved"))
    half["train"]["rounds"] = 4
    loop.run(half, resume=True)
    assert (
        weights(half["run"]) == weights(whole["run"])
        and summary(half["run"])["status"] == "finished"
    )
    assert weights(half["run"]) != weights(made["run"])


def test_a_run_on_other_images_is_another_run(run, tmp_path):
    made = conditioned(tmp_path, train_rounds=2, train_eval_every=1, train_show=2)
    shutil.copytree(run[1], tmp_path / "run")
    loop.run(made, resume=True)  # nothing to do, and nothing to refuse
    shutil.copy(tmp_path / "pictures" / "red.png", tmp_path / "pictures" / "green.png")
    with pytest.raises(
        RunFolderError, match="data.prompts: prompt 2, image: green.png: sha256 .* -> sha256"
    ):
        loop.run(made, resume=True)
    table(tmp_path)
    path = Path(made["data"]["prompts"])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(
        RunFolderError, match="no longer there: Prompt.*white.png.*recorded ones.*prompts.jsonl"
    ):
        loop.run(made | {"data": made["data"] | {"held_out_n": 4}}, resume=True)


def test_a_backbone_of_text_alone_refuses_prompts_with_images_before_any_work(tmp_path):
    made = conditioned(tmp_path)
    made["backbone"]["name"] = "toy"
    with pytest.raises(
        ValueError, match="prompts of text alone, which is what Toy reads, got 'a wall' with image"
    ):
        loop.run(made)
    assert not Path(made["run"]).exists()
    with pytest.raises(ValueError, match="prompts of text alone"):
        PromptCache(Toy())([Prompt("a", {"negative_prompt": "b"})])
    made = conditioned(tmp_path) | {"data": recipe(tmp_path)["data"]}
    with pytest.raises(
        ValueError, match="prompts with image, which Tinted needs, got 'a cat' without image: write"
    ):
        loop.run(made)


@pytest.mark.parametrize("source", ["clips", "pairs"])
def test_clips_and_pairs_of_files_may_have_an_image(tmp_path, source):
    pytest.importorskip("av", reason="needs vidrl[train]")
    made = conditioned(
        tmp_path, train_rounds=1, algorithm={"name": {"clips": "sft", "pairs": "dpo"}[source]}
    )
    with_clips(tmp_path, made, 6, pairs=source == "pairs")
    path = Path(made["data"][source])
    files = [*pictures(path.parent).values()]
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    named = [row | {"image": f"pictures/{files[i].name}"} for i, row in enumerate(listed[:5])]
    named[-1] |= {"image": "pictures/none.png"}
    path.write_text("".join(json.dumps(row) + "\n" for row in named))
    made["data"]["prompts"] = ""
    read = config.read_table(config.load(made).data, source)
    assert [prompt.references["image"] for prompt in read.prompts] == [
        str(f) for f in files[: len(named) - 1]
    ]
    assert "image: there is no file" in read.left_out[-1]
    assert summary(loop.run(made))["status"] == "finished"


def test_a_reward_with_gradient_gets_the_image(tmp_path):
    """reward_backprop scores the clips of its own decode: the reference goes with them."""
    made = conditioned(
        tmp_path, train_rounds=1, algorithm={"name": "reward_backprop", "options": {"steps": 4}}
    )
    made["reward"] = {"name": "test_references:Gradient"}
    row = rows(loop.run(made))[0]
    assert (
        row["reward"] > NEAR if isinstance(row["reward"], float) else row["reward"]["mean"] > NEAR
    )


# --- sampling


def test_sample_makes_each_clip_of_its_image_and_tells_what_it_left_out(tmp_path, capsys):
    pytest.importorskip("av", reason="needs vidrl[train]")
    from vidrl.bench import items
    from vidrl.cli import main

    path = table(tmp_path)
    path.write_text(path.read_text() + '{"prompt": "b", "image": "none.png"}\n')
    status = main(
        [
            "sample",
            "--backbone",
            "conditioned:Tinted",
            "--prompts",
            str(path),
            "--out",
            str(tmp_path / "out"),
            "--steps",
            "3",
        ]
    )
    said = capsys.readouterr()
    assert status == 0 and "5 clips in" in said.out
    assert "left out: " in said.err and "line 6 has a bad image" in said.err
    found = items.find([tmp_path / "out"]).items
    assert [item.reference for item in found] == [
        tmp_path / "pictures" / f"{name}.png" for name in COLOURS
    ]
    for item, name in zip(found, COLOURS, strict=True):
        assert (
            video.read(item.path)[0].float().mean((0, 2, 3)) / 255 - level(name)
        ).abs().max() < 0.1


def test_bench_samples_the_images_of_a_suite_and_measures_against_them(tmp_path):
    pytest.importorskip("av", reason="needs vidrl[train]")
    from vidrl.bench import items, measure, sampling, suite

    path = table(tmp_path)
    listed = [json.loads(line) | {"kind": "wall"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in listed))
    (tmp_path / "mine.toml").write_text(
        'version = "1"\nprompts = "prompts.jsonl"\n[sampling]\nsteps = 3\n'
        '[dims.like]\nreward = "test_references:Near"\n'
    )
    mine = suite.load(tmp_path / "mine.toml")
    found = sampling.sample(
        "x", None, mine, tmp_path / "out", backbone="conditioned:Tinted", progress=False
    )
    assert [item.reference.name for item in found.items] == [f"{name}.png" for name in COLOURS]
    assert dict(found.items[0].meta) == {"kind": "wall"}
    assert items.find([tmp_path / "out" / "clips"]).items == found.items
    measured = measure.run(found.items, mine, cache=tmp_path / "cache")
    assert all(row["value"]["like"] > NEAR for row in measured)
    again = sampling.prompts_digest(sampling.suite_prompts(mine)[0])
    shutil.copy(tmp_path / "pictures" / "red.png", tmp_path / "pictures" / "green.png")
    assert sampling.prompts_digest(sampling.suite_prompts(mine)[0]) != again
    with pytest.raises(sampling.Changed, match="prompts"):
        sampling.sample(
            "x", None, mine, tmp_path / "out", backbone="conditioned:Tinted", progress=False
        )


def test_a_look_of_a_suite_without_prompts_takes_the_held_out_images(tmp_path):
    from vidrl.bench import callback, suite

    made = conditioned(tmp_path)
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(Path(made["data"]["prompts"]).read_text())
    path = Path(made["data"]["prompts"])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    made["data"] |= {"held_out": str(held_out)}
    found, _ = callback.held_out_prompts(suite.load("temporal"), config.load(made))
    assert [Path(row["prompt"].references["image"]).stem for row in found] == ["grey", "white"]
