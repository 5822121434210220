"""Train a policy: the loop, its rounds and optimiser steps, evaluation, checkpoints, record."""
