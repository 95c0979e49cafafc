"""Judges that load a model, opened once for all tests of them: MiniLM under the probe, the embedded model under coherence."""

from __future__ import annotations

import pytest

from interp.evaluation.judges.coherence import SCORER, CoherenceJudge
from interp.evaluation.judges.probe import ProbeJudge
from interp.traits import read_trait
from interp.traits.trait import PROBE


@pytest.fixture(scope="session")
def probe() -> ProbeJudge:
    path = read_trait("contempt").path(PROBE)
    assert path is not None
    return ProbeJudge(path)


@pytest.fixture(scope="session")
def fluency() -> CoherenceJudge:
    from interp.models.sources import open_model

    return CoherenceJudge(read_trait("contempt"), open_model(SCORER, device="cpu", dtype="float32"))
