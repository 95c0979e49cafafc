"""Commands generated from settings: a field of a pydantic class is an option, its docstring the help, its check the only check.

Settings are imported when their command is invoked, its code only once they are valid: help and wrong options answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import click

from interp.core.errors import ConfigError

METAVARS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
CONFIG = click.Option(["--config", "file"], metavar="FILE", help="YAML file of settings; 'personascope config COMMAND' prints all fields.")
SET = click.Option(["--set", "overrides"], metavar="FIELD=VALUE", multiple=True, help="Set one field, e.g. --set seed=1. Repeatable.")


class Group(click.Group):
    """Commands in the order in which they are declared."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(self.commands)


class SettingsCommand(click.Command):
    """A command whose options are the fields of two classes: the settings of what it does, and arguments that only commands have."""

    def __init__(
        self,
        name: str,
        help: str,
        handler: str,
        settings: str | None = None,
        arguments: str = "Output",
        positional: Sequence[str] = (),
        names: Mapping[str, str] | None = None,
        without: Sequence[str] = (),
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        """`handler` and `settings` are `module:name`, imported when needed; `arguments` is a class of `interp.cli.arguments`.

        The handler is called with the settings, if any, and the arguments; what it returns is the exit code. `names` gives fields
        other option names, and fields within sections an option (`{"tokens": "sampling.max_new_tokens"}`); `without` are fields that
        get none, `fixed` values that this command gives its settings.
        """
        super().__init__(name, help=help)
        self.handler, self.settings, self.arguments = handler, settings, f"interp.cli.arguments:{arguments}"
        self.positional, self.names, self.without, self.fixed = positional, names or {}, {*without, *(fixed or {})}, fixed or {}

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Options from the fields, made when they are first asked for."""
        if not self.params:
            params = parameters(load(self.arguments), self.positional, {"json": "as_json"})
            if self.settings is not None:
                params = [*parameters(load(self.settings), self.positional, self.names, self.without), CONFIG, SET, *params]
            self.params = params
        return super().get_params(ctx)

    def invoke(self, ctx: click.Context) -> Any:
        """Validate the settings (file, then options, then --set, later ones winning), import the handler and call it."""
        from interp.core.config import read_yaml, validated, with_overrides

        name = ctx.command_path.removeprefix(ctx.find_root().command_path).strip()
        given = {path: value for path, value in ctx.params.items() if value not in (None, (), [])}
        file, overrides = given.pop("file", None), given.pop("overrides", ())
        kind = load(self.arguments)
        arguments = validated(kind, {path: given.pop(path) for path in kind.model_fields if path in given}, name)
        settings = []
        if self.settings is not None:
            values = with_overrides(read_yaml(Path(file)) if file else {}, overrides, {**self.fixed, **given})
            settings = [validated(load(self.settings), values, file or name)]
        if self.handler.partition(":")[0] not in sys.modules and sys.stderr.isatty() and not arguments.as_json:
            print(f"personascope {name}: loading …", file=sys.stderr, flush=True)  # torch and transformers take seconds to import
        return load(self.handler)(*settings, arguments)


def load(name: str) -> Any:
    """What `module:name` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def parameters(settings: Any, positional: Sequence[str], names: Mapping[str, str], without: Collection[str] = ()) -> list[click.Parameter]:
    """An argument or option for every field that is no section, and for those within sections that `names` reaches."""
    named = {path: name for name, path in names.items() if path.partition(".")[0] in settings.model_fields}
    paths = [*(path for path in settings.model_fields if path not in without and path not in named), *named]
    fields = {path: fields_at(settings, path) for path in sorted(paths, key=lambda path: path not in positional)}
    return [
        _parameter(path, several, named.get(path), path in positional)
        for path, several in fields.items()
        if not hasattr(next(kinds(several[0].annotation)), "model_fields")
    ]


def fields_at(settings: Any, path: str) -> list[Any]:
    """The field at a dotted path; where a section may be of several classes, that of each class that has it."""
    first, _, rest = path.partition(".")
    field = settings.model_fields[first]
    sections = [kind for kind in kinds(field.annotation) if rest.partition(".")[0] in kind.model_fields] if rest else []
    return [inner for section in sections for inner in fields_at(section, rest)] or [field]


def kinds(annotation: Any) -> Iterator[Any]:
    """What a field may be: the members of a union but None, the words of a Literal."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (list, tuple) or isinstance(annotation, type):
        yield from () if annotation is NoneType else (annotation,)
    else:
        for member in get_args(annotation):
            yield from kinds(member)


def _parameter(path: str, fields: Sequence[Any], name: str | None, positional: bool) -> click.Parameter:
    field, kind = fields[0], next(kinds(fields[0].annotation))
    listed, window = get_origin(kind) is list, get_origin(kind) is tuple
    item = next(kinds(get_args(kind)[0])) if listed else kind
    choices = [get_args(kind)[0]] if listed else [field.annotation for field in fields]
    words = [word for choice in choices for word in kinds(choice) if isinstance(word, str)]
    name = name or path.replace("_", "-").removesuffix("s" if item is str and listed else "")
    metavar = "|".join(words) or ("FIRST-LAST" if window else METAVARS.get(item, "TEXT"))

    def read(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if window and value:
                first, dash, last = value.partition("-")
                return [int(first), int(last if dash else first)]
            if listed and item is not str:
                return [item(part) if item in (int, float) else part.strip() for text in value for part in text.split(",")]
        except ValueError as error:
            wanted = "FIRST-LAST, e.g. 8-22" if window else "numbers with commas between, e.g. 2076,3253"
            raise ConfigError(f"--{name} takes {wanted}, not '{value if window else ','.join(value)}'.") from error
        return value

    if positional:
        few = {"nargs": -1, "required": False} if listed else {"required": field.is_required()}
        option: click.Parameter = click.Argument([path], metavar=path.upper() + "…" * listed, callback=read, **few)
    else:
        default = field.get_default(call_default_factory=True)
        default = ",".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        note = "[required]" if field.is_required() else "" if default in (None, "") or default is False else f"[default: {default}]"
        text = f"{' '.join((field.description or '').replace('`', '').split())} {note}".strip()
        if kind is bool:
            option = click.Option([f"--{name}"], is_flag=True, flag_value=True, default=None, help=text)
        else:
            metavar += ",…" if listed and item is not str else ""
            option = click.Option([f"--{name}"], metavar=metavar, multiple=listed, callback=read, help=text)
    option.name = path
    return option
