"""Every setting is described, and shown with its value."""

import pytest
import yaml
from typer.testing import CliRunner

from atgnn.cli import app
from atgnn.training.knobs import knobs, markdown
from atgnn.training.recipe import Recipe, load_recipe


def test_every_setting_says_what_it_does():
    assert [knob.key for knob in knobs(Recipe(name="x")) if not knob.description] == []


def test_values_are_the_recipe_s_and_can_be_set_again():
    recipe = load_recipe("fsd50k", ["optim.epochs=7", "data.test={split: eval}"])
    shown = {knob.key: knob for knob in knobs(recipe)}
    assert shown["optim.epochs"].text == "7"
    assert shown["data.balanced"].text == "true"
    assert "cosine" in shown["optim.schedule"].meaning
    nothing = [f"{knob.key}={knob.text}" for knob in knobs(recipe)]
    assert load_recipe("esc10", nothing) == recipe


def test_the_command():
    def shown(*words, code=0):
        result = CliRunner().invoke(app, ["recipes", *words], env={"COLUMNS": "200"})
        assert result.exit_code == code, result.output
        return result.output

    assert "fsd50k" in shown()
    assert "draw clips by the rarity" in shown("fsd50k")
    assert yaml.safe_load(shown("fsd50k", "--yaml", "--set", "seed=3"))["seed"] == 3
    assert "| `optim.learning_rate` | `0.0005` |" in shown("fsd50k", "--markdown")
    assert "did you mean 'fsd50k'" in shown("fsd50", code=2)


@pytest.mark.parametrize("line", markdown(knobs(Recipe(name="x"))).splitlines())
def test_markdown_rows_have_three_cells(line):
    assert line.count("|") == 4
