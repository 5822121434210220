"""What is said of a family: its builder, the arguments of its call, and what it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

PROMPTS = ("a red circle", "a blue square moves left on the dark background")  # of 3 and of 9 words
FRAMES = ("num_frames", "video_length", "frames")  # how pipelines name the length of a clip
TRAINED = ("transformer", "transformer_2", "unet")  # how pipelines name what denoises


@dataclass(frozen=True)
class Family:
    """One family. `make` builds its pipeline, and `call` are the arguments of the
    pipeline's call.

    `modality`: text to video, image to video, text to image, or image to image. `other`:
    the arguments of a second size and length. `quick`: whether the unit suite includes its
    contract. `rounds`: whether the pipeline itself rounds pixels to bytes.
    """

    name: str
    make: Callable[[], Any]
    call: Mapping[str, Any]
    other: Mapping[str, Any]
    modality: str
    quick: bool = False
    rounds: bool = False

    def build(self) -> Any:
        """A new pipeline. Its weights are the same in every process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipe = self.make()
            for part in pipe.components.values():
                if isinstance(part, nn.Module):
                    part.eval()
            for name in TRAINED:
                if isinstance(getattr(pipe, name, None), nn.Module):
                    _draw_zeros(getattr(pipe, name))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def pipeline(self) -> str:
        """The name of the pipeline's class: what the builder says that it returns."""
        return self.make.__annotations__["return"].rpartition(".")[2]

    @property
    def reads_text(self) -> bool:
        """Whether its call has a prompt; Stable Video Diffusion's has none."""
        return self.name != "svd"

    @property
    def reads_image(self) -> bool:
        return self.modality.startswith("image")

    @property
    def makes_video(self) -> bool:
        return self.modality.endswith("video")

    @cached_property
    def frames(self) -> str | None:
        """The name of the argument that is the length of a clip."""
        return next((name for name in FRAMES if name in self.call), None)

    def ask(self, prompt: str, **call: Any) -> dict[str, Any]:
        """All arguments of the pipeline's call, with a picture where the family reads
        one."""
        asked = {**self.call, **call}
        text = {"prompt": prompt} if self.reads_text else {}
        image = {"image": self.picture(asked)} if self.reads_image else {}
        return {**text, **image, **asked}

    def picture(self, asked: Mapping[str, Any], seed: int = 0) -> Any:
        """A picture of the size that a call asks for."""
        return picture(asked["height"], asked["width"], seed)


FAMILIES: dict[str, Family] = {}


def family(
    modality: str, call: Mapping[str, Any], other: Mapping[str, Any], **facts: bool
) -> Callable[..., Any]:
    """Registers a function that builds a pipeline as the family of the function's name."""

    def add(make: Callable[[], Any]) -> Callable[[], Any]:
        FAMILIES[make.__name__] = Family(make.__name__, make, call, other, modality, **facts)
        return make

    return add


def size(height: int = 16, width: int = 16, **more: Any) -> dict[str, Any]:
    return {"height": height, "width": width, **more}


def picture(height: int, width: int, seed: int = 0) -> Any:
    """A picture of smooth colours, as PIL has it."""
    from PIL import Image

    coarse = torch.rand(1, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return Image.fromarray((smooth * 255).round().byte().permute(1, 2, 0).numpy())


def _draw_zeros(network: nn.Module, std: float = 0.1) -> None:
    """Draw the parameters that start at zero, as the gates of many transformers do.

    Behind a gate of zero no gradient and no difference would be seen.
    """
    for parameter in network.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=std)


def clips(pipe: Any, asked: Mapping[str, Any], steps: int = 2, seed: int = 0) -> Tensor:
    """What the pipeline's own call makes, (B, F, 3, H, W) in [0, 1]."""
    draw = torch.Generator().manual_seed(seed)
    made = pipe(**asked, num_inference_steps=steps, output_type="pt", generator=draw)[0]
    made = torch.stack(list(made)) if isinstance(made, (list, tuple)) else made
    return made if made.dim() == 5 else made[:, None]
