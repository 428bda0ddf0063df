"""The matrix of attempts: nothing gets through but what is known to, and the page in docs is what a run gives."""

import pytest
from matrix import ATTEMPTS, CONTROL, NO_CONTROL, PAGE, Column, expected, page, run_all


@pytest.fixture(scope="module")
def columns() -> list[Column]:
    return run_all()


def test_all_forty_eight_are_there():
    assert sorted(ATTEMPTS) == list(range(1, 49))


def test_nothing_unexpected_gets_through(columns: list[Column]):
    through = {
        (column.tier, column.user, number): text
        for column in columns
        for number, text in column.through.items()
        if column.tier != CONTROL and text and not expected(number, column.tier)
    }
    assert not through


def test_what_is_known_to_get_through_still_does(columns: list[Column]):
    """Else the list of exceptions would outlive its reasons."""
    held = [
        (column.tier, column.user, number)
        for column in columns
        for number, text in column.through.items()
        if column.tier != CONTROL and not text and expected(number, column.tier)
    ]
    assert not held


def test_each_succeeds_without_a_boundary(columns: list[Column]):
    failed = {
        (column.user, number): text
        for column in columns
        for number, text in column.through.items()
        if column.tier == CONTROL and (number, column.user) not in NO_CONTROL
        if not text or text.startswith("error: ")
    }
    assert not failed


def test_the_page_is_what_a_run_gives(columns: list[Column]):
    if lacking := [c for c in columns if c.skipped and not c.tier.startswith("seatbelt")]:
        pytest.skip(f"this machine lacks {lacking[0].tier} as {lacking[0].user}: {lacking[0].skipped}")
    assert PAGE.read_text(encoding="utf-8") == page(columns)
