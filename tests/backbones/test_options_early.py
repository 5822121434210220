"""Options that cannot work are refused before a model is read."""

import pytest
from toys import recipe

from vidrl import config, plugin
from vidrl.attention import AttentionError
from vidrl.training import evaluate

ABSENT = "no/such/model"  # an error that names it would show that a model was looked for


def checked(folder, name: str, options: dict) -> None:
    made = recipe(folder, backbone={"name": name, "options": {"model": ABSENT, **options}})
    evaluate.check_recipe(config.build(made))


@pytest.mark.parametrize("name", ["wan", "pipeline"])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"attention": "flahs3"}, "got 'flahs3': did you mean 'flash3'.*or leave the option out"),
        ({"attention": "xformers"}, "the module xformers is not installed: pip install"),
        ({"attention": "sage"}, "has no backward pass.*rollout_attention = 'sage'"),
        ({"rollout_attention": "sgae"}, "got 'sgae': did you mean 'sage'"),
        ({"rollout_attention": "auto"}, "name a kernel, or leave rollout_attention out"),
    ],
)
def test_a_recipe_with_a_kernel_that_cannot_run_is_refused(
    tmp_path, monkeypatch, name, options, told
):
    from vidrl.attention import kernels

    monkeypatch.setattr(kernels, "_installed", lambda module: False)
    with pytest.raises(AttentionError, match=told):
        checked(tmp_path, name, options)
    # a model that only samples needs no backward pass; all else is refused in the same way
    with pytest.raises(AttentionError):
        plugin.load("backbones", name, model=ABSENT, **options)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("wan", {"height": -16}, "height: expected a whole number of at least 1, got -16"),
        ("wan", {"frames": 0}, "frames: expected a whole number of at least 1, got 0"),
        ("pipeline", {"call": {"num_frames": -5}}, "call.num_frames: expected a whole number"),
        ("pipeline", {"call": {"width": "wide"}}, "call.width: expected a whole .* got 'wide'"),
        ("pipeline", {"dtype": "bf16"}, "did you mean 'bfloat16'"),
        ("wan", {"dtype": "fp32"}, "did you mean 'float32'"),
        ("pipeline", {"call": 32}, "option 'call' .* expected a table .* got 32"),
    ],
)
def test_a_value_that_no_model_takes_is_refused(tmp_path, name, options, told):
    with pytest.raises((ValueError, TypeError), match=told):
        checked(tmp_path, name, options)
    with pytest.raises((ValueError, TypeError), match=told):
        plugin.load("backbones", name, model=ABSENT, **options)


def test_python_objects_are_refused_alike():
    from vidrl.backbones.pipeline import Pipeline

    with pytest.raises(ValueError, match="call: expected a table .* got 32: write call.height"):
        Pipeline(ABSENT, call=32)
    with pytest.raises(ValueError, match="dtype: expected one of .* did you mean 'bfloat16'"):
        Pipeline(ABSENT, dtype="bf16")
