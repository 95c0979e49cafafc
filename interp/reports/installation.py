"""What is installed, what the machine has, and what is missing with the command that fixes it: nothing here needs a whole installation."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

    from interp.models.sources import PackagedFile

DISTRIBUTION = "personascope"
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
    mend: str | None = None
    """The command that fixes it, when it is missing or wrong."""
    note: str | None = None
    """Advice about something that works, but not well."""


@dataclass
class Findings:
    """The report while it is being gathered."""

    items: list[Finding] = field(default_factory=list)

    def add(self, section: str, name: str, value: str, data: Any, *, mend: str | None = None, note: str | None = None) -> None:
        """Add one line."""
        self.items.append(Finding(section, name, value, data, mend, note))

    def as_json(self) -> dict[str, Any]:
        """Sections of names and values, `missing` (what, found, mend), `notes` and `ok`."""
        result: dict[str, Any] = {"ok": not self.missing()}
        for item in self.items:
            result.setdefault(item.section, {})[item.name] = item.data
        result["missing"] = [{"what": f"{item.section}: {item.name}", "found": item.value, "mend": item.mend} for item in self.missing()]
        result["notes"] = [f"{item.section}: {item.name}: {item.note}" for item in self.items if item.note]
        return result

    def missing(self) -> list[Finding]:
        """The lines that something must be done about."""
        return [item for item in self.items if item.mend]


def gather() -> Findings:
    """Look at everything. A package that is missing or broken becomes a line, never an exception."""
    findings = Findings()
    _versions(findings)
    _device(findings)
    _memory(findings)
    _models_and_disk(findings)
    return findings


def _versions(findings: Findings) -> None:
    findings.add("versions", "python", f"{platform.python_version()} ({_short(Path(sys.executable))})", platform.python_version())
    try:
        findings.add("versions", DISTRIBUTION, metadata.version(DISTRIBUTION), metadata.version(DISTRIBUTION))
        declared = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        findings.add("versions", DISTRIBUTION, "not installed", None, mend="make -B setup")
        return
    try:
        from packaging.requirements import Requirement
    except ImportError:
        findings.add("versions", "packaging", "not installed", None, mend=f"make -B setup, or: {_pip()} install packaging")
        return
    for line in declared:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        mend = f"make -B setup, or: {_pip()} install '{wanted}'"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            findings.add("versions", requirement.name, "not installed", None, mend=mend)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            findings.add("versions", requirement.name, version, version)
        else:
            findings.add("versions", requirement.name, f"{version}, wanted {requirement.specifier}", version, mend=mend)


def _device(findings: Findings) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that torch needs is not there
        findings.add("device", "torch", f"cannot be imported: {_first_line(error)}", None, mend="make clean setup")
        return
    threads = torch.get_num_threads()
    findings.add("device", "cpu", f"{cores} cores usable, torch uses {threads} threads", {"cores": cores, "threads": threads})
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        findings.add("device", "cuda", ", ".join(names), names)
    elif shutil.which("nvidia-smi"):
        note = "if this machine has an NVIDIA GPU, torch does not use it: check the driver, or choose a CUDA build with TORCH_INSTALL"
        findings.add("device", "cuda", f"none that torch {torch.__version__} can use", [], note=note)
    else:
        findings.add("device", "cuda", "none, the CPU is used", [])


def _memory(findings: Findings) -> None:
    import psutil

    total, available = psutil.virtual_memory()[:2]
    note = f"the demo may need {_size(MEMORY_WANTED_BYTES)}: close other programs first" if available < MEMORY_WANTED_BYTES else None
    findings.add("memory", "total", _size(total), total)
    findings.add("memory", "available", _size(available), available, note=note)


def _models_and_disk(findings: Findings) -> None:
    _disk(findings, "working directory", Path.cwd())
    try:
        from interp.models.sources import EMBEDDED_MODELS, SENTENCE_EMBEDDER, cache_folder
    except (ImportError, OSError) as error:
        findings.add("models", "all", f"cannot be looked for: {_first_line(error)}", None, mend="make -B setup")
        return
    _disk(findings, "cache folder", cache_folder())
    for name, packaged in EMBEDDED_MODELS.items():
        if _packaged_file(findings, name, packaged):
            converted = cache_folder() / "gguf" / packaged.sha256[:20]
            there = converted.is_dir()
            value = _short(converted) if there else "not yet; done on first use, in about a minute"
            findings.add("models", f"{name}, converted", value, str(converted) if there else None)
    _packaged_file(findings, "sentence embedder", SENTENCE_EMBEDDER)


def _packaged_file(findings: Findings, name: str, packaged: PackagedFile) -> bool:
    """Whether the file is there and has the right content."""
    from interp.core.errors import ModelError
    from interp.core.files import file_sha256

    try:
        path = packaged.locate()
    except ModelError:
        mend = f"make -B setup, or: {_pip()} install --no-deps {packaged.distribution}"
        findings.add("models", name, "not installed", None, mend=mend)
        return False
    found = file_sha256(path)
    right = found == packaged.sha256
    findings.add(
        "models",
        name,
        f"{_short(path)} ({_size(path.stat().st_size)}), SHA-256 {'as expected' if right else f'{found}, expected {packaged.sha256}'}",
        {"path": str(path), "sha256": found, "sha256_right": right},
        mend=None if right else f"{_pip()} install --force-reinstall --no-deps {packaged.distribution}",
    )
    return right


def _disk(findings: Findings, name: str, folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    data = {"path": str(folder), "free_bytes": free, "writable": os.access(existing, os.W_OK)}
    value = f"{_size(free)} free in {folder}"
    if name == "cache folder" and not data["writable"]:
        findings.add("disk", name, f"{value}, which cannot be written", data, mend="export PERSONASCOPE_CACHE=FOLDER (one you can write)")
        return
    note = f"{_size(DISK_WANTED_BYTES)} is a comfortable minimum" if free < DISK_WANTED_BYTES else None
    findings.add("disk", name, value, data, note=note)


def print_table(findings: Findings) -> None:
    """The report as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    section = None
    for item in findings.items:
        if section not in (None, item.section):
            table.add_row()
        value: Text = Text(item.value, style="red" if item.mend else "yellow" if item.note else "")
        table.add_row(item.section if item.section != section else "", Text(item.name), value)
        section = item.section
    console.print(table)
    console.print()
    for item in findings.items:
        if item.note:
            console.print(Text(f"Note: {item.section}, {item.name}: {item.note}.", style="yellow"))
    missing = findings.missing()
    for item in missing:
        console.print(Text(f"Missing: {item.section}, {item.name}. Fix it with: {item.mend}", style="bold red"), soft_wrap=True)
    if not missing:
        console.print(Text("Nothing is missing.", style="green"))


def _pip() -> str:
    return f"{_short(Path(sys.executable))} -m pip"


def _short(path: Path) -> str:
    """`path`, relative to the working directory when it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
