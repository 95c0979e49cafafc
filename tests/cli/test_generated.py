"""Commands generated from settings: every field is reached, every docstring is in the help, and help imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal

import click
import pytest
from pydantic import Field

from interp.cli.generated import SettingsCommand, fields_at, kinds, load, parameters
from interp.cli.main import app
from interp.core.config import StepConfig, validated
from interp.core.errors import ConfigError

HEAVY = ("torch", "transformers", "pandas", "numpy", "scipy", "sklearn", "sae_lens", "plotly", "peft")


def commands(group: click.Group = app, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], SettingsCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        elif isinstance(command, SettingsCommand):
            yield (*before, name), command


COMMANDS = {" ".join(path): command for path, command in commands()}


class Inner(StepConfig):
    rate: float = 0.5
    """Share of it."""


class Outer(StepConfig):
    """A class with a field of every kind."""

    words: list[str] = Field(default_factory=list)
    """Words of your own."""
    numbers: list[int] = Field(default=[1, 2])
    """Numbers. A second sentence."""
    window: tuple[int, int] | None = None
    """First and last."""
    kind: Literal["a", "b"] = "a"
    """Which kind."""
    flag: bool = False
    """Whether."""
    needed: float
    """What must be given."""
    inner: Inner = Inner()
    """A section."""


def outer(*args: str) -> Outer:
    """`Outer` from a command line."""
    options = parameters(Outer, (), {"rate": "inner.rate"})
    context = click.Command("outer", params=options).make_context("outer", list(args))  # type: ignore[arg-type]
    values = {path: value for path, value in context.params.items() if value not in (None, (), [])}
    rate = values.pop("inner.rate", None)
    return validated(Outer, values | ({} if rate is None else {"inner": {"rate": rate}}), "outer")


def test_options_are_read_by_the_types_of_their_fields() -> None:
    read = outer("--word", "one, two", "--word", "three", "--numbers", "3,4", "--numbers", "5", "--window", "8-22", "--kind", "b", "--flag",
                 "--needed", "1.5", "--rate", "0.25")  # fmt: skip
    values = {"numbers": [3, 4, 5], "window": (8, 22), "kind": "b", "flag": True, "needed": 1.5, "inner": Inner(rate=0.25)}
    assert read == Outer(words=["one, two", "three"], **values)  # type: ignore[arg-type]
    assert outer("--needed", "2", "--window", "7") == Outer(needed=2, window=(7, 7))
    assert outer("--needed", "2").model_fields_set == {"needed"}  # what is not given is left to the settings


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--numbers", "1;2"], r"--numbers takes numbers with commas between, e\.g\. 2076,3253, not '1;2'"),
        (["--window", "a-b"], r"--window takes FIRST-LAST, e\.g\. 8-22, not 'a-b'"),
        (["--needed", "x"], r"needed: .*valid number.*\(got 'x'\)"),
        (["--needed", "1", "--kind", "c"], r"kind: .*'a' or 'b' \(got 'c'\)"),
        ([], r"needed must be given"),
    ],
)
def test_what_cannot_be_read_names_the_option(args: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        outer(*args)


def test_options_show_what_they_take_and_their_defaults() -> None:
    shown = {option.opts[0]: option for option in parameters(Outer, (), {})}
    assert {name: option.metavar for name, option in shown.items()} == {
        "--word": "TEXT", "--numbers": "N,…", "--window": "FIRST-LAST", "--kind": "a|b", "--flag": None, "--needed": "X",
    }  # fmt: skip
    helps = {name: option.help for name, option in shown.items() if isinstance(option, click.Option)}
    assert helps["--numbers"] == "Numbers. A second sentence. [default: 1,2]"
    assert helps["--needed"] == "What must be given. [required]"


def classes(command: SettingsCommand) -> list[type[StepConfig]]:
    return [load(name) for name in (command.settings, command.arguments) if name is not None]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_field_is_an_option_or_within_reach_of_set(name: str) -> None:
    command = COMMANDS[name]
    paths = {parameter.name for parameter in command.get_params(click.Context(command))}
    for kind in classes(command):
        for path, field in kind.model_fields.items():
            section = hasattr(next(kinds(field.annotation)), "model_fields")
            assert path in paths or section or path in command.without, path
            assert path in paths or "overrides" in paths, path
    for path in command.names.values():
        assert path in paths
        assert fields_at(classes(command)[0], path)
    assert command.fixed.keys() & paths == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_what_every_docstring_says(name: str) -> None:
    command = COMMANDS[name]
    context = click.Context(command, info_name=name, terminal_width=1000, max_content_width=1000)
    shown = command.get_help(context)
    for parameter in command.get_params(context):
        path = str(parameter.name)
        owner = next((kind for kind in classes(command) if path.partition(".")[0] in kind.model_fields), None)
        if isinstance(parameter, click.Option) and owner is not None:
            said: Any = fields_at(owner, path)[0].description
            assert said, f"{path} has no docstring"
            assert " ".join(said.replace("`", "").split()).partition(". ")[0] in shown, path
            assert f"{parameter.opts[0]} " in shown or f"{parameter.opts[0]}\n" in shown


def test_no_option_stands_twice_and_every_handler_is_there() -> None:
    for name, command in COMMANDS.items():
        options = [option for parameter in command.get_params(click.Context(command)) for option in parameter.opts]
        assert len(set(options)) == len(options), name
        assert callable(load(command.handler)), name


def test_help_of_all_commands_imports_nothing_heavy() -> None:
    script = f"""
import sys
from interp.cli.main import main
for name in [[], *map(str.split, {list(COMMANDS)!r})]:
    sys.argv = ["personascope", *name, "--help"]
    try:
        main()
    except SystemExit as left:
        print(*name, [name for name in {HEAVY!r} if name in sys.modules], left.code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.count(" [] 0\n") == len(COMMANDS)  # and one line without a name before it, of the root
    assert "\n[] 0\n" in done.stdout
