"""Every public constructor and function under bad input, and under good input of unusual kinds."""

import contextlib
from typing import Any
from unittest import mock

import pytest
import torch
from catalogue import (
    attacks,
    envs,
    evaluation,
    figures,
    grids,
    learners,
    networks,
    rules,
    teams,
    zoos,
)
from catalogue.kinds import Made, Reached, Subject, owner
from catalogue.public import EXCEPTIONS, excepted, public
from catalogue.wording import answer, same

from robustmarl.adversaries import ATSA, PAAD, ByzantineAttacker, ObsAdversaryPPO
from robustmarl.algorithms import VDN
from robustmarl.training import run

ROOMS = (rules, attacks, networks, teams, learners, envs, evaluation, figures, grids, zoos)
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


@pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.name for subject in SUBJECTS])
def test_good_input_of_an_unusual_kind_is_the_plain_one(subject):
    with contextlib.suppress(Reached):
        called(subject)
    for param, domain in subject.domains.items():
        for pair in domain.pairs:
            given, plain = (called(subject, **{param: made(value)}) for value in pair)
            assert same(given, plain), (param, pair)


@pytest.mark.parametrize(
    ("call", "keyword", "advice"),
    [
        (run, "batch_size", "learn=OffPolicy(batch_size=...) or learn=OnPolicy(batch_size=...)"),
        (run, "logdir", "log=Log(logdir=...)"),
        (run, "episodes", "tests=Tests(episodes=...)"),
        (run, "env_step", "Did you mean 'env_steps'?"),
        (run, "lr", "It takes algorithm, make_env, env_steps"),
        (VDN.for_env, "lr", "optim=adam(lr)"),
        (VDN.for_env, "hiden", "Did you mean 'hidden'?"),
        (VDN.for_env, "action_loss", "class MyVDN(ActionLossRegularizer, VDN)"),
        (ObsAdversaryPPO.for_env, "lr", "optim=adam(lr)"),
        (PAAD.for_env, "recurent", "Did you mean 'recurrent'?"),
        (ATSA.for_env, "critic_lr", "critic_optim=adam(lr)"),
        (ByzantineAttacker.against, "entropy", "Did you mean 'entropy_coef'?"),
    ],
)
def test_a_keyword_that_nobody_has_is_answered_by_the_right_one(call, keyword, advice):
    subject = next(one for one in SUBJECTS if one.call == call)
    with pytest.raises(TypeError, match=rf"has no (setting|parameter) '{keyword}'") as caught:
        called(subject, **{keyword: 1})
    assert advice in str(caught.value)


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
