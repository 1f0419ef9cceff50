"""Unit types and maps, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from robustmarl._checks import check, check_choice, check_int, check_known, check_number

__all__ = ["MAPS", "UNITS", "SkirmishMap", "UnitType", "map_of"]

Attribute: TypeAlias = Literal["light", "armored"]

TICKS_PER_SECOND = 22.4
TICKS_PER_STEP = 8
MOVE_AMOUNT = 2.0
_MOST = 1_000.0  # of any figure of a unit: the dead lie further away, and nobody aims there
_FASTEST = MOVE_AMOUNT * TICKS_PER_SECOND / TICKS_PER_STEP


@dataclass(frozen=True, kw_only=True)
class UnitType:
    """What one kind of unit can do. Distances are in cells, times in seconds; none over 1000.

    Args:
        name: how maps call it.
        health: hit points at first, > 0.
        shield: shield points at first, >= 0; they come back after a while without damage.
        armor: taken off each hit on the hit points, >= 0.
        damage: of each hit, points, >= 0.
        attacks: hits per shot, >= 1.
        bonus: damage added against targets that are ``bonus_against``.
        bonus_against: ``"light"`` or ``"armored"``, None without bonus.
        attribute: ``"light"``, ``"armored"`` or None.
        cooldown: between shots, > 0.
        range: from edge to edge, >= 0.
        speed: cells per second, in [0, 5.6]: no faster than a move order of two cells a step.
        radius: > 0.
        flying: passes over ground units.
        hits_air: can shoot at what flies.
        heal: hit points per second that it gives to its own side instead of shooting, >= 0.
        splash: radius around a target within which a shot hits the target's side, >= 0.
        spent: dies of its own first shot.
        max_cooldown: by which the state divides the cooldown, or a healer's energy, > 0.
        sc2_id: StarCraft II's number of the type; 0 if it has none.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range.
    """

    name: str
    health: float
    shield: float = 0.0
    armor: float = 0.0
    damage: float = 0.0
    attacks: int = 1
    bonus: float = 0.0
    bonus_against: Attribute | None = None
    attribute: Attribute | None = "light"
    cooldown: float = 1.0
    range: float = 0.1
    speed: float = 3.15
    radius: float = 0.375
    flying: bool = False
    hits_air: bool = True
    heal: float = 0.0
    splash: float = 0.0
    spent: bool = False
    max_cooldown: float = 15.0
    sc2_id: int = 0

    def __post_init__(self) -> None:
        positive = ("health", "cooldown", "radius", "max_cooldown")
        for name in positive:
            check_number(f"UnitType.{name}", getattr(self, name), 0.0, _MOST, open_low=True)
        for name in ("shield", "armor", "damage", "bonus", "range", "heal", "splash"):
            check_number(f"UnitType.{name}", getattr(self, name), 0.0, _MOST)
        check_number("UnitType.speed", self.speed, 0.0, _FASTEST, unit="cells per second")
        check_int("UnitType.attacks", self.attacks, 1)
        for name in ("flying", "hits_air", "spent"):
            check_choice(f"UnitType.{name}", getattr(self, name), (True, False))
        check_choice("UnitType.attribute", self.attribute, ("light", "armored", None))
        check_choice("UnitType.bonus_against", self.bonus_against, (None, "light", "armored"))

    def damage_to(self, other: UnitType) -> tuple[float, float]:
        """Return the damage of one shot to ``other``'s shield and to its hit points."""
        if self.heal or (other.flying and not self.hits_air):
            return 0.0, 0.0
        favoured = self.bonus_against is not None and other.attribute == self.bonus_against
        hit = self.damage + (self.bonus if favoured else 0.0)
        if not hit:  # a unit without a weapon
            return 0.0, 0.0
        return hit * self.attacks, max(hit - other.armor, 0.5) * self.attacks


UNITS = {
    unit.name: unit
    for unit in (
        UnitType(name="marine", health=45.0, damage=6.0, cooldown=0.61, range=5.0, sc2_id=48),
        UnitType(
            name="marauder",
            health=125.0,
            armor=1.0,
            damage=10.0,
            bonus=10.0,
            bonus_against="armored",
            attribute="armored",
            cooldown=1.07,
            range=6.0,
            radius=0.5625,
            hits_air=False,
            max_cooldown=25.0,
            sc2_id=51,
        ),
        UnitType(
            name="medivac",
            health=150.0,
            armor=1.0,
            attribute="armored",
            range=4.0,
            speed=3.5,
            radius=0.75,
            flying=True,
            heal=12.6,
            max_cooldown=200.0,
            sc2_id=54,
        ),
        UnitType(
            name="stalker",
            health=80.0,
            shield=80.0,
            armor=1.0,
            damage=13.0,
            bonus=5.0,
            bonus_against="armored",
            attribute="armored",
            cooldown=1.34,
            range=6.0,
            speed=4.13,
            radius=0.625,
            max_cooldown=35.0,
            sc2_id=74,
        ),
        UnitType(
            name="zealot",
            health=100.0,
            shield=50.0,
            armor=1.0,
            damage=8.0,
            attacks=2,
            cooldown=0.86,
            radius=0.5,
            hits_air=False,
            max_cooldown=22.0,
            sc2_id=73,
        ),
        UnitType(
            name="colossus",
            health=200.0,
            shield=150.0,
            armor=1.0,
            damage=10.0,
            attacks=2,
            bonus=5.0,
            bonus_against="light",
            attribute="armored",
            cooldown=1.07,
            range=7.0,
            radius=1.0,
            hits_air=False,
            splash=0.9,
            max_cooldown=24.0,
            sc2_id=4,
        ),
        UnitType(
            name="spine_crawler",
            health=300.0,
            armor=2.0,
            damage=25.0,
            bonus=5.0,
            bonus_against="armored",
            attribute="armored",
            cooldown=1.32,
            range=7.0,
            speed=0.0,
            radius=1.125,
            hits_air=False,
            sc2_id=98,
        ),
        UnitType(
            name="zergling",
            health=35.0,
            damage=5.0,
            cooldown=0.497,
            speed=4.13,
            hits_air=False,
            max_cooldown=11.0,
            sc2_id=105,
        ),
        UnitType(
            name="baneling",
            health=30.0,
            damage=16.0,
            bonus=19.0,
            bonus_against="light",
            attribute=None,
            cooldown=0.59,
            range=0.25,
            speed=3.5,
            hits_air=False,
            splash=2.2,
            spent=True,
            max_cooldown=1.0,
            sc2_id=9,
        ),
        UnitType(
            name="hydralisk",
            health=90.0,
            damage=12.0,
            cooldown=0.59,
            range=5.0,
            radius=0.625,
            max_cooldown=10.0,
            sc2_id=107,
        ),
    )
}
"""The unit types that maps may name."""

Army: TypeAlias = tuple[tuple[str | UnitType, int], ...]


@dataclass(frozen=True, kw_only=True)
class SkirmishMap:
    """Who fights whom, where, and for how long.

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
        ValueError: for an unknown unit, an empty side or a place outside the map.
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
    ally_units: tuple[UnitType, ...] = field(init=False, repr=False)
    enemy_units: tuple[UnitType, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_int("SkirmishMap.limit", self.limit, 1)
        object.__setattr__(self, "ally_units", _units("allies", self.allies))
        object.__setattr__(self, "enemy_units", _units("enemies", self.enemies))
        fighting = any(not unit.heal for unit in self.ally_units)
        check(fighting, "SkirmishMap.allies", "units of which some fight", self.allies)
        fighting = any(not unit.heal for unit in self.enemy_units)
        check(fighting, "SkirmishMap.enemies", "units of which some fight", self.enemies)
        for side, count in (("size", 2), ("playable", 4)):
            cells = getattr(self, side)
            whole = len(cells) == count and all(isinstance(cell, int) for cell in cells)
            check(whole, f"SkirmishMap.{side}", f"{count} ints, cells", cells)
        left, bottom, right, top = self.playable
        inside = 0 <= left < right <= self.size[0] and 0 <= bottom < top <= self.size[1]
        check(inside, "SkirmishMap.playable", f"inside the size {self.size}", self.playable)
        for side in ("ally_start", "enemy_start"):
            x, y = getattr(self, side)
            rule = f"inside {self.playable}"
            check(left < x < right and bottom < y < top, f"SkirmishMap.{side}", rule, (x, y))
        if self.enemy_types is not None:
            same = sorted(self.enemy_types) == sorted(self.ally_types)
            rule = f"the types {list(self.ally_types)} in some order"
            check(same, "SkirmishMap.enemy_types", rule, self.enemy_types)

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


def _units(side: str, army: Army) -> tuple[UnitType, ...]:
    where = f"SkirmishMap.{side}"
    check(len(army) > 0, where, "at least one (unit type, count)", army)
    units: list[UnitType] = []
    for part in army:
        pair = isinstance(part, tuple | list) and len(part) == 2
        check(pair, where, "pairs (unit type, count)", army)
        kind, count = part
        if not isinstance(kind, UnitType):
            check_choice(where, kind, UNITS)
            kind = UNITS[kind]
        units += [kind] * check_int(f"{where}[{kind.name!r}]", count, 1)
    return tuple(units)


def _marines(name: str, allies: int, enemies: int, limit: int) -> SkirmishMap:
    return SkirmishMap(
        name=name, allies=(("marine", allies),), enemies=(("marine", enemies),), limit=limit
    )


def _mirror(name: str, army: Army, limit: int, enemy_types: tuple[str, ...]) -> SkirmishMap:
    return SkirmishMap(name=name, allies=army, enemies=army, limit=limit, enemy_types=enemy_types)


def _pure(name: str, ally: str, n: int, enemy: str, m: int, limit: int) -> SkirmishMap:
    return SkirmishMap(name=name, allies=((ally, n),), enemies=((enemy, m),), limit=limit)


_STALKERS_AND_ZEALOTS = ("zealot", "stalker")  # allies count the other way round
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
        _pure("2s_vs_1sc", "stalker", 2, "spine_crawler", 1, 300),
        _pure("2m_vs_1z", "marine", 2, "zealot", 1, 150),
        _pure("3s_vs_3z", "stalker", 3, "zealot", 3, 150),
        _pure("3s_vs_4z", "stalker", 3, "zealot", 4, 200),
        _pure("3s_vs_5z", "stalker", 3, "zealot", 5, 250),
        _pure("6h_vs_8z", "hydralisk", 6, "zealot", 8, 150),
        _pure("corridor", "zealot", 6, "zergling", 24, 400),
        _pure("2c_vs_64zg", "colossus", 2, "zergling", 64, 400),
        _pure("so_many_baneling", "zealot", 7, "baneling", 32, 100),
        SkirmishMap(
            name="bane_vs_bane",
            allies=(("baneling", 4), ("zergling", 20)),
            enemies=(("baneling", 4), ("zergling", 20)),
            limit=200,
        ),
    )
}
"""The maps by name."""


def map_of(game: str | SkirmishMap) -> SkirmishMap:
    """Return a map, by name or as it is.

    Raises:
        TypeError: if it is neither a name nor a map.
        ValueError: for an unknown name; the message lists the known ones, nearest first.
    """
    if isinstance(game, SkirmishMap):
        return game
    if not isinstance(game, str):
        raise TypeError(f"skirmish.map must be a name or a SkirmishMap, got {game!r}.")
    check_known("skirmish.map", game, MAPS)
    return MAPS[game]
