"""ATSA's table on skirmish maps: twelve ways to train a team, under the adversaries of six.

    python examples/atsa.py --jobs 2                       # the quick preset: 100,000 steps a team
    python examples/atsa.py --maps 3s_vs_3z --backbones QMIX --seeds 0 --methods NoAdv ATSA
    python examples/atsa.py --preset paper --jobs 8        # two million steps, recurrent agents
    python examples/atsa.py --report                       # tables and figures of finished cells
    python examples/atsa.py --smoke                        # seconds, figures mean nothing

Every protagonist is trained on its own, and then meets the adversaries that were trained beside
the protagonists ATLA, PAAD and ATSA of the same map, backbone and seed: their directors, with
gradients through the team under test. Beside the paper's columns stand ours: stronger generators,
a director that is trained against this very team, the worst of a suite, and teams without eyes. A
map, backbone, protagonist and seed is a cell with a file of raw scores; what is finished is not
run again, and interrupted trainings continue where they were. Tables and figures are made of the
cells alone, beside the paper's figures.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy import stats
from tianshou.algorithm.optim import OptimizerFactory

from robustmarl import adversaries, algorithms, attacks, envs, evaluation, losses, training
from robustmarl.budgets import LinfBall
from robustmarl.evaluation import Case, Cell, CrossTable, Curve, Entry, Job, Suite, Workplace
from robustmarl.joint import StepContext, spec_of
from robustmarl.learning import adam
from robustmarl.perturbers import DirectedObsPerturber, ObsPerturber, Perturber, ZeroedObs, stor
from robustmarl.schedules import Linear
from robustmarl.typing import Env, RobustnessWarning

Key = tuple[str, str, str, str, int]
"""What is done, on which map, with which backbone and method, and the training seed."""

PAPER = (
    "NoAdv",
    "RN",
    "FGSM",
    "ATLA",
    "PAAD",
    "PR",
    "PR-REP",
    "ERNIE",
    "RAP",
    "ROMANCE-p",
    "ROMANCE-s",
    "ATSA",
)
OURS = ("PAAD-10", "ATSA-10", "ATSA, kappa 0", "ATSA, alpha 0")
METHODS = (*PAPER, *OURS)
BLIND = "trained blind"
STRONG = ("ATSA", "PAAD", "RAP", "FGSM")  # in all of the paper's settings ahead of the others
WEAK = ("NoAdv", "RN", "ATLA", "ROMANCE-p", "ROMANCE-s")
COLUMNS = ("NoAdv", "RN", "FGSM", "ATLA", "PAAD", "ATSA")
TEACHERS = ("ATLA", "PAAD", "ATSA")  # whose trainings leave the columns their adversaries
SWEPT = ("NoAdv", "PAAD", "ATSA")
SWEEP = ("FGSM", "ATLA", "PAAD", "ATSA")
PRINTED = Path(__file__).parents[1] / "docs" / "data" / "atsa_paper.json"


@dataclass(frozen=True, kw_only=True)
class Task:
    """How teams and directors train on a map, and how large attacks are there.

    Attributes:
        epsilon: of all attacks, in training and tests.
        steps: environment steps per training.
        attacked: share of the training episodes that are attacked.
        attacked_by_atla: that share beside ATLA's adversary, which attacks all in its paper.
        ramp: share of the training over which the radius of attacks in training rises, from 0; not
            that of PR, PR-REP and ERNIE, whose weights do as it is, nor of actions that are forced.
        explore: steps over which exploration falls from 1 to .05.
        envs: environments side by side.
        batch: episodes per update, of which there is one per episode played.
        buffer: episodes kept.
        lr: learning rate of teams, directors and critics; ATLA's and ROMANCE's adversaries have
            their own.
        falls: share of the training after which it falls, to 0 at the end; 1 is never.
        gamma: discount.
        td_lambda: of the team and PA-AD; ATSA's critics have .8.
        targets: updates between copies to target networks.
        scale: of Q-values, by which weights and margins of PR, PR-REP and ERNIE are multiplied.
        hidden: widths of all networks.
        recurrent: whether they are, and are told their last actions.
        atla: preset of ATLA's adversary.
        alpha_steps: over which ATSA's temperature falls from .5 to .05.
        director_steps: of the director that is trained against a team as it is.
        episodes: per cell of the table.
        suite: whether the worst case is over gradient attacks, too.
    """

    epsilon: float
    steps: int
    attacked: float = 0.5
    attacked_by_atla: float = 1.0
    ramp: float = 0.0
    explore: int = 30_000
    envs: int = 16
    batch: int = 16
    buffer: int = 1_000
    lr: float = 1e-3
    falls: float = 1.0
    gamma: float = 0.97
    td_lambda: float = 0.8
    targets: int = 50
    scale: float = 1.0
    hidden: tuple[int, ...] = (64, 64)
    recurrent: bool = False
    atla: Literal["paper"] | None = None
    alpha_steps: int = 40_000
    director_steps: int = 25_000
    episodes: int = 500
    suite: bool = True

    @property
    def ball(self) -> LinfBall:
        """What attacks may change."""
        return LinfBall(epsilon=self.epsilon, low=-1.0, high=1.0)

    @property
    def radius(self) -> Linear | None:
        """The radius of attacks in training over time; None is always ``epsilon``."""
        if self.ramp == 0.0:
            return None
        return Linear(
            0.0, self.epsilon, over=max(1, round(self.ramp * self.steps)), unit="env_steps"
        )

    def optim(self, share: float = 1.0) -> OptimizerFactory:
        """Return Adam at this learning rate over time.

        Args:
            share: of the training's steps that what learns plays, and counts, itself.
        """
        begin, end = round(share * self.falls * self.steps), round(share * self.steps)
        if begin == end:
            return adam(self.lr)
        return adam(Linear(self.lr, 0.0, over=end - begin, begin=begin, unit="env_steps"))

    @property
    def plan(self) -> dict[str, Any]:
        """All of it as plain data; finished cells know nothing of what came later."""
        plain = {"attacked_by_atla": 1.0, "ramp": 0.0, "scale": 1.0, "falls": 1.0}
        return {k: v for k, v in asdict(self).items() if k not in plain or v != plain[k]}

    @property
    def label(self) -> str:
        """What it is known by in folders."""
        rising = f"-r{self.ramp:g}" if self.ramp else ""
        rate = f"-lr{self.lr:g}" if self.lr != type(self).lr else ""
        by_atla = f"-atla{self.attacked_by_atla:g}" if self.attacked_by_atla != 1.0 else ""
        falling = f"-f{self.falls:g}" if self.falls != 1.0 else ""
        scaled = f"-q{self.scale:g}" if self.scale != 1.0 else ""
        attacks = f"-e{self.epsilon:g}-a{self.attacked:g}{by_atla}{rising}"
        return f"{self.steps}{attacks}{rate}{falling}{scaled}"


_RELEASE = {
    "steps": 2_050_000,
    "attacked": 1.0,
    "explore": 50_000,
    "envs": 8,
    "batch": 32,
    "buffer": 5_000,
    "lr": 5e-4,
    "gamma": 0.99,
    "td_lambda": 0.0,
    "targets": 200,
    "hidden": (64,),
    "recurrent": True,
    "atla": "paper",
    "alpha_steps": 90_000,
    "director_steps": 200_000,
}
PRESETS: dict[str, dict[str, Task]] = {
    # 3m and 8m can be won by a team that sees nothing but its action mask; 3s_vs_3z cannot.
    "quick": {
        "3s_vs_3z": Task(epsilon=0.1, steps=100_000),
        "3m": Task(epsilon=0.25, steps=80_000, attacked=1.0),
        "8m": Task(epsilon=0.1, steps=80_000, attacked=1.0),
    },
    "paper": {
        "3s_vs_3z": Task(epsilon=0.25, **_RELEASE),
        "3m": Task(epsilon=0.25, **_RELEASE),
        "8m": Task(epsilon=0.1, **_RELEASE),
    },
}


class Group(NamedTuple):
    """Cells that share what they are trained and tested with."""

    name: str
    backbone: str
    seed: int
    task: Task
    folder: Path

    def path(self, method: str, ending: str = ".json") -> Path:
        """Return where a cell's raw scores are, or with another ending the folder of its run."""
        return self.folder / f"{method.replace(', ', '_').replace(' ', '_')}-{self.seed}{ending}"

    def key(self, work: str, method: str) -> Key:
        """Return what one of its cells is asked for by."""
        return work, self.name, self.backbone, method, self.seed

    @property
    def plan(self) -> dict[str, Any]:
        """What a cell's scores depend on, as plain data."""
        return json.loads(
            json.dumps({"map": self.name, "backbone": self.backbone, **self.task.plan})
        )


class Made(NamedTuple):
    """What a method trains.

    Attributes:
        learner: what ``training.run`` is given.
        team: the team in it.
        adversary: what learns against it, or None.
        perturb: what perturbs it while it trains, and learns nothing.
    """

    learner: Any
    team: Any
    adversary: Any = None
    perturb: Any = None


def maker(name: str) -> Callable[[], Env]:
    """Return what makes an environment: a skirmish map, or the task of another example."""
    others: dict[str, Callable[[], Env]] = {
        "merge": envs.merge,
        "predator_prey": partial(envs.predator_prey, integrator="semi-implicit"),
        "predator_prey, explicit": envs.predator_prey,
    }
    return others.get(name, partial(envs.skirmish, name))


def build(method: str, group: Group) -> Made:
    """Return what a method trains."""
    task, seed, spec = group.task, group.seed, spec_of(maker(group.name)())
    ball = task.ball
    shared: dict[str, Any] = {
        "hidden": task.hidden,
        "recurrent": task.recurrent,
        "last_action": task.recurrent,
        "optim": task.optim(),
        "gamma": task.gamma,
        "target_update": task.targets,
        "target_unit": "updates",
    }
    fades = Linear(1.0, 0.05, over=task.explore, unit="env_steps")
    settings = shared | {"td_lambda": task.td_lambda, "exploration": fades, "seed": seed}
    kind: Any = {"VDN": algorithms.VDN, "QMIX": algorithms.QMIX}[group.backbone]
    if method in ("PR", "PR-REP", "ERNIE"):
        return _regularised(method, kind, task, spec, settings)
    team = kind.for_env(spec, **settings)
    attacks_of: dict[str, Any] = {
        "RN": attacks.UniformNoise(ball=ball),
        "FGSM": attacks.PGD.fgsm(ball),
    }
    if method in attacks_of:
        perturb = ObsPerturber(attacks_of[method], episodes=task.attacked, epsilon=task.radius)
        return Made(team, team, perturb=perturb)
    if method in ("NoAdv", BLIND):
        return Made(team, team, perturb=ZeroedObs() if method == BLIND else None)
    adversary = _adversary(method, group, spec, shared, settings)
    return Made(training.AdversarialTraining(team, adversary), team, adversary)


def _adversary(
    method: str, group: Group, spec: Any, shared: dict[str, Any], settings: dict[str, Any]
) -> Any:
    """Return what learns against a team: of ``settings``, a director of the team's own kind."""
    task, mixer = group.task, group.backbone.lower()
    one, seed = stor(task.ball), group.seed
    generator = stor(task.ball, steps=10) if method.endswith("-10") else one
    rising = task.radius
    if method == "ATLA":
        return adversaries.ObsAdversaryPPO.for_env(
            spec,
            task.ball,
            preset=task.atla,
            episodes=task.attacked_by_atla,
            epsilon=rising,
            seed=seed,
        )
    if method.startswith("ROMANCE"):
        if method == "ROMANCE-p":  # forces actions, which have no radius
            return adversaries.ROMANCE.for_env(spec, episodes=task.attacked, seed=seed)
        return adversaries.ROMANCE.for_env(
            spec, one, episodes=task.attacked, epsilon=rising, seed=seed
        )
    if method == "RAP":
        number = 5  # the paper does not say; each counts the steps that it played itself
        explores = Linear(1.0, 0.05, over=-(-task.explore // number), unit="env_steps")
        return adversaries.RAP.for_env(
            spec,
            one,
            number=number,
            mixer=mixer,
            episodes=task.attacked,
            epsilon=rising,
            **settings | {"exploration": explores, "optim": task.optim(1 / number)},
        )
    if method.startswith("PAAD"):
        return adversaries.PAAD.for_env(
            spec, generator, mixer=mixer, episodes=task.attacked, epsilon=rising, **settings
        )
    hot = 0.001 if method == "ATSA, alpha 0" else 0.5
    return adversaries.ATSA.for_env(
        spec,
        generator,
        alpha=Linear(hot, min(hot, 0.05), over=task.alpha_steps, unit="env_steps"),
        kappa=0.0 if method == "ATSA, kappa 0" else 0.005,
        critic_optim=task.optim(),
        episodes=task.attacked,
        epsilon=rising,
        seed=seed,
        **shared,
    )


def _regularised(method: str, kind: Any, task: Task, spec: Any, settings: dict[str, Any]) -> Made:
    """Return a team that learns on clean observations, with a term for perturbed ones."""
    weight = 0.1 * task.scale
    if method == "ERNIE":

        class Smooth(losses.LipschitzRegularizer, kind):  # type: ignore[misc]
            """ERNIE's."""

        smooth = losses.LipschitzLoss(attack=attacks.LipschitzAttack(ball=task.ball), weight=weight)
        team = Smooth.for_env(spec, lipschitz_loss=smooth, **settings)
        return Made(team, team)

    class Held(losses.PolicyRegularizer, kind):  # type: ignore[misc]
        """Robust QMIX's."""

    fgsm = attacks.PGD.fgsm(task.ball)
    held = losses.PolicyLoss.repetitive(fgsm, task.steps, peak=weight, margin=task.scale)
    if method == "PR":
        # late and slowly: from the start the term keeps teams from learning at all
        quarter = max(1, task.steps // 4)
        ramp = Linear(0.0, weight, over=quarter, begin=quarter, unit="env_steps")
        held = losses.PolicyLoss(attack=fgsm, weight=ramp, margin=task.scale)
    team = Held.for_env(spec, policy_loss=held, **settings)
    return Made(team, team)


def trained(method: str, group: Group, make: Callable[[str, Group], Made] = build) -> Made:
    """Return what a method has trained.

    Raises:
        ValueError: if it has not.
    """
    weights = group.path(method, "") / "weights.pt"
    if not weights.exists():
        raise ValueError(
            f"the run of {method} on {group.name}, {group.backbone}, seed {group.seed}, must be "
            f"finished, got no {weights}. Add {method} to --methods."
        )
    made = make(method, group)
    training.load_weights(made.learner, weights)
    return made


def train(
    method: str,
    group: Group,
    position: int | None,
    make: Callable[[str, Group], Made] = build,
    updates: float = 1.0,
) -> None:
    """Train a protagonist, going on from its checkpoint if there is one.

    Args:
        method: how.
        group: what it is of.
        position: line of its bar, None for none.
        make: returns what is trained.
        updates: per episode.
    """
    run = group.path(method, "")
    if (run / "weights.pt").exists():
        return
    begun, made, task = time.process_time(), make(method, group), group.task
    history = training.run(
        made.learner,
        maker(group.name),
        env_steps=task.steps,
        num_envs=task.envs,
        seed=group.seed,
        perturb=made.perturb or (),
        learn=training.OffPolicy(
            batch_size=task.batch,
            learning_starts=task.batch,
            buffer_episodes=task.buffer,
            updates_per_episode=updates,
        ),
        log=training.Log(
            run,
            resume=True,
            progress=position is not None
            and f"{group.name} {group.backbone} {method} {group.seed}",
            bar_position=position or 0,
        ),
    )
    seconds = None if history.resumed else round(time.process_time() - begun, 1)
    (run / "cost.json").write_text(json.dumps({"cpu_seconds": seconds}))
    training.save_weights(made.learner, run / "weights.pt")
    (run / "checkpoint.pt").unlink()  # the replay buffer is in it


def columns(task: Task, teachers: Mapping[str, Made], steps: int = 1) -> dict[str, Any]:
    """Return the attacks of the paper's columns, with generators of so many steps."""
    ball = task.ball
    learned = {
        name: DirectedObsPerturber(
            teachers[name].adversary.deployed().director, stor(ball, steps=steps)
        )
        for name in ("PAAD", "ATSA")
    }
    gaussian = teachers["ATLA"].adversary.deployed().attack.with_epsilon(ball.epsilon)
    return {
        "NoAdv": None,
        "RN": attacks.UniformNoise(ball=ball),
        "FGSM": attacks.PGD.fgsm(ball),
        "ATLA": ObsPerturber(gaussian),
        **learned,
    }


class Obeyed(Perturber):
    """Counts how often living agents do what a director names; changes nothing."""

    kind = "obeyed"
    changes_actions = False  # of on_act, which counts alone

    def __init__(self, director: DirectedObsPerturber) -> None:
        self.director, self.obeyed, self.clean, self.steps = director, 0, 0, 0

    def on_act(self, context: StepContext, act: torch.Tensor) -> torch.Tensor:
        """Count, and return the actions as they are."""
        playing = context.acting & (context.mask.sum(dim=-1) > 1)
        self.steps += int(playing.sum())
        self.obeyed += int((playing & (act == self.director.target)).sum())
        self.clean += int((playing & (self.director.size == 0)).sum())
        return act

    def shares(self) -> dict[str, float]:
        """Return how often agents with a choice obeyed, and saw the truth."""
        steps = max(self.steps, 1)
        return {"realised": self.obeyed / steps, "clean": self.clean / steps}


def suite(group: Group, teachers: Mapping[str, Made]) -> Suite:
    """Return what the worst case is taken over: the columns, gradients, and a best response."""

    def known(case: Case) -> dict[str, Any]:
        ten = columns(group.task, teachers, steps=10)
        return {f"{name}, 10 steps": ten[name] for name in ("PAAD", "ATSA")}

    def response(case: Case) -> dict[str, Any]:
        half = Linear(1.0, 0.05, over=max(1, group.task.director_steps // 2), unit="env_steps")
        adversary = adversaries.PAAD.for_env(
            case.spec,
            stor(case.ball, steps=10),
            exploration=half,
            optim=adam(1e-3),
            gamma=0.97,
            td_lambda=0.8,
            target_update=50,
            target_unit="updates",
            hidden=group.task.hidden,
            recurrent=group.task.recurrent,
            last_action=group.task.recurrent,
            seed=case.seed,
        )
        return {"br-10": case.trained(adversary, group.task.director_steps)}

    entries = [Entry(family="learned", build=one) for one in (known, response)]
    base = evaluation.quick()
    if not group.task.suite:
        base = replace(base, entries=base.entries[1:2])  # with PGD, which is a column
    return base.extended(*entries, name="directors")


def test(method: str, group: Group) -> dict[str, Any]:
    """Return the raw scores of a protagonist: who won which episode, column by column."""
    task, make = group.task, partial(envs.skirmish, group.name)
    team = trained(method, group).team
    teachers = {name: trained(name, group) for name in TEACHERS}
    play = partial(evaluation.rollout, team, make, num_envs=64, seed=10_000)

    def wins(perturb: Any, episodes: int = task.episodes) -> list[int]:
        return play(perturb=perturb, episodes=episodes).figure("battle_won").astype(int).tolist()

    if method == BLIND:
        return {"columns": dict.fromkeys(COLUMNS, wins(ZeroedObs()))}
    found: dict[str, Any] = {"columns": {}, "directors": {}}
    begun = time.process_time()
    for name, attack in columns(task, teachers).items():
        if isinstance(attack, DirectedObsPerturber):
            counter = Obeyed(attack)
            found["columns"][name] = wins([attack, counter])
            found["directors"][name] = counter.shares()
        else:
            found["columns"][name] = wins(attack)
    found["columns_cpu_seconds"] = round(time.process_time() - begun, 1)
    greedy = teachers["ATSA"].adversary.deployed(greedy=True).director
    found["columns"]["ATSA, greedy"] = wins(DirectedObsPerturber(greedy, stor(task.ball)))
    if method in SWEPT:
        sizes = [task.epsilon * k / 5 for k in range(1, 6)]
        found["sweep"] = {
            f"{size:g}": {
                name: wins(attack, max(1, task.episodes // 4))
                for name, attack in columns(replace(task, epsilon=size), teachers).items()
                if name in SWEEP
            }
            for size in sizes
        }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RobustnessWarning)
        worst = evaluation.worst_case(
            {method: team},
            make,
            task.ball,
            suite=suite(group, teachers),
            episodes=max(1, task.episodes // 2),
            choice_episodes=max(1, task.episodes // 5),
            num_envs=64,
        )
    found["worst"] = {
        row: {
            name: next(iter(cell.scores.values())).astype(int).tolist() for name, cell in by.items()
        }
        for row, by in worst.table.cells.items()
    }
    found["chosen"] = worst.chosen[method][0]
    found["findings"] = [str(w.message) for w in caught]
    return found


def jobs_of(groups: list[Group], methods: list[str]) -> list[Job[Key]]:
    """Return trainings and tests, those first that others need."""
    found = []
    for group in groups:
        trainings = dict.fromkeys([*TEACHERS, BLIND, *methods])
        for work, names in ((train_cell, trainings), (test_cell, [BLIND, *methods])):
            for method in names:
                file = group.path(method, "").name
                tested = work is test_cell
                needed = dict.fromkeys([method, *TEACHERS]) if tested else {}
                found.append(
                    Job(
                        key=group.key("test" if tested else "train", method),
                        name=f"{group.folder.name}/{file if tested else f'train/{file}'}",
                        work=partial(work, method=method, group=group),
                        settings=group.plan,
                        after=[group.key("train", name) for name in needed],
                    )
                )
    return found


def train_cell(place: Workplace, *, method: str, group: Group) -> dict[str, float | None]:
    """Train a protagonist, and return what that took."""
    train(method, group, place.position)
    cost: dict[str, float | None] = json.loads((group.path(method, "") / "cost.json").read_text())
    return cost


def test_cell(place: Workplace, *, method: str, group: Group) -> dict[str, Any]:
    """Return the raw scores of a protagonist, and what it took to have them."""
    begun, cost = time.process_time(), group.path(method, "") / "cost.json"
    scores = test(method, group)
    return {
        "method": method,
        "seed": group.seed,
        **json.loads(cost.read_text()),
        "test_cpu_seconds": round(time.process_time() - begun, 1),
        **scores,
    }


def learned(
    runs: Mapping[str, list[Path]], figure: str, begun: Mapping[str, int] | None = None
) -> dict[str, list[np.ndarray]]:
    """Return learning curves of finished trainings, each of shape (2, points): steps and figures.

    Args:
        runs: method to folders of its trainings; those without a history are left out.
        figure: what of episodes.
        begun: method to the steps that its teams had played before, 0 where it is not named.
    """
    curves: dict[str, list[np.ndarray]] = {}
    for method, folders in runs.items():
        for told in (folder / "history.json" for folder in folders):
            if not told.exists():
                continue
            history = json.loads(told.read_text("utf-8"))
            pairs = zip(history["env_steps"], history["train"][figure], strict=True)
            known = [(x, y) for x, y in pairs if y is not None and np.isfinite(y)]
            if known:
                curve = np.array(known).T
                curve[0] += (begun or {}).get(method, 0)
                curves.setdefault(method, []).append(curve)
    return curves


def beside(
    ours: Mapping[str, list[float]], paper: Mapping[str, list[float]], digits: int = 2
) -> str:
    """Return means under the paper's columns beside its own, and how both rank.

    Args:
        ours: protagonist to its means, by column.
        paper: likewise, of these protagonists and perhaps others.
        digits: behind the point.
    """
    lines = [["protagonist", *COLUMNS, "AVG"], ["---"] * (2 + len(COLUMNS))]
    for method, mine in ours.items():
        pairs = [*zip(mine, paper[method], strict=True), (np.mean(mine), np.mean(paper[method]))]
        lines.append([method, *(f"{one:.{digits}f} / {two:.{digits}f}" for one, two in pairs)])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    if len(ours) < 3:
        return text
    both = np.array([*ours.values()]), np.array([paper[method] for method in ours])
    figures = {
        "of protagonists by AVG": [one.mean(axis=1) for one in both],
        "of columns by mean": [one.mean(axis=0) for one in both],
        "of all cells": [one.ravel() for one in both],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant figures there is no rank: nan
        ranks = [f"{name} {stats.spearmanr(*pair).statistic:.2f}" for name, pair in figures.items()]
    return f"{text}\nRank correlation with the paper (Spearman's): {', '.join(ranks)}.\n"


class Results:
    """Finished cells of one map and backbone: tables, figures and text are made of them alone."""

    def __init__(self, name: str, backbone: str, cells: list[dict[str, Any]]) -> None:
        self.title, self.epsilon = f"{name} {backbone}", cells[0]["epsilon"]
        self.of = {m: [c for c in cells if c["method"] == m] for m in (BLIND, *METHODS)}
        self.of = {method: found for method, found in self.of.items() if found}
        self.paper = json.loads(PRINTED.read_text()).get(self.title, {})
        self.known = [m for m in METHODS if m in self.of]

    def row(self, method: str, part: str, pick: Callable[[Any], Any] = lambda of: of) -> Any:
        """Return column to cell over training seeds, of one part of the scores."""
        by_seed = {c["seed"]: pick(c[part]) for c in self.of[method] if part in c}
        names = next(iter(by_seed.values()), {})
        return {n: Cell({s: scores[n] for s, scores in by_seed.items()}) for n in names}

    def main(self) -> CrossTable:
        """Return protagonists x the paper's columns."""
        rows, baselines = {}, [BLIND] if BLIND in self.of else []
        for name in ("random", "untrained"):
            if self.known:
                none = self.row(self.known[0], "worst", lambda of, name=name: of[name])["none"]
                rows[name] = {"NoAdv": none}
                baselines.append(name)
        for method in self.of:
            found = self.row(method, "columns")
            rows[method] = {name: found[name] for name in COLUMNS}
        title = f"{self.title}: share of battles won, epsilon {self.epsilon:g}"
        table = CrossTable(
            cells=rows, metric="share of battles won", baselines=baselines, title=title
        )
        return table.with_average(COLUMNS, reference="ATSA" if "ATSA" in self.of else None)

    def ours(self) -> CrossTable | None:
        """Return protagonists x what the paper has not: stronger attacks, and none that is seen."""
        rows: dict[str, dict[str, Cell]] = {}
        for method in self.known:
            greedy = self.row(method, "columns")["ATSA, greedy"]
            found = self.row(method, "worst", lambda of, method=method: of[method])
            blind = {
                fold: self.row(method, "worst", lambda of, row=f"{method}, {fold}": of[row])["none"]
                for fold in ("zeroed", "another's")
            }
            kept = ("PGD-10", "PAAD, 10 steps", "ATSA, 10 steps", "br-10", "worst")
            rows[method] = {"ATSA, greedy": greedy} | {name: found[name] for name in kept} | blind
        title = f"{self.title}: what the paper does not have"
        return CrossTable(cells=rows, metric="share of battles won", title=title) if rows else None

    def beside(self, table: CrossTable) -> str:
        """Return ours and the paper's cells side by side, how they rank, and attacks' strength."""
        ours = {m: [table.mean(m, column) for column in COLUMNS] for m in self.known}
        ours = {m: row for m, row in ours.items() if m in self.paper}
        if not ours:
            return ""
        pair = np.array([*ours.values()]), np.array([self.paper[m] for m in ours])
        means = zip(COLUMNS, *(one.mean(axis=0) for one in pair), strict=True)
        strength = ", ".join(f"{column} {one:.2f} / {other:.2f}" for column, one, other in means)
        return (
            f"{beside(ours, self.paper)}\nMean over these protagonists, ours / paper: {strength}.\n"
        )

    def directors(self) -> str:
        """Return how often teams did what directors named, and saw the truth."""
        head = [
            "protagonist",
            *(f"{d}: {f}" for d in ("PAAD", "ATSA") for f in ("obeyed", "clean")),
        ]
        lines = [head, ["---"] * len(head)]
        for method in self.known:
            shares = [
                np.mean([c["directors"][name][key] for c in self.of[method]])
                for name in ("PAAD", "ATSA")
                for key in ("realised", "clean")
            ]
            lines.append([method, *(f"{share:.2f}" for share in shares)])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def claims(self, table: CrossTable) -> str:
        """Return what the paper's figures say, and whether ours do: those that can be judged."""
        mean = {m: np.array([table.mean(m, column) for column in COLUMNS]) for m in self.known}
        average = {m: float(row.mean()) for m, row in mean.items() if m in PAPER}
        hard = [COLUMNS.index(name) for name in ("FGSM", "PAAD", "ATSA")]
        lines = [["claim", "ours", "held"], ["---"] * 3]

        def judge(
            claim: str, methods: tuple[str, ...], told: str, held: Callable[[], bool]
        ) -> None:
            if all(method in mean for method in methods):
                lines.append([claim, told, "yes" if held() else "no"])

        best = max(average, key=average.__getitem__)
        judge(
            "ATSA has the best average",
            ("ATSA",),
            f"{best} {average[best]:.2f}, ATSA {average.get('ATSA', np.nan):.2f}",
            lambda: average["ATSA"] == average[best],
        )
        for method in (m for m in WEAK if m in mean):
            figures = " ".join(f"{value:.2f}" for value in mean[method][hard])
            judge(
                f"{method} falls to 0 under FGSM, PAAD and ATSA",
                (method,),
                figures,
                lambda method=method: bool((mean[method][hard] <= 0.1).all()),
            )
        for method in ("FGSM", "PAAD", "ATSA"):
            own = float(mean[method][COLUMNS.index(method)]) if method in mean else np.nan
            held = partial(bool, own >= 0.68)
            judge(f"{method} withstands its own attack", (method,), f"{own:.2f}", held)
        strong = [(average[m], m) for m in STRONG if m in average]
        weak = [(average[m], m) for m in WEAK if m in average]
        if strong and weak:
            (low, lowest), (high, highest) = min(strong), max(weak)
            told = f"{lowest} {low:.2f}, {highest} {high:.2f}"
            text = f"{', '.join(STRONG)} are all ahead of {', '.join(WEAK)}"
            judge(text, (), told, lambda: low > high)
        if average:
            by_column = np.mean([mean[m] for m in average], axis=0)
            told = ", ".join(f"{c} {v:.2f}" for c, v in zip(COLUMNS, by_column, strict=True))
            order = [COLUMNS.index(c) for c in ("ATSA", "FGSM", "ATLA", "NoAdv")]
            rising = np.diff(by_column[order])
            judge("attacks rank ATSA, FGSM, ATLA, none", (), told, lambda: bool((rising > 0).all()))
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def draw_sweep(self, path: Path) -> None:
        """Draw the protagonists of the paper's sweep over the size of attacks."""
        panels: dict[str, dict[str, Curve]] = {name: {} for name in SWEEP}
        for method in (m for m in SWEPT if m in self.of):
            clean = self.row(method, "columns")["NoAdv"].estimate
            sizes = list(self.of[method][0]["sweep"])
            for name, curves in panels.items():
                found = [self.row(method, "sweep", lambda of, s=s: of[s])[name] for s in sizes]
                x = [0.0, *map(float, sizes)]
                curves[method] = Curve(x=x, estimates=[clean, *(one.estimate for one in found)])
        if all(panels.values()):
            evaluation.size_curves(panels, path, ylabel="share of battles won", title=self.title)

    def draw_learning(self, groups: list[Group], path: Path) -> None:
        """Draw what protagonists win while they train, under what they train under."""
        runs = {method: [group.path(method, "") for group in groups] for method in self.known}
        curves = learned(runs, "battle_won")
        if curves:
            evaluation.learning_curves(
                curves,
                path,
                ylabel="share of battles won in training",
                title=self.title,
                limits=(0.0, 1.0),
            )

    def write(self, groups: list[Group], out: Path) -> str:
        """Write tables and figures, and return the text."""
        stem = f"{self.title.replace(' ', '_')}-{groups[0].task.label}"
        table, ours = self.main(), self.ours()
        table.to_json(out / f"{stem}.json")
        table.plot(out / f"{stem}.png")
        text = [f"## {table.title}\n\n{table.to_markdown()}"]
        if self.paper and self.known:
            text.append(f"### Ours / the paper's\n\n{self.beside(table)}")
            text.append(self.claims(table))
        if ours is not None:
            ours.to_json(out / f"{stem}-ours.json")
            ours.plot(out / f"{stem}-ours.png")
            text.append(f"### Attacks that the paper has not\n\n{ours.to_markdown()}")
            text.append(f"### What directors achieve\n\n{self.directors()}")
        self.draw_sweep(out / f"{stem}-sweep.png")
        self.draw_learning(groups, out / f"{stem}-learning.png")
        costs = {
            "cpu_seconds": "training",
            "columns_cpu_seconds": "the paper's columns",
            "test_cpu_seconds": "test",
        }
        for key, what in costs.items():
            known = {m: [c[key] for c in self.of[m] if c.get(key)] for m in self.of}
            spent = ", ".join(f"{m} {np.median(v):.0f}" for m, v in known.items() if v)
            text.append(f"CPU seconds for {what} (median over seeds): {spent}.\n")
        return "\n".join(text)


def smoke(task: Task) -> Task:
    """Return the task cut down to a second."""
    return replace(
        task,
        steps=600,
        explore=300,
        envs=4,
        batch=4,
        hidden=(8,),
        director_steps=300,
        episodes=2,
        suite=False,
    )


def main() -> None:
    """Run all cells that are missing, and report on all that are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--maps", nargs="+", choices=PRESETS["quick"])
    parser.add_argument("--backbones", nargs="+", choices=["VDN", "QMIX"], default=["QMIX", "VDN"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (default: 1)")
    parser.add_argument("--steps", type=int, help="environment steps per training")
    parser.add_argument("--epsilon", type=float, help="of all attacks")
    parser.add_argument("--attacked", type=float, help="share of training episodes attacked")
    parser.add_argument("--ramp", type=float, help="share of it over which radii rise, at most 1")
    parser.add_argument("--episodes", type=int, help="per cell (default: 500)")
    directors = "take the worst case over directors and PGD alone: half of the tests' time"
    parser.add_argument("--no-suite", action="store_true", help=directors)
    parser.add_argument("--out", type=Path, default=Path("runs/atsa"), help="output folder")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.ramp is not None and not 0.0 <= args.ramp <= 1.0:
        parser.error(f"--ramp must be in [0, 1], got {args.ramp:g}")
    tasks, out = PRESETS[args.preset], args.out / args.preset
    given = {
        key: getattr(args, key) for key in ("steps", "epsilon", "attacked", "ramp", "episodes")
    }
    given = {key: value for key, value in given.items() if value is not None}
    given |= {"suite": False} if args.no_suite else {}
    tasks = {name: replace(task, **given) for name, task in tasks.items()}
    names, methods = args.maps or list(tasks), args.methods
    if args.smoke:
        tasks = {name: smoke(task) for name, task in tasks.items()}
        out, names, args.seeds, args.backbones = args.out / "smoke", ["3m"], [0], ["QMIX"]
        methods = ["NoAdv", "ATSA"]
    groups = [
        Group(name, backbone, seed, task, out / f"{name}-{backbone}-{task.label}")
        for seed in args.seeds
        for name, task in ((name, tasks[name]) for name in names)
        for backbone in args.backbones
    ]
    run = evaluation.read_cells if args.report else partial(evaluation.run_cells, jobs=args.jobs)
    cells = run(jobs_of(groups, methods), out)
    texts = []
    for name in names:
        for backbone in args.backbones:
            chosen = [g for g in groups if (g.name, g.backbone) == (name, backbone)]
            keys = [g.key("test", method) for g in chosen for method in (BLIND, *methods)]
            found = [cells[key] for key in keys if key in cells]
            if found:
                texts.append(Results(name, backbone, found).write(chosen, out))
                print(f"\n{texts[-1]}")
    if texts:
        (out / "atsa.md").write_text("\n".join(texts))
        print(f"Tables, figures and raw scores are in {out}/")


if __name__ == "__main__":
    main()
