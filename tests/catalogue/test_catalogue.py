"""Every public constructor and function under bad input, and under good input of unusual kinds."""

import contextlib
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from catalogue import attacks, rules
from catalogue.kinds import Made, Subject
from catalogue.wording import answer, same

ROOMS = (rules, attacks)
SUBJECTS: tuple[Subject, ...] = tuple(one for room in ROOMS for one in room.SUBJECTS)


class Bad(NamedTuple):
    """One argument that must be refused."""

    subject: Subject
    param: str
    value: Any
    kind: type[Exception]


BAD = [
    Bad(subject, param, value, kind)
    for subject in SUBJECTS
    for param, domain in subject.domains.items()
    for kind, values in ((TypeError, domain.kinds), (ValueError, domain.values))
    for value in values
]
GOOD = [
    (subject, param, pair)
    for subject in SUBJECTS
    for param, domain in subject.domains.items()
    for pair in domain.pairs
]


def made(value: Any) -> Any:
    return value.make() if isinstance(value, Made) else value


def called(subject: Subject, **changed: Any) -> Any:
    """Return a good call's result with some arguments changed, all that is random as ever."""
    with torch.random.fork_rng(devices=[]), mock.patch("secrets.randbits", lambda bits: bits):
        torch.manual_seed(0)
        return subject.call(**{**subject.good(), **changed})


def label(subject: Subject, param: str, value: Any) -> str:
    text = value.name if isinstance(value, Made) else repr(value).partition("\n")[0]
    return f"{subject.name}-{param}-{text[:40]}"


def refusal(case: Bad) -> str:
    """Return what is wrong with the answer to a bad argument, '' if nothing is."""
    value = made(case.value)
    call = {case.param: value}
    name = case.subject.name
    return answer(lambda: called(case.subject, **call), case.kind, name, case.param, value)


@pytest.mark.parametrize("case", BAD, ids=[label(*case[:3]) for case in BAD])
def test_bad_input_is_refused_where_it_is_given(case):
    assert refusal(case) == ""


@pytest.mark.parametrize(
    ("subject", "param", "pair"), GOOD, ids=[label(s, p, pair.given) for s, p, pair in GOOD]
)
def test_good_input_of_an_unusual_kind_is_the_plain_one(subject, param, pair):
    results = []
    for value in (made(pair.given), made(pair.plain)):
        results.append(called(subject, **{param: value}))
    assert same(*results)


@pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.name for subject in SUBJECTS])
def test_the_good_call_is_good(subject):
    result = called(subject)
    with contextlib.suppress(AttributeError):
        result.close()


def test_the_catalogue_is_long():
    assert len(BAD) + len(GOOD) >= 400
