"""One small run for all tests of experiments on it, and judges that need no model."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp.run import Run
from tests.helpers.small_run import small_run, use_letter_judge


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("opened"))


@pytest.fixture(scope="session")
def run(folder: Path) -> Run:
    return Run(folder, quiet=True)


@pytest.fixture
def letter_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    use_letter_judge(monkeypatch)
