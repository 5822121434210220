"""The image-to-video pipelines of several families continue clips, and learn from them."""

import pytest
import torch

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from _chunks import learn_a_round, log_density
from families import FAMILIES, picture
from families.contract import targets

from vidrl.backbones.base import extended
from vidrl.backbones.long import Long
from vidrl.data.prompt import Prompt
from vidrl.training.chunks import sample, split
from vidrl.training.rollout import Plan, draws

# the pipeline of LTX conditions works without a picture, so that the call must bring one
OPTIONAL = {"ltx_condition"}
NAMES = [
    "cogvideox_i2v",
    "hunyuan_skyreels_i2v",
    "ltx_condition",
    "ltx_i2v",
    "skyreels_v2_i2v",
    "svd",
    "wan22_i2v",
]
every = pytest.mark.parametrize("name", NAMES)


def long_of(name: str, chunks: int = 2) -> Long:
    family = FAMILIES[name]
    start = {"image": family.picture(family.call)} if name in OPTIONAL else {}
    options = {"call": {**family.call, **start}}
    return Long(family.build(), chunks=chunks, base="pipeline", options=options)


def prompts_of(long: Long, folder, texts=("a red circle",)) -> list[Prompt]:
    made = []
    for number, text in enumerate(texts):
        file = folder / f"{number}.png"
        picture(*long.base.clip_shape[2:], number).save(file)
        made.append(Prompt(text, {"image": str(file)}))
    return made


def sampler_of(long: Long) -> dict[str, object]:
    return {"sampler": "cps"} if long.path.kind == "flow" else {"sampler": "ddim"}


@every
def test_a_chunk_follows_the_picture_at_the_end_of_the_one_before(name, tmp_path):
    long = long_of(name)
    cond = long.encode(prompts_of(long, tmp_path))
    plan = Plan(
        long.times(4), eta=0.3, segments=2, stochastic=(2,), keep=(2,), chunks=2, **sampler_of(long)
    )
    made = sample(long, cond, draws(0, [("a",)]), plan)
    frames, chunks = long.base.clip_shape[0], split(made, long)
    # the clip: the first chunk, and the second one without the frame that repeats the first one's
    first = long.base.decode_with(chunks.latents[:1], {"row": cond["row"]})
    clip = long.decode_with(made.latents, cond)
    assert clip.shape[1] == 2 * frames - 1 == long.frame_map[-1][1] == long.clip_shape[0]
    assert torch.equal(clip[:, :frames], first)
    assert torch.equal(chunks.cond["pictures"][1, 0], (255 * first[0, -1]).round().byte())
    # log p of the second chunk is that of its condition, and another one has another density
    own = log_density(chunks, long, 2, chunks.cond)
    ratio = (own - chunks.log_density[:, 0, 0]).exp()
    assert torch.allclose(ratio, torch.ones(2), atol=1e-6)
    white = extended(chunks.cond, {"pictures": torch.full_like(chunks.cond["pictures"], 255)})
    moved = (log_density(chunks, long, 2, white) - own).abs()
    assert moved[0] == 0 and moved[1] > 1e-5


@every
def test_a_round_of_grpo_learns_from_chunks(name, tmp_path):
    long = long_of(name)
    prompts = prompts_of(long, tmp_path, ["a red circle", "a blue square"])
    aim = targets(long.base)
    learn_a_round(long, tmp_path / "run", prompts=prompts, targets=aim, **sampler_of(long))


def test_a_picture_that_a_pipeline_does_not_need_is_asked_for_in_the_call():
    family = FAMILIES["ltx_condition"]
    with pytest.raises(ValueError, match="got LTXConditionPipeline.*options.call.image"):
        Long(family.build(), base="pipeline", options={"call": dict(family.call)})


def test_a_schedule_without_numbers_is_refused():
    """LTX stretches its sigmas by 1 - sigma of the last one, which is 0 for a single step."""
    long = long_of("ltx_i2v")
    with pytest.raises(ValueError, match="numbers in a schedule of 1 step.*got nan.*more steps"):
        long.times(1)
    assert long.times(2)[0] == 1.0
