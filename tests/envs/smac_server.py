"""StarCraft II's side of the wire, answered by the skirmish engine.

pysc2 finds ``SkirmishConfig`` in place of an installed game. Its process is an object here, and
its socket takes and gives the bytes of real ``s2clientprotocol`` messages, so that an unmodified
``StarCraft2Env`` can play on the engine's battles.
"""

from pathlib import PurePosixPath

import numpy as np
import torch
from pysc2.lib.remote_controller import RemoteController
from pysc2.run_configs.lib import RunConfig
from s2clientprotocol import common_pb2, raw_pb2, sc2api_pb2

from robustmarl._seeding import mix
from robustmarl.envs.skirmish import SkirmishEngine
from robustmarl.envs.skirmish.rules import TICKS_PER_STEP

OURS, THEIRS = 1, 2
_STOP, _MOVE, _ATTACK, _HEAL = 4, 16, 23, 386  # StarCraft II's abilities
_FIRST_OWN_TYPE = 2000  # SMAC's maps define the allies' types anew, in the order of their names
_WAYS = {(0, 2): 2, (0, -2): 3, (2, 0): 4, (-2, 0): 5}
_GROUND = 127


class Server:
    """Answers requests about one game, as StarCraft II does on SMAC's maps.

    Attributes:
        engine: one battle.
        killed: tags of units that the client had killed.
        broken: whether the connection fails.
    """

    def __init__(self):
        self.engine = None
        self.killed = set()
        self.broken = False
        self._status = sc2api_pb2.launched
        self._loop = self._episode = self._seed = 0
        self._orders = {}

    def answer(self, request):
        kind = request.WhichOneof("request")
        response = sc2api_pb2.Response(id=request.id)
        part = getattr(response, kind)
        part.SetInParent()
        getattr(self, f"_{kind}")(getattr(request, kind), part)
        response.status = self._status
        return response

    def _ping(self, request, response):
        response.game_version = "skirmish"

    def _create_game(self, request, response):
        self.engine = SkirmishEngine(PurePosixPath(request.local_map.map_path).stem)
        self._seed, self._episode = request.random_seed, 0
        self.engine.begin(np.zeros(1, np.int64), [self._seed])
        self._status = sc2api_pb2.init_game

    def _join_game(self, request, response):
        assert request.options.raw
        response.player_id = OURS
        self._status = sc2api_pb2.in_game

    def _game_info(self, request, response):
        game, raw = self.engine.game, response.start_raw
        (raw.map_size.x, raw.map_size.y), (left, bottom, right, top) = game.size, game.playable
        raw.playable_area.p1.x, raw.playable_area.p1.y = game.size  # as SMAC's map files have it
        width, height = game.size
        y, x = np.mgrid[:height, :width]
        free = (x >= left) & (x < right) & (y >= bottom) & (y < top)
        for image, bits, data in (
            (raw.pathing_grid, 1, np.packbits(free, axis=1)),
            (raw.terrain_height, 8, np.full((height, width), _GROUND, np.uint8)),
        ):
            image.bits_per_pixel, image.data = bits, data.tobytes()
            image.size.x, image.size.y = width, height

    def _data(self, request, response):
        for i, unit in enumerate(self.engine.layout.units):
            response.units.add(
                unit_id=self._type(i), name=unit.name, movement_speed=unit.speed, available=True
            )

    def _observation(self, request, response):
        seen, battles = response.observation, self.engine.battles
        seen.game_loop = self._loop
        pos, pools = battles.pos[..., 0], battles.pools[..., 0]
        for i, unit in enumerate(self.engine.layout.units):
            if pools[0, i] <= 0:
                continue
            seen.raw_data.units.add(
                tag=self._tag(i),
                unit_type=self._type(i),
                owner=OURS if i < self.engine.layout.n else THEIRS,
                alliance=raw_pb2.Self if i < self.engine.layout.n else raw_pb2.Enemy,
                display_type=raw_pb2.Visible,
                pos=common_pb2.Point(x=pos[0, i], y=pos[1, i], z=10.0),
                radius=unit.radius,
                health=pools[0, i],
                health_max=unit.health,
                shield=pools[1, i],
                shield_max=unit.shield,
                energy=battles.energy[i, 0] if unit.heal else 0.0,
                energy_max=200.0 if unit.heal else 0.0,
                weapon_cooldown=0.0 if unit.heal else battles.weapon_cooldown[i, 0],
            )

    def _action(self, request, response):
        for action in request.actions:
            order = action.action_raw.unit_command
            (tag,) = order.unit_tags
            self._orders[tag] = self._number(order, self._index(tag))
            response.result.append(1)

    def _debug(self, request, response):
        for command in request.debug:
            self.killed.update(command.kill_unit.tag)

    def _step(self, request, response):
        self._loop += request.count
        health = self.engine.battles.health[:, 0]
        left = [i for i in np.flatnonzero(health > 0) if self._tag(i) not in self.killed]
        if not left:  # the trigger of SMAC's maps: when all units are dead, new ones appear
            self._episode += 1
            self.engine.begin(np.zeros(1, np.int64), [mix(self._seed, self._episode)])
        elif self._orders or not (health[: self.engine.layout.n] > 0).any():
            assert request.count == TICKS_PER_STEP
            joint = [self._orders.get(self._tag(i), 0) for i in range(self.engine.layout.n)]
            self.engine.advance(torch.tensor([joint]), np.zeros(1, np.int64))
        self._orders, self.killed = {}, set()

    def _save_replay(self, request, response):
        response.data = b"replay"

    def _tag(self, i):
        return 1000 * (self._episode + 1) + int(i)

    def _index(self, tag):
        assert tag // 1000 == self._episode + 1, "a unit of another episode"
        return tag % 1000

    def _type(self, i):
        layout = self.engine.layout
        if i >= layout.n:
            return layout.units[i].sc2_id
        names = layout.game.ally_types or (layout.units[i].name,)
        return _FIRST_OWN_TYPE + names.index(layout.units[i].name)

    def _number(self, order, unit):
        """Return SMAC's number of the action that an order stands for."""
        kind, layout = order.ability_id, self.engine.layout
        if kind == _STOP:
            return 1
        if kind == _MOVE:
            x, y = self.engine.battles.pos[:, unit, 0]
            to = order.target_world_space_pos
            return _WAYS[round(to.x - float(x), 4), round(to.y - float(y), 4)]
        assert kind == (_HEAL if layout.units[unit].heal else _ATTACK)
        target = self._index(order.target_unit_tag)
        return 6 + target - (0 if kind == _HEAL else layout.n)


class _Socket:
    """Carries bytes to a server, and its answer back."""

    def __init__(self, server):
        self._server, self._reply, self.sock = server, b"", self

    def getpeername(self):
        return "skirmish", 0

    def send(self, message):
        if self._server.broken:
            raise OSError("the game is gone")
        request = sc2api_pb2.Request.FromString(message)
        self._reply = self._server.answer(request).SerializeToString()

    def recv(self):
        return self._reply

    def close(self):
        pass


class _Controller(RemoteController):
    def _connect(self, host, port, proc, timeout_seconds):
        return _Socket(proc.server)


class Process:
    """Stands for StarCraft II's process."""

    def __init__(self):
        self.server = Server()
        self.controller = _Controller("", 0, self)

    def close(self):
        self.controller.close()


class SkirmishConfig(RunConfig):
    """What pysc2 takes for an installed StarCraft II."""

    processes: list[Process] = []  # noqa: RUF012 - for tests to look at

    def __init__(self, version=None):
        super().__init__(replay_dir="", data_dir="", tmp_dir=None, version=version)

    def _get_version(self, game_version):
        return None

    @classmethod
    def priority(cls):
        return 100  # above every real one

    def map_data(self, map_name, players=None):
        return b"not needed"

    def start(self, want_rgb=True, **kwargs):
        self.processes.append(Process())
        return self.processes[-1]
