"""Removals equal their closed forms, leave attention sinks alone, and controls are as long as what they stand beside."""

from __future__ import annotations

import pytest
import torch

from interp.causality.removals import Places, Removal, Target, removals
from interp.core.errors import EditError
from interp.interventions.edits import random_directions
from interp.interventions.hooks import edited
from interp.models.activations import capture
from interp.models.hook_points import resid_post
from tests.helpers.edits_by_hand import CHATS
from tests.helpers.tiny import D_MODEL, tiny_model

WINDOW = [resid_post(0), resid_post(1)]
CENTRES = {name: 2 * random_directions(1, D_MODEL, 10 + i)[0] for i, name in enumerate(WINDOW)}
PLACES = Places(WINDOW[1], CENTRES, {WINDOW[0]: 0.5, WINDOW[1]: 1.0})
ROWS = random_directions(3, D_MODEL, 0)
TARGET = Target(ROWS, 4 * ROWS.sum(0))


def removed(removal: Removal, target: Target = TARGET) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals at the first edited place without and with the removal, all tokens."""
    model, name = tiny_model(1), PLACES.hook_point if removal.kind == "subtract" else WINDOW[0]
    (plain,) = capture(model, CHATS, [name])
    with edited(model, PLACES.remove(target, removal, "removed")):
        (changed,) = capture(model, CHATS, [name])
    return tuple(captured.residuals[name][captured.batch.mask].double() for captured in (plain, changed))  # type: ignore[return-value]


@pytest.mark.parametrize(("kind", "directions"), [("project_out", TARGET.rise[None]), ("project_span", ROWS)])
def test_a_projection_holds_its_directions_at_the_base_mean(kind: str, directions: torch.Tensor) -> None:
    before, after = removed(Removal(kind))  # type: ignore[arg-type]
    projector = torch.linalg.pinv(directions.double()) @ directions.double()
    torch.testing.assert_close(after, before - (before - CENTRES[WINDOW[0]].double()) @ projector, atol=1e-4, rtol=1e-4)


def test_a_subtraction_takes_a_multiple_of_the_rise_away() -> None:
    before, after = removed(Removal("subtract", 1.5))
    torch.testing.assert_close(after, before - 1.5 * TARGET.rise.double(), atol=1e-4, rtol=1e-4)
    before, after = removed(Removal("subtract_window", 0.2))
    torch.testing.assert_close(after, before - 0.2 * 0.5 * TARGET.rise.double(), atol=1e-4, rtol=1e-4)
    own = {name: random_directions(1, D_MODEL, 20 + i)[0] for i, name in enumerate(WINDOW)}
    before, after = removed(Removal("subtract_window", 0.2), Target(ROWS, TARGET.rise, own))
    torch.testing.assert_close(after, before - 0.2 * own[WINDOW[0]].double(), atol=1e-4, rtol=1e-4)


def test_a_control_is_scaled_to_what_it_stands_beside() -> None:
    scaled = Target(ROWS, ROWS[0], {WINDOW[0]: ROWS[1]}).scaled(7.0)
    assert float(scaled.rise.norm()) == pytest.approx(7.0)
    assert float(scaled.by_layer[WINDOW[0]].norm()) == pytest.approx(7.0 * float(ROWS[1].norm() / ROWS[0].norm()))
    assert torch.equal(scaled.directions, ROWS)


def test_nothing_to_take_out_is_refused() -> None:
    nothing = Target(ROWS, torch.zeros(D_MODEL))
    for removal in removals([2.0], [0.1]):
        if removal.kind == "project_span":
            continue
        with pytest.raises(EditError):
            PLACES.remove(nothing, removal, "")


def test_ways_are_listed_plainest_first() -> None:
    assert [str(removal) for removal in removals([1.0, 2.5], [0.1])] == [
        "rise projected out",
        "each projected out",
        "1 × rise subtracted",
        "2.5 × rise subtracted",
        "0.1 × rise subtracted at every layer",
    ]
