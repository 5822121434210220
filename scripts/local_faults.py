"""Fine-tune tiny-wan-32's transformer on clips whose faults are local in time.

    python scripts/local_faults.py train      # fine-tune, write runs/local-faults/model
    python scripts/local_faults.py check      # measure whether the faults are there, and local

The result is the second model of the segment study. tiny-wan-32's own corpus has faults
that last for a whole clip. Here 70 % of the clips have one fault, which covers a random run
of 3 to 6 frames and leaves the others clean. The training takes minutes of one core; it may
be killed and called again. The model is not committed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pretrain_tiny as tiny
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from vidrl.rewards import Samples, default
from vidrl.rewards._files import atomic_file
from vidrl.synthetic import verifier, world
from vidrl.synthetic.corruptions import corrupt

tiny.choose(32)  # the studies use the smaller model
WORK = tiny.ROOT / "runs" / "local-faults"
MODEL = WORK / "model"
CORPUS = 3000  # clips
FAULTY = 0.7  # the fraction of clips that have a fault
RUN = (3, 6)  # the fewest and the most frames that a fault covers
STEPS = 700  # optimiser steps
PEAK = 0.25  # the fraction of pretraining's learning rates
DECAY = 0.99  # of the average weights
# step i draws the noise of pretraining's step OFFSET + i, which pretraining never reached
OFFSET = 1_000_000
SMOOTH = 0.05  # the fraction of a clean clip's frames that a threshold calls bad


# Corpus


def local_fault(scene: world.Scene, draw: random.Random) -> tuple[Tensor, tuple[int, int] | None]:
    """Return a clip (F, 3, H, W) and the frames [start, end) of its fault, or None.

    Of all clips, 20 % flicker, 18 % shake, 15 % freeze and then continue where the clip
    would be, and 17 % show another shape or colour, or no object at all.
    """
    kind, seed = draw.random(), draw.randrange(2**31)
    clip = world.render(scene, tiny.SIZE, tiny.FRAMES, tiny.FPS, seed).video
    if kind >= FAULTY:
        return clip, None
    length = draw.randint(*RUN)
    start = draw.randrange(1, tiny.FRAMES - length + 1)
    span = slice(start, start + length)
    clip[span] = _spoiled(scene, clip, span, kind, seed, draw)
    return clip, (start, start + length)


def _spoiled(
    scene: world.Scene, clip: Tensor, span: slice, kind: float, seed: int, draw: random.Random
) -> Tensor:
    """Return the frames of `span` with a fault; `kind` in [0, FAULTY) selects the fault."""
    if kind < 0.20:
        return corrupt(clip[span], "flicker", draw.uniform(0.8, 1.5), seed)
    if kind < 0.38:
        return corrupt(clip[span], "shake", draw.uniform(0.7, 1.3), seed)
    if kind < 0.53:
        return clip[span.start - 1].expand_as(clip[span])
    other = tiny._changed(scene, draw)
    swap = world.render(other, tiny.SIZE, tiny.FRAMES, tiny.FPS, seed).video if other else None
    return (tiny._empty(scene, tiny.SIZE, seed) if swap is None else swap)[span]


def corpus(indices: range | list[int], faulty: bool = True) -> list[tuple[str, Tensor]]:
    """Return the caption and the clip of each index.

    The result is deterministic, and never has a held-out caption. With `faulty` = False all
    clips are clean.
    """
    pool, pairs = world.scenes("train"), []
    for index in indices:
        draw = random.Random(f"local faults {index}")
        scene = draw.choice(pool)
        clip = local_fault(scene, draw)[0] if faulty else _clean(scene, index)
        pairs.append((scene.caption, clip))
    return pairs


def _clean(scene: world.Scene, seed: int) -> Tensor:
    """Render a scene without a fault."""
    return world.render(scene, tiny.SIZE, tiny.FRAMES, tiny.FPS, seed).video


# Training


def vae_and_scale() -> tuple[nn.Module, Tensor, Tensor]:
    """Return the shipped autoencoder with the mean and std of its latents."""
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(tiny.MODEL / "vae").eval()
    mean, std = (
        torch.tensor(getattr(vae.config, k)).view(1, -1, 1, 1, 1)
        for k in ("latents_mean", "latents_std")
    )
    return vae, mean, std


@torch.no_grad()
def encoded() -> tuple[Tensor, list[str]]:
    """Return the normalised latents of the corpus and its captions.

    The latents are computed once and then read from a file.
    """
    path = WORK / "latents.safetensors"
    if not path.exists():
        vae, mean, std = vae_and_scale()
        latents, captions = [], []
        for start in tqdm(range(0, CORPUS, 8), desc="encode", mininterval=10):
            texts, clips = zip(*corpus(range(start, min(start + 8, CORPUS))), strict=True)
            z = vae.encode(2 * torch.stack(clips).transpose(1, 2) - 1).latent_dist.mode()
            latents.append((z - mean) / std)
            captions += texts
        with atomic_file.new_path(path) as private:
            save_file({"latents": torch.cat(latents)}, private, {"captions": json.dumps(captions)})
    with safe_open(path, "pt") as file:
        return file.get_tensor("latents"), json.loads(file.metadata()["captions"])


class FineTune(tiny.Run):
    """Pretraining's resumable run with a fraction of its learning rates."""

    def rate(self) -> float:
        return PEAK * super().rate()


def train(steps: int) -> None:
    """Fine-tune and write the pipeline folder; more steps continue an earlier run."""
    from diffusers import WanTransformer3DModel

    latents, captions = encoded()
    unique = sorted(set(captions))
    embeddings = tiny.embed(unique)
    # row 0 of the table is the empty caption
    table = torch.cat([0 * embeddings[:1], embeddings])
    caption = torch.tensor([1 + unique.index(c) for c in captions])
    net, text = WanTransformer3DModel.from_pretrained(tiny.MODEL / "transformer"), tiny.PaddedText()
    usual = type(net.blocks[0].attn2.processor)
    for block in net.blocks:
        block.attn2.set_processor(text)
    run = FineTune(
        "flow", net, steps, DECAY, lambda name, p: name.startswith("blocks.") and p.dim() == 2
    )
    try:
        run.go(lambda step: tiny.flow_loss(net, text, latents, table, caption, OFFSET + step))
    except KeyboardInterrupt:
        run.save()
        raise SystemExit("local_faults: interrupted; the same command goes on") from None
    run.averaged()
    for block in net.blocks:
        block.attn2.set_processor(usual())
    _write(net)


def _write(net: nn.Module) -> None:
    """Write the pipeline folder: tiny-wan-32 with another transformer.

    The folder is written under another name and then renamed, so that no half a folder
    remains.
    """
    partial = MODEL.with_name("model.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(
        tiny.MODEL,
        partial,
        ignore=shutil.ignore_patterns("influence*", "README.md", "pretraining.jsonl"),
    )
    net.save_pretrained(partial / "transformer")
    config = json.loads((partial / "transformer" / "config.json").read_text())
    config.pop("_name_or_path", None)
    (partial / "transformer" / "config.json").write_text(
        json.dumps(config, indent=2, sort_keys=True) + "\n"
    )
    shutil.rmtree(MODEL, ignore_errors=True)
    partial.rename(MODEL)
    print(f"written: {MODEL}")


# The check


@torch.no_grad()
def drawn(model: Path, n: int) -> tuple[list[str], Tensor]:
    """Generate clips (n, F, 3, H, W) of the first held-out captions in 20 steps."""
    from vidrl.backbones.wan import Wan
    from vidrl.training.clips import generate
    from vidrl.training.rollout import draws

    captions = [scene.caption for scene in world.scenes("held_out", n)]
    backbone = Wan(model=str(model), text_length=24)
    return captions, generate(backbone, captions, draws(0, [("check", i) for i in range(n)])).video


@torch.no_grad()
def through_vae(pairs: list[tuple[str, Tensor]]) -> tuple[list[str], Tensor]:
    """Return the clips as the autoencoder reconstructs them.

    The autoencoder's own faults are then the same in all rows of the check.
    """
    vae, _, _ = vae_and_scale()
    x = torch.stack([clip for _, clip in pairs])
    y = [
        vae.decode(vae.encode(2 * part.transpose(1, 2) - 1).latent_dist.mode()).sample
        for part in x.split(8)
    ]
    return [caption for caption, _ in pairs], ((torch.cat(y).transpose(1, 2) + 1) / 2).clamp(0, 1)


def judged(
    captions: list[str], video: Tensor, floor: Tensor | None = None
) -> tuple[dict[str, float], Tensor]:
    """Return what the composite and the verifier say of clips, and the thresholds (F,).

    A frame is bad where the composite's curve is below `floor`, the curve's 5th percentile
    of clean clips at this frame. A clip has a fault where it has two neighbouring bad
    frames. `peak` is the fraction of a clip's bad frames within the densest run of six
    frames: a fault that lasts for a whole clip of 17 frames has about 0.4 of them there.
    """
    score = default()(Samples(video, captions, tiny.FPS))
    curves = score.frames[score.value.isfinite()]
    floor = curves.quantile(SMOOTH, 0) if floor is None else floor
    bad = curves < floor
    faulty = bad[(bad[:, 1:] & bad[:, :-1]).any(1)].float()
    inside = faulty.unfold(1, RUN[1], 1).sum(2).amax(1) / faulty.sum(1)
    seen = verifier.verify(video, captions, tiny.FPS)
    row = {
        "clips": len(curves),
        "composite": score.value.nanmean(),
        "faulty": len(faulty) / len(curves),
        "bad frames in a faulty clip": faulty.sum(1).mean(),
        "peak": inside.mean(),
        "all bad frames within a run of 8": ((_extent(faulty) <= RUN[1] + 2).float().mean()),
        "verifier": seen.all.float().mean(),
        "identity": seen.identity.mean(),
    }
    return {name: round(float(value), 3) for name, value in row.items()}, floor


def _extent(bad: Tensor) -> Tensor:
    """Return the number of frames from the first bad frame to the last one, (B,)."""
    at = torch.arange(bad.shape[1])
    last, first = (at * bad).amax(1), torch.where(bad > 0, at, bad.shape[1]).amin(1)
    return last - first + 1


def check(n: int) -> None:
    """Print a row for clean clips, for both corpora and for the clips of both models.

    The rows are also written to check.json.
    """
    clean, floor = judged(*through_vae(corpus(range(OFFSET, OFFSET + n), faulty=False)))
    sources = {
        "corpus, everywhere": lambda: through_vae(
            list(tiny.corpus(range(OFFSET, OFFSET + n), tiny.SIZE))
        ),
        "corpus, local": lambda: through_vae(corpus(range(OFFSET, OFFSET + n))),
        "model, everywhere": lambda: drawn(tiny.MODEL, n),
        "model, local": lambda: drawn(MODEL, n),
    }
    rows = {"clean clips": clean} | {
        name: judged(*make(), floor)[0] for name, make in sources.items()
    }
    for name, row in rows.items():
        print(f"{name:20} " + ", ".join(f"{key} {value:g}" for key, value in row.items()))
    (WORK / "check.json").write_text(json.dumps(rows, indent=1) + "\n")


def main() -> None:
    """Parse the command line and run one stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("train", "check"))
    parser.add_argument("--steps", type=int, default=STEPS, help="train: optimiser steps in all")
    parser.add_argument("-n", type=int, default=192, help="check: clips a row")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    WORK.mkdir(parents=True, exist_ok=True)
    tiny.WORK = WORK  # `tiny.Run` keeps its state in this folder
    train(args.steps) if args.stage == "train" else check(args.n)


if __name__ == "__main__":
    main()
