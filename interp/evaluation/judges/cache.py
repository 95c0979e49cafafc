"""Judgements on disk, by content: the same judge is not asked about the same question and answer twice."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from interp.core.errors import ArtifactError, reason_of
from interp.core.fingerprints import content_key
from interp.evaluation.judges.base import Judge, Judgement

FILE = "judgements.sqlite"
ROWS = 64  # answers a judge is given at once: what a kill can lose of a judge that makes all at once
WAIT_S, RETRY_S = 30.0, 0.05  # for another process that writes
GIVE_UP = 8  # answers in a row that a judge left unjudged, all for a reason that may pass
TABLE = """CREATE TABLE IF NOT EXISTS scores
    (key BLOB PRIMARY KEY, trait_score REAL, coherence REAL, reason TEXT NOT NULL) WITHOUT ROWID"""


class JudgementCache:
    """A file of judgements; several processes may use it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def judged(
        self, judge: Judge, questions: Sequence[str], answers: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Judgement]:
        """A judgement for each answer; only what is not known is asked for, each pair once, and kept as soon as it is given.

        Judgements that are not final are handed on but not kept; a judge that answers nothing in a whole part is asked no further.
        `progress` is called with the number of answers done since the last call. Raises `ArtifactError` for a file that cannot be read
        or written.
        """
        pairs = list(zip(questions, answers, strict=True))
        keys = [content_key([judge.identity, *pair]) for pair in pairs]
        with self._opened() as database:
            known = _read(database, keys)
            missing = list({key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}.items())
            if progress:
                progress(len(keys) - len(missing))
            for start in range(0, len(missing), ROWS):
                part = missing[start : start + ROWS]
                made = judge.judge([question for _, (question, _) in part], [answer for _, (_, answer) in part])
                for (key, _), judgement in zip(part, made, strict=True):
                    known[key] = judgement
                    _write(database, key, judgement)
                if progress:
                    progress(len(part))
                if len(part) >= GIVE_UP and not any(known[key].final for key, _ in part):
                    # It answers nobody: the others would wait as long for nothing.
                    last = known[part[-1][0]].reason
                    left = Judgement(None, None, f"not asked: the judge left {len(part)} answers in a row unjudged, {last}", False)
                    known |= dict.fromkeys((key for key, _ in missing[start + ROWS :]), left)
                    break
        return [known[key] for key in keys]

    def known(self, judge: Judge, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement] | None:
        """What is kept of all these answers; None where one is missing, since nobody is asked. Raises `ArtifactError`."""
        keys = [content_key([judge.identity, *pair]) for pair in zip(questions, answers, strict=True)]
        with self._opened() as database:
            kept = _read(database, keys)
        return [kept[key] for key in keys] if kept.keys() >= set(keys) else None

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"Cannot make {self.path.parent}: {reason_of(error)}. Choose another folder.") from error
        try:
            with closing(sqlite3.connect(self.path, timeout=WAIT_S)) as database:
                # A killed process loses nothing in this mode, and a commit costs next to nothing; only a power failure may lose the last.
                _write_ahead(database)
                database.execute("PRAGMA synchronous=NORMAL")
                database.execute(TABLE)
                yield database
        except sqlite3.Error as error:
            raise ArtifactError(
                f"The judgements in {self.path} cannot be used: {reason_of(error)}. Free some space, or move the file away."
            ) from error


def _write_ahead(database: sqlite3.Connection) -> None:
    """Switch to a write-ahead log. SQLite's own time-out does not hold for that: while another process switches it fails at once."""
    for _ in range(int(WAIT_S / RETRY_S)):
        try:
            database.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            time.sleep(RETRY_S)
        else:
            return
    database.execute("PRAGMA journal_mode=WAL")


def _read(database: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Judgement]:
    query = "SELECT key, trait_score, coherence, reason FROM scores WHERE key IN (SELECT value FROM json_each(?))"
    return {key: Judgement(score, coherence, reason) for key, score, coherence, reason in database.execute(query, (json.dumps(keys),))}


def _write(database: sqlite3.Connection, key: str, judgement: Judgement) -> None:
    """Keep it at once: a kill may come at any time."""
    if judgement.final:
        row = (key, judgement.trait_score, judgement.coherence, judgement.reason)
        database.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)", row)
        database.commit()
