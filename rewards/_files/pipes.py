"""Send Python objects through a pipe, with their tensors beside the pickle and not inside it."""

from __future__ import annotations

import pickle
from multiprocessing.connection import Connection
from typing import Any

import torch


def send(pipe: Connection, content: Any) -> None:
    """Send an object; numpy arrays in it are written to the pipe from where they lie.

    Pickle's protocol 5 takes the arrays out of the pickle, so that the sender holds no copy
    of them. Shared memory would save one more copy, but a container often has only 64 MB of
    it, and a program that asks for more is killed by a signal.
    """
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    pipe.send([len(part) for part in raw])
    pipe.send_bytes(body)
    for part in raw:
        pipe.send_bytes(part)


def receive(pipe: Connection) -> Any:
    """Return the object that `send` sent from the other end of the pipe."""
    sizes = pipe.recv()
    body = pipe.recv_bytes()
    # memory of torch, which is aligned as that of the tensors in the other process
    buffers = [torch.empty(size, dtype=torch.uint8).numpy() for size in sizes]
    for buffer in buffers:
        pipe.recv_bytes_into(buffer)
    return pickle.loads(body, buffers=buffers)
