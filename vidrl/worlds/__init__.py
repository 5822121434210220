"""Worlds: a generator that follows actions, or the true world, as a Gymnasium environment.

simulator     the interface of worlds: true and learned ones
tasks         tasks whose reward and end are read from the pixels
environment   a world and a task as a Gymnasium environment
policies      a policy that plans from the pixels
agreement     plays policies in several worlds, and compares the outcomes
"""
