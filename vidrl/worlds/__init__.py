"""Worlds: a generator that follows actions, or the true world, as a Gymnasium environment.

simulator     the interface of worlds: true and learned ones
tasks         tasks whose reward and end are read from the pixels
environment   a world and a task as a Gymnasium environment
vector        many environments of one world, whose frames are made in one batch
registered    the environments that gymnasium.make makes by name
registration  names these environments; the import of this package does so
policies      a policy that plans from the pixels
agreement     plays policies in several worlds, and compares the outcomes
"""

from .registration import register

register()
