"""What is known of a team: measured once, kept beside its file."""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import robustmarl
from robustmarl._checks import check, check_choice, check_int, check_kind, check_text, sizes_of
from robustmarl.adversaries import ByzantineAttacker
from robustmarl.data import RandomController
from robustmarl.evaluation import Estimate, Suite, certified, interval, rollout, worst_case
from robustmarl.evaluation.rollouts import Playing
from robustmarl.learning import TeamAlgorithm
from robustmarl.networks.calculus.plan import Plan
from robustmarl.perturbers import Perturber
from robustmarl.training import AdversarialTraining, Log, run
from robustmarl.typing import RobustnessWarning
from robustmarl.zoo.worlds import WORLDS, Traitor, World

__all__ = ["Card", "leaderboard", "measure", "measured", "ranked", "turned"]

PROVEN = (0.01, 0.02, 0.05)
"""Further sizes at which decisions are proven, beside that of the world."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What was measured of a team, and how.

    Attributes:
        name: of the team.
        world: what it plays.
        threat: what attacks could do, in words.
        metric: what figures are of.
        figures: ``clean``, ``worst``, ``random`` and ``untrained``, and of teams whose observations
            are attacked ``zeroed`` and ``another's``: means with the interval of this one team.
        worst_attack: the name of the attack behind ``worst``.
        attacks: every attack's mean on the episodes reported.
        certified: size of the ball to the share of decisions that no attack in it can change.
        suite: attacks that were tried: name and version, or what learned how long.
        episodes: behind every figure.
        about: how it was trained, in a sentence.
        command: what to type to train it.
        measured: what to type, or to call, to get the card.
        findings: what to doubt.
        env_steps: of its training.
        seed: of its training.
        cpu_seconds: of the measuring.
        version: of this package.
    """

    name: str
    world: str
    threat: str
    metric: str
    figures: Mapping[str, Estimate]
    worst_attack: str
    attacks: Mapping[str, float]
    suite: str
    episodes: int
    certified: Mapping[str, float] = field(default_factory=dict)
    about: str = ""
    command: str = ""
    measured: str = ""
    findings: tuple[str, ...] = ()
    env_steps: int | None = None
    seed: int = 0
    cpu_seconds: float = 0.0
    version: str = robustmarl.__version__

    def to_json(self, path: str | Path | None = None) -> str:
        """Return all of it as JSON; written to ``path`` if given."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        if path is not None:
            Path(path).write_text(text, "utf-8")
        return text

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Return what :meth:`to_json` wrote.

        Raises:
            ValueError: for other text.
        """
        try:
            told = json.loads(text)
            figures = {name: Estimate(**one) for name, one in told.pop("figures").items()}
            return cls(figures=figures, **told | {"findings": tuple(told["findings"])})
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"Card.from_json.text must be a card's JSON, got {error}.") from error

    def __str__(self) -> str:
        """Return the card in lines."""
        figures = "".join(f"  {name:<12}{one}\n" for name, one in self.figures.items())
        proven = ", ".join(f"{share:.2f} at {size}" for size, share in self.certified.items())
        lines = [f"{self.name}: {self.about}", f"{self.threat}; {self.metric}, {self.suite}"]
        text = "\n".join(lines) + "\n" + figures
        text += f"  worst under {self.worst_attack}\n"
        if proven:
            text += f"  decisions proven: {proven}\n"
        return text + "".join(f"! {finding}\n" for finding in self.findings)


def measure(
    learner: TeamAlgorithm,
    world: str,
    *,
    name: str = "team",
    suite: Suite | str = "standard",
    episodes: int | None = None,
    num_envs: int = 50,
    seed: int = 0,
    about: str = "",
    command: str = "",
    env_steps: int | None = None,
    progress: bool | str = False,
) -> Card:
    """Return a team's card: how it plays clean, at worst and without eyes, and what is proven.

    Where observations are attacked the worst is that of
    :func:`~robustmarl.evaluation.worst_case`; where an agent may turn traitor, of a traitor that
    learns against this very team, for each agent in turn, the worst agent chosen on episodes of its
    own.

    Args:
        learner: the team.
        world: a name of ``zoo.WORLDS``.
        name: of the team.
        suite: of attacks on observations.
        episodes: behind every figure, >= 1; None is the world's number. The worst attack on
            observations is chosen on half as many others, the worst traitor on as many others.
        num_envs: environments side by side, >= 1.
        seed: of the episodes and of what learns, >= 0.
        about: how it was trained.
        command: what to type to train it.
        env_steps: of its training.
        progress: show a bar; a text names it.

    Raises:
        TypeError: for what is no team.
        ValueError: for an unknown world, or numbers out of range.
    """
    check_kind("measure.learner", learner, TeamAlgorithm, "an algorithm of robustmarl")
    check_choice("measure.world", world, list(WORLDS))
    episodes = WORLDS[world].episodes if episodes is None else episodes
    episodes, num_envs = sizes_of("measure", episodes=episodes, num_envs=num_envs)
    seed = check_int("measure.seed", seed, 0)
    for key, text in (("name", name), ("about", about), ("command", command)):
        check_text(f"measure.{key}", text)
    begun, played = time.process_time(), WORLDS[world]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RobustnessWarning)  # they are among the findings
        if played.ball is not None:
            found = _under_attack(learner, played, suite, episodes, num_envs, seed, progress)
        else:
            assert played.traitor is not None  # a world has the one or the other
            found = _betrayed(learner, played, played.traitor, episodes, num_envs, seed)
    return Card(
        name=name,
        world=world,
        threat=played.threat,
        metric=played.metric,
        episodes=episodes,
        about=about,
        command=command,
        env_steps=env_steps,
        seed=learner.seed,
        cpu_seconds=round(time.process_time() - begun, 1),
        **found,
    )


def _under_attack(
    learner: TeamAlgorithm,
    world: World,
    suite: Suite | str,
    episodes: int,
    num_envs: int,
    seed: int,
    progress: bool | str,
) -> dict[str, Any]:
    assert world.ball is not None
    result = worst_case(
        {"team": learner},
        world.make_env,
        world.ball,
        suite=suite,
        episodes=episodes,
        choice_episodes=-(-episodes // 2),
        num_envs=num_envs,
        metric=world.metric,
        seed=seed,
        progress=progress,
        **world.playing,
    )
    cells = result.table.cells
    figures = {
        "clean": cells["team"]["none"].estimate,
        "worst": cells["team"]["worst"].estimate,
    }
    figures |= {
        row.removeprefix("team, "): cells[row]["none"].estimate for row in cells if row != "team"
    }
    attacks = {name: float(cell.estimate.mean) for name, cell in cells["team"].items()}
    (chosen,) = result.chosen["team"].values()
    return {
        "figures": figures,
        "worst_attack": chosen,
        "attacks": {name: mean for name, mean in attacks.items() if name not in ("none", "worst")},
        "suite": result.suite,
        "findings": tuple(str(finding.text) for finding in result.findings),
        "certified": _proven(learner, world, seed),
    }


def _proven(learner: TeamAlgorithm, world: World, seed: int) -> dict[str, float]:
    """Return shares of decisions proven by size, none where bounds are not known of the network."""
    assert world.ball is not None
    network = learner.policy.network
    if learner.spec.continuous or not isinstance(network.plan(), Plan):
        return {}
    sizes = sorted({*PROVEN, float(np.max(world.ball.epsilon))})
    found = certified(
        {"team": learner},
        world.make_env,
        world.ball,
        sizes,
        episodes=20,
        seed=seed,
        **world.playing,
    )
    row = found.proven.cells["team"]
    return {name: round(float(cell.estimate.mean), 4) for name, cell in row.items()}


def _betrayed(
    learner: TeamAlgorithm,
    world: World,
    traitor: Traitor,
    episodes: int,
    num_envs: int,
    seed: int,
) -> dict[str, Any]:
    def play(policy: Playing, perturb: Perturber | None, at: int) -> np.ndarray[Any, Any]:
        found = rollout(
            policy,
            world.make_env,
            episodes=episodes,
            num_envs=num_envs,
            seed=at,
            perturb=perturb,
            **world.playing,
        )
        return found.figure(world.metric)

    attacks: dict[str, Perturber] = {}
    for agent in learner.spec.agents:
        attacks[f"traitor {agent}"] = turned(learner, traitor, agent, seed=seed)
    choice = {name: float(play(learner, one, seed + 1).mean()) for name, one in attacks.items()}
    worst = min(choice, key=lambda name: choice[name])
    scores = {name: play(learner, one, seed) for name, one in attacks.items()}
    rows = {
        "clean": play(learner, None, seed),
        "worst": scores[worst],
        "random": play(RandomController(learner.spec), None, seed),
        "untrained": play(learner.untrained(seed + 1_000), None, seed),
    }
    return {
        "figures": {name: interval({learner.seed: one}) for name, one in rows.items()},
        "worst_attack": worst,
        "attacks": {name: float(one.mean()) for name, one in scores.items()},
        "suite": f"a traitor that learns for {traitor.env_steps:,} steps, per agent",
    }


def turned(
    learner: TeamAlgorithm,
    traitor: Traitor,
    agent: str,
    *,
    seed: int = 0,
    progress: bool | str = False,
) -> Perturber:
    """Return a team's agent turned traitor, after it learned against the others.

    Args:
        learner: the team, which stands still.
        traitor: how the traitor learns.
        agent: who it is.
        seed: of its learning, >= 0.
        progress: show a bar; a text names it.
    """
    attacker = ByzantineAttacker.against(learner, [agent], seed=seed, **traitor.settings)
    run(
        AdversarialTraining(learner, attacker, team_every=None),
        traitor.make_env,
        env_steps=traitor.env_steps,
        num_envs=traitor.num_envs,
        seed=seed,
        learn=traitor.learn,
        log=Log(progress=progress),
    )
    return attacker.deployed()


def ranked(cards: Iterable[Card]) -> list[Card]:
    """Return cards, the best at worst first; those alike in suite and episodes stand together.

    Args:
        cards: of one world. The worst of a few attacks is no match for the worst of many, so that
            the most that are alike come first, then the next most.
    """
    every = list(cards)
    alike = Counter((card.suite, card.episodes) for card in every)

    def place(card: Card) -> tuple[int, str, int, float]:
        kind = (card.suite, card.episodes)
        return -alike[kind], *kind, -card.figures["worst"].mean

    return sorted(every, key=place)


def measured(cards: Iterable[Card]) -> tuple[str, list[tuple[str, str]]]:
    """Return how cards were measured: a sentence, or two columns where they differ.

    Args:
        cards: at least one.
    """
    told = [(card.suite, f"{card.episodes}") for card in cards]
    suite, episodes = told[0]
    if len(set(told)) == 1:
        return f"Worst under {suite}; {episodes} episodes behind every figure.", []
    return "Worst is by the suite; what differs in it or in episodes is not comparable.", told


def leaderboard(cards: Iterable[Card], world: str) -> str:
    """Return the teams of one world in Markdown, the best at worst first.

    How they were measured is said beneath, or, where that differs, in columns; only those that were
    measured alike are ranked among each other.

    Args:
        cards: of any teams.
        world: whose; a name of ``zoo.WORLDS``.

    Raises:
        ValueError: for an unknown world, or one without cards.

    Example:
        >>> from robustmarl import zoo
        >>> leaderboard(zoo.cards(), "3s_vs_3z")[:23]
        '| team | clean | worst '
    """
    check_choice("leaderboard.world", world, list(WORLDS))
    own = ranked(card for card in cards if card.world == world)
    check(len(own) > 0, "leaderboard.cards", f"with one of {world}", own)
    sentence, told = measured(own)
    names = list(dict.fromkeys(name for card in own for name in card.figures))
    sizes = list(dict.fromkeys(size for card in own for size in card.certified))
    head = ["team", *names, "worst attack", *(f"proven at {size}" for size in sizes)]
    head += ["suite", "episodes"] if told else []
    lines = [head, ["---"] * len(head)]
    for number, card in enumerate(own):
        figures = [str(card.figures[name]) if name in card.figures else "" for name in names]
        proven = [f"{card.certified[s]:.2f}" if s in card.certified else "" for s in sizes]
        how = told[number] if told else ()
        lines.append([f"`{card.name}`", *figures, card.worst_attack, *proven, *how])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{sentence}\n"
