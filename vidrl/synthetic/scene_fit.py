"""Define a reward that measures whether an orbit shows the scene that its caption names.

Nothing is learned: the captions of `vidrl.synthetic.scenes` and the cameras of the orbit are
known. The reward has a gradient, and so a policy can be trained through the renderer.

Legend: B clips, F views, H W pixels, 2 things.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vidrl.rewards import Card, Reward, Samples

from . import paths, scenes, splat
from .world import COLOURS

LEAST_AREA = 0.012  # share of a view that a thing should cover
TOLERANCE = 0.08  # scene units that a thing may be away from its place in a view
STEADY = 0.35  # weight of the part `steady`
WEIGHTS = {"clean": 0.25, "present": 0.1, "relation": 0.3}  # of the other parts
MOVED = 0.5  # share of the weight of `relation` that `moved` has where a thing should move
TRAVEL, SOFT = 0.2, 0.08  # scene units of travel at which `moved` is 1/2, and the width of its rise


class SceneFit(Reward):
    """Score how well the views of an orbit show one rigid scene of the caption, in [0, 1].

    The value is the mean over views of 0.35 steady + 0.25 clean + 0.1 present + 0.3 relation.
    With m_k the soft mask of the colour of thing k, u its centre of mass in a view, R the view's
    camera and p the point that fits all views best (least squares):

    - steady: exp(-|u - R p|² / 0.08²), the mean of both things: the thing is in one place;
    - clean: the share of the coloured light that has one of the two colours;
    - present: the area of m_k over 1.2 % of the view, at most 1;
    - relation: the share of the vector p_1 - p_2 that has the direction of the caption, times
      the length of this vector over 0.6, at most 1.

    Where the caption says that thing k moves, its place at time t is p + h g(t) up, with g the
    path of the caption (`paths.profile`) and h the height that fits all views best. So motion
    that the caption asks for is no fault, and any other motion lowers `steady`. Half of the
    weight of `relation` then belongs to a fifth part:

    - moved: sigmoid((h - 0.2) / 0.08): 0.98 for a travel of 0.5 scene units, 0.08 for rest.

    `steady`: another weight of this part, in [0, 1]; the weights of the other parts are scaled to
    a sum of 1 - `steady`. Raises ValueError for a weight outside.

    The shapes are not judged. `vidrl.synthetic.scene_verifier` judges them, by another method.
    The frames must be a full orbit, evenly spaced. Places are those of least squares over all
    views, so that each term depends a little on all views.

    >>> scene = scenes.parse("a red cube left of a blue ball")
    >>> blobs = splat.blobs(scenes.made(scene, torch.Generator().manual_seed(0))[None, None])
    >>> views = splat.render(blobs, splat.cameras(12), 48)
    >>> captions = [scene.caption, "a red cube right of a blue ball"]
    >>> found = SceneFit()(Samples(views.repeat(2, 1, 1, 1, 1), captions, 8.0)).value
    >>> [round(x, 1) for x in found.tolist()]
    [0.9, 0.6]
    >>> rising = scenes.parse("a rising red cube left of a blue ball")
    >>> film = scenes.filmed(rising, torch.Generator().manual_seed(0), paths.times(12))
    >>> views = splat.render(splat.blobs(film[None]), splat.cameras(12), 48)
    >>> captions = [rising.caption, scene.caption, "a sinking red cube left of a blue ball"]
    >>> found = SceneFit()(Samples(views.repeat(3, 1, 1, 1, 1), captions, 8.0)).value
    >>> [round(x, 1) for x in found.tolist()]
    [0.9, 0.8, 0.7]
    """

    differentiable = True
    range = (0.0, 1.0)
    time_support = "clip"
    least_frames = 4
    lowered_by = ("grey", "shuffle")
    lost = (
        "inapplicable: needs square views in colour and a caption of vidrl.synthetic.scenes, "
        "such as 'a red cube left of a blue ball'"
    )
    card = Card(
        sees="Whether two things of the named colours stay in one place of the scene over the "
        "orbit, in the named relation, with no other colours around them.",
        blind_to="Shapes; what is inside or hidden; specks of the two named colours near them.",
        hacks="Any two compact things of the right colours, as two balls.",
        input="Square views of a full and even orbit, as the backbone scene makes them.",
        cost="1 ms an orbit of 24 views of 32 x 32 on one CPU thread, without the gradient.",
    )

    def __init__(self, steady: float = STEADY) -> None:
        super().__init__()
        if not 0 <= steady <= 1:
            raise ValueError(f"expected steady in [0, 1], the weight of a part, got {steady}")
        others = {name: (1 - steady) / (1 - STEADY) * weight for name, weight in WEIGHTS.items()}
        self.weights = {"steady": steady} | others

    def terms(self, samples: Samples) -> Tensor:
        """Return the score of each view, (B, F); NaN if the reward does not apply."""
        views = samples.frames
        if views.shape[-1] != views.shape[-2] or views.shape[2] != 3:
            return views.new_full(views.shape[:2], torch.nan)
        return torch.stack(
            [self._clip(clip, prompt) for clip, prompt in zip(views, samples.prompts, strict=True)]
        )

    def _clip(self, views: Tensor, prompt: str) -> Tensor:
        """Return the score of each view of one orbit (F, 3, H, W), (F,)."""
        try:
            scene = scenes.parse(prompt)
        except ValueError:
            return views.new_full(views.shape[:1], torch.nan)
        found = parts(views, scene)
        weights = weights_of(self.weights, scene)
        return sum((weights[name] * x for name, x in found.items()), views.new_zeros(()))


def weights_of(weights: dict[str, float], scene: scenes.Scene) -> dict[str, float]:
    """Return the weights of the parts for a scene; `moved` counts where a thing should move."""
    moved = MOVED * weights["relation"] if any(scene.motions) else 0.0
    return weights | {"relation": weights["relation"] - moved, "moved": moved}


def parts(views: Tensor, scene: scenes.Scene) -> dict[str, Tensor]:
    """Return the five parts of the score for each view (F, 3, H, W), each (F,)."""
    masks, strength = masks_of(views, (scene.colour, scene.other_colour))
    area = masks.mean((2, 3))  # (2, F)
    at = centres(masks)
    orbit = splat.cameras(len(views)).to(views)[:, :2]
    path = paths_of(scene, len(views)).to(views)
    place, height = located(at, area / (area + LEAST_AREA / 4), orbit, path)
    away = (at - seen_at(place, height, orbit, path)).square().sum(-1)
    coloured = strength.mean((1, 2))
    travel = height[[bool(motion) for motion in scene.motions]]
    return {
        "steady": (-away / TOLERANCE**2).exp().mean(0),
        "clean": area.sum(0) / (coloured.maximum(area.sum(0)) + 1e-3),
        "present": (area / LEAST_AREA).clamp(max=1).mean(0),
        "relation": related(place[0] - place[1], scene.relation).expand(len(views)),
        # a sigmoid and not a ramp, so that a thing at rest feels the gradient
        "moved": ((travel - TRAVEL) / SOFT).sigmoid().sum().expand(len(views)),
    }


def paths_of(scene: scenes.Scene, views: int) -> Tensor:
    """Return the heights of both things of travel 1 over the views, (2, F); 0 for one at rest."""
    at = paths.times(views)
    return torch.stack([paths.profile(motion, at) for motion in scene.motions])


def masks_of(views: Tensor, colours: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Return the soft masks of two colours (2, F, H, W) and how coloured pixels are (F, H, W).

    A mask is the strength of the colour, at most 1, times a factor of the cosine between the
    hues: 0 up to a cosine of 0.7, 1 from 0.9, and linear between.
    """
    deviation = views - views.mean(1, keepdim=True)
    length = (deviation.square().sum(1) + 1e-6).sqrt()
    strength = (length / 0.45).clamp(max=1)
    wanted = torch.tensor([COLOURS[name] for name in colours]).to(views)
    hues = normalize(wanted - wanted.mean(1, keepdim=True), dim=1)
    cosine = torch.einsum("fchw,kc->kfhw", deviation, hues) / (length + 0.02)
    return strength * ((cosine - 0.7) / 0.2).clamp(0, 1), strength


def centres(masks: Tensor) -> Tensor:
    """Return the centres of mass (2, F, 2) of masks, x to the right and y up, in [-1, 1]."""
    axis = splat.pixel_axis(masks.shape[-1]).to(masks)
    total = masks.sum((2, 3)) + 1e-4
    across, down = masks.sum(2) @ axis, masks.sum(3) @ axis
    return torch.stack([across / total, -down / total], -1)


def located(at: Tensor, weight: Tensor, orbit: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places (2, 3) and travels (2,) of both things that fit the centres best.

    The least squares of weight |u - R (p + h g up)|² over centres u (2, F, 2), with the paths g
    (2, F); a weak pull to the middle keeps the system solvable, and makes h 0 where g is 0.
    """
    up = orbit[None, :, :, 1] * path[..., None]  # (2, F, 2): how a travel of 1 moves the centre
    rows = torch.cat([orbit.expand(2, -1, -1, -1), up[..., None]], -1)  # (2, F, 2, 4)
    square = torch.einsum("kf,kfij,kfil->kjl", weight, rows, rows)
    side = torch.einsum("kf,kfij,kfi->kj", weight, rows, at)
    eye = 0.01 * torch.eye(4, device=at.device, dtype=at.dtype)
    found = torch.linalg.solve(square + eye, side)
    return found[:, :3], found[:, 3]


def seen_at(place: Tensor, height: Tensor, orbit: Tensor, path: Tensor) -> Tensor:
    """Return where in the picture both things are, (2, F, 2), in their places on their paths."""
    moved = height[:, None, None] * path[..., None] * orbit[None, :, :, 1]
    return torch.einsum("fij,kj->kfi", orbit, place) + moved


def related(vector: Tensor, relation: str) -> Tensor:
    """Return how well the vector from the second thing to the first fits a relation, in [0, 1].

    >>> round(float(related(torch.tensor([-0.8, 0.0, 0.0]), "left of")), 2)
    1.0
    """
    along = (vector * vector.new_tensor(scenes.RELATIONS[relation])).sum().clamp(min=0)
    length = (vector.square().sum() + 1e-6).sqrt()
    return along / length * (length / 0.6).clamp(max=1)
