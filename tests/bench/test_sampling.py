"""Clips of a suite's prompts: the same noise for every model, made once, none lost by a
failure or a kill."""

import json
from pathlib import Path

import pytest
import torch

from vidrl.backbones.toy import Toy
from vidrl.bench import items, sampling, suite
from vidrl.bench.sampling import Changed, Task
from vidrl.rewards import video
from vidrl.training.policy import Policy

ROOT = Path(__file__).parent.parent.parent
PROMPTS = ['a "red" fox, <b>running</b>', "a cat; rm -rf $HOME", "eine Kuh läuft"]


@pytest.fixture
def mine(tmp_path):
    """A suite of one's own with three awkward prompts."""
    rows = [
        {"prompt": prompt, "kind": f"k{i}", "count": i, "expect": {}}
        for i, prompt in enumerate(PROMPTS)
    ]
    (tmp_path / "mine.jsonl").write_text(
        "\n".join(json.dumps(row) for row in rows), encoding="utf-8"
    )
    (tmp_path / "mine.toml").write_text(
        'version = "1"\nprompts = "mine.jsonl"\nper_prompt = 2\n[sampling]\nsteps = 2\n'
        "[dims.flicker]\n"
    )
    return suite.load(tmp_path / "mine.toml")


def sample(mine, out, lora=None, **changes):
    return sampling.sample(
        "toy", lora, mine, out, **({"backbone": "toy", "progress": False} | changes)
    )


def test_every_prompt_gets_its_clips_and_its_row(mine, tmp_path):
    found = sample(mine, tmp_path / "out")
    assert [(item.path.name, item.prompt, item.seed) for item in found.items] == [
        (f"{i:04d}-{k}.mp4", PROMPTS[i], k) for i in range(3) for k in range(2)
    ]
    assert not found.skipped and "mine.jsonl (3)" in found.notes[0]
    assert dict(found.items[2].meta) == {"kind": "k1", "count": "1"}
    # measured again, they are the same
    assert items.find([tmp_path / "out" / "clips"]).items == found.items


def test_files_hold_what_the_model_made_to_the_last_byte(mine, tmp_path):
    (item, *_) = sample(mine, tmp_path, limit=1, per_prompt=1).items
    toy, noise = Toy(), Task("", {"prompt": PROMPTS[0]}, 0).draw()
    with torch.no_grad():
        clip = toy.decode(toy.generate(toy.noise([noise]), toy.encode([PROMPTS[0]]), 2))[0]
    assert torch.equal(video.read(item.path)[0], (clip * 255).round().byte())


def test_two_models_get_one_noise_and_prompts_and_seeds_another(mine):
    one, again, other, second = (
        torch.randn(3, generator=Task("", {"prompt": p}, s).draw())
        for p, s in (("a", 0), ("a", 0), ("b", 0), ("a", 1))
    )
    assert torch.equal(one, again) and not torch.equal(one, other) and not torch.equal(one, second)


def test_what_is_there_is_not_made_again_and_a_longer_run_adds(mine, tmp_path):
    first = sample(mine, tmp_path, limit=2, per_prompt=1)
    first.items[0].path.write_bytes(b"mine")
    found = sample(mine, tmp_path)
    assert first.items[0].path.read_bytes() == b"mine" and len(found.items) == 6
    assert "2 of 6 clips were there already" in found.notes


def test_a_clip_does_not_depend_on_what_is_made_beside_it(mine, tmp_path):
    sample(mine, tmp_path / "all")
    sample(mine, tmp_path / "some", limit=2, per_prompt=1)
    for name in ("0000-0.mp4", "0001-0.mp4"):
        assert (tmp_path / "all" / "clips" / name).read_bytes() == (
            tmp_path / "some" / "clips" / name
        ).read_bytes()


@pytest.mark.parametrize("change", [{"steps": 3}, {"seed": 7}, {"options": {"seed": 1}}])
def test_clips_of_another_making_are_refused_or_made_anew(mine, tmp_path, change):
    before = sample(mine, tmp_path, limit=1).items[0].path.read_bytes()
    with pytest.raises(Changed, match=f"made otherwise.*{next(iter(change))}.*give another --out"):
        sample(mine, tmp_path, limit=1, **change)
    after = sample(mine, tmp_path, limit=1, anew=True, **change).items[0].path.read_bytes()
    assert after != before


def test_an_adapter_that_is_named_as_a_file_is_known_by_its_content(tmp_path):
    file, told = tmp_path / "a.safetensors", []
    for content in (b"one", b"two", b"one"):
        file.write_bytes(content)
        told.append(sampling._identity(file))
    assert told[0] == told[2] != told[1] and told[0].startswith("a.safetensors ")


def test_another_adapter_is_noticed_by_its_content(mine, tmp_path):
    policy = Policy(Toy(), full=True)
    policy.save(tmp_path / "lora")
    found = sample(mine, tmp_path / "out", limit=1, lora=tmp_path / "lora")
    plain = sample(mine, tmp_path / "plain", limit=1)
    # an adapter that changes nothing yet
    assert found.items[0].path.read_bytes() == plain.items[0].path.read_bytes()
    policy.weights["out.bias"].data += 1
    policy.save(tmp_path / "lora")
    with pytest.raises(Changed, match="lora"):
        sample(mine, tmp_path / "out", limit=1, lora=tmp_path / "lora")


class Frail(Toy):
    """Fails on one prompt, and diverges on another."""

    def predict(self, x, t, cond):
        out, bad = (
            torch.equal(cond["text"], self.encode([prompt])["text"]) for prompt in PROMPTS[:2]
        )
        if out:
            raise RuntimeError("out of memory, say")
        return super().predict(x, t, cond) * (torch.nan if bad else 1)


def test_a_model_that_fails_midway_loses_that_clip_alone(mine, tmp_path):
    rows, _ = sampling.suite_prompts(mine)
    (tmp_path / "clips").mkdir()
    found = sampling.make_clips(
        Frail(), sampling.clip_tasks(rows, 1, 0), tmp_path, 2, progress=False
    )
    assert [item.prompt for item in found.items] == PROMPTS[2:]
    whys = {Path(row["path"]).name: row["why"] for row in found.skipped}
    assert whys == {
        "0000-0.mp4": "not made: RuntimeError: out of memory, say",
        "0001-0.mp4": "not made: NaN in frame 0; the model diverged",
    }
    mended = sampling.make_clips(
        Toy(), sampling.clip_tasks(rows, 1, 0), tmp_path, 2, progress=False
    )
    assert len(mended.items) == 3 and not mended.skipped


def test_a_model_that_makes_nothing_says_why(mine, tmp_path):
    rows, _ = sampling.suite_prompts(mine)
    (tmp_path / "clips").mkdir()
    with pytest.raises(
        RuntimeError, match="not one of 1 clips could be made; the first: not made: RuntimeError"
    ):
        sampling.make_clips(
            Frail(), sampling.clip_tasks(rows[:1], 1, 0), tmp_path, 2, progress=False
        )


def test_after_a_kill_the_table_names_what_is_to_come_and_nothing_is_half_written(
    mine, tmp_path, monkeypatch
):
    def killed(*args, **more):
        raise KeyboardInterrupt

    sample(mine, tmp_path, limit=1, per_prompt=1)
    monkeypatch.setattr(video, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        sample(mine, tmp_path)
    monkeypatch.undo()
    left = items.find([tmp_path / "clips"])
    assert [item.path.name for item in left.items] == ["0000-0.mp4"]
    assert len(sample(mine, tmp_path).items) == 6


# --- which prompts --------------------------------------------------------------------


def test_a_model_of_the_synthetic_world_gets_its_captions():
    rows, note = sampling.suite_prompts(suite.load("motion"), ROOT / "assets" / "tiny-wan")
    assert len(rows) == 256 and all("caption" in row["expect"] for row in rows)
    assert "motion_world.jsonl (256), since the model understands 'world' prompts alone" in note
    assert len(sampling.suite_prompts(suite.load("motion"), ROOT)[0]) == 176


def test_suites_without_prompts_and_broken_prompt_files_are_refused(mine, tmp_path):
    with pytest.raises(suite.BadSuite, match="'temporal' has no prompts to sample"):
        sampling.suite_prompts(suite.load("temporal"))
    with pytest.raises(suite.BadSuite, match="names no file of them"):
        sampling.suite_prompts(mine, ROOT / "assets" / "tiny-wan")
    mine.prompts.write_text('{"prompt": "a cat"}\n{"promt": "a dog"}\n')
    with pytest.raises(suite.BadSuite, match="mine.jsonl, line 2: expected"):
        sampling.suite_prompts(mine)
    mine.prompts.write_text("")
    with pytest.raises(suite.BadSuite, match="empty"):
        sampling.suite_prompts(mine)


@pytest.mark.slow
def test_two_prompts_of_the_motion_suite_on_tiny_wan(tmp_path):
    found = sampling.sample(
        str(ROOT / "assets" / "tiny-wan"),
        None,
        suite.load("motion"),
        tmp_path,
        limit=2,
        per_prompt=1,
        steps=4,
        progress=False,
        options={"text_length": 32},
    )
    assert [item.meta["kind"] for item in found.items] == ["left", "right"]
    assert [video.read(item.path)[0].shape for item in found.items] == [(17, 3, 64, 64)] * 2
