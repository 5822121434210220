"""A denoiser of scenes in space: blobs that are drawn as the views of an orbit.

The clip is the orbit, one view a frame. A latent frame is an arc of the orbit with blobs of its
own, so that segments are arcs, and rewards that compare frames compare views. A consistent
scene has the same blobs in all arcs.

Legend: B batch, L arcs, N blobs, F views; latents (B, 8, L, N, 1), clips (B, F, 3, H, W).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl.diffusion.path import flow
from vidrl.diffusion.segments import borders
from vidrl.synthetic import scenes, splat
from vidrl.synthetic.world import COLOURS

from . import _weights_file
from ._scene_net import SceneNet
from .base import Cond, Denoiser

WORDS = 12  # words of a caption that the network reads
# the words of captions; every other word has one of the last numbers, by its hash
KNOWN = sorted({"a", *COLOURS, *scenes.SHAPES, *" ".join(scenes.RELATIONS).split()})
OTHERS = 16
WEIGHTS, CONFIG = "network.safetensors", "config.json"


class Scene(Denoiser):
    """Blobs of a scene, made along a straight path and drawn by a renderer without weights.

    `model`: a folder with config.json and network.safetensors, as scripts/pretrain_scene.py
    writes; "" makes random weights. `views`: how many views the orbit has. `size`: the side of
    a view in pixels. `fps`: views a second of the clip. Raises ValueError for an orbit of one
    view, for fewer views than arcs, and for a folder that holds no such model.

    Example:
        >>> model = Scene.tiny()
        >>> model.shape, model.frame_map
        ((8, 2, 20, 1), [(0, 3), (3, 6)])
        >>> model.decode(torch.zeros(1, *model.shape)).shape
        torch.Size([1, 6, 3, 16, 16])
    """

    calls_depend_on = "rows"
    longer = "Shorten these prompts to 12 words"

    def __init__(self, model: str = "", views: int = 24, size: int = 48, fps: float = 8.0):
        network = _config(Path(model)) if model else {"arcs": 2, "width": 16, "depth": 1}
        self._build(network, views, size, fps)
        if model:
            self.folder = Path(model)
            _weights_file.load(self.network, self.folder / WEIGHTS, "a model of scenes")

    def _build(self, network: Mapping[str, int], views: int, size: int, fps: float) -> None:
        """Make the network with random weights, the cameras and the frame map."""
        arcs = network["arcs"]
        check(views, arcs, size)
        sizes = {key: value for key, value in network.items() if key != "arcs"}
        vocabulary = len(KNOWN) + OTHERS + 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = SceneNet(splat.CHANNELS, arcs, scenes.BLOBS, WORDS, vocabulary, **sizes)
        self.path, self.fps = flow(), fps
        self.side = size
        self.shape = (splat.CHANNELS, arcs, scenes.BLOBS, 1)
        self.clip_shape = (views, 3, size, size)
        self.frame_map = borders(views, arcs)
        self.orbit = splat.cameras(views)

    @classmethod
    def check_options(cls, options: Mapping[str, object]) -> None:
        """Raise ValueError for views and sizes that cannot work, before a model is read."""
        views, size = options.get("views", 24), options.get("size", 48)
        if isinstance(views, int) and isinstance(size, int):
            check(views, 1, size)

    @classmethod
    def tiny(cls) -> Scene:
        """Build a model of random weights: 2 arcs of 3 views, 16 x 16 pixels."""
        return cls(views=6, size=16)

    def encode(self, prompts: Sequence[str]) -> Cond:
        """Return {"words": (B, 12)}: a number for each word, 0 where a caption has ended."""
        self.check_prompts(prompts)
        rows = [[_number(word) for word in _words(prompt)[:WORDS]] for prompt in prompts]
        padded = [row + [0] * (WORDS - len(row)) for row in rows]
        return {"words": torch.tensor(padded, device=self.device).reshape(-1, WORDS)}

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts of more than 12 words."""
        return [prompt for prompt in prompts if len(_words(prompt)) > WORDS]

    def times(self, n: int) -> list[float]:
        """Return n + 1 evenly spaced times from 1 to 0."""
        if n < 1:
            raise ValueError(f"expected at least one step, got {n}")
        return torch.linspace(1, 0, n + 1, dtype=torch.float64).tolist()

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the velocity ε − x0 that the network predicts."""
        return self.network(x, t, cond["words"])

    def decode(self, latents: Tensor) -> Tensor:
        """Return the views of the orbit; each view shows the blobs of its own arc."""
        made = self.scenes(latents)
        spans = self.frame_map[: latents.shape[2]]
        arc_of_view = [arc for arc, (start, end) in enumerate(spans) for _ in range(start, end)]
        by_view = splat.Blobs(*(x[:, arc_of_view] for x in vars(made).values()))
        return splat.render(by_view, self.orbit[: len(arc_of_view)], self.side).clamp(0, 1)

    def scenes(self, latents: Tensor) -> splat.Blobs:
        """Return the blobs (B, L, N) of latents (B, 8, L, N, 1), one set for each arc."""
        return splat.blobs(latents[..., 0].permute(0, 2, 3, 1).float())

    def write_ply(self, path: str | Path, latent: Tensor, seen: float = 0.1) -> Path:
        """Write the scene of a latent (8, L, N, 1) as a .ply file; return its path.

        The file has one scene, the average of the arcs' tokens, without blobs whose opacity is
        below `seen`. Raises ValueError where no blob is left.
        """
        made = splat.blobs(latent[..., 0].mean(1).T.float().cpu())
        visible = made.opacity >= seen
        if not bool(visible.any()):
            raise ValueError(
                f"expected a blob of opacity {seen} or more, got at most "
                f"{float(made.opacity.max()):.3f}: the scene is empty; use another seed"
            )
        return splat.write_ply(path, splat.Blobs(*(x[visible] for x in vars(made).values())))


def check(views: int, arcs: int, size: int) -> None:
    """Raise ValueError where an orbit cannot have so many views and arcs, or pictures this size.

    >>> check(3, 4, 48)
    Traceback (most recent call last):
    ValueError: expected at least one view for each of 4 arcs, got 3 views: raise views
    """
    splat.cameras(views)
    if views < arcs:
        raise ValueError(
            f"expected at least one view for each of {arcs} arcs, got {views} views: raise views"
        )
    if size < 8:
        raise ValueError(f"expected views of 8 pixels or more, got size = {size}: raise size")


def _words(prompt: str) -> list[str]:
    return str(prompt).lower().split()


def _number(word: str) -> int:
    """Return the number of a word: of a known word its place, of another one by its hash."""
    if word in KNOWN:
        return 1 + KNOWN.index(word)
    return 1 + len(KNOWN) + zlib.crc32(word.encode()) % OTHERS


def _config(folder: Path) -> dict[str, int]:
    """Return the sizes of the network in a model's folder."""
    try:
        found: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"expected a model of scenes, a folder with {CONFIG} and {WEIGHTS}, got {folder}: name "
            "assets/tiny-scene or assets/tiny-scene-4d, or train one with scripts/pretrain_scene.py"
        ) from error
    wanted = ("arcs", "width", "depth", "heads")
    if not all(isinstance(found.get(key), int) and found[key] > 0 for key in wanted):
        raise ValueError(
            f"expected the numbers {', '.join(wanted)}, above 0, in {folder / CONFIG}, got "
            f"{found}: name the model that scripts/pretrain_scene.py wrote"
        )
    return {key: found[key] for key in wanted}
