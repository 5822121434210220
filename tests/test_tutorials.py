"""The commands and the code of the tutorials run as they stand, in the order of the page."""

import re
import sys

import pytest
import torch

from tests import pages
from tests.pages import run

SAVED = {"write_a_reward": "my_module", "write_a_backbone": "my_backbone"}
SAVED |= {"write_an_algorithm": "my_algorithms"}  # pages whose first block is a file to save
FEW = "train.prompts_per_round=2 train.group=4 train.show=2"
SHORTER = {  # the same commands, with fewer clips and a smaller model
    "scripts/recipes/demo.toml > my.toml": "scripts/recipes/demo.toml | "
    "sed 's:assets/tiny-wan\":assets/tiny-wan-32\":' > my.toml",
    "vidrl train my.toml train.rounds": f"vidrl train my.toml {FEW} train.rounds",
    "shuf -n 200": "shuf -n 8",
    "head -n 160 prompts": "head -n 4 prompts",
    "tail -n 40": "tail -n 4",
    "held_out_n = 40": "held_out_n = 4",
    "vidrl cost my.toml": f"vidrl cost --no-measure my.toml {FEW} train.rounds=2",
    "wan_1.3b.toml --gpu": "wan_1.3b.toml train.rounds=2 --gpu",
    "--prompts assets/prompts/world_held_out.txt": "--prompts few.txt",
    "--model assets/tiny-wan ": "--model assets/tiny-wan-32 ",
    "--steps 10": "--steps 2",
    "--steps 20": "--steps 3",
}


def blocks(page):
    return pages.blocks(f"tutorials/{page}.md")


@pytest.fixture
def place(tmp_path):
    """A working folder with the repository's files, as links."""
    return pages.link(tmp_path, prompts=4)


def shorter(text):
    return pages.shorter(text, SHORTER)


def shell(place, text):
    pages.shell(place, text, SHORTER)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["fine_tune_your_model", "measure_two_models"])
def test_the_commands_of_a_tutorial_run(place, page):
    for language, text in blocks(page):
        if language in ("", "bash"):
            pages.here(place, text, SHORTER)
        elif language == "python":
            run(place, text, sys.executable, "-c")
        elif language == "toml":  # what the page says to put into the recipe
            table = re.search(r"^\[.*?\]", text, re.MULTILINE)[0]
            recipe = place / "my.toml"
            kept = re.sub(
                rf"^{re.escape(table)}.*?(?=^\[|\Z)", "", recipe.read_text(), flags=16 | 8
            )
            recipe.write_text(f"{kept}\n{shorter(text)}")


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(SAVED))
def test_what_a_tutorial_saves_can_be_used(place, page):
    (place / f"{SAVED[page]}.py").write_text(
        next(text for language, text in blocks(page) if language == "python")
    )
    if page == "write_a_reward":
        shell(
            place,
            "vidrl sample --model assets/tiny-wan-32 --prompts few.txt --steps 2 --out clips",
        )
    for language, text in blocks(page):
        if language == "":
            shell(place, text.replace("vidrl audit", "true"))


def test_the_code_of_the_rewards_tutorial_runs():
    code = "".join(
        text for language, text in blocks("rewards_in_your_trainer") if language == "python"
    )
    names = {}
    exec(compile(code, "tutorial", "exec"), names)
    assert names["advantage"].shape == (4,) and names["spans"][1] == (1, 5)
    assert names["advantages"].shape == (4, 5)
    others = (names["credit"].sum(0) - names["credit"]) / 3
    torch.testing.assert_close(names["advantages"], names["credit"] - others)


def test_the_tutorial_of_a_reward_scores_sharper_clips_higher():
    from vidrl.rewards import Samples

    names = {}
    exec(next(t for language, t in blocks("write_a_reward") if language == "python"), names)
    sharp = torch.zeros(1, 5, 3, 8, 8)
    sharp[..., ::2] = 1.0
    values = names["sharpness"](Samples(torch.cat([sharp, sharp * 0.5]), [""] * 2, 8.0))
    assert values.shape == (2, 5) and torch.allclose(values[0], torch.ones(5))
    assert torch.allclose(values[1], torch.full((5,), 0.5))
