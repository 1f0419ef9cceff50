"""The zoo's files: what is there, what is read, and how the rest is trained."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

from robustmarl._checks import check, check_flag, check_int, check_path, check_text
from robustmarl.adversaries import Adversary
from robustmarl.evaluation import Defence, Recipe, Suite
from robustmarl.evaluation.grid_cells import defended
from robustmarl.joint import TeamSpec, spec_of
from robustmarl.learning import TeamAlgorithm
from robustmarl.training import AdversarialTraining, Log, Saved, run, save_weights
from robustmarl.training import load as load_file
from robustmarl.training.resume import CHECKPOINT
from robustmarl.zoo.cards import Card, measure
from robustmarl.zoo.entries import ENTRIES, Entry
from robustmarl.zoo.worlds import WORLDS

__all__ = [
    "card",
    "cards",
    "file_of",
    "learners",
    "load",
    "load_adversary",
    "names",
    "train",
    "write_card",
]

SHIPPED = Path(__file__).parent / "files"
"""What comes with the package."""

PROGRAM = "python -m robustmarl"

TRAINED = Path("runs") / "zoo"
"""Where :func:`train` puts the rest unless it is told otherwise."""


def names(*, shipped: bool = False) -> list[str]:
    """Return the names of the zoo's teams, ``world/method/seed``.

    Args:
        shipped: only those whose files come with the package; all others :func:`train` makes.

    Example:
        >>> "3s_vs_3z/qmix-plain/0" in names(shipped=True)
        True
    """
    shipped = check_flag("names.shipped", shipped)
    return [name for name in ENTRIES if not shipped or (SHIPPED / file_of(name)).exists()]


def load(name: str, *, folder: str | Path = TRAINED, device: str = "cpu") -> Saved[TeamAlgorithm]:
    """Return a team of the zoo, with what builds its environment.

    Args:
        name: of :func:`names`.
        folder: of teams that were trained here, which come before those of the package.
        device: where it is to live.

    Raises:
        ValueError: for an unknown name.
        FileNotFoundError: for a team that neither comes with the package nor was trained.

    Example:
        >>> saved = load("3s_vs_3z/qmix-plain/0")
        >>> type(saved.learner).__name__, saved.make_env().metadata["name"]
        ('QMIX', 'skirmish_3s_vs_3z')
    """
    return load_file(_found("load", name, folder, ""), device=device)


def load_adversary(
    name: str, *, folder: str | Path = TRAINED, device: str = "cpu"
) -> Saved[Adversary]:
    """Return the adversary that learned beside a team of the zoo; see :func:`load`.

    ``adversary.deployed()`` attacks that team, or any other of the same world.

    Raises:
        ValueError: for an unknown name, or a team that was trained without one.
        FileNotFoundError: as :func:`load`.

    Example:
        >>> type(load_adversary("3m/qmix-atsa/0").learner).__name__
        'ATSA'
    """
    _check_name("load_adversary", name)
    if ENTRIES[name].defence.adversary is None:
        some = [one for one, entry in ENTRIES.items() if entry.defence.adversary is not None]
        raise ValueError(
            f"load_adversary.name must be of a team with an adversary, got {name!r}. "
            f"There are {', '.join(some[:4])} and others."
        )
    path = _found("load_adversary", name, folder, "-adversary")
    return load_file(path, Adversary, device=device)  # type: ignore[type-abstract]


def card(name: str, *, folder: str | Path = TRAINED) -> Card:
    """Return what is known of the team that :func:`load` returns; its arguments and errors.

    Raises:
        FileNotFoundError: also for a team in ``folder`` that was not measured yet.

    Example:
        >>> known = card("3s_vs_3z/qmix-plain/0")
        >>> known.figures["clean"].mean > known.figures["worst"].mean
        True
    """
    path = _found("card", name, folder, "", ".json")
    if path.is_relative_to(SHIPPED) and (Path(folder) / file_of(name)).exists():
        raise FileNotFoundError(
            f"{name} of {str(folder)!r} was not measured yet. Measure it: {PROGRAM} zoo measure "
            f"{name}"
        )
    return Card.from_json(path.read_text("utf-8"))


def cards(*, folder: str | Path | None = None) -> Iterator[Card]:
    """Yield the cards that come with the package, and those of teams in ``folder``.

    A team that is in ``folder``, or was measured again there, has no other card.

    Example:
        >>> "3s_vs_3z/qmix-plain/0" in [known.name for known in cards()]
        True
    """
    own = None if folder is None else check_path("cards.folder", folder)
    paths = sorted(SHIPPED.glob("*/*.json"))
    if own is not None:
        paths = [path for path in paths if not _is_renewed(path.relative_to(SHIPPED), own)]
        paths += sorted(own.glob("*/*.json"))
    for path in paths:
        yield Card.from_json(path.read_text("utf-8"))


def _is_renewed(card: Path, folder: Path) -> bool:
    """Return whether ``folder`` has a card of its own at this place, or a team without one."""
    return any((folder / card.with_suffix(ending)).exists() for ending in (".json", ".pt"))


def train(
    name: str,
    folder: str | Path = TRAINED,
    *,
    progress: bool | str = True,
    env_steps: int | None = None,
) -> Saved[TeamAlgorithm]:
    """Train a team of the zoo, keep it and its adversary in ``folder``, and return it.

    What was interrupted goes on where it was, and what is there already is not trained again.

    Args:
        name: of :func:`names`.
        folder: of the files, which :func:`load` finds there.
        progress: show a bar; a text names it.
        env_steps: train so long instead; None is as long as the zoo's own.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> saved = train("2m_vs_1z/qmix-plain/0", "zoo", progress=False, env_steps=100)
        >>> type(saved.learner).__name__
        'QMIX'
    """
    _check_name("train", name)
    entry, path = ENTRIES[name], check_path("train.folder", folder) / file_of(name)
    if path.exists():
        return load_file(path)
    recipe, defence, world = entry.recipe, deepcopy(entry.defence), WORLDS[entry.world]
    spec = spec_of(world.make_env()).of_team(world.team)
    steps = recipe.env_steps if env_steps is None else check_int("train.env_steps", env_steps)
    team, adversary = learners(recipe, defence, spec, entry.seed)
    run(
        team if adversary is None else AdversarialTraining(team, adversary),
        world.make_env,
        env_steps=steps,
        num_envs=recipe.num_envs,
        seed=entry.seed,
        perturb=defence.perturb,
        learn=recipe.learn,
        log=Log(path.with_suffix(""), resume=True, progress=name if progress is True else progress),
        **world.playing,
    )
    told = {"name": name, "about": entry.about, "command": command(entry, env_steps)}
    about = {**told, "env_steps": steps}
    files: dict[Path, TeamAlgorithm | Adversary] = {}
    if adversary is not None:
        files[path.with_name(f"{path.stem}-adversary.pt")] = adversary
    files[path] = team  # last: where it is, all is done
    for file, one in files.items():
        save_weights(one, file, make_env=world.make_env, about=about, optimizers=False)
    (path.with_suffix("") / CHECKPOINT).unlink()  # replay buffers are large
    return load_file(path)


def learners(
    recipe: Recipe, defence: Defence, spec: TeamSpec, seed: int
) -> tuple[TeamAlgorithm, Adversary | None]:
    """Return an untrained team, and what learns beside it, of a recipe and a defence."""
    settings = {**recipe.settings, **defence.settings, "seed": seed}
    team = defended(recipe.algorithm, defence).for_env(spec, **deepcopy(settings))
    adversary = None if defence.adversary is None else defence.adversary(spec, seed=seed)
    return team, adversary


def write_card(
    name: str,
    folder: str | Path = TRAINED,
    *,
    suite: Suite | str = "standard",
    episodes: int | None = None,
    progress: bool | str = True,
) -> Card:
    """Measure a team of the zoo anew, write its card into ``folder``, and return it.

    Args:
        name: of :func:`names`.
        folder: of the card, and of the team if it was trained here.
        suite: of attacks, as all that follows of :func:`~robustmarl.zoo.measure`.
        episodes: behind every figure, >= 1; None is the world's number.
        progress: show a bar; a text names it.

    Raises:
        ValueError: as :func:`load`.
        FileNotFoundError: likewise.
    """
    saved = load(name, folder=folder)
    entry = ENTRIES[name]
    found = measure(
        saved.learner,
        entry.world,
        name=name,
        suite=suite,
        episodes=episodes,
        about=entry.about,
        command=str(saved.about.get("command", command(entry))),
        env_steps=int(saved.about.get("env_steps", entry.recipe.env_steps)),
        progress=name if progress is True else progress,
    )
    path = Path(folder) / file_of(name, ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    found.to_json(path)
    return found


def command(entry: Entry, env_steps: int | None = None) -> str:
    """Return what to type, or to call, to train a team of the zoo, ``env_steps`` as asked for."""
    if env_steps is None:
        return f"{PROGRAM} zoo train {entry.name}"
    return f"zoo.train({entry.name!r}, env_steps={env_steps})"


def file_of(name: str, ending: str = ".pt") -> Path:
    """Return where a team's file is within a folder of the zoo."""
    world, method, seed = name.split("/")
    return Path(world) / f"{method}-{seed}{ending}"


def _found(where: str, name: str, folder: str | Path, part: str, ending: str = ".pt") -> Path:
    _check_name(where, name)
    check_path(f"{where}.folder", folder)
    file = file_of(name, part + ending)
    for place in (Path(folder), SHIPPED):
        if (place / file).exists():
            return place / file
    raise FileNotFoundError(
        f"{name} does not come with the package, and is not in {str(folder)!r}. Train it: "
        f"{command(ENTRIES[name])}"
    )


def _check_name(where: str, name: str) -> None:
    check_text(f"{where}.name", name)
    near = difflib.get_close_matches(name, names(shipped=True), n=4, cutoff=0.0)
    rule = f"one of zoo.names(), such as {', '.join(near)}"
    check(name in ENTRIES, f"{where}.name", rule, name)
