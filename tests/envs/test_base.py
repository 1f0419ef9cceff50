"""Who may act in the environments of this library."""

import pytest

from robustmarl import envs

GAMES = {
    "toy": envs.ToyGame,
    "skirmish": lambda: envs.skirmish("3m"),
    "foraging": envs.foraging,
    "spread": envs.spread,
    "gather": envs.gather,
    "merge": envs.merge,
}


@pytest.fixture(params=GAMES)
def game(request):
    return GAMES[request.param]()


def test_a_step_before_reset_or_after_the_end_is_refused_and_an_empty_one_is_not(game):
    everybody = dict.fromkeys(game.possible_agents, 0)
    with pytest.raises(ValueError, match=r"step\.actions must be empty, got .* Call reset\."):
        game.step(everybody)
    assert game.step({}) == ({}, {}, {}, {}, {})
    game.reset(seed=0)
    while game.agents:
        game.step(dict.fromkeys(game.agents, 0))
    with pytest.raises(ValueError, match=r"after an episode's end\. Call reset\."):
        game.step(everybody)
    assert game.step({}) == ({}, {}, {}, {}, {})


def test_actions_of_nobody_and_absent_ones_are_refused(game):
    game.reset(seed=0)
    everybody = dict.fromkeys(game.agents, 0)
    first = game.agents[0]
    with pytest.raises(ValueError, match=r"step\.actions must be of agents among .*'nobody'\]\.$"):
        game.step(everybody | {"nobody": 0})
    with pytest.raises(ValueError, match=r"step\.actions must be one per living agent"):
        game.step({first: 0})
    with pytest.raises(ValueError, match=r"step\.actions must be one per living agent"):
        game.step({})


@pytest.mark.parametrize(
    "make",
    [
        *(envs.spread, envs.gather, envs.tag, envs.foraging, envs.merge),
        lambda **mode: envs.spread(num_agent_neighbors=1, **mode),
    ],
)
def test_there_is_nothing_to_be_seen_before_the_first_reset(make):
    env = make(render_mode="rgb_array")
    for look in (env.state, env.render):
        with pytest.raises(
            RuntimeError, match=rf"^{look.__name__} must come after reset.* Call re"
        ):
            look()
    env.reset(seed=0)
    while env.agents:
        env.step(dict.fromkeys(env.agents, 0))
    assert env.state().ndim == 1
    assert env.render().ndim == 3
    unseen = make()
    unseen.reset(seed=0)
    with pytest.raises(
        ValueError, match=r"\.render_mode must be 'rgb_array'.* to render, got None"
    ):
        unseen.render()
