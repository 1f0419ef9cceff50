"""All engines keep the contract, and the check notices those that do not."""

import pytest
import torch
from doubles import Scripted, armies

from robustmarl import envs
from robustmarl.envs import SkirmishEngine, ToyEngine
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.testing import ContractError, check_engine

ENGINES = {
    "toy": lambda size: ToyEngine(size, horizon=7),
    "toy, without memory": lambda size: ToyEngine(size, horizon=4, memoryless=True),
    "gather": lambda size: envs.gather(horizon=6).make_engine(size),
    "formation in cells": lambda size: envs.formation(grid=True, horizon=6).make_engine(size),
    "skirmish": lambda size: SkirmishEngine("3m", size),
    "skirmish, types": lambda size: SkirmishEngine("2s3z", size, difficulty="hard"),
    "skirmish, refusing": lambda size: SkirmishEngine("3m", size, illegal="refuse"),
    "skirmish, torch": lambda size: SkirmishEngine("2s3z", size, backend="torch"),
    "skirmish, torch, refusing": lambda size: SkirmishEngine(
        "3m", size, backend="torch", illegal="refuse"
    ),
    "foraging": lambda size: JointVectorEnv(lambda: envs.foraging(horizon=12), size),
    "masks": lambda size: JointVectorEnv(
        lambda: Scripted(3, deaths={1: 2}, lengths=(3, 6), masks="info", metrics=("steps",)), size
    ),
    "boxes": lambda size: JointVectorEnv(lambda: Scripted(continuous=True), size),
    "padded": lambda size: JointVectorEnv(lambda: armies(2), size),
}


@pytest.mark.parametrize("name", ENGINES)
def test_ours_keep_it(name):
    check_engine(ENGINES[name])


@pytest.mark.parametrize("size", [2, 9, 20])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_skirmish_keeps_it_in_batches_of_all_sizes(size, backend):
    check_engine(
        lambda e: SkirmishEngine("3m", e, backend=backend), num_envs=size, episodes=max(4, size)
    )


class Broken(ToyEngine):
    """A toy game with a fault."""

    def __init__(self, size):
        super().__init__(size, horizon=5)


class Missing(Broken):
    def __init__(self, size):
        super().__init__(size)
        del self.tensors["metrics"]


class Doubles(Broken):
    def __init__(self, size):
        super().__init__(size)
        self.tensors["rew_agents"] = self.tensors["rew_agents"].double()


class Flat(Broken):
    def __init__(self, size):
        super().__init__(size)
        self.tensors["terminated"] = self.tensors["terminated"].unsqueeze(1)


class Elsewhere(Broken):
    def __init__(self, size):
        super().__init__(size)
        self.tensors["metrics"] = self.tensors["metrics"].to("meta")


class Another(Broken):
    def __len__(self):
        return super().__len__() + 1


class Replaces(Broken):
    def advance(self, act, active):
        super().advance(act, active)
        self.tensors["rew_agents"] = self.tensors["rew_agents"].clone()


class BeginsAll(Broken):
    def begin(self, mask, seeds):
        super().begin(torch.ones_like(mask), torch.where(mask, seeds, 0))


class StepsAll(Broken):
    def advance(self, act, active):
        super().advance(act.clamp(0, 1), torch.ones_like(active))


class Counts(Broken):
    """Its episodes depend on how many there were before."""

    count = 0

    def begin(self, mask, seeds):
        super().begin(mask, seeds + self.count)
        self.count += 1


class ByRow(Broken):
    def begin(self, mask, seeds):
        super().begin(mask, seeds + 100 * torch.arange(len(seeds)) ** 2)


class Seedless(Broken):
    def begin(self, mask, seeds):
        super().begin(mask, torch.zeros_like(seeds))


class Writes(Broken):
    def advance(self, act, active):
        super().advance(act, active)
        act.clamp_(0, 1)


class Clears(Broken):
    def begin(self, mask, seeds):
        super().begin(mask, seeds)
        mask.zero_()


class Shows(Broken):
    """Overwrites what a row shows after each step."""

    key, value = "obs", torch.nan

    def advance(self, act, active):
        super().advance(act, active)
        self.tensors[self.key][active] = self.value


class NoAction(Shows):
    key, value = "mask", False


class Endless(Shows):
    key, value = "truncated", False


class Both(Shows):
    key, value = "terminated", True

    def advance(self, act, active):
        ToyEngine.advance(self, act, active)
        self.tensors["terminated"] |= self.tensors["truncated"]


class EndsAtOnce(Broken):
    def begin(self, mask, seeds):
        super().begin(mask, seeds)
        self.tensors["terminated"][mask] = True


class Unfinished(SkirmishEngine):
    def __init__(self, size):
        super().__init__("3m", size)

    def advance(self, act, active):
        super().advance(act, active)
        self.tensors["metrics"][active] = torch.nan


def padded(key, value):
    class Padded(JointVectorEnv):
        def __init__(self, size):
            super().__init__(lambda: armies(2), size)

        def advance(self, act, active):
            super().advance(act, active)
            self.tensors[key][active, 0, -1] = value

    return Padded


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (Missing, r"engine\.tensors must have .*, lacks \['metrics'\]"),
        (Doubles, r"\['rew_agents'\] must be torch\.float32 of shape .* got torch\.float64"),
        (Flat, r"\['terminated'\] must be torch\.bool of shape \(1,\), got .* shape \(1, 1\)"),
        (Elsewhere, r"must be on one device, got \['cpu', 'meta'\]"),
        (Another, r"make_engine\(1\) returns an engine of 2"),
        (Replaces, r"advance replaces tensors\['rew_agents'\]: write into it instead"),
        (BeginsAll, r"begin changes tensors\[.*\] of environment \d, which was not asked"),
        (StepsAll, r"advance changes tensors\[.*\] of environment \d, which was not asked"),
        (Counts, r"of seed \d in an engine that was used before is another than alone"),
        (ByRow, r"of seed \d beside others is another than alone in a new engine: tensors\["),
        (Seedless, r"seeds 0 to 3 are identical: are the seeds ignored\?"),
        (Writes, r"advance writes into a tensor that it was given"),
        (Clears, r"begin writes into a tensor that it was given"),
        (Shows, r"\['obs'\] must be finite, got nan in environment 0, step 1"),
        (NoAction, r"must leave every agent an action in environment 0, step 1"),
        (Endless, r"goes on after 5 steps in environment 0: the horizon of the spec is 5"),
        (Both, r"both terminated and truncated in environment 0, step 5"),
        (EndsAtOnce, r"has ended when it begins, in environment 0"),
        (Unfinished, r"\['metrics'\] must be finite, got nan in environment"),
        (padded("obs", 1.0), r"padding of observations must be 0, is not in environment 0, step 1"),
        (padded("mask", True), r"that an agent does not have are available in environment 0"),
    ],
)
def test_it_notices(broken, text):
    with pytest.raises(ContractError, match=text):
        check_engine(broken, num_envs=4)


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"check_engine\.make_engine must be callable, got 3"):
        check_engine(3)
    with pytest.raises(ValueError, match=r"check_engine\.num_envs must be an int >= 2, got 1"):
        check_engine(ENGINES["toy"], num_envs=1)
    check_engine(Seedless, stochastic=False)
