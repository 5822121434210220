"""Every family of diffusers, as a tiny pipeline with random weights, under the contract of a backbone."""

import pytest
import torch

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from families import FAMILIES, PROMPTS, Family, clips

EVERY = [pytest.param(f, id=name, marks=[] if f.quick else pytest.mark.slow) for name, f in FAMILIES.items()]
every = pytest.mark.parametrize("family", EVERY)


# The builders


@every
def test_a_tiny_pipeline_makes_clips_of_the_size_that_is_asked_for(family: Family) -> None:
    pipe = family.build()
    for other in ({}, family.other):
        asked = family.ask(PROMPTS[0], **other)
        made = clips(pipe, asked)
        frames = asked[family.frames] if family.frames else 1
        assert made.shape == (1, frames, 3, asked["height"], asked["width"])
        assert made.isfinite().all() and made.std() > 0.01


@every
def test_every_input_changes_what_a_tiny_pipeline_makes(family: Family) -> None:
    """Else a comparison with the pipeline's own call could not see that a prompt or a picture went to another row."""
    pipe = family.build()
    first = clips(pipe, family.ask(PROMPTS[0]))
    assert torch.equal(first, clips(family.build(), family.ask(PROMPTS[0])))  # and nothing else changes it
    if family.reads_text:
        assert (clips(pipe, family.ask(PROMPTS[1])) - first).abs().max() > 3e-5
    if family.reads_image:
        asked = family.ask(PROMPTS[0])
        other = family.picture(asked, seed=1)
        assert (clips(pipe, asked | {"image": other}) - first).abs().max() > 3e-5


def test_the_families_cover_what_diffusers_users_ask_for() -> None:
    pipelines = {type(family.build()).__name__ for family in FAMILIES.values() if family.quick}
    assert len(FAMILIES) >= 41 and len(pipelines) == 5
    assert {family.modality for family in FAMILIES.values()} == {
        "text to video", "image to video", "text to image", "image to image"}  # fmt: skip
