"""What is installed, what the machine has, and what is missing with the command that fixes it: nothing here needs a whole installation."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.models.embedded import PackagedFile

DISTRIBUTION = "personascope"
SET_UP = "make -B setup"
MEMORY_WANTED_BYTES = 6 * 2**30
"""What the demo may take at its peak."""
DISK_WANTED_BYTES = 2 * 2**30
"""Room for a converted embedded model, a run's activations and its checkpoints."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    section: str
    name: str
    value: str
    data: Any
    """The same for scripts."""
    fix: str | None = None
    """The command that fixes it, when it is missing or wrong."""
    note: str | None = None
    """Advice about something that works, but not well."""


def gather() -> list[Finding]:
    """Look at everything. A package that is missing or broken becomes a line, never an exception."""
    sections: dict[str, Callable[[], Iterator[Finding]]] = {"versions": _versions, "device": _device, "memory": _memory, "disk": _disk,
                                                            "models": _models}  # fmt: skip
    findings: list[Finding] = []
    for name, look in sections.items():
        try:
            findings += look()
        except (ImportError, OSError) as error:  # OSError: a shared library that torch needs is not there
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            findings.append(Finding(name, "all", f"cannot be looked at: {reason}", None, fix="make clean setup"))
    return findings


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Sections of names and values, `missing` (what, found, fix), `notes` and `ok`."""
    missing = [{"what": f"{item.section}: {item.name}", "found": item.value, "fix": item.fix} for item in findings if item.fix]
    result: dict[str, Any] = {"ok": not missing}
    for item in findings:
        result.setdefault(item.section, {})[item.name] = item.data
    return result | {"missing": missing, "notes": [f"{item.section}: {item.name}: {item.note}" for item in findings if item.note]}


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "python", f"{platform.python_version()} ({_short(Path(sys.executable))})", platform.python_version())
    own = _version(DISTRIBUTION)
    yield Finding("versions", DISTRIBUTION, own or "not installed", own, fix=None if own else SET_UP)
    from packaging.requirements import Requirement

    for requirement in map(Requirement, metadata.requires(DISTRIBUTION) or [] if own else []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version and requirement.specifier.contains(version, prereleases=True):
            yield Finding("versions", requirement.name, version, version)
        else:
            value = f"{version}, wanted {requirement.specifier}" if version else "not installed"
            fix = f"{SET_UP}, or: {_pip()} install '{requirement.name}{requirement.specifier}'"
            yield Finding("versions", requirement.name, value, version, fix=fix)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _device() -> Iterator[Finding]:
    import psutil
    import torch

    cores, threads = len(psutil.Process().cpu_affinity()) if psutil.LINUX else psutil.cpu_count(), torch.get_num_threads()
    yield Finding("device", "cpu", f"{cores} cores usable, torch uses {threads} threads", {"cores": cores, "threads": threads})
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if names:
        yield Finding("device", "cuda", ", ".join(names), names)
    elif shutil.which("nvidia-smi"):
        note = "if this machine has an NVIDIA GPU, torch does not use it: check the driver, or choose a CUDA build with TORCH_INSTALL"
        yield Finding("device", "cuda", f"none that torch {torch.__version__} can use", [], note=note)
    else:
        yield Finding("device", "cuda", "none, the CPU is used", [])


def _memory() -> Iterator[Finding]:
    import psutil

    total, available = psutil.virtual_memory()[:2]
    note = f"the demo may need {_size(MEMORY_WANTED_BYTES)}: close other programs first" if available < MEMORY_WANTED_BYTES else None
    yield Finding("memory", "total", _size(total), total)
    yield Finding("memory", "available", _size(available), available, note=note)


def _disk() -> Iterator[Finding]:
    from interp.models.sources import cache_folder

    for name, folder in (("working directory", Path.cwd()), ("cache folder", cache_folder())):
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
        free, writable = shutil.disk_usage(existing).free, os.access(existing, os.W_OK)
        unusable = name == "cache folder" and not writable
        yield Finding(
            "disk",
            name,
            f"{_size(free)} free in {folder}{', which cannot be written' if unusable else ''}",
            {"path": str(folder), "free_bytes": free, "writable": writable},
            fix="export PERSONASCOPE_CACHE=FOLDER (one you can write)" if unusable else None,
            note=f"{_size(DISK_WANTED_BYTES)} is a comfortable minimum" if free < DISK_WANTED_BYTES else None,
        )


def _models() -> Iterator[Finding]:
    from interp.models.embedded import EMBEDDED_MODELS, SENTENCE_EMBEDDER
    from interp.models.sources import conversion_folder

    for name, packaged in EMBEDDED_MODELS.items():
        model = _packaged_file(name, packaged)
        yield model
        converted = conversion_folder(packaged.sha256)
        if converted.is_dir():
            yield Finding("models", f"{name}, converted", _short(converted), str(converted))
        elif model.data:
            yield Finding("models", f"{name}, converted", "not yet; done on first use, in about a minute", None)
    yield _packaged_file("sentence embedder", SENTENCE_EMBEDDER)


def _packaged_file(name: str, packaged: PackagedFile) -> Finding:
    from interp.core.errors import ModelError

    try:
        paths = packaged.locate()
    except ModelError as error:
        if packaged.optional:
            return Finding("models", name, f"not installed; to have it: {packaged.target}", None)
        return Finding("models", name, str(error).partition(". ")[0], None, fix=_fix(packaged))
    try:
        packaged.verified()
    except ModelError as error:
        return Finding("models", name, str(error).partition(". ")[0], None, fix=_fix(packaged))
    size, first = _size(sum(path.stat().st_size for path in paths)), _short(paths[0])
    parts = f" and {len(paths) - 1} more parts" if len(paths) > 1 else ""
    data = {"path": str(paths[0]), "sha256": packaged.sha256, "sha256_right": True, "licence": packaged.licence}
    return Finding("models", name, f"{first}{parts} ({size}), SHA-256 as expected, {packaged.licence}", data)


def _fix(packaged: PackagedFile) -> str:
    return f"{packaged.target}, or: {_pip()} install --force-reinstall --no-deps {' '.join(packaged.distributions)}"


def print_table(findings: Sequence[Finding]) -> None:
    """The report as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for section, items in groupby(findings, key=lambda item: item.section):
        for place, item in enumerate(items):
            style = "red" if item.fix else "yellow" if item.note else ""
            table.add_row("" if place else section, Text(item.name), Text(item.value, style))
        table.add_row()
    console.print(table)
    for item in findings:
        if item.note:
            console.print(Text(f"Note: {item.section}, {item.name}: {item.note}.", style="yellow"))
        if item.fix:
            console.print(Text(f"Missing: {item.section}, {item.name}. Fix it with: {item.fix}", style="bold red"), soft_wrap=True)
    if not any(item.fix for item in findings):
        console.print(Text("Nothing is missing.", style="green"))


def _pip() -> str:
    return f"{_short(Path(sys.executable))} -m pip"


def _short(path: Path) -> str:
    """`path`, relative to the working directory when it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
