"""Train assets/tiny-gan from nothing: a video GAN that is small enough for minutes of one CPU core.

    python scripts/pretrain_gan.py train    # writes assets/tiny-gan/generator.safetensors
    python scripts/pretrain_gan.py check    # measures the verifier on 256 held-out captions
    python scripts/pretrain_gan.py show     # draws clips of held-out captions into a picture

The generator is `vidrl.backbones._layered_gan.LayeredGan`. An adversarial loss alone is too weak
in these minutes, so the script trains a VAE-GAN (arXiv 1512.09300): an encoder finds the latent of
a real clip, the generator must draw the clip again, and a critic with a hinge loss and spectral
norm (1802.05957) judges both these clips and clips of drawn latents. The encoder and the critic
are not kept. About half of the corpus has the faults of web video (see `fault`), so that reward
has something to mend.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.parametrizations import spectral_norm
from tqdm import tqdm

from vidrl.backbones._hashed_words import WIDTH, hashed_words
from vidrl.backbones._layered_gan import UNIT, LayeredGan
from vidrl.synthetic import verifier, world
from vidrl.synthetic.corruptions import corrupt

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "assets" / "tiny-gan"
CLIPS, FRAMES, FPS, SIZE = 4000, 16, 8.0, 32
SHAPE = {"content": 12, "motion": 4, "frames": 8, "width": 96}
STEPS, BATCH, RATE = 1800, 16, 2e-3
ALONE = 1000  # the first steps, without the critic
NO_TEXT = 0.05  # the fraction of clips whose caption is empty: `decode` without a prompt works
AVERAGE = 0.995  # of the kept weights, over the steps
# weights of the losses beside the reconstruction
ADVERSARIAL, FEATURES, PLACE = 0.01, 0.1, 0.3
# The weight of the KL rises over the first steps: codes first learn where the object is, and later
# leave to the text what the text can say, as the direction of a motion.
KL, KL_START, KL_STEPS = 0.03, 0.004, 1000
MARGIN = 1.5  # the object's picture is larger than the object by this factor


def fault(scene: world.Scene, draw: random.Random) -> Tensor:
    """Return a clip (F, 3, 32, 32): 16 % flicker, 16 % shake, 16 % stutter, and 52 % are clean."""
    kind, seed = draw.random(), draw.randrange(2**31)
    clip = world.render(scene, SIZE, FRAMES, FPS, seed).video
    if kind < 0.52:
        return clip
    name = ("flicker", "shake", "stutter")[int((kind - 0.52) / 0.16)]
    return corrupt(clip, name, draw.uniform(0.6, 1.2), seed)


def corpus() -> tuple[list[str], Tensor]:
    """Return captions and clips (N, F, 3, 32, 32) as bytes; no caption is held out."""
    draw, pool = random.Random("tiny-gan"), world.scenes("train")
    scenes = [draw.choice(pool) for _ in range(CLIPS)]
    clips = [(255 * fault(scene, draw)).round().byte() for scene in tqdm(scenes, "clips")]
    return [scene.caption for scene in scenes], torch.stack(clips)


class Trunk(nn.Module):
    """Convolutions of each frame and then over time: clips (B, F, 3, 32, 32) to (B, width, L)."""

    def __init__(self, width: int, normed: bool):
        super().__init__()
        wrap = spectral_norm if normed else lambda module: module
        # two channels of place: a convolution alone hardly says where something is
        self.frame = nn.Sequential(
            wrap(nn.Conv2d(5, 16, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            wrap(nn.Conv2d(16, 32, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            wrap(nn.Conv2d(32, 48, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            wrap(nn.Linear(48 * 16, width)),
        )
        self.time = nn.Sequential(
            nn.LeakyReLU(0.2),
            wrap(nn.Conv1d(width, width, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            wrap(nn.Conv1d(width, width, 5, padding=2)),
            nn.LeakyReLU(0.2),
        )
        axis = torch.linspace(-1, 1, SIZE)
        self.register_buffer("place", torch.stack(torch.meshgrid(axis, axis, indexing="ij")))

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        frames = video.flatten(0, 1)
        place = self.place.expand(len(frames), -1, -1, -1)  # type: ignore[operator]
        first = self.frame(torch.cat([2 * frames - 1, place], 1)).unflatten(0, video.shape[:2])
        return first, self.time(first.transpose(1, 2))


class Encoder(nn.Module):
    """The latent of a clip under its text: mean and log-scale, each (B, C, L)."""

    def __init__(self, gan: LayeredGan, width: int = 96):
        super().__init__()
        self.trunk, self.text = Trunk(width, False), nn.Linear(WIDTH, width)
        codes = gan.latent[0]
        self.motion = nn.Conv1d(width, 2 * codes, 3, padding=1)
        self.clip = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2 * codes))

    def forward(self, video: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(video)[1] + self.text(text)[:, :, None]
        both = self.motion(hidden) + self.clip(hidden.mean(2))[:, :, None]
        mean, log_scale = both.chunk(2, 1)
        return mean, 3 * torch.tanh(log_scale / 3)


class Critic(nn.Module):
    """Says how real a clip under its text is, (B,), and returns the features that it used."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.trunk = Trunk(width, True)
        self.out = spectral_norm(nn.Linear(width, 1))
        self.text = spectral_norm(nn.Linear(WIDTH, width))

    def forward(self, video: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        first, last = self.trunk(video)
        pooled = last.mean(2)
        # the projection of the condition (arXiv 1802.05637)
        return self.out(pooled)[:, 0] + (self.text(text) * pooled).sum(1), first


def train() -> None:
    """Train the generator and write its weights, its shape and the course of the losses."""
    torch.manual_seed(0)
    captions, clips = corpus()
    texts = hashed_words(captions)
    gan, start = LayeredGan(**SHAPE), time.process_time()
    encoder, critic = Encoder(gan), Critic()
    own = [*gan.parameters(), *encoder.parameters()]
    optimiser = torch.optim.AdamW(own, RATE, betas=(0.8, 0.98), weight_decay=1e-4)
    judge = torch.optim.AdamW(critic.parameters(), RATE / 2, betas=(0.0, 0.98))
    kept, lines = {k: p.detach().clone() for k, p in gan.state_dict().items()}, []
    for step in tqdm(range(STEPS), "steps"):
        rate = min(1.0, (step + 1) / 100) * max(0.02, 1 - step / STEPS)
        for group in optimiser.param_groups:
            group["lr"] = RATE * rate
        index = torch.randint(len(clips), (BATCH,))
        real, text = clips[index].float() / 255, texts[index].clone()
        text[torch.rand(BATCH) < NO_TEXT] = 0
        judged = critic if step >= ALONE else None
        kl = KL_START + (KL - KL_START) * min(1.0, step / KL_STEPS)
        losses = _step(gan, encoder, judged, real, text, optimiser, judge, kl)
        for name, value in gan.state_dict().items():
            kept[name].lerp_(value, 1 - min(AVERAGE, step / (step + 10)))
        if step % 100 == 99:
            seconds = round(time.process_time() - start)
            lines.append({"step": step + 1, "cpu_seconds": seconds, **losses})
            tqdm.write(json.dumps(lines[-1]))
            _write(kept, lines)


def _step(gan, encoder, critic, real, text, optimiser, judge, kl) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Update generator and encoder, then the critic, if there is one; return the losses."""
    mean, log_scale = encoder(real, text)
    again, moves = gan.with_moves(mean + log_scale.exp() * torch.randn_like(mean), text)
    losses = _fit(again, moves, real)
    losses["kl"] = kl * ((2 * log_scale).exp() / 2 + mean.square() / 2 - 0.5 - log_scale).mean()
    if critic is not None:
        new = gan(torch.randn_like(mean), text)
        losses |= _against(critic, real, again, new, text)
    optimiser.zero_grad()
    sum(losses.values()).backward()
    nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
    optimiser.step()
    if critic is not None:
        half = len(real) // 2
        fakes = torch.cat([again[:half], new[half:]]).detach()
        losses["hinge"] = _judged(critic, real, fakes, text, judge)
    return {name: round(float(value.detach()), 4) for name, value in losses.items()}


def _fit(again: Tensor, moves: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Return the errors of the pixels, and of the object's place and size in each frame."""
    saturation = real.amax(2) - real.amin(2)  # (B, F, 32, 32)
    mask = (saturation > 0.3).to(real)
    area = mask.mean((2, 3))
    axis = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
    count = mask.sum((2, 3)).clamp(min=1)
    place = torch.stack(
        [(mask.sum(2) * axis).sum(2) / count, (mask.sum(3) * axis).sum(2) / count], 2
    )
    size = (MARGIN / UNIT * (4 * area.clamp(min=1e-3) / torch.pi).sqrt()).log()
    wrong = (moves[..., :2] - place).abs().sum(2) + 0.3 * (moves[..., 2] - size).abs()
    # errors of the object count as much as those of the background, which has most pixels
    pixels = ((again - real).abs() * (0.4 + 2 * saturation[:, :, None])).mean()
    return {"pixels": pixels, "place": PLACE * (wrong * (area > 0.005)).mean()}


def _against(
    critic: Critic, real: Tensor, again: Tensor, new: Tensor, text: Tensor
) -> dict[str, Tensor]:
    """Return the losses of the generator before the critic: how real, and how alike."""
    critic.requires_grad_(False)
    scored, seen = critic(torch.cat([again, new]), text.repeat(2, 1))
    with torch.no_grad():
        wanted = critic(real, text)[1]
    features = (seen[: len(real)] - wanted).abs().mean()
    return {"adversarial": -ADVERSARIAL * scored.mean(), "features": FEATURES * features}


def _judged(critic: Critic, real: Tensor, fakes: Tensor, text: Tensor, judge) -> Tensor:  # type: ignore[no-untyped-def]
    """Update the critic; return its hinge loss."""
    critic.requires_grad_(True)
    true, false = critic(real, text)[0], critic(fakes, text)[0]
    hinge = relu(1 - true).mean() + relu(1 + false).mean()
    judge.zero_grad()
    hinge.backward()
    judge.step()
    return hinge


def _write(weights: dict[str, Tensor], lines: list[dict[str, float]]) -> None:
    MODEL.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in weights.items()}, MODEL / "generator.safetensors")
    (MODEL / "generator.json").write_text(json.dumps(SHAPE) + "\n")
    (MODEL / "pretraining.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _sampled(captions: list[str]) -> Tensor:
    """Return one clip for each caption, of latents drawn with a fixed seed."""
    from safetensors.torch import load_file

    gan = LayeredGan(**SHAPE).eval()
    gan.load_state_dict(load_file(MODEL / "generator.safetensors"))
    z = torch.randn(len(captions), *gan.latent, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return gan(z, hashed_words(captions))


def check() -> None:
    """Print which fractions of 256 held-out captions the verifier reads back."""
    captions = [scene.caption for scene in world.scenes("held_out")]
    verdict = verifier.verify(_sampled(captions), captions, FPS)
    for name in ("shape", "colour", "motion", "all", "identity"):
        print(f"{name} {float(getattr(verdict, name).float().mean()):.3f}")


def show(path: Path, n: int = 10) -> None:
    """Write a picture: a row for each held-out caption, every second frame."""
    from vidrl.rewards.video import write

    captions = [scene.caption for scene in world.scenes("held_out", n)]
    clips = _sampled(captions)[:, ::2]
    rows = clips.permute(0, 2, 3, 1, 4).flatten(3).permute(1, 0, 2, 3).flatten(1, 2)
    large = rows.repeat_interleave(3, 1).repeat_interleave(3, 2)
    write(path, large[None], 1.0)
    print("\n".join(captions))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=["train", "check", "show"])
    parser.add_argument("--out", type=Path, default=Path("tiny_gan.png"))
    given = parser.parse_args()
    show(given.out) if given.stage == "show" else {"train": train, "check": check}[given.stage]()
