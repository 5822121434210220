"""Plug-ins are found by file name, and a wrong name or option is answered with the nearest
right one."""

import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from vidrl import plugin


class Base:
    range = (0.0, 1.0)

    def forward(self):
        return 0


class Sharp(Base):
    """Measures sharpness.

    A longer text.
    """

    lowered_by = ("blur",)

    def __init__(
        self,
        band: tuple[float, float] = (0.1, 0.9),
        scale: float = 1.0,
        steps: int = 3,
        mode: Literal["mean", "max"] = "mean",
        name: str | None = None,
        flag: bool = False,
    ) -> None:
        self.band, self.scale, self.steps, self.mode = band, scale, steps, mode


@pytest.fixture
def kind(tmp_path, monkeypatch):
    """A kind of plug-in, `vidrl.rewards` for the time of the test, in a folder of its
    own."""
    package = types.ModuleType("vidrl.rewards")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "vidrl.rewards", package)
    monkeypatch.setattr(plugin, "_folders", lambda kind: [tmp_path])
    for name in [name for name in sys.modules if name.startswith("vidrl.rewards.")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "base.py").write_text("class Reward:\n    range = (0, 1)\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("vidrl.rewards.")]:
        del sys.modules[name]


def write(kind, name, body):
    (kind / f"{name}.py").write_text(f"from vidrl.rewards.base import Reward\n{body}\n")


def test_a_new_file_is_a_new_plugin(kind):
    assert plugin.names("rewards") == []
    write(
        kind,
        "shine",
        "class Shine(Reward):\n    def __init__(self, gain: float = 2.0):\n        self.gain = "
        "gain",
    )
    write(kind, "_private", "")
    write(kind, "flow", "")
    assert plugin.names("rewards") == ["shine"]
    assert plugin.load("rewards", "shine", gain=3).gain == 3.0


def test_listing_imports_no_plugin(kind):
    write(kind, "explosive", "raise RuntimeError('imported')")
    assert plugin.names("rewards") == ["explosive"]


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("class A(Reward): pass\nclass B(Reward): pass", 2),
        ("class _A(Reward): pass", 0),
        ("class A: pass", 0),
    ],
)
def test_a_plugin_file_holds_exactly_one_public_class(kind, body, count):
    write(kind, "wrong", body)
    with pytest.raises(
        TypeError, match=f"exactly one public subclass of Reward, but holds {count}"
    ):
        plugin.find("rewards", "wrong")


def test_helpers_and_imported_classes_do_not_count(kind):
    write(
        kind,
        "fine",
        "from pathlib import Path\nclass _Helper: pass\nclass Facts: pass\nclass Fine(Reward): "
        "pass",
    )
    assert plugin.find("rewards", "fine").__name__ == "Fine"


def test_unknown_names_are_answered_with_the_nearest(kind):
    write(kind, "flicker", "class Flicker(Reward): pass")
    with pytest.raises(plugin.UnknownName, match="did you mean 'flicker'"):
        plugin.load("rewards", "flikker")


def test_unknown_kinds_too():
    with pytest.raises(plugin.UnknownName, match="did you mean 'rewards'"):
        plugin.names("reward")


def test_a_class_of_somebody_else_is_named_with_its_module(kind, monkeypatch):
    write(kind, "flicker", "class Flicker(Reward): pass")
    theirs = types.ModuleType("theirs")
    exec(
        "from vidrl.rewards.base import Reward\nclass Mine(Reward): pass\nclass Other: pass",
        theirs.__dict__,
    )
    theirs.Mine.__module__ = theirs.Other.__module__ = "theirs"
    monkeypatch.setitem(sys.modules, "theirs", theirs)
    assert plugin.find("rewards", "theirs:Mine") is theirs.Mine
    with pytest.raises(plugin.UnknownName, match="did you mean 'Mine'"):
        plugin.find("rewards", "theirs:Mime")
    with pytest.raises(TypeError, match="subclass of vidrl.rewards.base.Reward"):
        plugin.find("rewards", "theirs:Other")
    with pytest.raises(plugin.UnknownName, match="no module 'nobodys.module'"):
        plugin.find("rewards", "nobodys.module:X")


def test_a_missing_dependency_is_not_called_an_unknown_name(kind):
    write(kind, "heavy", "import a_package_that_is_not_there\nclass Heavy(Reward): pass")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        plugin.find("rewards", "heavy")


# --- options


def check(**options):
    return plugin.check(Sharp, options, "reward 'sharp'")


def test_unknown_options_are_answered_with_the_nearest():
    with pytest.raises(
        plugin.BadOption, match="reward 'sharp' has no option 'scal': did you mean 'scale'"
    ):
        check(scal=2)


def test_options_of_another_plugin_are_all_named_with_those_that_have_them():
    """As where algorithm.name was switched and the options stayed."""
    given = {
        "sampler": "flow_sde",
        "eta": 0.7,
        "steps": 4,
        "window": 4,
        "clip_range": 1e-3,
        "betta": 1.0,
    }
    with pytest.raises(plugin.BadOption) as raised:
        plugin.load("algorithms", "nft", **given)
    said = str(raised.value)
    assert said.startswith(
        "algorithms 'nft' has no options 'sampler', 'eta', 'window', 'clip_range', 'betta': "
        "'sampler', 'eta', 'window' are of branch, d3po, ddpo, dpok, grpo, rloo; "
    )
    assert (
        "'clip_range' is of awm, branch" in said
        and "'betta' is of none, did you mean 'beta'?" in said
    )
    assert "Its own options: alpha, beta, credit" in said and said.endswith(
        "`vidrl show algorithms nft` explains them"
    )
    with pytest.raises(
        plugin.BadOption,
        match="has no option 'steps': 'steps' is of awm,.*Its own options: high, low",
    ):
        plugin.load("algorithms", "sft", steps=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": "3"}, r"'steps'.*expected int, got '3' \(str\)"),
        ({"steps": 3.0}, r"expected int, got 3.0"),
        ({"steps": True}, r"expected int, got True"),
        ({"scale": "big"}, r"expected float, got 'big'"),
        ({"flag": 1}, r"expected bool, got 1"),
        ({"mode": "median"}, r"'mean', 'max'.*got 'median'"),
        ({"band": [0.1]}, r"tuple\[float, float\], got \[0.1\]"),
        ({"band": [0.1, "x"]}, r"got 'x'"),
        ({"name": 3}, r"str \| None, got 3"),
    ],
)
def test_ill_typed_options_say_expected_and_got(options, message):
    with pytest.raises(plugin.BadOption, match=message):
        check(**options)


def test_toml_values_are_taken_for_what_they_mean():
    assert check(band=[0, 1], scale=2, name=None) == {
        "band": (0.0, 1.0),
        "scale": 2.0,
        "name": None,
    }
    assert isinstance(check(scale=2)["scale"], float)


def test_a_missing_option_is_named():
    class Needs:
        def __init__(self, model: str) -> None: ...

    with pytest.raises(plugin.BadOption, match="needs the option 'model'"):
        plugin.check(Needs, {}, "it")


def test_keyword_catch_alls_take_anything():
    class Loose:
        def __init__(self, known: int = 1, **rest: Any) -> None: ...

    assert plugin.check(Loose, {"other": "x"}, "it") == {"other": "x"}


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (2, int | float, 2),
        ([1, 2], list[float], [1.0, 2.0]),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ({"a": 1}, Mapping[str, int], {"a": 1}),
        ([1], Sequence[int], [1]),
        ("x", Path, Path("x")),
        ([1, 2, 3], tuple[int, ...], (1, 2, 3)),
        (len, Callable[[str], int], len),
        (None, None, None),
        ("x", "Later", "x"),
    ],
)
def test_conform(value, hint, expected):
    got = plugin.conform(value, hint)
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("abc", list[str]),
        ("abc", Sequence[str]),
        (["a", 1], list[str]),
        (3, Callable[[], int]),
        ({"a": "b"}, dict[str, int]),
    ],
)
def test_conform_refuses(value, hint):
    with pytest.raises(TypeError, match="expected"):
        plugin.conform(value, hint)


def test_facts_tell_summary_options_and_attributes(monkeypatch):
    monkeypatch.setattr(plugin, "find", lambda kind, name: Sharp)
    monkeypatch.setattr(plugin, "base", lambda kind: Base)
    told = plugin.facts("rewards", "sharp")
    assert told["summary"] == "Measures sharpness."
    assert told["facts"] == {"range": (0.0, 1.0), "lowered_by": ("blur",)}
    assert told["options"][0] == {
        "name": "band",
        "type": "tuple[float, float]",
        "default": (0.1, 0.9),
    }
    assert [option["name"] for option in told["options"]] == [
        "band",
        "scale",
        "steps",
        "mode",
        "name",
        "flag",
    ]
