"""Flow-warp residual: what is left of the next frame once motion is taken out."""

from __future__ import annotations

import torch
from torch import Tensor

from ._prompts.motion_words import asks_for_camera_motion, asks_for_rest
from .base import Card, Reward, Samples
from .flow import Motion, around, length, moving_edge, warp


class WarpError(Reward):
    """How far a frame is from its neighbour moved onto it; 0 is perfect, and a frozen clip
    is perfect too.

    -E with E = mean over unmasked pixels and channels of (I_{t+1}(x + f) - I_t(x))^2,
    masked where Lai et al. find occlusion or a moving edge; both directions of time
    averaged. A term is a pair of frames.

    With `relative`, the share of the change from frame to frame that motion explains, at
    least -1: 1 - (E_mc + f) / (E_ref + f). E_mc is the residual with occluded pixels
    charged at the plain difference E_id, and at most E_cam, the residual after moving the
    picture as the camera does; E_ref = E_id^c E_cam^(1-c) what is there to explain; c is
    `camera`, or 1 where the prompt speaks of the camera. All three are squares of means of
    3 by 3 pixels, because grain and coding differ from pixel to pixel and motion does not;
    f = floor + faint s^2, s^2 the variance of the two pictures, so that more contrast
    explains no more. A frozen, grey or noisy clip explains nothing and gets about 0, a pan
    over a still little. Where the prompt asks for rest it is instead rest / (E_id + rest),
    1 for a still picture.

    Source: Lai et al. 2018, arXiv:1808.00449 (E, thresholds, here in the pixels of frames
    whose shorter side is at most 192); the relative form is motion-compensated prediction
    gain, known from video coding.

    >>> score = WarpError()(Samples(torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32), [""], 8.0))
    >>> bool(score.value.abs() < 1e-6)
    True
    """

    differentiable = True
    needs = ("cv2",)
    version = "2"  # 2: the relative form measures means of 3 by 3 pixels
    lowered_by = ("noise", "flicker", "cut", "shuffle")
    range = (-1.0, 1.0)
    time_support = "pair"
    lookahead = 1
    shrinks = True
    rate = 8.0
    card = Card(
        sees="What is left of each frame once its neighbour is moved onto it along the flow.",
        blind_to="Stillness, blur and dimming, which all please the plain form.",
        hacks="Freezing, blurring, dimming, slow motion; relative=True, or a Composite, withstands them.",
        input="At least 2 frames of 8 pixels.",
    )

    def __init__(
        self,
        relative: bool = False,
        floor: float = 2e-5,
        faint: float = 0.004,
        rest: float = 1e-3,
        camera: float = 0.1,
        flow: str = "dis",
        flow_size: int = 192,
    ) -> None:
        super().__init__()
        self.relative, self.floor = relative, floor
        self.faint = faint
        self.rest, self.camera = rest, camera
        self.flow, self.flow_size = flow, flow_size

    def terms(self, samples: Samples) -> Tensor:
        """One number a pair, (B, F - 1)."""
        motion = self.motion(samples)
        if not self.relative:
            return -(lai(motion) + lai(reversed_time(motion)).flip(1)) / 2
        identity = squared(motion.frames.diff(dim=1)).mean((2, 3))
        pan = panned(motion)
        floor = self.floor + self.faint * contrast(motion.frames)
        explained = torch.minimum(compensated(motion), pan) + floor
        left = explained / (self._to_explain(identity, pan, samples) + floor)
        still = torch.tensor(
            [asks_for_rest(prompt) for prompt in samples.prompts], device=identity.device
        )
        return torch.where(
            still[:, None], self.rest / (identity + self.rest), (1 - left).clamp(min=-1)
        )

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """`residual`, root mean square over channels; `flow`, diagonals a second;
        `occlusion`, 1 where hidden next."""
        motion = self.motion(samples)
        if not motion.forward.shape[1]:
            return {}
        drawn = {
            "residual": (motion.later - motion.frames[:, :-1]).square().mean(2).sqrt(),
            "flow": length(motion.forward) * samples.fps / motion.diagonal,
            "occlusion": (~motion.seen_later).to(motion.frames),
        }
        last = torch.full_like(drawn["flow"][:, :1], torch.nan)
        return {name: torch.cat([shown.detach(), last], 1) for name, shown in drawn.items()}

    def _to_explain(self, identity: Tensor, pan: Tensor, samples: Samples) -> Tensor:
        share = [
            1.0 if asks_for_camera_motion(prompt) else self.camera for prompt in samples.prompts
        ]
        c = torch.tensor(share).to(identity)[:, None]
        return identity.clamp(min=1e-9) ** c * pan.clamp(min=1e-9) ** (1 - c)


def lai(motion: Motion) -> Tensor:
    """Lai's warping error of each pair of frames, frame t+1 onto frame t, (B, F - 1)."""
    clear = motion.seen_later & ~moving_edge(motion.forward)
    # nothing left: all counts, as in Lai's code
    clear = clear | ~clear.any(-1, keepdim=True).any(-2, keepdim=True)
    squares = (motion.later - motion.frames[:, :-1]).square().mean(2)
    return (squares * clear).sum((2, 3)) / clear.sum((2, 3))


def squared(residual: Tensor) -> Tensor:
    """The square of a residual (B, T, C, H, W) after a mean of 3 by 3 pixels, mean over
    channels, (B, T, H, W).

    Grain and the rounding of codecs differ from pixel to pixel: their squares become a
    ninth, a ghost keeps its own.
    """
    return around(residual, 0).square().mean(2)


def contrast(frames: Tensor) -> Tensor:
    """Variance over pixels and channels of both frames of each pair, averaged, (B, F -
    1)."""
    spread = (frames - frames.mean((2, 3, 4), keepdim=True)).square().mean((2, 3, 4))
    return (spread[:, 1:] + spread[:, :-1]) / 2


def compensated(motion: Motion) -> Tensor:
    """Squared residual after warping, both ways averaged, occluded pixels charged at the
    plain difference, (B, F-1)."""
    plain = squared(motion.frames.diff(dim=1))
    onto_first = squared(motion.later - motion.frames[:, :-1])
    onto_second = squared(motion.earlier - motion.frames[:, 1:])
    first = torch.where(motion.seen_later, onto_first, plain)
    second = torch.where(motion.seen_earlier, onto_second, plain)
    return (first.mean((2, 3)) + second.mean((2, 3))) / 2


def panned(motion: Motion) -> Tensor:
    """Squared residual after moving the picture as a whole, both ways averaged, at most the
    plain one, (B, F - 1)."""
    identity = squared(motion.frames.diff(dim=1)).mean((2, 3))
    first, second = motion.frames[:, :-1], motion.frames[:, 1:]
    both = (motion.camera_forward, motion.camera_backward)
    moves = torch.stack([flow.flatten(2).any(2) for flow in both]).any(0)
    if not moves.all():  # a camera that rests needs no warp
        first, second, there, back = (x[moves][None] for x in (first, second, *both))
    else:
        first, second, there, back = (x.flatten(0, 1)[None] for x in (first, second, *both))
    onto_first, onto_second = (
        squared(warp(second, there) - first),
        squared(warp(first, back) - second),
    )
    moved = identity.masked_scatter(moves, (onto_first + onto_second).mean((2, 3)) / 2)
    return torch.minimum(identity, moved)


def reversed_time(motion: Motion) -> Motion:
    """The same clips played backwards, without computing flow again."""
    return Motion(motion.frames.flip(1), motion.backward.flip(1), motion.forward.flip(1))
