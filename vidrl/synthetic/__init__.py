"""Render synthetic clips with known truth, verify what clips show, and corrupt clips.

world        renders captioned clips with flow, occlusion, tracks and masks
verifier     reads shape, colour and motion back from a clip, without learning
caption_fit  a reward for how well a clip of `world` fits its caption
motion_fit   a reward for how well the object moves as its caption says
corruptions  what spoils a clip: freezing, flicker, noise, compression and others
"""
