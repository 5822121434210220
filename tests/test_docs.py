"""The documentation says what is: links lead somewhere, the cards are current, commands and
examples are real."""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
from test_layers import LAYERS

from vidrl import cli, plugin, rewards

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CARDS = script("cards")


def blocks(page, language):
    return [text for kind, text in FENCE.findall(page.read_text()) if kind == language]


def anchors(page):
    """The names that a page's headings are linked by."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_the_cards_are_current():
    """If this fails: python scripts/cards.py"""
    assert CARDS.FILE.read_text(encoding="utf-8") == CARDS.page()


def test_each_reward_is_in_the_group_of_its_weights():
    kinds = {name: CARDS.kind(plugin.facts("rewards", name)) for name in plugin.names("rewards")}
    assert {name for name, kind in kinds.items() if kind == "With the weights of a package"} == {
        "identity_drift",
        "niqe",
        "ocr",
        "rife_smoothness",
        "shot_cut",
        "vmaf",
    }
    assert {name for name, kind in kinds.items() if kind == "Answered by a server"} == {
        "http_scorer",
        "judge",
        "unified_reward",
    }
    assert {kinds[name] for name in rewards.default().parts} == {"Without weights"}
    assert kinds["pick_score"] == kinds["vbench_imaging"] == "With weights to be fetched"


def test_what_a_package_brings_can_be_installed():
    """A reward with the weights of a package says by which command that package comes."""
    for row in (plugin.facts("rewards", name) for name in plugin.names("rewards")):
        assert CARDS.kind(row) != "With the weights of a package" or CARDS.install(row["facts"]), (
            row["name"]
        )


def test_the_table_says_which_rewards_score_in_pieces():
    for name in ("flicker", "http_scorer", "clip_alignment", "video_alignment"):
        if not plugin.find("rewards", name).learned or importlib.util.find_spec("transformers"):
            assert (
                CARDS.streams(plugin.facts("rewards", name))
                == plugin.find("rewards", name).tiny().streams
            ), name


def test_the_architecture_names_what_the_rewards_share():
    table = "\n".join(
        re.findall(r"^\| .* \|$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    )
    shared = {path.stem for path in (ROOT / "rewards").glob("*.py")} - {
        *plugin.names("rewards"),
        "__init__",
    }
    assert not shared - set(re.findall(r"\w+", table))


def test_the_architecture_has_the_layers_and_the_modules():
    """ARCHITECTURE.md repeats LAYERS of tests/test_layers.py, and names every module."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = FENCE.findall(page[page.index("## Layers") :])[0][1]
    lines = re.sub(r"\n +", " ", drawn).splitlines()
    assert [{name.strip() for name in line.split("·")} for line in lines] == LAYERS
    modules = {path.stem for path in (ROOT / "vidrl").rglob("*.py")} - {"__init__", "__main__"}
    missing = modules - set(re.findall(r"\w+", page))
    assert not missing, f"ARCHITECTURE.md lacks the modules {', '.join(sorted(missing))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_vidrl_is_one(page):
    """Every line of a shell block that begins with `vidrl` is taken by the command line as
    it stands."""
    lines = [
        line
        for line in "".join(blocks(page, "")).splitlines()
        if re.match(r"([A-Z_]+=\S+ )*vidrl ", line)
    ]
    for line in lines:
        words = shlex.split(line[line.index("vidrl ") :], comments=True)[1:]
        args, rest = cli.build().parse_known_args(words)
        assert not rest or args.command == "train", f"{page.name}: {line}: {rest}"
        named = getattr(args, "reward", [])
        named = [named] if isinstance(named, str) else named
        assert {name for name in named if ":" not in name} <= {
            *plugin.names("rewards"),
            "default",
        }, line
    assert lines or page.name not in ("README.md", "audit.md")


def test_the_extras_in_the_readme_are_those_there_are():
    extras = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    )
    told = re.findall(r"(?:vidrl|\.)\[([\w,]+)\]", (ROOT / "README.md").read_text())
    assert {extra for words in told for extra in words.split(",")} <= extras
    assert len((ROOT / "README.md").read_text().splitlines()) < 190


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch):
    """One after another, as a reader would, but for those that load a pipeline."""
    monkeypatch.chdir(tmp_path)
    names = {}
    ran = [text for text in blocks(ROOT / "README.md", "python") if "from_pretrained" not in text]
    for text in ran:
        exec(compile(text, "README.md", "exec"), names)
    assert ran and names["score"].value.shape == (4,)


def example():
    """The reward of CONTRIBUTING.md, and its other way of saying terms."""
    page = ROOT / "CONTRIBUTING.md"
    first, second = blocks(page, "python")
    return first, first[: first.index("    def terms")] + second


def built(source):
    space = {"__name__": "vidrl.rewards.brightness", "__package__": "vidrl.rewards"}
    exec(
        compile(source.replace("Card, Reward", "About, Card, Reward"), "brightness.py", "exec"),
        space,
    )
    return space["Brightness"]()


def test_the_reward_of_the_contributors_works():
    video = torch.rand(2, 7, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    samples = rewards.Samples(video, ["", ""], 8.0)
    for source in example():
        reward = built(source)
        stream = reward.stream(8.0)
        for piece in video[0].split(3):
            stream.update(piece)
        whole = reward(samples)
        torch.testing.assert_close(stream.result().value, whole.value[:1])
        assert torch.isfinite(whole.value).all() and isinstance(reward.card, rewards.Card)
    torch.testing.assert_close(built(example()[0])(samples).value, video.mean((1, 2, 3, 4)))
