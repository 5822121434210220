"""Resolve the names in a recipe.

user_modules  imports modules of the user from the working folder
extras        gives the command that installs a missing optional package
advice        suggests the nearest known name for a misspelled one
"""
