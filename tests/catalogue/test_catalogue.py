"""Every public constructor and function under bad input, and under good input of unusual kinds."""

import contextlib
from typing import Any
from unittest import mock

import pytest
import torch
from catalogue import attacks, envs, evaluation, learners, networks, rules, teams
from catalogue.kinds import Made, Reached, Subject, owner
from catalogue.public import EXCEPTIONS, excepted, public
from catalogue.wording import answer, same

ROOMS = (rules, attacks, networks, teams, learners, envs, evaluation)
SUBJECTS: tuple[Subject, ...] = tuple(one for room in ROOMS for one in room.SUBJECTS)
ROWS = [(subject, param) for subject in SUBJECTS for param in subject.domains]
NAMES = [f"{subject.name}-{param}" for subject, param in ROWS]


def made(value: Any) -> Any:
    return value.make() if isinstance(value, Made) else value


def called(subject: Subject, **changed: Any) -> Any:
    """Return a good call's result with some arguments changed, all that is random as ever."""
    with torch.random.fork_rng(devices=[]), mock.patch("secrets.randbits", lambda bits: bits):
        torch.manual_seed(0)
        return subject.call(**{**subject.good(), **changed})


@pytest.mark.parametrize(("subject", "param"), ROWS, ids=NAMES)
def test_bad_input_is_refused_where_it_is_given(subject, param):
    domain, wrong = subject.domains[param], []
    for kind, values in ((TypeError, domain.kinds), (ValueError, domain.values)):
        for value in map(made, values):
            call = {param: value}
            said = answer(lambda: called(subject, **call), kind, subject.name, param, value)  # noqa: B023
            wrong += [(value, said)] if said else []
    assert wrong == []


@pytest.mark.parametrize(("subject", "param"), ROWS, ids=NAMES)
def test_good_input_of_an_unusual_kind_is_the_plain_one(subject, param):
    for pair in subject.domains[param].pairs:
        given, plain = (called(subject, **{param: made(value)}) for value in pair)
        assert same(given, plain), pair


@pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.name for subject in SUBJECTS])
def test_the_good_call_is_good(subject):
    with contextlib.suppress(Reached):
        called(subject)


def test_every_public_callable_is_in_the_catalogue():
    known = {id(owner(subject.covers or subject.call)) for subject in SUBJECTS}
    missing = {name for name, one in public().items() if id(one) not in known}
    assert {name for name in missing if not excepted(name)} == set()
    assert {key for name in missing for key in excepted(name)} == set(EXCEPTIONS)  # no other


def test_the_catalogue_is_long():
    domains = [domain for subject in SUBJECTS for domain in subject.domains.values()]
    bad = sum(len(domain.kinds) + len(domain.values) for domain in domains)
    assert bad >= 4000
    assert sum(len(domain.pairs) for domain in domains) >= 1000
