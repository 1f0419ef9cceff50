"""The public interface, and what of it needs no row in the tables."""

import importlib
import inspect
import pkgutil
from typing import Any

import robustmarl


def public() -> dict[str, Any]:
    """Return the callables of ``__all__`` of every public module, by their full names."""
    found = {}
    for _, name, _ in pkgutil.walk_packages(robustmarl.__path__, "robustmarl."):
        if any(part.startswith("_") for part in name.split(".")):
            continue
        module = importlib.import_module(name)
        for key in module.__all__:
            one = getattr(module, key)
            if _is_ours(one):
                found[f"{one.__module__}.{one.__qualname__}"] = one
    return found


def _is_ours(one: Any) -> bool:
    """Return whether a user can call it: no type alias, protocol, typed dictionary or base."""
    if not isinstance(one, type) and not inspect.isfunction(one):
        return False
    shape = getattr(one, "_is_protocol", False) or hasattr(one, "__total__")
    return one.__module__.startswith("robustmarl.") and not shape and not inspect.isabstract(one)


_RECORD = "what a step or an update is told in: made by the library, where a check costs most"
_FIGURES = "what is returned to users, who do not make it"
_TENSORS = "arithmetic on tensors in the loop of every step, where a check costs most"

_ELSEWHERE = "its bad input is in the tests of its own module"

EXCEPTIONS = {
    "robustmarl.adversaries.base.Sample": _RECORD,
    "robustmarl.adversaries.deployed": "what adversaries share, for their own parts alone",
    "robustmarl.adversaries.directing": "what adversaries share, for their own parts alone",
    "robustmarl.adversaries.population.PopulationPerturber": "made by Population alone",
    "robustmarl.adversaries.archive.jensen_shannon": _TENSORS,
    "robustmarl.adversaries.obs_ppo.GaussianPPO": "a base; its two subclasses have its rows",
    "robustmarl.adversaries.obs_ppo.value_critic": "called by for_env, which is checked",
    "robustmarl.adversaries.ppo": "what adversaries share, for their own records alone",
    "robustmarl.algorithms.actor_critic.ActorOutputs": _RECORD,
    "robustmarl.algorithms.ppo_based.PPOBased": "a base; MAPPO, IPPO and A2C have its rows",
    "robustmarl.algorithms.value_based.ValueBased": "a base; VDN, IQL and QMIX have its rows",
    "robustmarl.attacks.averaged": "made by attacks alone, of the view that they are given",
    "robustmarl.attacks.base.draws_of": "called by attacks alone",
    "robustmarl.attacks.base.needs_victim": "takes any attack: it says whether it asks",
    "robustmarl.attacks.formulas": "called by gradient attacks alone",
    "robustmarl.attacks.gradient.Walk": _RECORD,
    "robustmarl.attacks.poison.budget.Poisoned": _RECORD,
    "robustmarl.attacks.poison.view": _RECORD,
    "robustmarl.cli": "takes words, which its own tests are about",
    "robustmarl.data.controllers.found_controller": "takes anything: it says whether it plays",
    "robustmarl.data.perturbed.follower_of": "takes anything: it says whether it follows",
    "robustmarl.data.carried": "a part of JointCollector, which is checked",
    "robustmarl.data.guards": "a part of JointCollector, which is checked",
    "robustmarl.data.ledger": "a part of JointCollector, which is checked",
    "robustmarl.data.opponents": "a part of JointCollector, which is checked",
    "robustmarl.data.staging": "a part of JointCollector, which is checked",
    "robustmarl.data.stats": _FIGURES,
    "robustmarl.envs._particle_task": "tasks and their rewards: data of the makers in particles",
    "robustmarl.envs.joint.JointEnv": "a part of JointVectorEnv, which is checked",
    "robustmarl.envs.merge.engine.lane_table": "has no argument",
    "robustmarl.envs.merge.engine.team_spec": "called by the engine alone",
    "robustmarl.envs.merge.rules.Start": _RECORD,
    "robustmarl.envs.merge.rules.car_reward": "arithmetic on a few figures",
    "robustmarl.envs.merge.rules.draw_start": "called by environment and engine alone",
    "robustmarl.envs.merge.rules.nearest": "called by environment and stage alone",
    "robustmarl.envs.merge.stage": "made by environments and engines alone",
    "robustmarl.envs.skirmish.battles": "a part of SkirmishEngine, which is checked",
    "robustmarl.envs.skirmish.compiled": "a part of SkirmishEngine, which is checked",
    "robustmarl.envs.skirmish.dynamics": "a part of SkirmishEngine, which is checked",
    "robustmarl.envs.skirmish.encoder": "a part of SkirmishEngine, which is checked",
    "robustmarl.envs.skirmish.formations": "a part of SkirmishEngine, which is checked",
    "robustmarl.envs.skirmish.layout": "a part of SkirmishEngine, which is checked",
    "robustmarl.envs.skirmish.referee": "a part of SkirmishEngine, which is checked",
    "robustmarl.envs.skirmish.render.Figure": "made by picture alone",
    "robustmarl.envs.skirmish.render.draw": "called by picture alone",
    "robustmarl.envs.skirmish.rules": "a part of SkirmishEngine, which is checked",
    "robustmarl.envs.skirmish.tables": "a part of SkirmishEngine, which is checked",
    "robustmarl.envs.smac.smac": "needs StarCraft II; tests of its own, with a double of it",
    "robustmarl.certify.directed": _ELSEWHERE,
    "robustmarl.certify.returns.CertifiedReturn": _FIGURES,
    "robustmarl.certify.sasg": _ELSEWHERE,
    "robustmarl.evaluation.adaptation.Adaptation": _FIGURES,
    "robustmarl.evaluation.aggregates.Profile": _FIGURES,
    "robustmarl.evaluation.certified.Certificates": _FIGURES,
    "robustmarl.evaluation.clusters": "a part of run_cells, which is checked",
    "robustmarl.evaluation.comparisons.SignedRank": _FIGURES,
    "robustmarl.evaluation.comparisons.tasks_of": "called by comparisons and aggregates alone",
    "robustmarl.evaluation.crossplay.changing_actions": "called by crossplay and grids alone",
    "robustmarl.evaluation.executors": "a part of run_cells, which is checked",
    "robustmarl.evaluation.exports.latex": "called by CrossTable.to_latex alone",
    "robustmarl.evaluation.exports.written": "called by CrossTable alone",
    "robustmarl.evaluation.grid_cells": "called by Grid alone, which is checked",
    "robustmarl.evaluation.grid_tables.GridKey": _FIGURES,
    "robustmarl.evaluation.grid_yaml": _ELSEWHERE,
    "robustmarl.evaluation.jobs.CellsError": "an error",
    "robustmarl.evaluation.jobs.Failure": _FIGURES,
    "robustmarl.evaluation.recordings.RecordedEpisode": _FIGURES,
    "robustmarl.evaluation.recordings.RecordedStep": _FIGURES,
    "robustmarl.evaluation.recordings.Recording": _FIGURES,
    "robustmarl.evaluation.rollouts.Rollouts": _FIGURES,
    "robustmarl.evaluation.suite.Case": "made by worst_case alone",
    "robustmarl.evaluation.suite.quick": "has no argument",
    "robustmarl.evaluation.sweep.Sweep": _FIGURES,
    "robustmarl.evaluation.statistics.check_limits": "called by intervals and tables alone",
    "robustmarl.evaluation.statistics.limits_of": "called with what has been checked alone",
    "robustmarl.evaluation.sweep.checked_sizes": "called by sweep and certified alone",
    "robustmarl.evaluation.statistics.Estimate": _FIGURES,
    "robustmarl.evaluation.blind.blindfolds": _ELSEWHERE,
    "robustmarl.evaluation.blind.kept_blind": "called by crossplay and worst_case alone",
    "robustmarl.evaluation.blind.check_unlike_blind": "called by crossplay and sweep alone",
    "robustmarl.evaluation.blind.keeps_blind": "arithmetic on three figures",
    "robustmarl.evaluation.blind.other_episodes": "called by blindfolds alone",
    "robustmarl.evaluation.blind.warn_of_blind": "called by crossplay alone",
    "robustmarl.evaluation.curves": _ELSEWHERE,
    "robustmarl.evaluation.directors": "called by suites and the command line alone",
    "robustmarl.evaluation.drawings": "called by Recording.save alone",
    "robustmarl.evaluation.episodes": _FIGURES,
    "robustmarl.evaluation.meter": _FIGURES,
    "robustmarl.envs.magent.stage": "made by environments and engines alone",
    "robustmarl.envs.scenes": "what environments tell; record checks what they told",
    "robustmarl.envs.skirmish.stage": "made by environments and engines alone",
    "robustmarl.envs.vector.offers_batch": "takes anything: it says whether it builds batches",
    "robustmarl.evaluation.html.charts": "a part of report, which is checked",
    "robustmarl.evaluation.html.films": "a part of report, which is checked",
    "robustmarl.evaluation.html.tables": "a part of report, which is checked",
    "robustmarl.evaluation.plots.ink_on": "called by plots and tables alone",
    "robustmarl.evaluation.plots.label_axes": "called by plots alone",
    "robustmarl.evaluation.plots.on_common_steps": "called by plots and charts alone",
    "robustmarl.evaluation.plots.saved": "called by plots alone",
    "robustmarl.evaluation.findings": _FIGURES,
    "robustmarl.evaluation.statistics.are_shares": "called by statistics alone",
    "robustmarl.evaluation.statistics.ends_of": "called by statistics alone",
    "robustmarl.evaluation.statistics.floats": "called by statistics alone",
    "robustmarl.evaluation.statistics.side_by_side": "called by statistics alone",
    "robustmarl.evaluation.statistics.check_level": "called by statistics alone",
    "robustmarl.evaluation.statistics.per_seed": "called by statistics alone",
    "robustmarl.evaluation.statistics.t_band": "called by plots alone",
    "robustmarl.evaluation.resampling.widened": "called by tables alone",
    "robustmarl.evaluation.tables.Average": _FIGURES,
    "robustmarl.evaluation.teams": "what crossplay and sweep share; they name it as theirs",
    "robustmarl.evaluation.threats": _ELSEWHERE,
    "robustmarl.evaluation.validity": "called by worst_case alone",
    "robustmarl.joint.batch": _RECORD,
    "robustmarl.joint.boxes": _TENSORS,
    "robustmarl.joint.context": _RECORD,
    "robustmarl.joint.flatten": _ELSEWHERE,
    "robustmarl.joint.masks": _TENSORS,
    "robustmarl.joint.reading": "what environments answer, which it says itself is wrong",
    "robustmarl.joint.spec.split_obs": _TENSORS,
    "robustmarl.learning.base.TeamTrainingStats": _FIGURES,
    "robustmarl.learning.imagined.ImaginedEngine": "made by WorldModel alone",
    "robustmarl.learning.making": "kept by for_env, which checks what it is asked for",
    "robustmarl.learning.modes.is_training": "asked by learners and adversaries of themselves",
    "robustmarl.learning.optim.check_max_grad_norm": "called by learners, whose rows are here",
    "robustmarl.learning.optim.ScheduledFactory": "made by adam, whose rows are here",
    "robustmarl.learning.optim.follow": "called by learners, whose rows are here",
    "robustmarl.learning.optim.keeping_rates": "called by load_weights, whose rows are here",
    "robustmarl.learning.optim.own_state_dict": "of state_dicts, which torch checks",
    "robustmarl.learning.optim.torch_factory": "called by adam, whose rows are here",
    "robustmarl.learning.q_learning": _TENSORS,
    "robustmarl.learning.samples": _RECORD,
    "robustmarl.learning.settings.known_settings": "of classes: their own for_env calls it",
    "robustmarl.learning.settings.take": "of classes: their own for_env calls it",
    "robustmarl.learning.settings.told_of": "of classes: their own for_env calls it",
    "robustmarl.learning.world.Fitted": _FIGURES,
    "robustmarl.learning.world.Foretold": _FIGURES,
    "robustmarl.learning.values.Valuation": "made by learners, which check its arguments",
    "robustmarl.networks.calculus": "reads networks that are made, and checks what it cannot read",
    "robustmarl.losses.attack_term": "a base; the losses have its rows",
    "robustmarl.networks.gaussian": _TENSORS,
    "robustmarl.networks.mixers.AgentValues": _RECORD,
    "robustmarl.networks.protocol": _RECORD,
    "robustmarl.networks.rows": _TENSORS,
    "robustmarl.networks.squashed.squashed_log_density": _TENSORS,
    "robustmarl.networks.squashed.unsquashed": _TENSORS,
    "robustmarl.perturbers.attackers.attack_policy": _TENSORS,
    "robustmarl.perturbers.attackers.reference_policy": _TENSORS,
    "robustmarl.perturbers.attackers.smoothed": _TENSORS,
    "robustmarl.perturbers.attackers.soft_backup": _TENSORS,
    "robustmarl.perturbers.base": "hooks that do nothing, and a record of the place in a stack",
    "robustmarl.perturbers.directions.completed": _TENSORS,
    "robustmarl.perturbers.blind": _ELSEWHERE,
    "robustmarl.perturbers.foreign.ForeignLearner": "a part of ActionPoisonWrapper",
    "robustmarl.perturbers.traitors.as_adversary": "called by perturbers, whose rows are here",
    "robustmarl.perturbers.traitors.has_probabilities": "called by perturbers alone",
    "robustmarl.perturbers.traitors.ByzantinePlay": _RECORD,
    "robustmarl.testing._error": "an error",
    "robustmarl.training.files": "a part of run, which is checked",
    "robustmarl.training.fingerprint": "a part of run, which is checked",
    "robustmarl.training.in_model.ModelRound": _FIGURES,
    "robustmarl.training.history": "made by run, and returned to users",
    "robustmarl.training.progress": "tqdm's arguments",
    "robustmarl.training.resume": "a part of run, which is checked",
    "robustmarl.training.checkpoints.read_checkpoint": "called by what reads, which is checked",
    "robustmarl.training.saved.Saved": _FIGURES,
    "robustmarl.training.saved.how_made": "called by save_weights and run alone",
    "robustmarl.training.spelling": _ELSEWHERE,
    "robustmarl.training.trainers": "Tianshou's trainers with Tianshou's parameters",
    "robustmarl.typing": "a warning",
    "robustmarl.victims.baselines": "a part of as_victim, which is checked",
    "robustmarl.victims.protocol": _RECORD,
    "robustmarl.victims.readings": "a part of as_victim, which is checked",
    "robustmarl.zoo.cards.Card": _FIGURES,
    "robustmarl.zoo.cards.measured": "called by leaderboards alone, with cards",
    "robustmarl.zoo.cards.ranked": "called by leaderboards alone, with cards",
    "robustmarl.zoo.cards.turned": "called by measure and the command line, with agents",
    "robustmarl.zoo.entries.entry_for": "called by the command line alone, with names it checked",
    "robustmarl.zoo.entries.Entry": "what the zoo has: not made by users",
    "robustmarl.zoo.shelf.file_of": "called by the shelf alone, with names that it checked",
    "robustmarl.zoo.shelf.learners": "called by zoo.train and the command line, with recipes",
    "robustmarl.zoo.shelf.train": _ELSEWHERE,
    "robustmarl.zoo.shelf.write_card": _ELSEWHERE,
    "robustmarl.zoo.worlds.Traitor": "what the zoo has: not made by users",
    "robustmarl.zoo.worlds.World": "what the zoo has: not made by users",
}
"""What needs no row of its own, by module or name, and why."""


def excepted(name: str) -> set[str]:
    """Return which exceptions ``name`` falls under."""
    return {key for key in EXCEPTIONS if name == key or name.startswith(f"{key}.")}
