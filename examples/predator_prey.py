"""ATSA's table on predator and prey: five ways to train teams, under the adversaries of six.

    python examples/predator_prey.py --jobs 2          # MADDPG and FACMAC, .02 and .05, three seeds
    python examples/predator_prey.py --backbones MADDPG --epsilon 0.05 --seeds 0
    python examples/predator_prey.py --recurrent       # with memory, as the paper has it
    python examples/predator_prey.py --integrator explicit     # in mpe2's world
    python examples/predator_prey.py --report          # tables and figures of finished cells
    python examples/predator_prey.py --smoke           # seconds, figures mean nothing

Three predators with continuous actions learn to hunt. From there on they learn without attack,
under FGSM by their own critic, or beside an adversary: ATLA's Gaussian, PA-AD's director, which
learns as the team itself does, or ATSA's. Then each meets the adversaries that were trained beside
teams of the same kind, radius and seed, with gradients through the team under test. Beside the
paper's columns stand ours: the worst of a suite in which a director learns against this very team,
and teams without eyes. Every training is a cell, and every test is one, which comes after the
trainings that it needs. What is finished is not run again, and interrupted trainings continue
where they were. Tables and figures are made of the cells alone, beside the paper's.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import atsa
import numpy as np
from atsa import BLIND, COLUMNS, TEACHERS, Group, Made, Task

from robustmarl import adversaries, algorithms, attacks, evaluation, training
from robustmarl.evaluation import Case, Cell, CrossTable, Entry, Job, Suite, Workplace
from robustmarl.joint import spec_of
from robustmarl.learning import adam
from robustmarl.perturbers import CriticObsPerturber, DirectedObsPerturber, ZeroedObs, stor
from robustmarl.schedules import Linear
from robustmarl.typing import RobustnessWarning

Key = tuple[str, str, str, float, int]
"""What is done, with which backbone, method and radius, and the training seed."""

PRINTED = Path(__file__).parents[1] / "docs" / "data" / "atsa_mpe_paper.json"
BACKBONES = ("MADDPG", "FACMAC")
METHODS = ("NoAdv", "FGSM", "ATLA", "PAAD", "ATSA")
EPSILONS = (0.02, 0.05)  # the paper does not say; the group's configuration has .02
HEAD = "head start"
RETURNS = (-math.inf, math.inf)  # of which 0 and 1 are no shares
REWARD_SCALE = 10.0  # of a contact: what the rewards of ATSA's critics are divided by
KEPT = ("PGD-10 by the critic", "PAAD, 10 steps", "ATSA, 10 steps", "director", "worst")


@dataclass(frozen=True, kw_only=True)
class Chase(Task):
    """Settings of the task, those of docs/envs/predator_prey.md.

    Attributes:
        head: steps without attack with which every training but the blind one begins; beside some
            adversaries a team that has to learn all anew does not. 0 is from scratch.
        updates: per episode played.
        tau: share of the weights that targets take over per update.
        eps: Adam's; small ones blow up the noise of critics that have hardly seen a contact.
        actor_lr: learning rate of actors; None is ``lr``, which all else has. At 1e-2 their tanh
            comes to its ends in the release's world, FACMAC's in half of the teams.
        layer_norm: of actors. Without it that happened to two of MADDPG's four in mpe2's world.
        integrator: of the world: the release's, or mpe2's, in which contacts do not last.
    """

    head: int
    updates: float = 0.5
    tau: float = 0.01
    eps: float = 1e-2
    actor_lr: float | None = None
    layer_norm: bool = False
    integrator: str = "semi-implicit"

    @property
    def label(self) -> str:
        """What it is known by in folders."""
        rate = "" if self.actor_lr is None else f"-{self.actor_lr:g}"
        world = "" if self.explicit else "-s"
        return f"{self.head}-{super().label}{rate}{'-n' if self.layer_norm else ''}{world}"

    @property
    def plan(self) -> dict[str, Any]:
        """All of it as plain data; finished cells know of no actors' rate, nor mpe2's of worlds."""
        plain = {"actor_lr": None, "integrator": "explicit"}
        return {k: v for k, v in super().plan.items() if k not in plain or v != plain[k]}

    @property
    def explicit(self) -> bool:
        """Whether the world is mpe2's."""
        return self.integrator == "explicit"

    @property
    def told(self) -> str:
        """What titles say of the world."""
        return ", mpe2's world" if self.explicit else ""

    @property
    def world(self) -> str:
        """What the world is called in groups."""
        return "predator_prey, explicit" if self.explicit else "predator_prey"

    def of(self, method: str) -> "Chase":
        """Return what a training depends on: without attack, on no radius."""
        if method == HEAD:
            return replace(self, steps=self.head, head=0, epsilon=0.0, attacked=0.0)
        if method == BLIND:
            return replace(self, steps=self.head + self.steps, head=0, epsilon=0.0, attacked=0.0)
        return replace(self, epsilon=0.0, attacked=0.0) if method == "NoAdv" else self


TASK = Chase(
    epsilon=0.05,
    head=1_000_000,
    steps=200_000,
    attacked=0.5,
    explore=200_000,
    batch=32,
    buffer=5_000,
    lr=1e-2,
    gamma=0.85,
    alpha_steps=100_000,
    actor_lr=2e-3,
    layer_norm=True,
)
MPE2 = replace(TASK, actor_lr=None, integrator="explicit")
TASKS = {
    "semi-implicit": {"MADDPG": TASK, "FACMAC": TASK},
    "explicit": {"MADDPG": MPE2, "FACMAC": replace(MPE2, head=600_000, layer_norm=False)},
}
"""By world and backbone; docs/envs/predator_prey.md says where settings are from."""


def build(method: str, group: Group) -> Made:
    """Return what a method trains."""
    task, spec = group.task, spec_of(atsa.maker(group.name)())
    assert isinstance(task, Chase)
    kind = {"MADDPG": algorithms.MADDPG, "FACMAC": algorithms.FACMAC}[group.backbone]
    optim = adam(task.lr, eps=task.eps)
    shared: dict[str, Any] = {
        "hidden": task.hidden,
        "recurrent": task.recurrent,
        "gamma": task.gamma,
        "optim": optim,
        "critic_optim": optim,
        "max_grad_norm": 0.5,
        "seed": group.seed,
    }
    own: dict[str, Any] = {"init_gain": 1.0} if group.backbone == "FACMAC" else {}
    if task.actor_lr is not None:
        own["optim"] = adam(task.actor_lr, eps=task.eps)
    settings = shared | {"tau": task.tau, "layer_norm": task.layer_norm, **own}
    fades = partial(Linear, 1.0, 0.1, unit="env_steps")
    fading = fades(over=task.explore)
    team = kind.for_env(spec, last_action=task.recurrent, exploration=fading, **settings)
    if method == BLIND:
        return Made(team, team, perturb=ZeroedObs())
    if method in (HEAD, "NoAdv"):
        return Made(team, team)
    if method == "FGSM":
        fgsm = attacks.PGD.fgsm(task.ball)
        return Made(team, team, perturb=CriticObsPerturber(fgsm, team, episodes=task.attacked))
    adversary: Any
    if method == "ATLA":
        adversary = adversaries.ObsAdversaryPPO.for_env(spec, task.ball, seed=group.seed)
    elif method == "PAAD":
        adversary = adversaries.TeamPAAD.for_env(
            spec,
            stor(task.ball),
            kind=kind,
            episodes=task.attacked,
            exploration=fades(over=task.alpha_steps),
            **settings,
        )
    else:
        adversary = adversaries.ContinuousATSA.for_env(
            spec,
            stor(task.ball),
            alpha=Linear(0.5, 0.05, over=task.alpha_steps, unit="env_steps"),
            reward_scale=REWARD_SCALE,
            td_lambda=task.td_lambda,
            target_update=task.targets,
            target_unit="updates",
            episodes=task.attacked,
            **shared,
        )
    return Made(training.AdversarialTraining(team, adversary), team, adversary)


def group_of(study: Path, backbone: str, seed: int, task: Chase, method: str) -> Group:
    """Return a group whose trainings are in the folder of all cells."""
    own = task.of(method)
    return Group(own.world, backbone, seed, own, study / f"teams/{backbone}-{own.label}")


def jobs_of(
    tasks: Mapping[str, Chase],
    backbones: list[str],
    methods: list[str],
    epsilons: list[float],
    seeds: list[int],
) -> list[Job[Key]]:
    """Return trainings and tests, those first that others need."""
    found: dict[Key, Job[Key]] = {}

    def add(work: str, backbone: str, method: str, size: float, seed: int) -> Key:
        at = replace(tasks[backbone], epsilon=size)
        own = at.of(method) if work == "train" or method == BLIND else at
        key = (work, backbone, method, own.epsilon, seed)
        needed: list[Key] = []
        if work == "test":
            names = [BLIND] if method == BLIND else dict.fromkeys([method, *TEACHERS])
            needed = [add("train", backbone, name, size, seed) for name in names]
        elif own.head:
            needed = [add("train", backbone, HEAD, size, seed)]
        folder = f"{backbone}-{own.epsilon:g}/{work}"
        function = train if work == "train" else test
        found.setdefault(
            key,
            Job(
                key=key,
                name=f"{folder}/{method.replace(' ', '_')}-{seed}",
                work=partial(function, method=method, backbone=backbone, seed=seed, task=at),
                settings={"task": own.plan},
                after=needed,
            ),
        )
        return key

    for seed in seeds:
        for backbone in backbones:
            for size in epsilons:
                for method in (BLIND, *methods):
                    add("test", backbone, method, size, seed)
    return list(found.values())


def train(
    place: Workplace, *, method: str, backbone: str, seed: int, task: Chase
) -> dict[str, float | None]:
    """Train a team beside what it meets, from its head start on, and keep it."""
    group = group_of(place.study, backbone, seed, task, method)
    start = group_of(place.study, backbone, seed, task, HEAD).path(HEAD, "") / "weights.pt"

    def begun(method: str, group: Group) -> Made:
        made = build(method, group)
        if group.task.head:
            training.load_weights(made.team, start)
        return made

    atsa.train(method, group, place.position, begun, task.updates)
    cost: dict[str, float | None] = json.loads(
        (group.path(method, "") / "cost.json").read_text("utf-8")
    )
    return cost


def suite(task: Chase, team: Any, teachers: Mapping[str, Made]) -> Suite:
    """Return what the worst case is taken over: also the critic, and the paper's directors."""

    def known(case: Case) -> dict[str, Any]:
        ten = atsa.columns(task, teachers, steps=10)
        return {f"{name}, 10 steps": ten[name] for name in ("PAAD", "ATSA")}

    def by_critic(case: Case) -> dict[str, Any]:
        pushes = {"FGSM": attacks.PGD.fgsm(case.ball), "PGD-10": attacks.PGD(ball=case.ball)}
        return {
            f"{name} by the critic": CriticObsPerturber(push, team) for name, push in pushes.items()
        }

    base = evaluation.standard(learning_steps=task.director_steps)
    if not task.suite:
        base = replace(base, entries=base.entries[1:2])
    return base.extended(
        Entry(family="learned", build=known),
        Entry(family="gradient", build=by_critic),
        name="predator and prey",
    )


def test(
    place: Workplace, *, method: str, backbone: str, seed: int, task: Chase
) -> dict[str, object]:
    """Return the raw scores of a team: the return of each episode, by column."""

    def trained(name: str) -> Made:
        return atsa.trained(name, group_of(place.study, backbone, seed, task, name), build)

    begun, team = time.process_time(), trained(method).team
    make_env = atsa.maker(task.world)

    def play(perturb: Any) -> list[float]:
        found = evaluation.rollout(
            team,
            make_env,
            perturb=perturb,
            episodes=task.episodes,
            num_envs=50,
            seed=10_000,
        )
        return found.returns.round(3).tolist()

    if method == BLIND:
        return {"columns": dict.fromkeys(COLUMNS, play(ZeroedObs()))}
    teachers = {name: trained(name) for name in TEACHERS}
    fgsm = CriticObsPerturber(attacks.PGD.fgsm(task.ball), team)
    attacked = atsa.columns(task, teachers) | {"FGSM": fgsm}
    greedy = teachers["ATSA"].adversary.deployed(greedy=True).director
    attacked["ATSA, greedy"] = DirectedObsPerturber(greedy, stor(task.ball))
    columns = {name: play(attack) for name, attack in attacked.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RobustnessWarning)  # the cell keeps them
        worst = evaluation.worst_case(
            {method: team},
            make_env,
            task.ball,
            suite=suite(task, team, teachers),
            metric="return",
            episodes=max(1, task.episodes // 2),
            choice_episodes=max(1, task.episodes // 5),
            num_envs=50,
        )
    return {
        "columns": columns,
        "worst": {
            row: {
                name: next(iter(cell.scores.values())).round(3).tolist()
                for name, cell in by.items()
            }
            for row, by in worst.table.cells.items()
        },
        "chosen": worst.chosen[method][0],
        "findings": [str(warning.message) for warning in caught],
        "test_cpu_seconds": round(time.process_time() - begun, 1),
    }


class Results:
    """Finished tests of one backbone and radius: tables and text are made of them alone.

    Args:
        backbone: MADDPG or FACMAC.
        epsilon: the radius.
        tests: method to training seed to what :func:`test` returned.
        world: what titles say of it.
    """

    def __init__(
        self,
        backbone: str,
        epsilon: float,
        tests: Mapping[str, Mapping[int, Any]],
        world: str = "",
    ) -> None:
        self.backbone, self.epsilon, self.tests = backbone, epsilon, tests
        self.known = [method for method in METHODS if method in tests]
        self.paper = json.loads(PRINTED.read_text("utf-8"))[backbone]
        self.title = f"{backbone}, epsilon {epsilon:g}{world}"

    def cells(self, method: str, pick: Callable[[Any], Mapping[str, Any]]) -> dict[str, Cell]:
        """Return cells over training seeds, by column."""
        by_seed = {seed: pick(found) for seed, found in self.tests[method].items()}
        names = next(iter(by_seed.values()))
        return {
            name: Cell({s: found[name] for s, found in by_seed.items()}, limits=RETURNS)
            for name in names
        }

    def table(self) -> CrossTable:
        """Return teams x the paper's columns."""
        rows: dict[str, dict[str, Cell]] = {}
        for name in ("random", "untrained"):
            none = self.cells(self.known[0], lambda found, name=name: found["worst"][name])["none"]
            rows[name] = {"NoAdv": none}
        baselines = [*rows, *([BLIND] if BLIND in self.tests else [])]
        for method in (BLIND, *self.known):
            if method in self.tests:
                found = self.cells(method, lambda found: found["columns"])
                rows[method] = {name: found[name] for name in COLUMNS}
        table = CrossTable(cells=rows, metric="return", baselines=baselines, title=self.title)
        return table.with_average(COLUMNS, reference="ATSA" if "ATSA" in self.known else None)

    def ours(self) -> CrossTable:
        """Return teams x what the paper has not: the worst case, and teams without eyes."""
        rows: dict[str, dict[str, Cell]] = {}
        for method in self.known:
            greedy = self.cells(method, lambda found: found["columns"])["ATSA, greedy"]
            tried = self.cells(method, lambda found, m=method: found["worst"][m])
            rows[method] = {"ATSA, greedy": greedy}
            rows[method] |= {name: tried[name] for name in KEPT if name in tried}
            for fold in ("zeroed", "another's"):
                blind = self.cells(
                    method, lambda found, row=f"{method}, {fold}": found["worst"][row]
                )
                rows[method][fold] = blind["none"]
        title = f"{self.title}: what the paper does not have"
        return CrossTable(cells=rows, metric="return", title=title)

    def means(self, method: str) -> list[float]:
        """Return the mean returns under the paper's columns."""
        found = self.cells(method, lambda found: found["columns"])
        return [found[name].estimate.mean for name in COLUMNS]

    def beside(self) -> str:
        """Return our returns beside the paper's, and how both rank."""
        printed = {method: self.paper[method]["return"] for method in self.known}
        return atsa.beside({m: self.means(m) for m in self.known}, printed, digits=1)

    def claims(self, others: Mapping[str, "Results"]) -> str:
        """Return what the paper's figures say, and whether ours do: those that can be judged.

        Args:
            others: of all backbones, with the same radius.
        """
        average = {m: float(np.mean(self.means(m))) for m in self.known}
        lines = [["claim", "ours", "held"], ["---"] * 3]

        def judge(
            claim: str, needed: tuple[str, ...], told: Callable[[], tuple[str, bool]]
        ) -> None:
            if all(method in average for method in needed):
                text, held = told()
                lines.append([claim, text, "yes" if held else "no"])

        ranked = sorted(average, key=average.__getitem__, reverse=True)
        all_of_them = ", ".join(f"{method} {average[method]:.1f}" for method in ranked)
        if self.backbone == "MADDPG":
            judge("ATSA has the best average", METHODS, lambda: (all_of_them, ranked[0] == "ATSA"))
            judge(
                "every defence is ahead of none",
                METHODS,
                lambda: (all_of_them, ranked[-1] == "NoAdv"),
            )
        else:
            judge(
                "training without attack has the best average",
                METHODS,
                lambda: (all_of_them, ranked[0] == "NoAdv"),
            )
        clean, *attacked = self.means("NoAdv") if "NoAdv" in self.known else (np.nan,)
        judge(
            "no attack takes a fifth of the undefended team's return",
            ("NoAdv",),
            lambda: (f"{clean:.1f} to {min(attacked):.1f}", min(attacked) > 0.8 * clean),
        )
        if self.backbone == "FACMAC" and "MADDPG" in others:
            other = others["MADDPG"]
            both = [method for method in self.known if method in other.known]
            pairs = [(average[m], float(np.mean(other.means(m)))) for m in both]
            judge(
                "FACMAC is ahead of MADDPG, however both are trained",
                METHODS,
                lambda: (
                    ", ".join(
                        f"{m} {one:.1f} / {two:.1f}"
                        for m, (one, two) in zip(both, pairs, strict=True)
                    ),
                    all(one > two for one, two in pairs),
                ),
            )
        return _markdown(lines)

    def write(self, others: Mapping[str, "Results"], out: Path) -> str:
        """Write tables, and return the text."""
        stem = out / f"{self.backbone}-{self.epsilon:g}"
        table, ours = self.table(), self.ours()
        for made, ending in ((table, ""), (ours, "-ours")):
            made.to_json(Path(f"{stem}{ending}.json"))
            made.plot(Path(f"{stem}{ending}.png"))
        worst = ", ".join(
            f"{method} {', '.join(sorted({f['chosen'] for f in self.tests[method].values()}))}"
            for method in self.known
        )
        return "\n".join(
            [
                f"## {table.title}\n\n{table.to_markdown()}",
                f"### Ours / the paper's, whose radius is not told\n\n{self.beside()}",
                self.claims(others),
                f"### Attacks that the paper has not\n\n{ours.to_markdown()}",
                f"The worst of each team's suite: {worst}.\n",
            ]
        )


def draw_learning(
    task: Chase, backbone: str, size: float, seeds: list[int], out: Path
) -> dict[str, list[float]]:
    """Draw what teams earn while they train; return CPU seconds by method."""
    runs: dict[str, list[Path]] = {}
    begun: dict[str, int] = {}
    costs: dict[str, list[float]] = {}
    for method in (HEAD, BLIND, *METHODS):
        for seed in seeds:
            group = group_of(out, backbone, seed, replace(task, epsilon=size), method)
            run = group.path(method, "")
            if (run / "weights.pt").exists():
                assert isinstance(group.task, Chase)
                begun[method] = group.task.head
                runs.setdefault(method, []).append(run)
                seconds = json.loads((run / "cost.json").read_text("utf-8"))["cpu_seconds"]
                costs.setdefault(method, []).extend([seconds] if seconds is not None else [])
    curves = atsa.learned(runs, "return", begun)
    if curves:
        title = f"{backbone}, epsilon {size:g}{task.told}: return in training"
        path = out / f"{backbone}-{size:g}-learning.png"
        evaluation.learning_curves(curves, path, title=title)
    return costs


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def smoke(task: Chase) -> Chase:
    """Return the task cut down to a second."""
    small = atsa.smoke(replace(task, head=400))
    assert isinstance(small, Chase)
    return small


def report(
    tasks: Mapping[str, Chase],
    cells: Mapping[Key, Any],
    epsilons: list[float],
    seeds: list[int],
    out: Path,
) -> str:
    """Write the tables and figures of all cells that are done, and return the text."""
    text = []
    for size in epsilons:
        found: dict[str, dict[str, dict[int, Any]]] = {}
        for (work, backbone, method, radius, seed), cell in cells.items():
            if work == "test" and (radius == size or method == BLIND):
                found.setdefault(backbone, {}).setdefault(method, {})[seed] = cell
        results = {
            backbone: Results(backbone, size, tests, tasks[backbone].told)
            for backbone, tests in found.items()
            if any(method in tests for method in METHODS)
        }
        for backbone, one in results.items():
            text.append(one.write(results, out))
            costs = draw_learning(tasks[backbone], backbone, size, seeds, out)
            spent = ", ".join(f"{m} {np.median(v):.0f}" for m, v in costs.items() if v)
            tests = [f["test_cpu_seconds"] for m in one.known for f in one.tests[m].values()]
            text.append(
                f"CPU seconds per training (median over seeds): {spent}; per test "
                f"{np.median(tests):.0f}.\n"
            )
    return "\n".join(text)


def main() -> None:
    """Run all cells that are missing, and report on all that are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epsilon", type=float, nargs="+", default=list(EPSILONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (default: 1)")
    fewer = TASKS["explicit"]["FACMAC"].head
    told = f"steps of all before the attack (default: {TASK.head}; FACMAC in mpe2's world {fewer})"
    parser.add_argument("--head", type=int, help=told)
    parser.add_argument(
        "--steps", type=int, default=TASK.steps, help="of each training from then on"
    )
    parser.add_argument("--episodes", type=int, default=TASK.episodes, help="per cell")
    parser.add_argument("--out", type=Path, default=Path("runs/predator_prey"), help="folder")
    parser.add_argument("--recurrent", action="store_true", help="networks with memory")
    parser.add_argument(
        "--integrator",
        choices=list(TASKS),
        default=TASK.integrator,
        help="semi-implicit is the release's world (default), explicit mpe2's",
    )
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    tasks = {
        backbone: replace(
            task,
            head=task.head if args.head is None else args.head,
            steps=args.steps,
            episodes=args.episodes,
            recurrent=args.recurrent,
        )
        for backbone, task in TASKS[args.integrator].items()
    }
    out: Path = args.out / "recurrent" if args.recurrent else args.out
    out = out if args.integrator == TASK.integrator else out / args.integrator
    if args.smoke:
        tasks = {backbone: smoke(task) for backbone, task in tasks.items()}
        out, args.seeds, args.epsilon = out / "smoke", [0], [0.05]
        args.backbones, args.methods = ["FACMAC"], ["NoAdv", "ATSA"]
    jobs = jobs_of(tasks, args.backbones, args.methods, args.epsilon, args.seeds)
    run = evaluation.read_cells if args.report else partial(evaluation.run_cells, jobs=args.jobs)
    text = report(tasks, run(jobs, out), args.epsilon, args.seeds, out)
    (out / "predator_prey.md").write_text(text, "utf-8")
    print(text)
    print(f"Tables, figures and raw scores are in {out}/")


if __name__ == "__main__":
    main()
