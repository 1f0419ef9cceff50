"""Examples in docstrings: they run, print what they say, and no part of the API lacks one."""

import doctest
import importlib
import pkgutil

import pytest
from matplotlib import pyplot as plt

import robustmarl

MODULES = [
    importlib.import_module(name)
    for _, name, _ in pkgutil.walk_packages(robustmarl.__path__, "robustmarl.")
    if not name.endswith("__main__")
]
FINDER = doctest.DocTestFinder(exclude_empty=True)
EXAMPLES = {
    example.name: example
    for module in MODULES
    for example in FINDER.find(module, module.__name__)
    if example.examples
}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example(name, tmp_path, monkeypatch):
    """In an empty folder, that examples which write may; warnings are errors here as elsewhere."""
    monkeypatch.chdir(tmp_path)
    found = []
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    try:
        runner.run(EXAMPLES[name], out=found.append)
    finally:
        plt.close("all")
    assert runner.failures == 0, "".join(found)


_BASE = "what others derive from; those have examples"
_RETURNED = "what is returned, or told, to users, who do not make it"
_FOR_ENV = "made by an algorithm's for_env, which its example calls"
_CHECK = "checks what it is given, and returns nothing"
_TRAINER = "made by training.run, whose example calls it"
_KEYWORDS = "keywords of what has an example"

WITHOUT = {
    "adversaries.Adversary": _BASE,
    "adversaries.Sample": _RETURNED,
    "adversaries.SharedAdvantage": _BASE,
    "adversaries.SharedByzantine": "made by EIRMAPPO.for_env",
    "adversaries.SharedObsAdversary": "made by RMAAC.for_env",
    "attacks.AdversaryOutputs": "made by toward_adversary",
    "attacks.AimedAttack": _BASE,
    "attacks.GradientAttack": _BASE,
    "attacks.Imitation": "made by toward_adversary",
    "attacks.LabelLoss": _BASE,
    "attacks.Outcomes": _RETURNED,
    "attacks.PoisonView": _RETURNED,
    "attacks.Walk": _RETURNED,
    "certify.CertifiedReturn": _RETURNED,
    "certify.SoftValues": _RETURNED,
    "certify.WorstCase": _RETURNED,
    "data.TeamCollectStats": _RETURNED,
    "envs.smac": "needs StarCraft II",
    "evaluation.Adaptation": _RETURNED,
    "evaluation.Case": _RETURNED,
    "evaluation.CellsError": _RETURNED,
    "evaluation.Certificates": _RETURNED,
    "evaluation.Failure": _RETURNED,
    "evaluation.Finding": _RETURNED,
    "evaluation.GridKey": _RETURNED,
    "evaluation.Measured": _RETURNED,
    "evaluation.Profile": _RETURNED,
    "evaluation.Reading": _RETURNED,
    "evaluation.Recording": _RETURNED,
    "evaluation.Rollouts": _RETURNED,
    "evaluation.SignedRank": _RETURNED,
    "evaluation.Sweep": _RETURNED,
    "evaluation.Workplace": _RETURNED,
    "evaluation.WorstCase": _RETURNED,
    "evaluation.read_warnings": "tells what a study warned of, which is nothing in an example",
    "joint.Described": "made by describe",
    "joint.FlattenedObs": "made by flatten_obs",
    "joint.JointBatch": _RETURNED,
    "joint.JointObs": _RETURNED,
    "joint.StepContext": _RETURNED,
    "joint.TeamSpec": "made by spec_of",
    "joint.check_flags": _CHECK,
    "joint.check_parallel": _CHECK,
    "joint.check_seeds": _CHECK,
    "joint.rows_of": "takes a context, which collectors make",
    "learning.OffPolicyTeam": _BASE,
    "learning.OnPolicyTeam": _BASE,
    "learning.TeamAlgorithm": _BASE,
    "learning.TeamTrainingStats": _RETURNED,
    "losses.AttackTerm": _BASE,
    "networks.AgentSettings": _KEYWORDS,
    "networks.CriticSettings": _KEYWORDS,
    "networks.Extra": "made by AgentNetwork.extra",
    "networks.Mixer": _BASE,
    "perturbers.ByzantinePlay": "what an adversary of one's own returns; see the protocol",
    "perturbers.Perturber": _BASE,
    "perturbers.Place": "made by places",
    "policies.ByzantinePolicy": _FOR_ENV,
    "policies.DeterministicPolicy": _FOR_ENV,
    "policies.ExploringPolicy": _FOR_ENV,
    "policies.MeanFieldPolicy": _FOR_ENV,
    "policies.TeamPolicy": _BASE,
    "policies.TypedPolicy": _FOR_ENV,
    "testing.ContractError": _RETURNED,
    "training.EpisodeOffPolicyParams": _TRAINER,
    "training.EpisodeOffPolicyTrainer": _TRAINER,
    "training.EpisodeOnPolicyTrainer": _TRAINER,
    "training.EpisodeTrainer": _TRAINER,
    "training.Figures": _RETURNED,
    "training.ModelRound": _RETURNED,
    "training.Saved": _RETURNED,
    "training.TrainerCounters": _RETURNED,
    "training.load_checkpoint": "reads what run keeps, for whoever writes a trainer",
    "typing.RobustnessWarning": _RETURNED,
    "zoo.Card": _RETURNED,
    "zoo.Entry": _RETURNED,
    "zoo.Traitor": "part of a world; what it learns by is ByzantineAttacker, which has one",
    "zoo.measure": "plays a suite of attacks, as worst_case, whose example it would repeat",
    "zoo.write_card": "plays the suite that measure plays",
}


def lacking():
    """Return the public classes and functions without an example; protocols need none."""
    found = set()
    for package in robustmarl.__all__:
        module = getattr(robustmarl, package)
        for name in module.__all__:
            one = getattr(module, name)
            ours = getattr(one, "__module__", "").startswith("robustmarl.")
            shape = getattr(one, "_is_protocol", False)
            if ours and not shape and ">>>" not in (one.__doc__ or ""):
                found.add(f"{package}.{name}")
    return found


def test_what_a_user_makes_has_an_example():
    assert lacking() == set(WITHOUT)
