"""``zoo``: trained teams to try things on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from robustmarl import zoo as shelf
from robustmarl._checks import check_known
from robustmarl.zoo import Card
from robustmarl.zoo.cards import measured, ranked
from robustmarl.zoo.shelf import TRAINED

__all__ = ["zoo"]


def zoo(args: argparse.Namespace) -> int:
    """List teams, tell of one, train or measure it, or rank those of a world."""
    if args.what == "names":
        _names(args)
    elif args.what == "leaderboard":
        _leaderboard(args)
    elif args.name is None:
        raise ValueError(f"zoo {args.what} must be told a name. {args.program} zoo lists them.")
    else:
        _one(args, args.name.removeprefix("zoo:"))
    return 0


def _one(args: argparse.Namespace, name: str) -> None:
    folder = {} if args.folder is None else {"folder": args.folder}
    if args.what == "card":
        sys.stdout.write(f"{shelf.card(name, **folder)}")
    elif args.what == "train":
        shelf.train(name, progress=not args.quiet, **folder)
        sys.stdout.write(
            f"It is in {args.folder or TRAINED}/.\nNext: {args.program} zoo measure {name}\n"
        )
    else:
        found = shelf.write_card(name, suite=args.suite, progress=not args.quiet, **folder)
        sys.stdout.write(f"{found}")


def _names(args: argparse.Namespace) -> None:
    """Print teams, those that come along with how good they are."""
    cards, shipped = _cards(args), shelf.names(shipped=True)
    rows = [["team", "clean", "worst", "how it was trained"]]
    for name, entry in shelf.ENTRIES.items():
        if name in cards or name in shipped or args.all:
            rows.append([name, *_means(cards.get(name), ("clean", "worst")), entry.about])
    sys.stdout.write(_aligned(rows))
    hidden = len(shelf.ENTRIES) - len(rows) + 1
    others = f"{hidden} more that can be trained: {args.program} zoo --all\n" if hidden else ""
    sys.stdout.write(
        f"\nworst: what the worst attack of a suite leaves; see {args.program} zoo card NAME\n"
        f"{others}Next: {args.program} evaluate zoo:3s_vs_3z/qmix-plain/0 --attack noise pgd "
        "--report out.html\n"
    )


def _leaderboard(args: argparse.Namespace) -> None:
    """Print the teams of a world, the best at worst first."""
    worlds = list(shelf.WORLDS)
    if args.name is None:
        raise ValueError(f"zoo leaderboard must be told a world: {', '.join(worlds)}.")
    check_known("zoo leaderboard", args.name, worlds)
    own = [card for card in _cards(args).values() if card.world == args.name]
    if not own:
        team = next(name for name in shelf.ENTRIES if name.startswith(f"{args.name}/"))
        raise ValueError(
            f"No team of {args.name} was measured yet. "
            f"{args.program} zoo train {team}, then zoo measure {team}."
        )
    if args.markdown:
        sys.stdout.write(shelf.leaderboard(own, args.name))
        return
    own = ranked(own)
    sentence, told = measured(own)
    names = list(dict.fromkeys(name for card in own for name in card.figures))
    rows = [["team", *names, "worst attack", *(["suite", "episodes"] if told else [])]]
    for number, card in enumerate(own):
        how = told[number] if told else ()
        rows.append([card.name, *_means(card, names), card.worst_attack, *how])
    world = shelf.WORLDS[args.name]
    sys.stdout.write(
        f"{args.name}: {world.metric}, {world.threat}\n\n{_aligned(rows)}\n"
        f"{sentence} Means; --markdown has intervals, and what is proven.\n"
    )


def _cards(args: argparse.Namespace) -> dict[str, Card]:
    """Return cards by name, those measured here in place of those that come along."""
    return {card.name: card for card in shelf.cards(folder=args.folder or TRAINED)}


def _means(card: Card | None, names: Sequence[str]) -> list[str]:
    """Return figures in short, empty where there are none."""
    figures = {} if card is None else card.figures
    return [f"{figures[name].mean:.2f}" if name in figures else "" for name in names]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns, the first one underlined."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    head, *lines = (
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join([head, "-" * len(head), *lines]) + "\n"
