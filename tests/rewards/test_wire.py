"""The format of safetensors is read by vidrl's own rules and by the library.

Files that the library refuses are refused here, too.
"""

import json
import random

import pytest
import torch

from vidrl.rewards._serving.wire import pack, unpack

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "U8", "shape": [8], "data_offsets": [24, 32]}


def body(data=32, raw=None, **entries):
    text = json.dumps(entries).encode() if raw is None else raw
    return len(text).to_bytes(8, "little") + text + bytes(range(data))


WRONG = {
    "overlapping": body(a=A, b=B | {"data_offsets": [16, 24]}, data=24),
    "the same bytes": body(a=A, b=A, data=24),
    "a gap": body(a=A, b=B | {"data_offsets": [25, 33]}, data=33),
    "not from 0": body(b=B, data=32),
    "out of order, a gap": body(b=B | {"data_offsets": [32, 40]}, a=A, data=40),
    "beyond the end": body(a=A, b=B, data=31),
    "bytes left over": body(a=A, b=B, data=33),
    "backwards": body(a=A | {"data_offsets": [24, 0]}),
    "below zero": body(a=A | {"data_offsets": [-24, 0]}),
    "another size than the dtype's": body(a=A | {"dtype": "F64"}, b=B),
    "another size than the shape's": body(a=A | {"shape": [2, 2]}, b=B),
    "a product that overflows": body(a=A | {"shape": [1 << 62, 1 << 62, 0]}, b=B),
    "2^64 elements are 0 in 64 bits": body(
        a=A | {"shape": [1 << 32, 1 << 32], "data_offsets": [0, 0]}, data=0
    ),
    "negative sizes": body(a=A | {"shape": [-2, -3]}, b=B),
    "fractions": body(a=A | {"shape": [2.0, 3.0]}, b=B),
    "true": body(a=A | {"shape": [True, 6]}, b=B),
    "words": body(a=A | {"shape": "23"}, b=B),
    "no dtype": body(a={"shape": [2, 3], "data_offsets": [0, 24]}, b=B),
    "an unknown dtype": body(a=A | {"dtype": "O"}, b=B),
    "a dtype in a list": body(a=A | {"dtype": ["F32"]}, b=B),
    "three offsets": body(a=A | {"data_offsets": [0, 24, 24]}, b=B),
    "metadata of numbers": body(a=A, b=B, __metadata__={"vidrl": 5}),
    "metadata in a list": body(a=A, b=B, __metadata__=["x"]),
    "UTF-16": body(raw='{"a": 1}'.encode("utf-16")),
    "deep": body(raw=b"[" * 100_000),
    "no JSON": body(raw=b"{"),
    "a list": body(raw=b"[]"),
    "empty": b"",
    "a length beyond the end": b"\xff" * 8 + b"{}",
}
STRICTER = {  # than the library
    "a name twice": body(
        raw=b'{"a": %s, "a": %s}' % ((json.dumps(A | {"data_offsets": [0, 24]}).encode(),) * 2),
        data=24,
    ),
    "an empty tensor": body(a=A, b=B | {"shape": [0], "data_offsets": [24, 24]}, data=24),
    "17 axes": body(a=A | {"shape": [1] * 15 + [2, 3]}, data=24),
    "a header of 5 MiB": body(raw=json.dumps({"a": A, "b": B}).encode() + b" " * (5 << 20)),
    "a dtype that no clip has": body(b=B | {"dtype": "I64", "shape": [4], "data_offsets": [0, 32]}),
}
RIGHT = {
    "two tensors": body(a=A, b=B),
    "in another order": body(b=B, a=A),
    "spaces behind": body(raw=json.dumps({"a": A, "b": B}).encode() + b"   "),
    "a single number": body(x={"dtype": "U8", "shape": [], "data_offsets": [0, 1]}, data=1),
}


@pytest.mark.parametrize("name", WRONG | STRICTER)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_what_breaks_the_format_is_refused_with_a_reason(name, kind):
    with pytest.raises(ValueError, match="^expected"):
        unpack(kind((WRONG | STRICTER)[name]))


@pytest.mark.parametrize("name", WRONG)
def test_the_library_refuses_it_too(name):
    library = pytest.importorskip("safetensors.torch")
    with pytest.raises(Exception):  # noqa: B017 - of whatever type
        library.load(bytes(WRONG[name]))


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_what_keeps_the_format_is_read_as_the_library_reads_it(name, kind):
    library = pytest.importorskip("safetensors.torch")
    found, expected = unpack(kind(RIGHT[name]))[0], library.load(RIGHT[name])
    assert set(found) == set(expected)
    for one, tensor in expected.items():
        assert found[one].dtype == tensor.dtype and torch.equal(
            found[one].nan_to_num(7), tensor.nan_to_num(7)
        )


def test_a_thousand_small_changes_are_judged_as_the_library_judges_them():
    """Changed offsets, sizes and dtypes at random: never accepted here where the library
    refuses."""
    library = pytest.importorskip("safetensors.torch")
    draw, agreed = random.Random(0), 0
    for _ in range(1000):
        a, b = json.loads(json.dumps(A)), json.loads(json.dumps(B))
        for _ in range(draw.randint(0, 2)):
            entry = draw.choice([a, b])
            where = draw.choice(["shape", "data_offsets"])
            entry[where][draw.randrange(len(entry[where]))] += draw.choice([-24, -8, -1, 1, 8, 24])
        made = body(a=a, b=b, data=draw.choice([32, 32, 32, 24, 40]))
        try:
            library.load(made)
            fine = True
        except Exception:  # noqa: BLE001 - of whatever type
            fine = False
        try:
            unpack(made)
            agreed += fine
            assert fine, (a, b)
        except ValueError:
            assert not fine or 0 in [*a["shape"], *b["shape"]], (a, b)
    assert agreed > 100


def test_tensors_of_a_request_share_its_memory():
    made = bytearray(pack({"x": torch.arange(6.0)}, {}))
    found = unpack(made)[0]["x"]
    made[-4:] = bytes(4)
    assert found.tolist() == [0, 1, 2, 3, 4, 0]
