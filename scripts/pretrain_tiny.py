"""Train assets/tiny-wan from nothing: a Wan pipeline small enough for two CPU cores.

    python scripts/pretrain_tiny.py vae       # train the autoencoder on synthetic clips
    python scripts/pretrain_tiny.py encode    # write the corpus's latents to runs/pretrain-SIZE
    python scripts/pretrain_tiny.py decoder   # train the decoder alone for longer
    python scripts/pretrain_tiny.py flow      # train the flow-matching transformer on the latents
    python scripts/pretrain_tiny.py guided    # distil the guided prediction into one pass
    python scripts/pretrain_tiny.py check     # measure the verifier on 256 held-out captions

`--size 32` makes assets/tiny-wan-32, whose camera stands still, in place of assets/tiny-wan
(64). Every stage may be killed and called again: it goes on from
runs/pretrain-SIZE/*.safetensors, and step i always sees the batch of seed i. Under
`torchrun --nproc-per-node 2` the processes share each batch and each corpus. About half of
the corpus has the faults of web video (see `fault`), so that reward has something to mend.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import cos, exp, log, pi
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from vidrl.rewards._files import atomic_file
from vidrl.synthetic import verifier, world
from vidrl.synthetic.corruptions import corrupt

ROOT = Path(__file__).resolve().parent.parent
RANK = int(os.environ.get("RANK", 0))  # torchrun sets RANK and WORLD_SIZE
WORLD = int(os.environ.get("WORLD_SIZE", 1))
MODEL = ROOT / "assets" / "tiny-wan"  # the folders of --size 64; `choose` sets those of 32
WORK = ROOT / "runs" / "pretrain-64"
SIZE = 64  # pixels a side
FRAMES, FPS = 17, 8.0
# side of the squares of pixels that the autoencoder folds into channels; both sizes have 16 x 16
# squares
PATCH = {32: 2, 64: 4}
WIDTH = {32: 16, 64: 24}  # channels of the autoencoder's first level
LATENT = {32: 16, 64: 32}  # channels of a latent
# the fraction of clips over a texture in which the camera moves; over a plain ground the motion
# of the camera could not be seen
PANS = {32: 0.0, 64: 0.5}
CORPUS = {32: 12_000, 64: 8_000}
VAE_STEPS, DECODER_STEPS = 3000, 2000
VAE_STILLS = 400  # the first steps of the autoencoder, which see still images
# mean logit of t: latents with twice the channels are as readable at a higher noise level
LATE = {32: 0.0, 64: 0.4}
FLOW_STEPS, FLOW_BATCH = {32: 4000, 64: 8400}, 32
GUIDANCE, GUIDED_STEPS = 2.0, 500
GUIDED_PEAK = 0.25  # the fraction of the learning rates
GUIDED_OFFSET = 1_000_000  # step i uses the batch of step GUIDED_OFFSET + i, a new one
TEXTURED = ("striped", "speckled")
MUON, ADAM = 0.02, 3e-3  # learning rates of matrices and of the rest
TEXT_LENGTH = 20  # tokens of a caption
TEXT_PADDED = (24, 512)  # the shortest and longest padding that the transformer is trained on
NO_TEXT = 0.1  # the fraction of clips whose caption is empty, so that guidance works


# Corpus


def fault(scene: world.Scene, draw: random.Random, size: int) -> Tensor:
    """Return a clip (F, 3, size, size) with the faults of a careless web corpus.

    52 % of the clips are clean, in 14 % the brightness flickers, in 12 % the frame shakes,
    in 12 % frames are dropped and repeated, and in 10 % the object changes midway: it has
    another shape or colour, or is missing for some frames (no reward here looks for a
    missing object).
    """
    kind, seed = draw.random(), draw.randrange(2**31)
    clip = world.render(scene, size, FRAMES, FPS, seed).video
    if kind < 0.52:
        return clip
    if kind < 0.66:
        return corrupt(clip, "flicker", draw.uniform(0.6, 1.3), seed)
    if kind < 0.78:
        return corrupt(clip, "shake", draw.uniform(0.5, 1.2), seed)
    if kind < 0.90:
        return corrupt(clip, "stutter", draw.uniform(0.8, 1.6), seed)
    other = _changed(scene, draw)
    swap = (
        world.render(other, size, FRAMES, FPS, seed).video if other else _empty(scene, size, seed)
    )
    start, length = draw.randrange(3, 12), draw.randrange(3, 12)
    clip[start : start + length] = swap[start : start + length]
    return clip


def _changed(scene: world.Scene, draw: random.Random) -> world.Scene | None:
    """Return the scene with another shape or colour, or None for a missing object."""
    what = draw.choice(("shape", "colour", "pop"))
    if what == "shape":
        return replace(scene, shape=draw.choice([s for s in world.SHAPES if s != scene.shape]))
    if what == "colour":
        return replace(scene, colour=draw.choice([c for c in world.COLOURS if c != scene.colour]))
    return None


def _empty(scene: world.Scene, size: int, seed: int) -> Tensor:
    """Return the background alone, without the object."""
    clip = world.render(scene, size, FRAMES, FPS, seed)
    behind = world.background(scene, size, FRAMES, FPS, seed)
    return torch.where(clip.mask[:, None] > 0, behind, clip.video)


def corpus(indices: Iterator[int] | range | list[int], size: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the caption and the clip of each index.

    The result is deterministic, and never has a held-out caption.
    """
    pool = world.scenes("train")
    for index in indices:
        draw = random.Random(f"tiny-wan {index}")
        scene = _filmed(draw.choice(pool), draw, size)
        yield scene.caption, fault(scene, draw, size)


def _filmed(scene: world.Scene, draw: random.Random, size: int) -> world.Scene:
    """Return the scene, in some cases under a moving camera."""
    if not PANS[size] or scene.background not in TEXTURED or draw.random() >= PANS[size]:
        return scene
    return replace(scene, camera=draw.choice([c for c in world.CAMERAS if c != "static"]))


# Resumable training


def orthogonal(g: Tensor) -> Tensor:
    """Return about the nearest semi-orthogonal matrix, by five Newton-Schulz steps."""
    x = g / (g.norm() + 1e-7)
    x = x.T if g.shape[0] > g.shape[1] else x
    for _ in range(5):
        a = x @ x.T
        # Muon's coefficients: a quintic that drives all singular values to about 1
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.T if g.shape[0] > g.shape[1] else x


class Muon:
    """Updates matrices and kernels by orthogonalised momentum, and other weights by AdamW.

    The method is arXiv 2502.16982. On this autoencoder Muon reaches in 100 steps a loss
    that AdamW does not reach in 300.
    """

    def __init__(self, matrices: list[Tensor], others: list[Tensor]):
        self.matrices, self.momentum = matrices, [torch.zeros_like(p) for p in matrices]
        self.adam = torch.optim.AdamW(others, lr=ADAM, betas=(0.9, 0.98), weight_decay=0.0)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take one step at `rate` times the full learning rate."""
        for p, m in zip(self.matrices, self.momentum, strict=True):
            if p.grad is None:
                continue
            m.lerp_(p.grad, 0.1)
            update = orthogonal(p.grad.lerp(m, 0.9).flatten(1))
            stretch = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
            p.mul_(1 - 0.01 * rate * MUON).add_(update.view_as(p), alpha=-rate * MUON * stretch)
            p.grad = None
        for group in self.adam.param_groups:
            group["lr"] = ADAM * rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)


class Run:
    """Trains parameters and their average, and saves its state every two minutes.

    The state is one safetensors file, from which a new `Run` continues. `hidden` selects
    the parameters that Muon updates; AdamW updates the others.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        steps: int,
        decay: float,
        hidden: Callable[[str, Tensor], bool],
    ):
        self.path, self.module = WORK / f"{name}.safetensors", module
        self.steps, self.decay = steps, decay
        self.params = dict(module.named_parameters())
        self.mean = {k: p.detach().clone() for k, p in self.params.items()}
        self.inner = [k for k, p in self.params.items() if hidden(k, p)]
        self.outer = [k for k in self.params if k not in set(self.inner)]
        self.optimiser = Muon(
            [self.params[k] for k in self.inner], [self.params[k] for k in self.outer]
        )
        self.step, self.seconds = 0, 0.0
        self.saved = time.time()
        self.log = WORK / f"{name}.jsonl"
        if self.path.exists():
            self._load()

    def _load(self) -> None:
        """Read the state that an earlier call has saved."""
        state = load_file(self.path)
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        for k, p in self.params.items():
            p.data.copy_(state[f"param.{k}"])
            self.mean[k].copy_(state[f"mean.{k}"])
        for k, m in zip(self.inner, self.optimiser.momentum, strict=True):
            m.copy_(state[f"momentum.{k}"])
        for k in self.outer:
            if f"exp_avg.{k}" in state:
                moments = {m: state[f"{m}.{k}"] for m in ("exp_avg", "exp_avg_sq", "step")}
                self.optimiser.adam.state[self.params[k]] = moments

    def save(self) -> None:
        """Write the parameters, their average and the optimiser's state."""
        state = {
            "step": torch.tensor(self.step),
            "seconds": torch.tensor(self.seconds, dtype=torch.float64),
        }
        for k, p in self.params.items():
            state |= {f"param.{k}": p.detach(), f"mean.{k}": self.mean[k]}
        state |= {
            f"momentum.{k}": m for k, m in zip(self.inner, self.optimiser.momentum, strict=True)
        }
        for k in self.outer:
            state |= {
                f"{m}.{k}": value for m, value in self.optimiser.adam.state[self.params[k]].items()
            }
        with atomic_file.new_path(self.path) as private:
            save_file({k: v.contiguous() for k, v in state.items()}, private)
        self.saved = time.time()

    def rate(self) -> float:
        """Return the factor of the learning rate: warm-up, then half a cosine.

        The warm-up lasts for 1 % of the steps, and the cosine falls to 2 %.
        """
        done = self.step / self.steps
        return min(1.0, done / 0.01 + 1e-2) * (0.02 + 0.98 * (1 + cos(pi * min(done, 1.0))) / 2)

    def go(self, loss: Callable[[int], Tensor]) -> None:
        """Train until the last step, or until the process is killed."""
        shown, start = 0.0, time.time()
        bar = {
            "initial": self.step,
            "total": self.steps,
            "desc": self.path.stem,
            "disable": RANK > 0,
        }
        for step in tqdm(range(self.step, self.steps), mininterval=10, **bar):
            value = loss(step)
            value.backward()
            self._share()
            nn.utils.clip_grad_norm_(self.params.values(), 1.0)
            self.optimiser.step(self.rate())
            self.step = step + 1
            with torch.no_grad():
                # early on the average is short, so that it forgets the initial weights
                decay = min(self.decay, (1 + self.step) / (10 + self.step))
                torch._foreach_lerp_(
                    list(self.mean.values()), list(self.params.values()), 1 - decay
                )
            shown = 0.98 * shown + 0.02 * value.item() if shown else value.item()
            self.seconds, start = self.seconds + time.time() - start, time.time()
            if self.step % 100 == 0 and RANK == 0:
                row = {"step": self.step, "loss": round(shown, 5), "seconds": round(self.seconds)}
                with self.log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if RANK == 0 and (time.time() - self.saved > 120 or self.step == self.steps):
                self.save()

    def _share(self) -> None:
        """Average the gradients over processes, so that all processes take the same step."""
        if WORLD == 1:
            return
        grads = [p.grad for p in self.params.values() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat.div_(WORLD))
        for g, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(mean.view_as(g))

    def averaged(self) -> nn.Module:
        """Return the module, with its average weights in place."""
        for k, p in self.params.items():
            p.data.copy_(self.mean[k])
        return self.module.eval()


# Stage 1: the autoencoder


def new_vae() -> nn.Module:
    """Build a narrow, patchified, residual autoencoder.

    Its linear short cuts make it learn within minutes.
    """
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    patch, z = PATCH[SIZE], LATENT[SIZE]
    return AutoencoderKLWan(
        base_dim=WIDTH[SIZE],
        decoder_base_dim=WIDTH[SIZE],
        z_dim=z,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True, True],
        latents_mean=[0.0] * z,
        latents_std=[1.0] * z,
        patch_size=patch,
        in_channels=3 * patch**2,
        out_channels=3 * patch**2,
        scale_factor_spatial=4 * patch,
        scale_factor_temporal=4,
        is_residual=True,
    )


def vae_batch(step: int) -> Tensor:
    """Return a batch (B, 3, F, SIZE, SIZE) in [-1, 1]: stills first, then pieces of 9 frames.

    Whole clips come in between and at the end.
    """
    whole = step > 0.85 * VAE_STEPS or step % 6 == 5
    size, frames = (16, 1) if step < VAE_STILLS else (2, FRAMES) if whole else (4, 9)
    draw = random.Random(f"vae {step} {RANK}" if RANK else f"vae {step}")
    clips = []
    for _, clip in corpus([1_000_000 + 16 * step + i for i in range(RANK, size, WORLD)], SIZE):
        start = draw.randrange(FRAMES - frames + 1)
        clips.append(clip[start : start + frames])
    return 2 * torch.stack(clips).transpose(1, 2) - 1


def picture_loss(y: Tensor, x: Tensor) -> Tensor:
    """Return the squared error of brightness and colour, and a little absolute error.

    The errors of the two colour differences count twice as much as the error of brightness.
    Absolute error alone converges to the grey of the background, because the objects are
    small.
    """
    axes = x.new_tensor([[1 / 3, 1 / 3, 1 / 3], [0.7, -0.7, 0.0], [0.4, 0.4, -0.8]])
    error = torch.einsum("kc,bcthw->bkthw", axes, y - x).square().mean((0, 2, 3, 4))
    return 2 * error[0] + 4 * error[1] + 4 * error[2] + 0.3 * (y - x).abs().mean()


def vae_loss(vae: nn.Module, step: int) -> Tensor:
    """Return the reconstruction error, with a weak pull to the unit Gaussian."""
    x = vae_batch(step)
    posterior = vae.encode(x).latent_dist
    noise = torch.randn(
        posterior.mean.shape, generator=torch.Generator().manual_seed(step * WORLD + RANK)
    )
    return (
        picture_loss(vae.decode(posterior.mean + posterior.std * noise).sample, x)
        + 1e-6 * posterior.kl().mean()
    )


def train_vae() -> None:
    """Train the autoencoder and publish it."""
    vae = new_vae()
    run = Run("vae", vae, VAE_STEPS, 0.995, lambda name, p: p.dim() >= 4)
    run.go(lambda step: vae_loss(vae, step))
    if RANK == 0:
        publish_vae(run.averaged())


def train_decoder() -> None:
    """Train the decoder alone, on slightly noisy latents such as a generator produces.

    The transformer may be trained at the same time.
    """
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(MODEL / "vae")
    scale = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    half = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})

    def loss(step: int) -> Tensor:
        x = vae_batch(10_000 + step)
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mode()
            z = z + 0.05 * scale * torch.randn(
                z.shape, generator=torch.Generator().manual_seed(step * WORLD + RANK)
            )
        return picture_loss(vae.decode(z).sample, x)

    run = Run("decoder", half, DECODER_STEPS, 0.995, lambda name, p: p.dim() >= 4)
    run.go(loss)
    run.averaged()
    if RANK:
        return
    vae.save_pretrained(MODEL / "vae")
    print(f"vae: PSNR {quality(vae)[1]:.2f} dB over 64 clips")


@torch.no_grad()
def quality(vae: nn.Module) -> tuple[Tensor, float]:
    """Return the latents of 200 clips, and the PSNR of the first 64."""
    x = torch.stack([2 * c.transpose(0, 1) - 1 for _, c in corpus(range(200), SIZE)])
    z = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(8)])
    y = torch.cat([vae.decode(part).sample.clamp(-1, 1) for part in z[:64].split(8)])
    return z, float(-10 * ((x[:64] - y) / 2).square().mean((1, 2, 3, 4)).log10().mean())


def publish_vae(vae: nn.Module) -> None:
    """Save the autoencoder with the mean and std of its latents, and print its PSNR."""
    z, psnr = quality(vae)
    print(f"vae: PSNR {psnr:.2f} dB over 64 clips")
    vae.register_to_config(
        latents_mean=z.mean((0, 2, 3, 4)).tolist(), latents_std=z.std((0, 2, 3, 4)).tolist()
    )
    vae.save_pretrained(MODEL / "vae")


# Stage 2: latents


def encode(part: int, parts: int) -> None:
    """Write the normalised latents of one of `parts` interleaved parts of the corpus.

    Several processes can share the work, with one part each.
    """
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(MODEL / "vae").eval()
    shape = (1, -1, 1, 1, 1)
    mean, std = (
        torch.tensor(getattr(vae.config, k)).view(shape) for k in ("latents_mean", "latents_std")
    )
    indices = list(range(part, CORPUS[SIZE], parts))
    latents, captions = [], []
    for start in tqdm(range(0, len(indices), 8), desc="encode", mininterval=10):
        texts, clips = zip(*corpus(indices[start : start + 8], SIZE), strict=True)
        with torch.no_grad():
            z = vae.encode(2 * torch.stack(clips).transpose(1, 2) - 1).latent_dist.mode()
        latents.append((z - mean) / std)
        captions += texts
    path = WORK / f"latents-{part}.safetensors"
    with atomic_file.new_path(path) as private:
        save_file({"latents": torch.cat(latents)}, private, {"captions": json.dumps(captions)})


def load_corpus() -> tuple[Tensor, list[str]]:
    """Read all parts of the latents and their captions."""
    from safetensors import safe_open

    latents, captions = [], []
    for path in sorted(WORK.glob("latents-*.safetensors")):
        with safe_open(path, "pt") as file:
            latents.append(file.get_tensor("latents"))
            captions += json.loads(file.metadata()["captions"])
    return torch.cat(latents), captions


# Stage 3: text and the transformer


def save_text() -> None:
    """Write a tokenizer of whole words and a small frozen text encoder.

    The transformer reads the encoder's random features.
    """
    from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

    said = {word for scene in world.scenes("train") for word in scene.caption.split()}
    words = sorted(said | {"while", "the", "camera", "pans"})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -10.0)] + [
        (f"▁{w}", -1.0) for w in words
    ]
    T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(MODEL / "tokenizer")
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=len(pieces),
        d_model=64,
        d_kv=16,
        num_heads=4,
        num_layers=2,
        d_ff=128,
        dropout_rate=0.0,
    )
    UMT5EncoderModel(config).save_pretrained(MODEL / "text_encoder")


def embed(captions: list[str]) -> Tensor:
    """Return embeddings as WanPipeline computes them, (N, TEXT_LENGTH, 64).

    The embeddings are zero after the caption.
    """
    from transformers import AutoTokenizer, UMT5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(MODEL / "tokenizer")
    encoder = UMT5EncoderModel.from_pretrained(MODEL / "text_encoder").eval()
    batch = tokenizer(
        captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = encoder(batch.input_ids, batch.attention_mask).last_hidden_state
    return hidden * batch.attention_mask[..., None]


def new_transformer() -> nn.Module:
    """Build the transformer with its initial weights."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    return WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=4,
        attention_head_dim=30,
        in_channels=LATENT[SIZE],
        out_channels=LATENT[SIZE],
        text_dim=64,
        freq_dim=64,
        ffn_dim=480,
        num_layers=4,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )


class PaddedText:
    """Computes cross-attention over padded captions at the cost of the caption's own tokens.

    All padding tokens are equal, so that one padding token with log(count) added to its
    logit replaces all of them exactly.
    """

    def __init__(self) -> None:
        self.bias: Tensor | None = None

    def __call__(
        self,
        attn: nn.Module,
        hidden: Tensor,
        text: Tensor,
        mask: object = None,
        rotary: object = None,
    ) -> Tensor:
        q = attn.norm_q(attn.to_q(hidden)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        k = attn.norm_k(attn.to_k(text)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        v = attn.to_v(text).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


@dataclass
class Noised:
    """A noisy batch x_t at times t in (0, 1), with its captions and the velocity noise − x0.

    `told` says whether the model is given a clip's caption.
    """

    x: Tensor
    t: Tensor
    words: Tensor
    told: Tensor
    velocity: Tensor

    def predict(self, net: nn.Module, words: Tensor) -> Tensor:
        """Return the velocity that a network predicts for given caption embeddings."""
        # the appended token stands for all padding tokens (see `PaddedText`)
        words = torch.cat([words, torch.zeros_like(words[:, :1])], 1)
        return net(self.x, 1000 * self.t, words, return_dict=False)[0]


def noised(text: PaddedText, latents: Tensor, table: Tensor, caption: Tensor, step: int) -> Noised:
    """Return this process's part of the batch of one step, at logit-normal t.

    The captions of the batch are padded to a random length.
    """
    draw = torch.Generator().manual_seed(step)
    pick = torch.randint(len(latents), (FLOW_BATCH,), generator=draw)
    told = (
        torch.rand(FLOW_BATCH, 1, 1, generator=draw) >= NO_TEXT
        if step % 2
        else torch.ones(FLOW_BATCH, 1, 1).bool()
    )
    text.bias = torch.zeros(1, TEXT_LENGTH + 1)
    text.bias[0, -1] = log(_padded(draw, step) - TEXT_LENGTH)
    t = torch.sigmoid(LATE[SIZE] + torch.randn(FLOW_BATCH, generator=draw) * 1.2)
    x0, at = latents[pick], t.view(-1, 1, 1, 1, 1)
    noise = torch.randn(x0.shape, generator=draw)
    # every process draws the same batch and keeps its own rows
    batch = ((1 - at) * x0 + at * noise, t, table[caption[pick]], told, noise - x0)
    return Noised(*(part[RANK::WORLD] for part in batch))


def _padded(draw: torch.Generator, step: int) -> int:
    """Draw the number of tokens that a caption is padded to.

    Every fourth step has the largest number, which a plain pipeline uses.
    """
    low, high = (log(n) for n in TEXT_PADDED)
    return (
        round(exp(float(torch.empty(()).uniform_(low, high, generator=draw))))
        if step % 4
        else TEXT_PADDED[1]
    )


def flow_loss(
    net: nn.Module, text: PaddedText, latents: Tensor, table: Tensor, caption: Tensor, step: int
) -> Tensor:
    """Return the velocity matching loss ||v(x_t, t) − (noise − x0)||².

    Row 0 of the table replaces a caption that the model is not given.
    """
    at = noised(text, latents, table, caption, step)
    return (at.predict(net, torch.where(at.told, at.words, table[0])) - at.velocity).square().mean()


def guided_loss(
    net: nn.Module,
    teacher: nn.Module,
    text: PaddedText,
    latents: Tensor,
    table: Tensor,
    caption: Tensor,
    step: int,
) -> Tensor:
    """Return the loss of one pass against the guided prediction of two passes of the teacher.

    The target is v(empty) + GUIDANCE (v(caption) − v(empty)) (arXiv 2210.03142). Without a
    caption the target is the teacher's own prediction.
    """
    at = noised(text, latents, table, caption, GUIDED_OFFSET + step)
    empty = table[0].expand_as(at.words)
    with torch.no_grad():
        plain, told = (at.predict(teacher, words) for words in (empty, at.words))
        target = torch.where(at.told[..., None, None], plain.lerp(told, GUIDANCE), plain)
    return (at.predict(net, torch.where(at.told, at.words, empty)) - target).square().mean()


def flow_run(net: nn.Module) -> Run:
    """Return the resumable run of the transformer."""
    return Run("flow", net, FLOW_STEPS[SIZE], 0.999, _inner)


def _inner(name: str, p: Tensor) -> bool:
    """Say whether Muon updates a parameter of the transformer: matrices within blocks."""
    return name.startswith("blocks.") and p.dim() == 2


def _read_padded(net: nn.Module, text: PaddedText) -> None:
    """Let the cross-attention of a transformer read padded captions."""
    for block in net.blocks:
        block.attn2.set_processor(text)


def train_flow() -> None:
    """Train the transformer and write the pipeline folder."""
    if RANK == 0:
        save_text()
    if WORLD > 1:
        dist.barrier()
    data = flow_corpus()
    net, text = new_transformer(), PaddedText()
    _read_padded(net, text)
    run = flow_run(net)
    run.go(lambda step: flow_loss(net, text, *data, step))
    if RANK == 0:
        assemble(run)


def flow_corpus() -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, the table of caption embeddings, and each clip's row of the table.

    Row 0 of the table is the empty caption.
    """
    latents, captions = load_corpus()
    unique = ["", *sorted(set(captions))]
    row = {caption: i for i, caption in enumerate(unique)}
    return latents, embed(unique), torch.tensor([row[c] for c in captions])


class Guided(Run):
    """A run that starts from trained weights, with a fraction of the learning rates."""

    def rate(self) -> float:
        return GUIDED_PEAK * super().rate()


def train_guided() -> None:
    """Distil guidance into the transformer, so that one pass follows the caption."""
    data = flow_corpus()
    net, teacher = new_transformer(), new_transformer()
    text = PaddedText()
    flow_run(teacher).averaged().requires_grad_(False)
    net.load_state_dict(teacher.state_dict())
    for one in (net, teacher):
        _read_padded(one, text)
    run = Guided("guided", net, GUIDED_STEPS, 0.99, _inner)
    run.go(lambda step: guided_loss(net, teacher, text, *data, step))
    if RANK == 0:
        assemble(run)


def assemble(run: Run | None = None) -> None:
    """Write the pipeline folder with the average weights of the training so far."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
    from transformers import AutoTokenizer, UMT5EncoderModel

    net = new_transformer()
    (run or flow_run(net)).averaged()
    net = run.module if run else net
    for block in net.blocks:
        block.attn2.set_processor(type(block.attn1.processor)())
    pipe = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(MODEL / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(MODEL / "text_encoder"),
        vae=AutoencoderKLWan.from_pretrained(MODEL / "vae"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        transformer=net,
    )
    pipe.save_pretrained(MODEL)
    _forget_paths()
    size = {"height": SIZE, "width": SIZE, "frames": FRAMES, "fps": FPS, "prompts": "world"}
    (MODEL / "vidrl.json").write_text(json.dumps(size) + "\n")


def _forget_paths() -> None:
    """Remove the folder names that diffusers wrote into the configurations."""
    for path in MODEL.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


# The bar


def check(n: int, guidance: float, length: int) -> dict[str, float]:
    """Return the fraction of held-out captions that the verifier reads in clips.

    The clips are generated by plain diffusers.
    """
    from diffusers import WanPipeline

    pipe = WanPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    captions = [scene.caption for scene in world.scenes("held_out", n)]
    seen: list[verifier.Verdict] = []
    for start in tqdm(range(0, n, 32), desc="check"):
        part = captions[start : start + 32]
        noise = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        video = pipe(
            part,
            height=SIZE,
            width=SIZE,
            num_frames=FRAMES,
            num_inference_steps=20,
            guidance_scale=guidance,
            generator=noise,
            max_sequence_length=length,
            output_type="pt",
        ).frames
        seen.append(verifier.verify(video, part, FPS))
    words = ("colour", "shape", "motion", "all")
    return {
        word: torch.cat([getattr(v, word) for v in seen]).float().mean().item() for word in words
    }


STAGES: dict[str, Callable[[argparse.Namespace], object]] = {
    "vae": lambda args: train_vae(),
    "encode": lambda args: encode(RANK, WORLD),
    "decoder": lambda args: train_decoder(),
    "flow": lambda args: train_flow(),
    "guided": lambda args: train_guided(),
    "assemble": lambda args: assemble(),
    "check": lambda args: print(json.dumps(check(args.n, args.guidance, args.text_length))),
    "clean": lambda args: shutil.rmtree(WORK),
}


def choose(size: int) -> None:
    """Set the size of the model that all later calls train."""
    global SIZE, MODEL, WORK
    SIZE, WORK = size, ROOT / "runs" / f"pretrain-{size}"
    MODEL = ROOT / "assets" / ("tiny-wan" if size == 64 else f"tiny-wan-{size}")


def main() -> None:
    """Parse the command line and run one stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=tuple(STAGES))
    parser.add_argument("--size", type=int, choices=tuple(PATCH), default=64, help="pixels a side")
    parser.add_argument("-n", type=int, default=256, help="check: how many held-out captions")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--text-length", type=int, default=512)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    choose(args.size)
    WORK.mkdir(parents=True, exist_ok=True)
    if WORLD > 1:
        dist.init_process_group("gloo")
    STAGES[args.stage](args)


if __name__ == "__main__":
    main()
