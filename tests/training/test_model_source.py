"""A model by its folder, by a recipe or by a run: what sample and bench make is what the
recipe's options make."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from vidrl import cli, config, plugin
from vidrl.report import run_folder
from vidrl.training import model_source

ROOT = Path(__file__).parents[2]
PROMPT = "a red circle moves left slowly on a dark background"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe on the small model, of 9 frames, whose prompt files are not here; the
    working folder is the checkout."""
    monkeypatch.chdir(ROOT)
    file = tmp_path / "mine.toml"
    file.write_text(
        '[backbone]\nname = "wan"\n[backbone.options]\nmodel = '
        '"assets/tiny-wan-32"\ntext_length = 24\n'
        "frames = 9\ndecode_chunk = 1\nguidance = 3.0\n"
        '[data]\nprompts = "not/here.txt"\nheld_out = "not/here.txt"\n[train]\neval_steps = 2\n'
    )
    return file


@pytest.fixture
def run(recipe, tmp_path):
    """A run folder of that recipe with a LoRA that changes what the model makes."""
    pytest.importorskip("diffusers", reason="needs the extra train")
    from vidrl.training.policy import Policy

    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    made = config.load(recipe, [f"run={folder}"], files=False)
    (folder / "config.toml").write_text(made.to_toml())
    policy = Policy(plugin.load("backbones", "wan", **made.backbone.options), 2, 2)
    torch.manual_seed(0)
    for weight in policy.weights.values():
        weight.data = torch.randn_like(weight) * 0.3
    policy.save(folder / "lora")
    return folder


def test_a_recipe_brings_every_option_and_later_words_win(recipe):
    assert model_source.resolve(recipe=str(recipe)).steps == 2
    found = model_source.resolve(
        "assets/tiny-wan",
        str(recipe),
        words=["dtype=bfloat16", "frames=5", "offload_text=true"],
        given={"guidance": 1.0},
    )
    assert (
        found.backbone == "wan"
        and found.lora is None
        and found.options
        == {
            "model": "assets/tiny-wan",
            "text_length": 24,
            "frames": 5,
            "decode_chunk": 1,
            "guidance": 1.0,
            "dtype": "bfloat16",
            "offload_text": True,
        }
    )


def test_a_run_brings_its_trained_weights_and_another_adapter_wins(run):
    found = model_source.resolve(run=str(run))
    assert (
        found.lora == str(run / "lora")
        and found.options["guidance"] == 3.0
        and found.name == "mine"
    )
    assert model_source.resolve(run=str(run), lora="elsewhere").lora == "elsewhere"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "expected a model: --model DIR"),
        ({"recipe": "a.toml", "run": "b"}, "got both: --recipe a.toml and --run b"),
        ({"run": "no/such"}, "expected a run folder with a config.toml"),
        ({"recipe": "no/such.toml"}, "expected a TOML file, found none"),
        ({"model": "m", "words": ["dtpye=bfloat16"]}, "did you mean 'dtype'"),
        ({"model": "m", "words": ["dtype=int3"]}, "'int3'"),
        ({"model": "m", "words": ["toy"]}, "takes none, got 'm'"),
        ({"model": "m", "words": ["wna"]}, "did you mean 'wan'"),
        ({"model": "m", "partial": True}, "--lora-partial: expected an adapter"),
        ({"lora": "l"}, "expected a model: --model DIR"),
    ],
)
def test_what_cannot_be_is_refused_with_the_cure(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message.replace("(", "\\(")):
        model_source.resolve(**arguments)


def test_a_run_that_has_saved_nothing_says_how_to_go_on(run):
    shutil.rmtree(run / "lora")
    with pytest.raises(FileNotFoundError, match="Finish it with --resume, or sample .* --recipe"):
        model_source.resolve(run=str(run))


def test_sample_and_bench_make_the_clips_of_the_runs_options_and_weights(run, tmp_path, capsys):
    """Equal to the policy that its recipe builds, to the byte."""
    pytest.importorskip("av")
    from vidrl.rewards import video
    from vidrl.training.clips import generate
    from vidrl.training.policy import load_adapter

    made = config.build(run_folder.read(run).config, files=False)
    policy = load_adapter(plugin.load("backbones", "wan", **made.backbone.options), run / "lora")
    wanted = generate(policy, [PROMPT], [torch.Generator().manual_seed(5)], 2).video[0]
    video.write(tmp_path / "wanted.mp4", wanted, policy.backbone.fps)
    assert (
        cli.main(
            [
                "sample",
                "--run",
                str(run),
                "--prompt",
                PROMPT,
                "--seed",
                "5",
                "--device",
                "cpu",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    assert (tmp_path / "out" / "0000.mp4").read_bytes() == (tmp_path / "wanted.mp4").read_bytes()
    assert "1 clip in" in capsys.readouterr().out

    assert (
        cli.main(
            [
                "bench",
                "--run",
                str(run),
                "--suite",
                "motion",
                "--limit",
                "1",
                "--per-prompt",
                "1",
                "--steps",
                "2",
                "--dims",
                "flicker",
                "--backbone",
                "frames=5",
                "--jobs",
                "0",
                "--format",
                "json",
                "--out",
                str(tmp_path / "bench"),
            ]
        )
        == 0
    )
    told = json.loads((tmp_path / "bench" / "sampling.json").read_text())
    assert told["options"] == {"text_length": 24, "frames": 5, "decode_chunk": 1, "guidance": 3.0}
    assert (
        told["lora"].startswith("lora ")
        and video.Video(tmp_path / "bench" / "clips" / "0000-0.mp4").frames == 5
    )
    assert (
        json.loads((tmp_path / "bench" / "results.json").read_text())["sets"][0]["name"] == "mine"
    )


def test_sample_and_bench_refuse_a_lora_that_fits_in_part_unless_it_is_allowed(
    run, tmp_path, capsys
):
    from safetensors.torch import load_file, save_file

    file, cut = run / "lora" / "pytorch_lora_weights.safetensors", tmp_path / "cut.safetensors"
    save_file(
        {
            k: v
            for k, v in load_file(file).items()
            if k != "transformer.blocks.1.attn1.to_v.lora_B.weight"
        },
        cut,
    )
    model = [
        "--recipe",
        str(run / "config.toml"),
        "--lora",
        str(cut),
        "--device",
        "cpu",
        "--steps",
        "2",
    ]
    sample = ["sample", *model, "--prompt", PROMPT, "--out", str(tmp_path / "out")]
    bench = [
        "bench",
        *model,
        "--suite",
        "motion",
        "--limit",
        "1",
        "--per-prompt",
        "1",
        "--dims",
        "flicker",
        "--backbone",
        "frames=5",
        "--jobs",
        "0",
        "--format",
        "json",
        "--out",
        str(tmp_path / "bench"),
    ]
    for words in (sample, bench):
        assert cli.main(words) == 2
        assert (
            "blocks.1.attn1.to_v has no lora_B" in (said := capsys.readouterr().err)
            and "--lora-partial" in said
        )
        with pytest.warns(UserWarning, match="These were left out"):
            assert cli.main([*words, "--lora-partial"]) == 0
        assert capsys.readouterr()
    assert model_source.resolve(recipe=_allowing(run, cut)).partial


def _allowing(run, lora) -> str:
    made = config.load(
        run / "config.toml", [f"policy.lora={lora}", "policy.lora_partial=true"], files=False
    )
    file = run.parent / "allowing.toml"
    file.write_text(made.to_toml())
    return str(file)


def test_bench_of_a_folder_does_not_leave_out_a_lora_silently(tmp_path, capsys):
    assert cli.main(["bench", str(tmp_path), "--lora", "mine"]) == 2
    assert "expected a model: --model DIR" in capsys.readouterr().err


def test_a_prompt_that_fails_leaves_the_others(capsys, tmp_path, monkeypatch):
    pytest.importorskip("av")
    from vidrl.backbones.toy import Toy

    real = Toy.encode
    monkeypatch.setattr(
        Toy, "encode", lambda self, prompts: real(self, prompts) if "bad" not in prompts else 1 / 0
    )
    status = cli.main(
        [
            "sample",
            "--backbone",
            "toy",
            "--prompt",
            "a",
            "--prompt",
            "bad",
            "--prompt",
            "b",
            "--steps",
            "2",
            "--device",
            "cpu",
            "--out",
            str(tmp_path),
        ]
    )
    said = capsys.readouterr()
    assert (
        status == 1
        and "2 clips in" in said.out
        and "0001: ZeroDivisionError: division by zero" in said.err
    )
    assert (tmp_path / "prompts.csv").read_text().splitlines() == [
        "path,prompt,seed",
        "0000.mp4,a,0",
        "0002.mp4,b,2",
    ]


def test_a_folder_of_another_pipeline_is_driven_and_sizes_go_into_its_call(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "CogVideoXPipeline"}))
    found = model_source.resolve(
        str(tmp_path),
        words=["call.guidance_scale=1.0"],
        given={"height": 32, "frames": 9, "text_length": 16},
    )
    assert found.backbone == "pipeline" and found.options == {
        "model": str(tmp_path),
        "call": {"guidance_scale": 1.0, "height": 32, "num_frames": 9, "max_sequence_length": 16},
    }
    named = model_source.resolve(str(tmp_path), words=["wan"], given={"height": 32})
    assert named.backbone == "wan" and named.options["height"] == 32
    assert model_source.resolve("assets/tiny-wan").backbone == "wan"
