"""Each notebook has a class of settings that takes exactly its parameters, and a file of parameters can be checked."""

import json

import pytest
import yaml

from irlkit import assets, settings
from irlkit.parameters import Settings


class Example(Settings):
    pass


def test_files_of_parameters_are_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(settings.NOTEBOOKS, "99-example", Example)
    path = tmp_path / "params.json"
    results = []
    good, bad = '{"99-example": {"seed": 3}}', '{"04-max-margin-irl": {}, "99-example": {"sed": 3}}'
    for content in (good, bad, '{"98-other": {}}', '{"99-example": 1}', "[1]", "{"):
        path.write_text(content)
        results.append(settings.main(["check", str(path)]))
    said = capsys.readouterr().err.splitlines()
    assert results == [0, 1, 1, 1, 1, 1] and len(said) == 5
    assert said[0].startswith("error: 99-example: unknown parameter 'sed'; allowed:")
    assert said[1].startswith("error: unknown notebook '98-other'; allowed: 00-tabular-irl")
    assert settings.main([]) == 2


def test_every_notebook_takes_exactly_the_parameters_of_its_cell():
    root = assets.DATA.parent
    for name, cls in settings.NOTEBOOKS.items():
        cells = json.loads((root / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        (cell,) = (c for c in cells if "parameters" in c["metadata"].get("tags", []))
        given = {}
        exec("".join(cell["source"]), given)
        given.pop("__builtins__")
        given.pop("__annotations__", None)
        assert given == {field: value.default for field, value in cls.model_fields.items()}, name


@pytest.mark.parametrize("profile", ["laptop", "smoke", "full"])
def test_chapters_that_speak_of_one_expert_train_the_same(profile):
    """The later one would train another expert over the first one's, for a quarter of an hour and without a word."""
    path = assets.DATA.parent / f"profiles/{profile}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    first, later = (settings.NOTEBOOKS[name].checked(values.get(name, {})) for name in ("02-rlhf", "05c-which-expert"))
    shared = [*settings.Training.model_fields, *settings.Written.model_fields]
    assert {"steps", "keep", "kl_weight", "seed", "base_model"} <= set(shared)
    for name in set(shared) - {"inputs", "outputs"}:
        assert getattr(first, name) == getattr(later, name), name
