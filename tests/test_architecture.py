"""The walls of the house: rooms stay small, doors stay typed, layers hold."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("sae", "services", "jobs") for path in (ROOT / package).rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_an_owner_and_fits_on_a_desk(path):
    assert len(path.read_text().splitlines()) <= 400
    assert not path.stem.endswith(("utils", "helpers", "common", "misc", "manager"))
    assert ast.get_docstring(TREES[path]), "what is this room for?"


def test_no_function_is_longer_than_50_lines():
    long = {f"{path.name}:{node.name}": node.end_lineno - node.lineno + 1 for path, tree in TREES.items() for node in functions(tree)}
    assert not {name: lines for name, lines in long.items() if lines > 60}
    assert sum(lines > 50 for lines in long.values()) <= len(long) // 100


def test_no_configuration_has_more_than_a_dozen_fields():
    import jobs.config  # noqa: F401 - defines all of them
    from sae.config import Config

    def below(model: type[BaseModel]):
        return {model}.union(*map(below, model.__subclasses__()))

    configurations = {model for model in below(Config) if model.__name__.endswith("Config")}
    assert len(configurations) >= 8
    wide = {model.__name__: len(model.model_fields) for model in configurations if len(model.model_fields) > 12}
    assert not wide


def test_every_configuration_key_is_described():
    import jobs.config  # noqa: F401
    from sae.config import Config

    def below(model):
        return {model}.union(*map(below, model.__subclasses__()))

    nameless = [
        f"{model.__name__}.{name}"
        for model in below(Config)
        if model.__name__.endswith("Config")
        for name, field in model.model_fields.items()
        if not field.description and not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)) and name != "architecture"
    ]
    assert not nameless


def test_shapes_are_types_in_the_library():
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] != "sae":
            continue
        tree = TREES[path]
        imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not any(node.module == "__future__" for node in imported), path
        for node in functions(tree):
            assert not any(isinstance(decorator, ast.Name) and decorator.id == "jaxtyped" for decorator in node.decorator_list), path


def test_no_wait_on_ray_is_without_a_timeout():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "wait"):
                is_ray = isinstance(node.func.value, ast.Name) and node.func.value.id == "ray"
                assert not is_ray or any(keyword.arg == "timeout" for keyword in node.keywords), f"{path}:{node.lineno}"


@pytest.mark.parametrize(("package", "forbidden"), [("sae", ["ray", "prometheus_client", "fastapi"]), ("jobs.cli", ["torch", "ray"])])
def test_a_room_does_not_import_what_it_may_not(package, forbidden):
    code = f"import sys, {package}; sys.exit(','.join(name for name in {forbidden!r} if name in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("package", "most"), [("sae.store", 4)])
def test_few_inner_modules_of_a_package_are_imported_from_outside(package, most):
    inner = {
        node.module
        for path, tree in TREES.items()
        if not path.is_relative_to(ROOT / package.replace(".", "/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{package}.")
    }
    assert len(inner) <= most, inner
