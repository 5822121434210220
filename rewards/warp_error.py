"""A reward that measures what differs between frames after the motion is removed."""

from __future__ import annotations

import torch
from torch import Tensor

from ._flow import planes, residuals
from ._flow.in_cache import in_cache
from ._prompts.motion_words import asks_for_camera_motion, asks_for_rest
from .base import Card, Reward, Samples
from .flow import Motion, length, moving_edge, warp


class WarpError(Reward):
    """Minus the difference between frames that remains after motion is removed.

    The term is -E, where E is the mean over unmasked pixels and channels of (I_{t+1}(x + f)
    - I_t(x))^2 with the flow f. Pixels are masked where Lai et al. find occlusion or a
    moving edge. Both directions of time are averaged. A term compares two neighbouring
    frames. The range is [-1, 0], and [-1, 1] with `relative`. A frozen clip gets 0.

    With `relative`, the term is the share of the change between frames that motion
    explains, at least -1: 1 - (E_mc + f) / (E_ref + f).

    - E_mc is the error after warping. Occluded pixels count with the plain difference E_id.
      E_mc is at most E_cam, the error after the picture is moved as the camera moves.
    - E_ref = E_id^c E_cam^(1-c) is the change to explain. c is `camera`, or 1 if the prompt
      asks for camera motion.
    - All three are squares of means of 3 by 3 pixels, because grain and coding differ from
      pixel to pixel and motion does not.
    - f = floor + faint s^2, where s^2 is the variance of the two pictures, so that more
      contrast explains no more.

    A frozen, grey or noisy clip explains nothing and gets about 0; a pan over a still gets
    little. If the prompt asks for rest, the term is rest / (E_id + rest), which is 1 for a
    still picture.

    Source: Lai et al. 2018, arXiv:1808.00449 (E and its thresholds, here in pixels of
    frames whose shorter side is at most 192). The relative form is the motion-compensated
    prediction gain of video coding.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32)
    >>> bool(WarpError()(Samples(still, [""], 8.0)).value.abs() < 1e-6)
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
        sees="What differs between each frame and its neighbour after the neighbour is warped "
        "onto it along the flow.",
        blind_to="Stillness, blur and dimming, which all raise the plain form.",
        hacks="Freezing, blurring, dimming, slow motion. relative=True, or a Composite, "
        "withstands these.",
        input="At least 2 frames of 8 pixels.",
    )

    def __init__(
        self,
        relative: bool = False,
        floor: float = 2e-5,
        faint: float = 0.004,
        rest: float = 1e-3,
        camera: float = 0.1,
        flow: str = "auto",
        flow_size: int = 192,
    ) -> None:
        super().__init__()
        self.relative, self.floor = relative, floor
        self.faint = faint
        self.rest, self.camera = rest, camera
        self.flow, self.flow_size = flow, flow_size

    def terms(self, samples: Samples) -> Tensor:
        """Return one number for each pair of frames, (B, F - 1)."""
        motion = self.motion(samples)
        if not self.relative:
            return -(lai(motion) + lai(reversed_time(motion)).flip(1)) / 2
        identity, pan, error, variance = changes(motion).unbind(2)
        floor = self.floor + self.faint * variance
        unexplained = (torch.minimum(error, pan) + floor) / (
            self._to_explain(identity, pan, samples) + floor
        )
        still = torch.tensor(
            [asks_for_rest(prompt) for prompt in samples.prompts], device=identity.device
        )
        return torch.where(
            still[:, None], self.rest / (identity + self.rest), (1 - unexplained).clamp(min=-1)
        )

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """Return `residual`, `flow` and `occlusion` of each pixel; NaN in the last frame.

        `residual` is the root mean square error over channels, `flow` the speed in
        diagonals a second, and `occlusion` 1 where a pixel is hidden in the next frame.
        """
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
        """Return E_ref = E_id^c E_cam^(1-c), (B, F - 1)."""
        exponents = [
            1.0 if asks_for_camera_motion(prompt) else self.camera for prompt in samples.prompts
        ]
        c = torch.tensor(exponents).to(identity)[:, None]
        return identity.clamp(min=1e-9) ** c * pan.clamp(min=1e-9) ** (1 - c)


def lai(motion: Motion) -> Tensor:
    """Return Lai's warping error of frame t+1 warped onto frame t, (B, F - 1)."""
    clear = motion.seen_later & ~moving_edge(motion.forward)
    # a pair without an unmasked pixel counts with all its pixels
    clear = clear | ~clear.any(-1, keepdim=True).any(-2, keepdim=True)
    squares = (motion.later - motion.frames[:, :-1]).square().mean(2)
    return (squares * clear).sum((2, 3)) / clear.sum((2, 3))


def squared(residual: Tensor) -> Tensor:
    """Return the square of a residual after a mean of 3 by 3 pixels, (B, T, H, W).

    The residual is (B, T, C, H, W); channels are averaged. Grain and the rounding of codecs
    differ from pixel to pixel, so their squares fall to a ninth; a ghost, which covers many
    pixels, keeps its square.
    """
    across, down = (_within_one(side, residual) for side in residual.shape[-1:-3:-1])
    sums = _plus_neighbours(_plus_neighbours(residual, -1), -2).square().sum(2)
    # the square of the number of pixels in each square of 3 by 3, and the number of channels
    return sums / ((down[:, None] * across).square() * residual.shape[2])


def _plus_neighbours(image: Tensor, dim: int) -> Tensor:
    """Return the sum of each pixel and its two neighbours along `dim`, with 0 beyond the border."""
    total, last = image.clone(), image.shape[dim] - 1
    total.narrow(dim, 1, last).add_(image.narrow(dim, 0, last))
    total.narrow(dim, 0, last).add_(image.narrow(dim, 1, last))
    return total


def _within_one(side: int, like: Tensor) -> Tensor:
    """Return how many pixels of a row lie within 1 of each pixel, (side,): 3, but 2 at the ends."""
    at = torch.arange(side, device=like.device)
    return (1 + (at > 0).to(like.dtype)) + (at < side - 1)


def changes(motion: Motion) -> Tensor:
    """Return four measures of each pair of frames, (B, F - 1, 4).

    They are the squared difference of the frames (`squared`), the same after the picture has
    moved as the camera moves, the same after warping, and the mean variance of the two frames.
    """
    frames, seen = motion.frames, (motion.seen_later, motion.seen_earlier)
    cameras = (motion.camera_forward, motion.camera_backward)
    warped = (motion.later, motion.earlier)
    if planes.fits(frames, *warped, *cameras) and planes.interleaves(frames):
        return residuals.changes(frames, warped, seen, cameras)
    return in_cache(_changes, frames[:, :-1], frames[:, 1:], *warped, *seen, *cameras)


def _changes(
    first: Tensor,
    second: Tensor,
    later: Tensor,
    earlier: Tensor,
    seen_later: Tensor,
    seen_earlier: Tensor,
    there: Tensor,
    back: Tensor,
) -> Tensor:
    """Return `changes` of pairs of frames, from the tensors of `Motion` for these pairs."""
    plain = squared(second - first)
    identity = plain.mean((2, 3))
    pan = panned(identity, first, second, there, back)
    # occluded pixels count with the plain difference
    onto_first = torch.where(seen_later, squared(later - first), plain)
    onto_second = torch.where(seen_earlier, squared(earlier - second), plain)
    error = (onto_first.mean((2, 3)) + onto_second.mean((2, 3))) / 2
    return torch.stack([identity, pan, error, (variance(first) + variance(second)) / 2], 2)


def variance(frames: Tensor) -> Tensor:
    """Return the variance of each frame over pixels and channels, (B, T)."""
    return (frames - frames.mean((2, 3, 4), keepdim=True)).square().mean((2, 3, 4))


def panned(identity: Tensor, first: Tensor, second: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Return the squared residual after moving the picture as a whole, (B, T).

    Both directions are averaged; the result is at most `identity`, the residual without
    moving. `there` and `back` are the camera's flow.
    """
    # the camera's flow is affine: it is 0 everywhere if it is 0 in three corners
    corners = [
        flow[..., y, x].any(2) for flow in (there, back) for y, x in ((0, 0), (0, -1), (-1, 0))
    ]
    moves = torch.stack(corners).any(0)
    pairs = (first, second, there, back)
    if not moves.all():  # pairs whose camera rests need no warp, which saves time
        first, second, there, back = (x[moves][None] for x in pairs)
    else:
        first, second, there, back = (x.flatten(0, 1)[None] for x in pairs)
    onto_first = squared(warp(second, there) - first)
    onto_second = squared(warp(first, back) - second)
    moved = identity.masked_scatter(moves, (onto_first + onto_second).mean((2, 3)) / 2)
    return torch.minimum(identity, moved)


def reversed_time(motion: Motion) -> Motion:
    """Return the motion of the clips played backwards, without computing flow again."""
    return Motion(motion.frames.flip(1), motion.backward.flip(1), motion.forward.flip(1))
