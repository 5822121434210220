"""The JSON schema of recipes accepts each shipped recipe and refuses what the loader refuses."""

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from vidrl import config, plugin, schema
from vidrl.cli import main
from vidrl.plugin import BadOption, UnknownName
from vidrl.recipe.recipe_text import BadRecipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "scripts" / "recipes").glob("*.toml"))
WRONG = {
    "unknown key": {"train": {"round": 3}},
    "unknown section": {"trian": {}},
    "text for a number": {"train": {"rounds": "many"}},
    "fraction for a whole number": {"train": {"rounds": 1.5}},
    "choice that is none": {"train": {"lr_schedule": "sometimes"}},
    "band of three numbers": {"guard": {"bands": {"verifier": [0.9, 1.0, 1.1]}}},
    "algorithm that is none": {"algorithm": {"name": "grpoo"}},
    "option of another algorithm": {"algorithm": {"name": "nft", "options": {"clip_range": 0.1}}},
    "option of the wrong type": {"algorithm": {"name": "grpo", "options": {"segments": "five"}}},
}


@pytest.fixture(scope="module")
def validator():
    found = schema.recipe_schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid(validator, path):
    errors = [error.message for error in validator.iter_errors(tomllib.loads(path.read_text()))]
    assert not errors


@pytest.mark.parametrize("name", WRONG)
def test_schema_and_loader_refuse_the_same(validator, name):
    recipe = {"run": "runs/x"} | WRONG[name]
    assert list(validator.iter_errors(recipe))
    with pytest.raises((BadRecipe, UnknownName, BadOption)):
        config.check_plugins(config.build(recipe, files=False))


def test_a_plug_in_of_other_code_may_have_any_option(validator):
    algorithm = {"name": "my_package.mine:Mine", "options": {"anything": 1}}
    validator.validate({"algorithm": algorithm})


def test_each_default_is_valid(validator):
    validator.validate(config.build({"run": "runs/x"}, files=False).to_dict())


def test_each_plug_in_has_its_options(validator):
    rules = validator.schema["properties"]["algorithm"]["allOf"]
    named = {rule["if"]["properties"]["name"]["const"] for rule in rules if "if" in rule}
    assert named == set(plugin.names("algorithms"))


def test_the_command_writes_the_schema(tmp_path, capsys):
    assert main(["schema", "--out", str(tmp_path / "recipe.json")]) == 0
    assert json.loads((tmp_path / "recipe.json").read_text()) == schema.recipe_schema()
    assert main(["schema", "--markdown"]) == 0
    assert "| `rounds` | int | `30` |" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_the_completion_of_a_shell_knows_the_commands(capsys, shell):
    assert main(["completion", shell]) == 0
    assert "influence" in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["schema", "--out", str(tmp_path / "nowhere" / "recipe.json")])
    assert "expected a folder for the file" in capsys.readouterr().err
