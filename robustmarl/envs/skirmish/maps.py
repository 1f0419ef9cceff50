"""Who fights whom on which map, as data.

Armies and limits are those of SMAC's maps, and of four more that papers use: ``4m_vs_3m``, ``6m``,
``15m`` and ``20m``. All have one field, as most of SMAC's map files have it: 32 by 32 cells, of
which the 16 rows in the middle can be walked on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from robustmarl._checks import (
    check,
    check_choice,
    check_each,
    check_index,
    check_int,
    check_kind,
    check_known,
    check_number,
    check_text,
    keep,
)
from robustmarl.envs.skirmish.formations import JITTER, SHIFT, columns
from robustmarl.envs.skirmish.units import UNITS, UnitType

__all__ = ["MAPS", "SkirmishMap", "map_of"]

Army: TypeAlias = tuple[tuple[str | UnitType, int], ...]

MOST_UNITS = 200
"""Of a side: everybody sees everybody, so that work and memory grow with the cube of the number."""


@dataclass(frozen=True, kw_only=True)
class SkirmishMap:
    """Who fights whom, where, and for how long.

    A side begins in columns of up to six units around its start, of each type by itself, half a
    cell between two neighbours, moved by up to 0.7 cells by chance. All of it must be inside
    ``playable``: by default that is up to 84 marines.

    Args:
        name: of the map.
        allies: (unit type or its name, how many) in the order of the agents.
        enemies: the same of the other side.
        limit: steps after which an episode is truncated, >= 1.
        enemy_types: names of unit types in the order of the enemies' one-hot type; None is
            the order of ``allies``, then ``enemies``.
        size: width and height of the whole map, cells; the state's places are over them.
        playable: left, bottom, right and top of the part where units can be, whole cells.
        ally_start: middle of the allies at first.
        enemy_start: middle of the enemies at first.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for an unknown unit, two types of one name, an empty side, one of more than
            ``MOST_UNITS`` or that does not fit where it begins, or a place outside the map.

    Example:
        >>> from robustmarl import envs
        >>> sides = {"allies": [("marine", 2)], "enemies": [("zealot", 1)]}
        >>> mine = SkirmishMap(name="2m_vs_zealot", **sides, limit=60)
        >>> envs.skirmish(mine).possible_agents
        ['agent_0', 'agent_1']
    """

    name: str
    allies: Army
    enemies: Army
    limit: int
    enemy_types: tuple[str, ...] | None = None
    size: tuple[int, int] = (32, 32)
    playable: tuple[int, int, int, int] = (0, 8, 32, 24)
    ally_start: tuple[float, float] = (9.0, 16.0)
    enemy_start: tuple[float, float] = (23.0, 16.0)
    # what allies and enemies say, unit by unit
    ally_units: tuple[UnitType, ...] = field(init=False, repr=False)
    enemy_units: tuple[UnitType, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        keep(
            self,
            name=check_text("SkirmishMap.name", self.name),
            limit=check_int("SkirmishMap.limit", self.limit, 1),
        )
        for army, units in (("allies", "ally_units"), ("enemies", "enemy_units")):
            kinds = _units(army, getattr(self, army))
            fighting = any(not kind.heal for kind in kinds)
            check(fighting, f"SkirmishMap.{army}", "units of which some fight", getattr(self, army))
            army_given = tuple((kind, int(number)) for kind, number in getattr(self, army))
            keep(self, **{army: army_given, units: kinds})
        named: dict[str, UnitType] = {}
        for side, members in (("allies", self.ally_units), ("enemies", self.enemy_units)):
            for kind in dict.fromkeys(members):
                alone = named.setdefault(kind.name, kind) == kind
                rule, remedy = "units of one type to a name, on both sides", "Rename one of them."
                check(alone, f"SkirmishMap.{side}", rule, f"two types {kind.name!r}", remedy)
        for name, count in (("size", 2), ("playable", 4)):
            where, rule = f"SkirmishMap.{name}", f"{count} ints, cells"
            cells = check_each(where, getattr(self, name), check_index, rule)
            check(len(cells) == count, where, rule, cells)
            keep(self, **{name: cells})
        left, bottom, right, top = self.playable
        inside = 0 <= left < right <= self.size[0] and 0 <= bottom < top <= self.size[1]
        check(inside, "SkirmishMap.playable", f"inside the size {self.size}", self.playable)
        for name in ("ally_start", "enemy_start"):
            where, rule = f"SkirmishMap.{name}", f"(x, y) inside {self.playable}, cells"
            place = check_each(where, getattr(self, name), check_number, rule)
            check(len(place) == 2, where, rule, place)
            x, y = place
            check(left < x < right and bottom < y < top, where, rule, place)
            keep(self, **{name: place})
        self._check_formation("allies", self.ally_units, self.ally_start, facing=1)
        self._check_formation("enemies", self.enemy_units, self.enemy_start, facing=-1)
        if self.enemy_types is not None:
            rule = "a tuple of the types' names"
            types = check_each("SkirmishMap.enemy_types", self.enemy_types, check_text, rule)
            keep(self, enemy_types=types)
            same = sorted(self.enemy_types) == sorted(self.ally_types)
            rule = f"the types {list(self.ally_types)} in some order"
            check(same, "SkirmishMap.enemy_types", rule, self.enemy_types)

    def _check_formation(
        self, side: str, units: tuple[UnitType, ...], start: tuple[float, float], facing: int
    ) -> None:
        """Refuse a side that may begin outside the field, wherever chance moves it."""
        places = [place for column in columns(units, start, facing) for place in column]
        (west, south), (east, north) = (
            (f(x for x, _ in places) + moved, f(y for _, y in places) + moved)
            for f, moved in ((min, -JITTER - SHIFT), (max, JITTER + SHIFT))
        )
        left, bottom, right, top = self.playable
        inside = left <= west and east < right and bottom <= south and north < top
        rule = f"units that can all begin inside playable, {self.playable}, cells"
        taken = f"places from ({west:.1f}, {south:.1f}) to ({east:.1f}, {north:.1f})"
        remedy = "Take fewer, a larger size and playable, or another start."
        check(inside, f"SkirmishMap.{side}", rule, taken, remedy)

    @property
    def ally_types(self) -> tuple[str, ...]:
        """Names in the order of the allies' one-hot type; empty where no side mixes types."""
        ours = tuple(dict.fromkeys(unit.name for unit in self.ally_units))
        theirs = tuple(dict.fromkeys(unit.name for unit in self.enemy_units))
        if len(ours) == len(theirs) == 1:
            return ()
        return tuple(dict.fromkeys(ours + theirs))

    @property
    def shields(self) -> tuple[bool, bool]:
        """Whether any ally, and whether any enemy, has a shield."""
        return any(u.shield for u in self.ally_units), any(u.shield for u in self.enemy_units)


def _units(name: str, army: Army) -> tuple[UnitType, ...]:
    """Return the kind of each unit of an army, which is an argument of this name."""
    where = f"SkirmishMap.{name}"
    rule = "pairs (unit type, count)"
    check_kind(where, army, tuple | list, rule)
    check(len(army) > 0, where, "at least one (unit type, count)", army)
    units: list[UnitType] = []
    for part in army:
        pair = isinstance(part, tuple | list) and len(part) == 2
        check(pair, where, rule, army)
        kind, count = part
        if not isinstance(kind, UnitType):
            check_kind(where, kind, str, rule)
            check_choice(where, kind, UNITS)
            kind = UNITS[kind]
        units += [kind] * check_int(f"{where}[{kind.name!r}]", count, 1, MOST_UNITS)
    check(len(units) <= MOST_UNITS, where, f"at most {MOST_UNITS} units", army)
    return tuple(units)


def _one_type_each(
    name: str, ally: str, allies: int, enemy: str, enemies: int, limit: int
) -> SkirmishMap:
    return SkirmishMap(
        name=name, allies=((ally, allies),), enemies=((enemy, enemies),), limit=limit
    )


def _marines(name: str, allies: int, enemies: int, limit: int) -> SkirmishMap:
    return _one_type_each(name, "marine", allies, "marine", enemies, limit)


def _mirror(name: str, army: Army, limit: int, enemy_types: tuple[str, ...]) -> SkirmishMap:
    return SkirmishMap(name=name, allies=army, enemies=army, limit=limit, enemy_types=enemy_types)


# SMAC defines the allies' types anew, in the order of their names, and leaves the enemies
# StarCraft II's numbers, by which a zealot (73) comes before a stalker (74).
_STALKERS_AND_ZEALOTS = ("zealot", "stalker")

MAPS = {
    game.name: game
    for game in (
        _marines("3m", 3, 3, 60),
        _marines("8m", 8, 8, 120),
        _marines("25m", 25, 25, 150),
        _marines("6m", 6, 6, 70),
        _marines("15m", 15, 15, 150),
        _marines("20m", 20, 20, 150),
        _marines("4m_vs_3m", 4, 3, 60),
        _marines("5m_vs_6m", 5, 6, 70),
        _marines("8m_vs_9m", 8, 9, 120),
        _marines("10m_vs_11m", 10, 11, 150),
        _marines("27m_vs_30m", 27, 30, 180),
        _mirror("2s3z", (("stalker", 2), ("zealot", 3)), 120, _STALKERS_AND_ZEALOTS),
        _mirror("3s5z", (("stalker", 3), ("zealot", 5)), 150, _STALKERS_AND_ZEALOTS),
        SkirmishMap(
            name="3s5z_vs_3s6z",
            allies=(("stalker", 3), ("zealot", 5)),
            enemies=(("stalker", 3), ("zealot", 6)),
            limit=170,
            enemy_types=_STALKERS_AND_ZEALOTS,
        ),
        _mirror(
            "1c3s5z",
            (("colossus", 1), ("stalker", 3), ("zealot", 5)),
            180,
            ("colossus", "stalker", "zealot"),
        ),
        _mirror(
            "MMM",
            (("marauder", 2), ("marine", 7), ("medivac", 1)),
            150,
            ("marauder", "marine", "medivac"),
        ),
        SkirmishMap(
            name="MMM2",
            allies=(("marauder", 2), ("marine", 7), ("medivac", 1)),
            enemies=(("marauder", 3), ("marine", 8), ("medivac", 1)),
            limit=180,
        ),
        _one_type_each("2s_vs_1sc", "stalker", 2, "spine_crawler", 1, 300),
        _one_type_each("2m_vs_1z", "marine", 2, "zealot", 1, 150),
        _one_type_each("3s_vs_3z", "stalker", 3, "zealot", 3, 150),
        _one_type_each("3s_vs_4z", "stalker", 3, "zealot", 4, 200),
        _one_type_each("3s_vs_5z", "stalker", 3, "zealot", 5, 250),
        _one_type_each("6h_vs_8z", "hydralisk", 6, "zealot", 8, 150),
        _one_type_each("corridor", "zealot", 6, "zergling", 24, 400),
        _one_type_each("2c_vs_64zg", "colossus", 2, "zergling", 64, 400),
        _one_type_each("so_many_baneling", "zealot", 7, "baneling", 32, 100),
        SkirmishMap(
            name="bane_vs_bane",
            allies=(("baneling", 4), ("zergling", 20)),
            enemies=(("baneling", 4), ("zergling", 20)),
            limit=200,
        ),
    )
}
"""The maps by name."""


def map_of(game: str | SkirmishMap, where: str = "map_of.game") -> SkirmishMap:
    """Return a map, by name or as it is; ``where`` is what errors call it.

    Raises:
        TypeError: if it is neither a name nor a map.
        ValueError: for an unknown name; the message lists the known ones, nearest first.
    """
    if isinstance(game, SkirmishMap):
        return game
    check_kind(where, game, str, "a name or a SkirmishMap")
    check_known(where, game, MAPS)
    return MAPS[game]
