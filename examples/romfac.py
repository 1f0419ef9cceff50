"""RoMFAC's tables on magent2: teams of many, of which more and more are deceived.

    python examples/romfac.py --jobs 2                     # Battle and Pursuit at a quick size
    python examples/romfac.py --tasks battle --seeds 0     # one of them, one training seed
    python examples/romfac.py --tasks "battle 64" --seeds 0 --methods MFAC RoMFAC   # 64 against 64
    python examples/romfac.py --tasks "battle early" "battle self-play"   # other schedules and foes
    python examples/romfac.py --full                       # as wide as the paper, Pursuit; hours
    python examples/romfac.py --report                     # tables and figures of finished runs
    python examples/romfac.py --director 160 --seeds 0     # and one that learns against each team
    python examples/romfac.py --cells --seeds 0            # and on how many cells decisions hang
    python examples/romfac.py --smoke                      # seconds, figures mean nothing

Trains MFAC, RoMFAC and its relatives on clean rounds. Then PGD perturbs the observations of M
agents that are drawn for each round, and a suite of attacks those of the whole team. What is
finished is not run again when the command is given again: trainings continue from their
checkpoints, and raw scores are in the output folder; all tables and figures are made of them alone.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from robustmarl import adversaries, algorithms, attacks, data, envs, evaluation, training
from robustmarl.algorithms.romfac import romfac_loss
from robustmarl.budgets import LinfBall
from robustmarl.envs.magent import Charge, MagentEngine, picture
from robustmarl.envs.skirmish import save_replay
from robustmarl.evaluation import Case, Cell, CrossTable, Curve, Entry, Job, Suite, Workplace
from robustmarl.evaluation.meter import Meter
from robustmarl.joint import StepContext, spec_of
from robustmarl.learning import adam
from robustmarl.losses import ActionLoss
from robustmarl.perturbers import ObsPerturber, Perturber, RandomAgents, stor
from robustmarl.schedules import Linear

Key = tuple[str, str, int]
"""Task, method and training seed of a cell."""

METHODS = ("MFAC", "SA-MFAC", "SA-MFAC3", "RoMFAC1", "RoMFAC")
BASELINES = ("random", "untrained")
EPSILON = 0.075  # the paper's, in training and tests
SHARES = (
    0.0,
    0.125,
    0.25,
    0.5,
    0.75,
    1.0,
)  # of the team that is attacked: 0 to 64 of the paper's 64
BALL = LinfBall(epsilon=EPSILON, low=0.0, high=2.0)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A game at one size, and how long teams train on it with what settings.

    Attributes:
        make: builds the game.
        team: who learns, and is attacked.
        opponent: the other team.
        figures: what is reported, beside the return.
        rounds: of training; a round is played in ``games`` games at once.
        warmup: share of the rounds before the first loop.
        games: see ``rounds``.
        minibatch: rows per gradient step, agents times steps.
        hidden: widths of the networks.
        lr: learning rate of actor and critic.
        peak: weight of the action loss at its highest.
        steps: of PGD in training.
        loud: share of random actions of the scripted opponent.
        opponent_rounds: of the training of an opponent that learns.
        foes: against whom teams are tested.
        start: the smaller task whose MFAC team of the same seed all begin from; None is none.
        copied: share of the rounds, the last ones, against a slow copy of the team itself.
        foe_hidden: widths of an opponent that learns, where they are not the team's.
    """

    make: Callable[[], Any]
    team: str
    opponent: str
    figures: tuple[str, ...]
    rounds: int
    warmup: float = 0.6
    games: int = 4
    minibatch: int = 1_024
    epochs: int = 3
    hidden: tuple[int, ...] = (64, 64)
    lr: float = 5e-4
    peak: float = 0.2
    steps: int = 5
    loud: float = 0.7
    opponent_rounds: int = 200
    foes: tuple[str, ...] = ("A2C",)
    start: "Task | None" = None
    copied: float = 0.0
    foe_hidden: tuple[int, ...] | None = None

    @property
    def first(self) -> "Task":
        """The task of the teams that all begin from, with networks of the same widths."""
        assert self.start is not None
        return replace(self.start, hidden=self.hidden)

    @property
    def size(self) -> int:
        """How many agents the team has."""
        return spec_of(self.make()).of_team(self.team).num_agents

    @property
    def attacked(self) -> tuple[int, ...]:
        """How many of them are attacked, column by column."""
        return tuple(dict.fromkeys(round(share * self.size) for share in SHARES))


BATTLE = Task(
    make=partial(envs.battle, 20, horizon=200),
    team="red",
    opponent="blue",
    figures=("red_won", "red_kills"),
    rounds=300,
    foes=("script",),
)
PURSUIT = Task(
    make=partial(envs.pursuit, 25, predators=8, prey=16, horizon=100),
    team="predator",
    opponent="prey",
    figures=("tags",),
    rounds=300,
)
TASKS = {
    "battle": BATTLE,
    "pursuit": PURSUIT,
    # What loops do to teams that have not learned yet, and to such as play against themselves.
    "battle early": replace(BATTLE, warmup=0.1),
    "battle self-play": replace(BATTLE, rounds=600, copied=0.5),
    # Whether Pursuit's losses are for want of a good schedule, of rounds or of widths.
    "pursuit early": replace(PURSUIT, warmup=0.1),
    "pursuit long": replace(PURSUIT, rounds=900),
    "pursuit wide": replace(PURSUIT, hidden=(256, 256), foe_hidden=PURSUIT.hidden),
    # From scratch most learn within twenty rounds never to strike, and keep to it for hundreds; at
    # 5e-4 others forget how to, and at a peak of .2 they strike at nobody, whatever they see.
    "battle 64": replace(
        BATTLE,
        make=partial(envs.battle, 40),
        games=1,
        lr=1e-4,
        rounds=400,
        warmup=0.25,
        peak=0.02,
        start=BATTLE,
    ),
    # As wide as the paper: at 5e-4 such teams lose what they learned of twelve, at 1e-4 of 64.
    "battle 64 wide": replace(
        BATTLE,
        make=partial(envs.battle, 40),
        games=1,
        hidden=(256, 256),
        lr=5e-5,
        rounds=400,
        warmup=0.25,
        peak=0.01,
        start=replace(BATTLE, lr=2e-4),
    ),
    "pursuit 32": replace(
        PURSUIT,
        make=partial(envs.pursuit, 50, predators=32, prey=64),
        games=1,
        hidden=(256, 256),
        rounds=2_000,
    ),
}
VIEWS = {"red": (13, 13, 5), "predator": (10, 10, 5)}  # rows, columns, channels
QUICK, FULL = ("battle", "pursuit"), ("battle 64 wide", "pursuit 32")


def suite() -> Suite:
    """Return what the worst case is taken over: no gradient, several, none that is asked for."""
    entries = {"noise": _noise, "gradient": _gradient, "targeted": _aimed, "black box": _asking}
    return Suite(
        name="many agents",
        version=1,
        entries=tuple(Entry(family=family, build=build) for family, build in entries.items()),
    )


def _noise(case: Case) -> dict[str, ObsPerturber]:
    return {"noise": case.on(attacks.UniformNoise(ball=case.ball))}


def _gradient(case: Case) -> dict[str, ObsPerturber]:
    margin = attacks.APGD(ball=case.ball, loss="dlr", steps=10)
    return {"PGD-10": case.on(attacks.PGD(ball=case.ball)), "APGD dlr": case.on(margin)}


def _aimed(case: Case) -> dict[str, ObsPerturber]:
    """Return attacks towards an action that is held: nothing, or a blow to one side."""
    aims = {"idle": 6, "hit": 13} if case.spec.num_actions == 21 else {"idle": 2, "tag": 5}
    aimed = attacks.APGD(ball=case.ball, loss="margin", steps=10)
    return {f"target {name}": case.on(replace(aimed, target=act)) for name, act in aims.items()}


def _asking(case: Case) -> dict[str, ObsPerturber]:
    """Return a search by outputs alone, which finds what gradients hide."""
    search = attacks.SquareSearch(ball=case.ball, queries=20, loss="margin")
    return {"square search": case.on(search)}


def build(method: str, task: Task, seed: int) -> Any:
    """Return a team of a method."""
    settings: dict[str, Any] = {
        "hidden": task.hidden,
        "optim": adam(task.lr),
        "critic_optim": adam(task.lr),
        "tau": 0.05,
        "seed": seed,
    }
    spec = spec_of(task.make()).of_team(task.team)
    if method == "MFAC":
        return algorithms.MFAC.for_env(spec, **settings)
    return algorithms.RoMFAC.for_env(spec, action_loss=loss_of(method, task), **settings)


def loss_of(method: str, task: Task) -> ActionLoss:
    """Return the action loss of a method that has one."""
    warmup = round(task.warmup * task.rounds)
    return romfac_loss(
        method,
        ball=BALL,
        peak=task.peak,
        warmup=warmup,
        period=max(1, (task.rounds - warmup) // 3),
        steps=task.steps,
    )


def script(task: Task, team: str) -> Any:
    """Return what plays a team until somebody has learnt to: a script, in Pursuit chance."""
    if team in ("red", "blue"):
        return Charge(team=team, random=task.loud)
    return data.RandomController(spec_of(task.make()).of_team(team))


def learn(learner: Any, task: Task, rounds: int, seed: int, place: Workplace, **run: Any) -> bool:
    """Train for so many rounds, or load what was trained; return whether all was done now."""
    folder = place.folder_for(plan_of(task, 0) | {"rounds": rounds})
    weights = folder / "weights.pt"
    if weights.exists():
        training.load_weights(learner, weights)
        return False
    horizon, size = spec_of(task.make()).horizon, learner.spec.num_agents
    played = folder / "rounds.json"

    def note(history: training.History) -> None:
        """Keep how many rounds were played until when: weights follow rounds, curves steps."""
        known = json.loads(played.read_text()) if played.exists() else {}
        known[str(history.env_steps[-1])] = learner.policy.counted("updates")
        played.write_text(json.dumps(known))

    history = training.run(
        learner,
        task.make,
        env_steps=rounds * task.games * horizon,
        num_envs=task.games,
        seed=seed,
        interval=max(1, rounds * task.games * horizon // 60),
        learn=training.OnPolicy(
            epochs=task.epochs, batch_size=max(1, task.minibatch // size), rounds=rounds
        ),
        callback=note,
        **run,
    )
    training.save_weights(learner, weights)
    (folder / "checkpoint.pt").unlink()
    return not history.resumed


def opponent(name: str, task: Task, place: Workplace) -> Any:
    """Return the opponent that learns by advantage actor-critic; it is trained if it is not yet.

    In Battle against the script; in Pursuit prey learn to flee from predators that have learnt
    to catch prey that do not.
    """
    task = replace(task, hidden=task.foe_hidden or task.hidden, foe_hidden=None)
    against: Any = script(task, task.team)
    if name.startswith("pursuit"):
        against = build("MFAC", task, seed=1_000)
        catching = replace(place, folder=place.folder / "catcher")
        learn(
            against,
            task,
            task.opponent_rounds,
            1_000,
            catching,
            team=task.team,
            opponents={task.opponent: script(task, task.opponent)},
            log=catching.log(f"{name}: catcher"),
        )
    spec = spec_of(task.make()).of_team(task.opponent)
    # With the release's bonus of .08 beside standardised advantages prey learn nothing.
    team = algorithms.A2C.for_env(
        spec,
        hidden=task.hidden,
        optim=adam(task.lr),
        entropy_coef=0.01,
        gae_lambda=0.9,
        seed=1_000,
    )
    fleeing = replace(place, folder=place.folder / "A2C")
    learn(
        team,
        replace(task, epochs=1),
        task.opponent_rounds,
        1_000,
        fleeing,
        team=task.opponent,
        opponents={task.team: against},
        log=fleeing.log(f"{name}: opponent"),
    )
    return team


def train_start(name: str, task: Task, seed: int, place: Workplace) -> dict[str, Any]:
    """Train the team of a smaller game from which all of a task's teams of one seed begin."""
    small = task.first
    learn(
        build("MFAC", small, seed),
        small,
        small.rounds,
        seed,
        place,
        team=small.team,
        opponents={small.opponent: script(small, small.opponent)},
        log=place.log(f"{name}: start {seed}"),
    )
    return {}


def begin(team: Any, task: Task, seed: int, folder: Path) -> None:
    """Give a team the networks of one that :func:`train_start` trained, not what it counted."""
    small = build("MFAC", task.first, seed)
    training.load_weights(small, folder / "weights.pt")
    known = {name: value.data for name, value in small.named_parameters()}
    team.load_state_dict({**team.state_dict(), **known})


def train_opponent(name: str, task: Task, place: Workplace) -> dict[str, Any]:
    """Train a task's opponent."""
    opponent(name, task, place)
    return {}


def run_cell(
    name: str, task: Task, method: str, seed: int, episodes: int, place: Workplace
) -> dict[str, Any]:
    """Train and test one team; return its raw scores."""
    whole, foes = False, foes_of(name, task, place)
    # Teams train against a script: against who flees or hides they never learn what there is.
    scripted = {task.opponent: script(task, task.opponent)}
    begun = time.process_time()
    if method == "random":
        team = data.RandomController(spec_of(task.make()).of_team(task.team))
    elif method == "untrained":
        team = build("MFAC", task, seed).untrained(seed=seed)
    else:
        team = build(method, task, seed)
        if task.start is not None:
            begin(team, task, seed, place.folder.with_name(f"start-{seed}"))
        own = round(task.copied * task.rounds)
        by_script = replace(place, folder=place.folder / "script") if own else place
        run: dict[str, Any] = {"team": task.team, "opponents": scripted}
        log = by_script.log(f"{name} {method} {seed}")
        whole = learn(team, task, task.rounds - own, seed, by_script, **run, log=log)
        if own:
            # .99 of the team's weights after every round that it has won, as in the paper
            run["opponents"] = {task.opponent: data.SlowCopy(team, tau=0.99, when="ahead")}
            log = place.log(f"{name} {method} {seed}, self-play")
            whole = learn(team, task, own, seed, place, **run, log=log) and whole
    cpu = time.process_time() - begun
    scores = {
        foe: attacked(method, team, task, episodes, against, whole=foe == task.foes[0])
        for foe, against in foes.items()
    }
    return {
        "task": name,
        "method": method,
        "seed": seed,
        "cpu_seconds": round(cpu, 1) if whole else None,
        "test_cpu_seconds": round(time.process_time() - begun - cpu, 1),
        "scores": scores,
    }


def foes_of(name: str, task: Task, place: Workplace) -> dict[str, dict[str, Any]]:
    """Return what teams are tested against, by name; the one that learns is trained if need be."""
    found: dict[str, Any] = {"script": script(task, task.opponent)}
    if "A2C" in task.foes:
        folder = place.study / folder_of(name, task) / "opponent"
        found["A2C"] = opponent(name, task, replace(place, folder=folder))
    return {foe: {task.opponent: found[foe]} for foe in task.foes}


def loaded(name: str, task: Task, method: str, seed: int, place: Workplace) -> Any:
    """Return a team that was trained."""
    team = build(method, task, seed)
    folder = place.study / folder_of(name, task) / f"{method}-{seed}"
    training.load_weights(team, folder / "weights.pt")
    return team


def direct(
    name: str, task: Task, method: str, seed: int, episodes: int, rounds: int, place: Workplace
) -> dict[str, Any]:
    """Return figures of a team under a director that learned against it; it stands still."""
    opponents = foes_of(name, task, place)[task.foes[0]]
    begun = time.process_time()
    team = loaded(name, task, method, seed, place)
    spec, steps = team.spec, rounds * team.spec.horizon
    adversary = adversaries.PAAD.for_env(
        spec,
        stor(BALL, steps=10),
        exploration=Linear(1.0, 0.05, over=steps // 2, unit="env_steps"),
        seed=seed,
        optim=adam(1e-3),
        gamma=0.97,
        td_lambda=0.8,
        target_update=50,
        target_unit="updates",
    )
    case = Case(
        policy=data.as_controller("romfac", team, spec),
        spec=spec,
        make_env=task.make,
        ball=BALL,
        team=task.team,
        opponents=opponents,
    )
    play = playing(team, task, episodes, opponents)
    tried = {
        "none": None,
        "PGD-10": ObsPerturber(attacks.PGD(ball=BALL)),
        "director": case.trained(adversary, steps),
    }
    scores = {}
    for attack, perturb in tried.items():
        played = play(perturb=perturb)
        scores[attack] = {key: played.figure(key).tolist() for key in (*task.figures, "return")}
    return {"scores": scores, "cpu_seconds": round(time.process_time() - begun, 1)}


class CellProbe:
    """Counts on how many cells of its view an agent's decisions hang; changes nothing.

    Of each decision every cell is emptied once; what that does is the distance in total variation
    to what the agent does with all of them. Means over the agents of a step are kept: of the
    largest distance; of how many cells of equal weight would have the same sum of distances and
    of their squares, where any cell matters; and of how many are not empty.

    Args:
        view: rows, columns and channels of what an agent sees.
    """

    ball = LinfBall(epsilon=1.0)

    def __init__(self, view: tuple[int, int, int]) -> None:
        self.view = view
        self.found: dict[str, list[float]] = {"most": [], "weighing": [], "occupied": []}

    def with_epsilon(self, epsilon: Any) -> "CellProbe":
        """Return itself: there is no radius."""
        return self

    @torch.no_grad()
    def __call__(self, victim: Any, obs: torch.Tensor, draws: Any = None) -> torch.Tensor:
        """Empty the cells of observations (M, D) one by one, and return these as they are."""
        rows, columns, channels = self.view
        whole, moved = victim.logits(obs).softmax(dim=-1), []
        for cell in range(rows * columns):
            emptied = obs.clone()
            emptied[:, cell * channels : (cell + 1) * channels] = 0.0
            moved.append(0.5 * (victim.logits(emptied).softmax(dim=-1) - whole).abs().sum(dim=-1))
        distance = torch.stack(moved, dim=-1)
        most = distance.amax(dim=-1)
        seen = obs[:, : rows * columns * channels].unflatten(-1, (-1, channels))
        self.found["most"].append(float(most.mean()))
        self.found["occupied"].append(float((seen != 0).any(dim=-1).sum(dim=-1).float().mean()))
        if bool((matters := most > 0.01).any()):  # of policies that are sure of one action: none
            distance = distance[matters]
            cells = distance.sum(dim=-1).square() / distance.square().sum(dim=-1)
            self.found["weighing"].append(float(cells.mean()))
        return obs


def probe(
    name: str, task: Task, method: str, seed: int, episodes: int, place: Workplace
) -> dict[str, Any]:
    """Return, of an unattacked team's decisions, on how many cells they hang, and how much."""
    team = loaded(name, task, method, seed, place)
    counter = CellProbe(VIEWS[task.team])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing was attacked
        play = playing(team, task, episodes, foes_of(name, task, place)[task.foes[0]])
        play(perturb=ObsPerturber(counter, every=9))  # no time limit is a multiple of 9
    return {figure: found or [0.0] for figure, found in counter.found.items()}  # 0: none weighs


def playing(team: Any, task: Task, episodes: int, opponents: Any) -> Callable[..., Any]:
    """Return what plays a team's test episodes, perturbed by ``perturb``."""
    return partial(
        evaluation.rollout,
        team,
        task.make,
        episodes=episodes,
        num_envs=min(episodes, 25),
        team=task.team,
        opponents=opponents,
    )


def attacked(
    method: str, team: Any, task: Task, episodes: int, opponents: Any, *, whole: bool
) -> dict[str, Any]:
    """Return figures per episode with M agents attacked, on the whole blind and under a suite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        play = playing(team, task, episodes, opponents)

        def figures(*perturb: Any) -> dict[str, Any]:
            meter = Meter(drawn=True)
            found = play(perturb=[*perturb, meter])
            flips = meter.flips()
            kept = {key: found.figure(key).tolist() for key in (*task.figures, "return")}
            return kept | {"flips": [] if flips is None else flips.tolist()}

        clean = figures()
        if method == "random":
            return {f"M={m}": clean for m in task.attacked}
        pgd = attacks.PGD(ball=BALL)
        found = {"M=0": clean} | {
            f"M={m}": figures(ObsPerturber(pgd, agents=RandomAgents(m)))
            for m in task.attacked
            if m > 0
        }
        if method == "untrained" or not whole:
            return found
        spec = spec_of(task.make()).of_team(task.team)
        folds = evaluation.blindfolds(
            data.as_controller("romfac", team, spec),
            task.make,
            spec,
            team=task.team,
            opponents=opponents,
        )
        found |= {fold: figures(blind) for fold, blind in folds.items()}
        worst = evaluation.worst_case(
            {method: team},
            task.make,
            BALL,
            suite=suite(),
            metric="return",
            episodes=max(1, episodes // 2),
            choice_episodes=max(1, episodes // 4),
            num_envs=min(episodes, 25),
            team=task.team,
            opponents=opponents,
        )
    return found | {
        "suite": {
            name: {"return": next(iter(worst.table.cell(method, name).scores.values())).tolist()}
            for name in worst.table.attacks
        }
    }


def table_of(
    cells: list[dict[str, Any]], task: Task, foe: str, figure: str, title: str
) -> CrossTable:
    """Return methods x numbers of attacked agents of one figure; of the return the worst, too."""
    columns = [f"M={m}" for m in task.attacked]
    rows: dict[str, dict[str, Cell]] = {}
    blind: dict[str, dict[str, Cell]] = {}
    for method in (*BASELINES, *METHODS):
        found = {c["seed"]: c["scores"][foe] for c in cells if c["method"] == method}
        if not found:
            continue

        def cell(key: str, found: dict[int, Any] = found) -> Cell:
            return Cell({seed: scores[key][figure] for seed, scores in found.items()})

        rows[method] = {column: cell(column) for column in columns}
        if method in BASELINES or "suite" not in next(iter(found.values())):
            continue
        for fold in ("zeroed", "another's"):
            blind[f"{method}, {fold}"] = {columns[0]: cell(fold)}
        if figure == "return":
            rows[method]["worst"] = Cell(
                {seed: scores["suite"]["worst"][figure] for seed, scores in found.items()}
            )
    baselines = [*(b for b in BASELINES if b in rows), *blind]
    ordered = {name: rows.get(name) or blind[name] for name in [*baselines, *rows]}
    return CrossTable(cells=ordered, metric=figure, baselines=baselines, title=title)


def suite_table(cells: list[dict[str, Any]], foe: str, title: str) -> CrossTable | None:
    """Return the return under every attack of the suite."""
    rows: dict[str, dict[str, Cell]] = {}
    for method in METHODS:
        found = {
            c["seed"]: c["scores"][foe]["suite"]
            for c in cells
            if c["method"] == method and "suite" in c["scores"][foe]
        }
        if found:
            names = list(next(iter(found.values())))
            rows[method] = {
                name: Cell({seed: attacks[name]["return"] for seed, attacks in found.items()})
                for name in names
            }
    return CrossTable(cells=rows, metric="return", title=title) if rows else None


def draw_numbers(tables: dict[str, CrossTable], task: Task, path: Path, title: str) -> None:
    """Draw figures over the number of attacked agents."""
    panels = {}
    for figure, table in tables.items():
        shown = [m for m in METHODS if m in table.victims]
        panels[figure.replace("_", " ")] = {
            method: Curve(
                x=task.attacked,
                estimates=[table.cell(method, f"M={m}").estimate for m in task.attacked],
            )
            for method in shown
        }
    evaluation.size_curves(panels, path, xlabel="attacked agents M", title=title)


def draw_learning(cells: list[dict[str, Any]], task: Task, folder: Path, path: Path) -> None:
    """Draw what the teams earn as they learn, and beneath it the weight or radius of their loss."""
    figure = Figure(figsize=(7.2, 5.2), dpi=120, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for number, method in enumerate(METHODS):
        seeds = [c["seed"] for c in cells if c["method"] == method]
        curves = []
        for seed in seeds:
            run = folder / f"{method}-{seed}"
            points = [point for stage in (run / "script", run) for point in learned(stage)]
            if points:
                curves.append(np.array(sorted(points)).T)
        if not curves:
            continue
        grid = np.linspace(max(c[0][0] for c in curves), min(c[0][-1] for c in curves), 60)
        values = np.array([np.interp(grid, *curve) for curve in curves])
        colour = f"C{number}"
        upper.plot(grid, values.mean(axis=0), color=colour, label=method)
        upper.fill_between(grid, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15)
        if method == "MFAC":
            continue
        loss = loss_of(method, task)
        ramp = loss.epsilon if method.startswith("SA") else loss.weight
        heights = np.array([ramp(m) for m in range(task.rounds)])
        lower.plot(heights / max(heights.max(), 1e-9), color=colour)
    upper.set_ylabel("return in training, mean and range over seeds")
    lower.set_ylabel("share of the peak")
    lower.set_xlabel("rounds")
    upper.legend(ncols=3, fontsize="small")
    figure.savefig(path)


def learned(run: Path) -> list[tuple[int, float]]:
    """Return (rounds, return in training) of a run; nothing where there was none."""
    if not (run / "rounds.json").exists():
        return []
    rounds = {int(k): v for k, v in json.loads((run / "rounds.json").read_text()).items()}
    told = json.loads((run / "history.json").read_text())
    return [
        (rounds[step], value)
        for step, value in zip(told["env_steps"], told["train"]["return"], strict=True)
        if step in rounds and value is not None and np.isfinite(value)
    ]


def draw_round(task: Task, folder: Path, name: str, seed: int, path: Path) -> None:
    """Film a round of MFAC and of RoMFAC, without attack and with all agents attacked."""
    films = []
    for method in ("MFAC", "RoMFAC"):
        run = folder / f"{method}-{seed}"
        if not (run / "weights.pt").exists():
            return
        team = build(method, task, seed)
        training.load_weights(team, run / "weights.pt")
        known = "A2C" in task.foes
        place = Workplace(folder=folder / "opponent", study=folder)
        foe = opponent(name, task, place) if known else script(task, task.opponent)
        for perturb in (None, attacks.PGD(ball=BALL)):
            films.append(film(team, task, foe, perturb))
    longest = max(map(len, films))
    clean, deceived, *robust = [frames + [frames[-1]] * (longest - len(frames)) for frames in films]
    frames = []
    for four in zip(clean, deceived, *robust, strict=True):
        upper, lower = (np.pad(np.concatenate(two, axis=1), _EDGE) for two in (four[:2], four[2:]))
        frames.append(np.concatenate([upper, lower], axis=0))
    save_replay(path, frames, fps=8)


_EDGE = ((2, 2), (2, 2), (0, 0))  # pixels around two rounds side by side


class Camera(Perturber):
    """Keeps a picture of every step; changes nothing."""

    kind = "camera"

    def __init__(self, engine: MagentEngine) -> None:
        self.engine, self.frames = engine, []

    def shown(self, context: StepContext) -> None:
        """Take one."""
        self.frames.append(picture(self.engine))


@dataclass(frozen=True)
class Stage:
    """What builds the one engine that is filmed."""

    engine: MagentEngine

    def make_engine(self, num_envs: int) -> MagentEngine:
        """Return it: there is one."""
        return self.engine


def film(team: Any, task: Task, foe: Any, perturb: Any) -> list[Any]:
    """Return the pictures of one round."""
    engine = task.make().make_engine(1)
    camera = Camera(engine)
    evaluation.rollout(
        team,
        Stage(engine),
        episodes=1,
        num_envs=1,
        perturb=[camera] if perturb is None else [perturb, camera],
        team=task.team,
        opponents={task.opponent: foe},
    )
    return camera.frames


def report(name: str, task: Task, cells: list[dict[str, Any]], folder: Path, out: Path) -> str:
    """Write the tables and figures of one task; return its text."""
    text = [f"## {name}\n"]
    stem = stem_of(name, task)
    for foe in cells[0]["scores"]:
        tables = {}
        for figure in (*task.figures, "return", "flips"):
            title = f"{name} against {foe}: {figure.replace('_', ' ')}"
            known = [c for c in cells if figure != "flips" or c["method"] != "random"]
            table = tables[figure] = table_of(known, task, foe, figure, title)
            table.to_json(out / f"{stem}-{foe}-{figure}.json")
            text.append(f"### {title}\n\n{table.to_markdown()}\n")
        worst = suite_table(cells, foe, f"{name} against {foe}: return under each attack on all")
        if worst is not None:
            worst.to_json(out / f"{stem}-{foe}-suite.json")
            text.append(f"### {worst.title}\n\n{worst.to_markdown()}\n")
        if any(c["method"] in METHODS for c in cells):
            draw_numbers(tables, task, out / f"{stem}-{foe}.png", f"{name} against {foe}")
    if any(c["method"] in METHODS for c in cells):
        draw_learning(cells, task, folder, out / f"{stem}-learning.png")
    if (seeds := [c["seed"] for c in cells if c["method"] == "RoMFAC"]) and name in TASKS:
        draw_round(task, folder, name, min(seeds), out / f"{stem}.gif")
    known = [c for c in cells if c["cpu_seconds"] is not None]
    costs = {m: [c["cpu_seconds"] for c in known if c["method"] == m] for m in METHODS}
    spent = ", ".join(f"{m} {np.median(v):.0f}" for m, v in costs.items() if v)
    return "\n".join([*text, f"CPU seconds per training (median): {spent}.\n"])


def smoke(task: Task) -> Task:
    """Return the task cut down to a second."""
    small = {"red": partial(envs.battle, 12, horizon=8)}
    make = small.get(task.team, partial(envs.pursuit, 10, predators=2, prey=3, horizon=8))
    start = None if task.start is None else smoke(task.start)
    return replace(
        task, make=make, rounds=5, opponent_rounds=2, games=2, hidden=(16, 16), start=start
    )


def main() -> None:
    """Run all cells that are missing, and report on all that are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS)
    parser.add_argument("--full", action="store_true", help="the paper's numbers of agents")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, help="of training")
    parser.add_argument("--peak", type=float, help="weight of the action loss at its highest")
    parser.add_argument(
        "--episodes", type=int, default=50, help="per figure and team, half of them in the suite"
    )
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/romfac"), help="output folder")
    parser.add_argument(
        "--director", type=int, metavar="ROUNDS", help="train a director against each team, too"
    )
    parser.add_argument(
        "--cells", action="store_true", help="find on how many cells decisions hang, too"
    )
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names, seeds, out = args.tasks or (FULL if args.full else QUICK), args.seeds, args.out
    tasks = {name: TASKS[name] for name in names}
    if args.rounds:
        tasks = {name: replace(task, rounds=args.rounds) for name, task in tasks.items()}
    if args.peak is not None:
        tasks = {name: replace(task, peak=args.peak) for name, task in tasks.items()}
    if args.smoke:
        tasks = {name: smoke(task) for name, task in tasks.items()}
        seeds, out, args.episodes = seeds[:1], out / "smoke", 2
        args.methods = [m for m in args.methods if m in ("MFAC", "RoMFAC")]
    wanted = {
        (name, method, seed): cell(name, task, method, seed, args.episodes)
        for seed in seeds
        for name, task in tasks.items()
        for method in (*BASELINES, *args.methods)
    }
    if args.report:
        done = evaluation.read_cells(wanted.values(), out)
    else:
        done = evaluation.run_cells(with_teachers(wanted, tasks, out), out, jobs=args.jobs)
    texts, teams = [], [key for key in wanted if key[1] in METHODS]
    run = evaluation.read_cells if args.report else partial(evaluation.run_cells, jobs=args.jobs)
    if args.director:
        jobs = [after("director", k, tasks[k[0]], args.episodes, args.director) for k in teams]
        texts += report_directors(run(jobs, out), tasks, out)
    if args.cells:
        jobs = [after("cells", k, tasks[k[0]], args.episodes) for k in teams]
        texts += report_cells(run(jobs, out), tasks, out)
    for text in texts:
        print(f"\n{text}")
    for name, task in tasks.items():
        if cells := [done[key] for key in wanted if key in done and key[0] == name]:
            texts.append(report(name, task, cells, out / folder_of(name, task), out))
            print(f"\n{texts[-1]}")
    (out / "romfac.md").write_text("\n".join(texts))
    print(f"Tables, figures, films and raw scores are in {out}/")


def report_directors(
    cells: dict[Key, dict[str, Any]], tasks: dict[str, Task], out: Path
) -> list[str]:
    """Return, as Markdown, what directors that learned leave of each team's return."""
    title = "return under a director that learned against the team"
    return _tables(
        {key: {a: s["return"] for a, s in c["scores"].items()} for key, c in cells.items()},
        (tasks, out, "director", "return", title),
    )


def report_cells(cells: dict[Key, dict[str, Any]], tasks: dict[str, Task], out: Path) -> list[str]:
    """Return, as Markdown, on how many cells teams' decisions hang, and how much on the first."""
    title = "what the weightiest cell changes of a policy, how many weigh, how many are occupied"
    return _tables(
        {key: {a: c[a] for a in ("most", "weighing", "occupied")} for key, c in cells.items()},
        (tasks, out, "cells", "cells", title),
    )


def _tables(
    scores: dict[Key, dict[str, list[float]]], about: tuple[dict[str, Task], Path, str, str, str]
) -> list[str]:
    """Return a table of methods by columns for each task, as Markdown, and keep its scores."""
    tasks, out, kind, metric, title = about
    texts = []
    for name, task in tasks.items():
        rows: dict[str, dict[str, Cell]] = {}
        for method in METHODS:
            found = {key[2]: c for key, c in scores.items() if key[:2] == (name, method)}
            if found:
                columns = next(iter(found.values()))
                rows[method] = {a: Cell({s: c[a] for s, c in found.items()}) for a in columns}
        if rows:
            table = CrossTable(cells=rows, metric=metric, title=f"{name}: {title}")
            table.to_json(out / f"{stem_of(name, task)}-{task.foes[0]}-{kind}.json")
            texts.append(f"### {table.title}\n\n{table.to_markdown()}\n")
    return texts


def folder_of(name: str, task: Task) -> str:
    """Return where a task's cells are, in the output folder."""
    return f"{stem_of(name, task)}-{task.rounds}"


def stem_of(name: str, task: Task) -> str:
    """Return what names of files about a task begin with: another peak is another study."""
    peak = "" if task.peak == TASKS[name].peak else f"-peak{task.peak:g}"
    return f"{name.replace(' ', '_')}{peak}"


def cell(name: str, task: Task, method: str, seed: int, episodes: int) -> Job[Key]:
    """Return what trains and tests a team."""
    return Job(
        key=(name, method, seed),
        name=f"{folder_of(name, task)}/{method}-{seed}",
        work=partial(run_cell, name, task, method, seed, episodes),
        settings=plan_of(task, episodes),
    )


def after(kind: str, key: Key, task: Task, episodes: int, rounds: int = 0) -> Job[Key]:
    """Return what is found out about a team once it is trained: ``"director"`` or ``"cells"``."""
    name, method, seed = key
    if kind == "director":
        work = partial(direct, name, task, method, seed, episodes, rounds)
    else:
        work = partial(probe, name, task, method, seed, episodes)
    return Job(
        key=key,
        name=f"{folder_of(name, task)}/{kind}/{method}-{seed}",
        work=work,
        settings=plan_of(task, episodes) | ({kind: rounds} if rounds else {}),
    )


def with_teachers(wanted: dict[Key, Job[Key]], tasks: dict[str, Task], out: Path) -> list[Job[Key]]:
    """Return the cells after what those which are missing play against, and begin from."""
    missing = wanted.keys() - evaluation.read_cells(wanted.values(), out).keys()
    named = [n for n in tasks if "A2C" in tasks[n].foes and any(key[0] == n for key in missing)]
    opponents = [
        Job(
            key=(name, "opponent", 1_000),
            name=f"{folder_of(name, tasks[name])}/opponent",
            work=partial(train_opponent, name, tasks[name]),
        )
        for name in named
    ]
    after = {one.key[0]: (one.key,) for one in opponents}
    starts: dict[Key, Job[Key]] = {}
    cells = []
    for key, one in wanted.items():
        name, method, seed = key
        needed = after.get(name, ())
        if tasks[name].start is not None and method in METHODS and key in missing:
            first = (name, "start", seed)
            starts[first] = Job(
                key=first,
                name=f"{folder_of(name, tasks[name])}/start-{seed}",
                work=partial(train_start, name, tasks[name], seed),
            )
            needed = (*needed, first)
        cells.append(replace(one, after=needed))
    return [*opponents, *starts.values(), *cells]


def plan_of(task: Task, episodes: int) -> dict[str, Any]:
    """Return what a cell's scores depend on, as plain data."""
    left_out = ("make", "start", *(k for k in ("copied", "foe_hidden") if not getattr(task, k)))
    plain = {key: value for key, value in asdict(task).items() if key not in left_out}
    if task.start is not None:  # finished cells know of none
        plain["start"] = plan_of(task.start, 0)
    plain["make"] = repr(task.make.args) + repr(task.make.keywords)
    plain |= {"episodes": episodes, "epsilon": EPSILON}
    return json.loads(json.dumps(plain))


if __name__ == "__main__":
    main()
