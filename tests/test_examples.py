"""The examples of scripts/examples: each function equals the library's, and the example learns.

The notebook docs/tutorials/segment_grpo.ipynb is the example, cell by cell, and runs.
"""

import ast
import json

import pytest
import torch
from test_docs import script
from torch.testing import assert_close

from vidrl import credit
from vidrl.algorithms.base import clipped
from vidrl.backbones.toy import Toy
from vidrl.diffusion import segments, transition
from vidrl.rewards import Score

EXAMPLE = script("examples/segment_grpo")
NOTEBOOK = script("examples/notebook")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_step_and_its_density_are_the_librarys() -> None:
    toy = Toy.tiny()
    cond, x, after = (
        toy.encode(["a cat", "a dog"]),
        drawn(2, *toy.shape),
        drawn(2, *toy.shape, seed=1),
    )
    for t, s in ((1.0, 0.75), (0.5, 0.25), (0.25, 0.0)):
        mean, std = EXAMPLE.step_gaussian(toy, x, t, s, cond)
        raw = toy.predict(x, torch.full((2,), t), cond)
        step = transition.step(toy.path, "dance_sde", raw, x, t, s, eta=EXAMPLE.ETA)
        assert_close(mean, step.mean.float())
        assert_close(torch.tensor(std), step.std.float().flatten()[0])
        if s > 0:
            found = segments.pool(transition.log_density(step, after), toy.shape[1])
            assert_close(EXAMPLE.log_density(after, mean, std), found.float(), rtol=1e-5, atol=1e-5)


def test_the_advantages_are_the_librarys() -> None:
    curve, group = drawn(8, 9), torch.arange(2).repeat_interleave(4)
    spans = Toy.tiny().frame_map
    score = Score(curve.mean(1), curve)
    found = credit.advantages(score, group, spans, alpha=1.0, scale="batch")
    # The library adds 1e-4 to the scale, so that a tie is not divided by 0.
    assert_close(EXAMPLE.segment_advantages(curve, group, spans), found, rtol=3e-4, atol=1e-5)


def test_the_loss_is_the_librarys() -> None:
    new, old, advantage = drawn(5, 3) / 50, drawn(5, 3, seed=1) / 50, drawn(5, 3, seed=2)
    limit = EXAMPLE.CLIP * 3**0.5
    found = clipped((new - old).exp(), advantage, limit).mean()
    assert_close(EXAMPLE.clipped_loss(new, old, advantage), found)


def test_the_ratio_is_one_before_the_first_update() -> None:
    toy, draw = Toy.tiny(), torch.Generator().manual_seed(0)
    clips, kept = EXAMPLE.rollout(toy, ["a cat", "a dog"], draw)
    assert clips.shape == (2, 9, 3, 32, 32) and len(kept) == EXAMPLE.STEPS - 1
    for x, after, t, s, old in kept:
        mean, std = EXAMPLE.step_gaussian(toy, x, t, s, toy.encode(["a cat", "a dog"]))
        assert torch.equal(EXAMPLE.log_density(after, mean, std), old)


def test_the_example_learns() -> None:
    rises = [means[-1] - means[0] for means in map(EXAMPLE.train, range(3))]
    assert min(rises) > 0.15  # a clip's brightness lies between 0 and 1


def test_the_notebook_is_current() -> None:
    """If this fails: python scripts/examples/notebook.py"""
    assert NOTEBOOK.NOTEBOOK.read_text(encoding="utf-8") == NOTEBOOK.page()


def plain(text: str) -> str:
    """The code of a text without its docstrings."""
    tree = ast.parse(text)
    for node in [tree, *(node for node in tree.body if isinstance(node, ast.FunctionDef))]:
        if ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)


def test_the_code_of_the_notebook_is_the_scripts() -> None:
    cells = json.loads(NOTEBOOK.NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code"] * (len(cells) // 2)
    code = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    assert plain(code) == plain(NOTEBOOK.SCRIPT.read_text(encoding="utf-8"))
    comments = [line.strip() for line in code.splitlines() if line.strip().startswith("#")]
    assert comments and all(line in NOTEBOOK.SCRIPT.read_text("utf-8") for line in comments)


def test_the_notebook_runs_and_the_reward_rises() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.reads(NOTEBOOK.NOTEBOOK.read_text(encoding="utf-8"), as_version=4)
    nbformat.validate(book)
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    said = "".join(output["text"] for output in book.cells[-1].outputs)
    first, last = (float(word) for word in said.split("rose from ")[1].split(" to "))
    assert last - first > 0.15


def test_the_example_of_worlds_plays_and_writes_its_frames(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # the script finds its model from any folder
    example = script("examples/world_env")
    example.TASK = "reach"
    example.main("", str(tmp_path / "a.mp4"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all("+1 after" in line.split(",")[1] for line in lines[:5])
    assert "expected" in lines[5]
    assert (tmp_path / "a.mp4").is_file()
