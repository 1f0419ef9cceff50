"""TRAM's closed forms, against autograd, enumeration and the algorithm as printed."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmarl._seeding import Draws
from robustmarl.attacks import JAttack, PoisonView, RandomAttack, VarianceAttack
from robustmarl.attacks.poison.budget import kl_scale, log_likelihood, poison
from robustmarl.attacks.poison.directions import shift_direction
from robustmarl.attacks.poison.view import _joint_tables
from robustmarl.joint import MASKED, StepContext
from robustmarl.networks import AgentNetwork, SeparateAgents
from robustmarl.networks.calculus.scores import gram, linearize, score_gram, score_products

F64 = torch.float64
MATH = math.sqrt(0.5)
KINDS = {
    "mlp": {},
    "deep": {"hidden": (5, 4), "activation": "tanh", "last_action": True},
    "norm": {"hidden": (5, 4), "layer_norm": True},
    "gru": {"recurrent": True, "last_action": True},
    "anonymous": {"agent_id": False},
    "columns": {"columns": (2, 0)},
}
SEPARATE = {"separate": {}, "separate gru": KINDS["gru"]}


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def cosine(x, y):
    return float((x * y).sum() / (x.norm() * y.norm()))


def make_network(kind="mlp", seed=0, n=3, size=4, obs=3):
    torch.manual_seed(seed)
    make = SeparateAgents if kind in SEPARATE else AgentNetwork
    network = make(obs, n, size, **{"hidden": (5,), **(KINDS | SEPARATE)[kind]}).double()
    for parameter in network.parameters():  # biases and norms away from their defaults
        parameter.data += 0.3 * torch.randn_like(parameter)
    return network


def make_context(network, rows=2, n=3, obs=3, mask=None):
    size, hidden = network.num_actions, network.hidden_size
    seen = torch.randn(rows, n, obs, dtype=F64)
    yes = torch.ones(rows, dtype=torch.bool)
    return StepContext(
        obs=seen,
        seen=seen,
        mask=torch.ones(rows, n, size, dtype=torch.bool) if mask is None else mask,
        state=torch.zeros(rows, 1),
        alive=yes[:, None].expand(rows, n),
        observed=yes[:, None].expand(rows, n),
        last_act=torch.randint(-1, size, (rows, n)),
        hidden=torch.randn(rows, n, hidden, dtype=F64) if hidden else None,
        step=torch.zeros(rows, dtype=torch.int64),
        keys=torch.arange(rows),
        live=yes,
        terminal=~yes,
    )


def logits_of(network, context):
    ids = torch.arange(context.seen.shape[1])
    extra = network.extra(ids, context.last_act)
    return network.step(context.seen, extra, context.hidden)[0]


def make_view(network, context, agent=0, advantage=None, additive=True):
    logits = logits_of(network, context).detach().masked_fill(~context.mask, MASKED)
    rows = len(logits)
    return PoisonView(
        network, context, logits, agent, lambda: Draws(torch.arange(rows)), advantage, additive
    )


def explicit_scores(network, context):
    """Return d log pi(a) / d parameters, (R, N, A, P), by one backward pass each."""
    logits = logits_of(network, context).masked_fill(~context.mask, MASKED)
    logp = torch.log_softmax(logits, -1)
    parameters = list(network.parameters())

    def flat(value):
        found = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([g.flatten() for g in found])

    rows = [torch.stack([flat(v) for v in row]) for row in logp.flatten(0, 1)]
    return torch.stack(rows).view(*logp.shape, -1)


def head_parameters(network):
    head = network.head if network.recurrent else network.rest[-1]
    return list(head.parameters())


def give_gradient(network):
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    return -torch.cat([p.grad.flatten() for p in network.parameters()])


# -- directions ---------------------------------------------------------------------------


def test_direction_is_the_gradient_of_the_perturbed_mean():
    torch.manual_seed(0)
    logits, weight = torch.randn(7, 5, dtype=F64), torch.randn(7, 5, dtype=F64)
    policy = logits.softmax(-1)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: x.softmax(-1)))(logits)
    assert (
        jacobian - (torch.diag_embed(policy) - policy[:, :, None] * policy[:, None])
    ).abs().max() < 1e-12
    delta = torch.zeros_like(logits, requires_grad=True)
    value = ((logits + delta).softmax(-1) * weight).sum()
    (expected,) = torch.autograd.grad(value, delta)
    found = shift_direction(policy, weight)
    assert (found - expected).abs().max() < 1e-12
    assert found.sum(-1).abs().max() < 1e-15


def test_a_constant_weight_gives_no_direction_and_changes_nothing():
    logits = torch.tensor([[0.3, -1.0, 2.0]], dtype=F64)
    direction = shift_direction(logits.softmax(-1), torch.full((1, 3), 7.7, dtype=F64))
    assert (direction == 0).all()
    found = poison(logits, torch.ones(1, 3, dtype=torch.bool), direction, 6.0)
    assert torch.allclose(found.policy, logits.softmax(-1), atol=1e-15)
    assert (found.scale == 0).all()
    assert (found.kl == 0).all()
    assert not found.effective.any()


@given(
    weight=st.lists(st.floats(-5, 5), min_size=4, max_size=4),
    shift=st.floats(-100, 100),
    factor=st.floats(1e-6, 1e6),
)
@settings(deadline=None, max_examples=50)
def test_only_the_shape_of_the_weight_matters(weight, shift, factor):
    policy = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=F64)
    w = torch.tensor([weight], dtype=F64)
    one = shift_direction(policy, w)
    if one.norm() < 1e-3:
        return
    assert torch.allclose(unit(one), unit(shift_direction(policy, factor * w)), atol=1e-9)
    assert torch.allclose(unit(one), unit(shift_direction(policy, w + shift)), atol=1e-9)


@pytest.mark.parametrize("top", [0.9, 0.7, 0.3])
@pytest.mark.parametrize("gain", [1.0, -2.0])
def test_two_actions_variance_lowers_the_likelier_and_return_raises_it(top, gain):
    network = AgentNetwork(2, 1, 2, hidden=(3,), agent_id=False).double()
    head = network.rest[-1]
    policy = torch.tensor([[[top, 1 - top]]], dtype=F64)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(policy.log()[0, 0])
    value = gain * torch.tensor([[[[1.0, 0.0]]]], dtype=F64)
    context = make_context(network, rows=1, n=1, obs=2)
    view = make_view(network, context, advantage=lambda c, logits, act: value)
    # The last gradient is the true one of this very state.
    logp = torch.log_softmax(logits_of(network, context), -1)
    ((policy * (value[0] - (policy * value[0]).sum()) * -logp).sum()).backward()
    sign = 1.0 if top > 0.5 else -1.0
    expected = torch.tensor([-MATH, MATH], dtype=F64) * sign
    assert torch.allclose(unit(VarianceAttack(scope="head")(view))[0], expected, atol=1e-9)
    assert torch.allclose(unit(JAttack(scope="head")(view))[0], -expected, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_gram_and_forward_mode_equal_explicit_gradients(kind):
    network = make_network(kind)
    context = make_context(network)
    scores = explicit_scores(network, context)
    policy = logits_of(network, context).softmax(-1).detach()
    last = context.last_act if network.last_table is not None else None
    jacobian = linearize(network, context.seen, torch.arange(3), last, context.hidden)
    assert (jacobian.logits - logits_of(network, context)).abs().max() < 1e-12
    expected = torch.einsum("rnap,rmbp->rnamb", scores, scores)
    assert (score_gram(jacobian, policy) - expected).abs().max() < 1e-10
    gradient = give_gradient(network)
    assert (score_products(jacobian, policy) - scores @ gradient).abs().max() < 1e-10
    some = jacobian.agents([2, 0])
    products = score_gram(some, policy[:, [2, 0]], jacobian, policy)
    assert (products - expected[:, [2, 0]]).abs().max() < 1e-10
    flow = torch.randn(2, 3, 1, 4, dtype=F64)  # a sum of logits' gradients, in one pass
    along = gram(jacobian.blocks(), jacobian.blocks(flow))[..., 0]
    full = gram(jacobian.blocks(), jacobian.blocks())
    assert torch.allclose(along, torch.einsum("rnamb,rmb->rnam", full, flow[:, :, 0]))


@pytest.mark.parametrize("kind", SEPARATE)
@pytest.mark.parametrize("scope", ["full", "head"])
def test_networks_of_their_own_have_orthogonal_gradients(kind, scope):
    network = make_network(kind)
    context = make_context(network)
    scores = explicit_scores(network, context)
    if scope == "head":
        heads = [set(map(id, head_parameters(net))) for net in network.nets]
        kept = [
            torch.full((p.numel(),), float(any(id(p) in head for head in heads)), dtype=F64)
            for p in network.parameters()
        ]
        scores = scores * torch.cat(kept)
    policy = logits_of(network, context).softmax(-1).detach()
    last = context.last_act if network.last_table is not None else None
    jacobian = linearize(network, context.seen, torch.arange(3), last, context.hidden, scope)
    assert (jacobian.logits - logits_of(network, context)).abs().max() < 1e-12
    expected = torch.einsum("rnap,rmbp->rnamb", scores, scores)
    assert (score_gram(jacobian, policy) - expected).abs().max() < 1e-10
    assert expected[:, 0, :, 1].abs().max() == 0.0
    gradient = give_gradient(network)
    assert (score_products(jacobian, policy) - scores @ gradient).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_head_form(kind):
    network = make_network(kind)
    context = make_context(network)
    last = context.last_act if network.last_table is not None else None
    jacobian = linearize(network, context.seen, torch.arange(3), last, context.hidden, "head")
    policy = jacobian.logits.softmax(-1)
    norms = score_gram(jacobian, policy).flatten(1, 2).flatten(2).diagonal(dim1=1, dim2=2)
    ((_, features, _),) = jacobian.blocks()
    size = features.square().sum(-1, keepdim=True) + 1.0  # 1 for the bias
    expected = size * (1.0 - 2.0 * policy + policy.square().sum(-1, keepdim=True))
    assert (norms.view(2, 3, 4) - expected).abs().max() < 1e-10
    gradient = give_gradient(network)
    for parameter in network.parameters():
        if all(parameter is not p for p in head_parameters(network)):
            parameter.grad = None
    only = torch.cat(
        [
            torch.zeros_like(p.flatten()) if p.grad is None else -p.grad.flatten()
            for p in network.parameters()
        ]
    )
    assert len(only) == len(gradient)
    found = score_products(jacobian, policy)
    assert (found - explicit_scores(network, context) @ only).abs().max() < 1e-10


def brute_force(network, context, values, gradient, joint=False):
    """Differentiate both objectives with respect to agent 0's logits, all joint actions listed."""
    scores = explicit_scores(network, context)[0]
    pi = logits_of(network, context).softmax(-1).detach()[0]
    n, size = pi.shape
    delta = torch.zeros(size, dtype=F64, requires_grad=True)
    own = (pi[0].log() + delta).softmax(-1)
    second, gain = 0.0, 0.0
    for act in itertools.product(range(size), repeat=n):
        chance = own[act[0]] * math.prod(pi[i][act[i]] for i in range(1, n))
        q = values(torch.tensor(act).view(1, 1, n))[0, 0]
        advantage = [(q[i] - pi[i] @ q[i])[act[i]] for i in range(n)]
        parts = [scores[i][act[i]] for i in range(n)]
        if joint:
            g = sum(advantage) * sum(parts)
        else:
            g = sum(a * s for a, s in zip(advantage, parts, strict=True))
        second, gain = second + chance * (g @ g), gain + chance * (g @ gradient)
    return (
        torch.autograd.grad(second, delta, retain_graph=True)[0],
        torch.autograd.grad(gain, delta)[0],
    )


def additive_case(seed, kind="mlp"):
    network = make_network(kind, seed)
    context = make_context(network, rows=1)
    value = torch.randn(1, 3, 4, dtype=F64)

    def values(act):
        return value.unsqueeze(0).expand(len(act), 1, 3, 4)

    view = make_view(network, context, advantage=lambda c, logits, act: values(act))
    return network, context, values, view, give_gradient(network)


@pytest.mark.parametrize("kind", ["mlp", "gru"])
def test_enumeration_with_shared_parameters(kind):
    own_only = []
    for seed in range(6):
        network, context, values, view, gradient = additive_case(seed, kind)
        second, gain = brute_force(network, context, values, gradient)
        assert cosine(VarianceAttack()(view)[0], second) > 1 - 1e-9
        assert cosine(JAttack()(view)[0], -gain) > 1 - 1e-9
        own_only.append(cosine(VarianceAttack(terms="own")(view)[0], second))
    assert min(own_only) < 0.99


def test_enumeration_with_separate_parameters():
    """Whose gradients are orthogonal: the own term is all there is."""
    for seed in range(4):
        network, context, values, view, ascent = additive_case(seed)
        scores = explicit_scores(network, context)[0]
        size = scores.shape[-1]
        apart = torch.zeros(3, 4, 3 * size, dtype=F64)
        for i in range(3):
            apart[i, :, i * size : (i + 1) * size] = scores[i]
        pi, q = view.policies[0], values(torch.zeros(1, 1, 3))[0, 0]
        delta = torch.zeros(4, dtype=F64, requires_grad=True)
        own, second, gain = (pi[0].log() + delta).softmax(-1), 0.0, 0.0
        others = torch.randn(2 * size, dtype=F64)  # of the last step, in their own parameters
        last = torch.cat([ascent, others])
        for act in itertools.product(range(4), repeat=3):
            chance = own[act[0]] * pi[1][act[1]] * pi[2][act[2]]
            g = sum((q[i] - pi[i] @ q[i])[act[i]] * apart[i][act[i]] for i in range(3))
            second, gain = second + chance * (g @ g), gain + chance * (g @ last)
        (expected,) = torch.autograd.grad(second, delta, retain_graph=True)
        assert cosine(VarianceAttack(terms="own")(view)[0], expected) > 1 - 1e-9
        (expected,) = torch.autograd.grad(gain, delta)
        assert cosine(JAttack()(view)[0], -expected) > 1 - 1e-9


@pytest.mark.parametrize("kind", SEPARATE)
def test_enumeration_with_networks_of_their_own(kind):
    for seed in range(3):
        network, context, values, view, gradient = additive_case(seed, kind)
        second, gain = brute_force(network, context, values, gradient)
        found = VarianceAttack()(view)
        assert cosine(found[0], second) > 1 - 1e-9
        assert found.equal(VarianceAttack(terms="own")(view))
        assert cosine(JAttack()(view)[0], -gain) > 1 - 1e-9


def joint_case(terms, kind="mlp"):
    """A critic of joint actions: another payoff table for every agent."""
    torch.manual_seed(3)
    network = make_network(kind, seed=3)
    context = make_context(network, rows=1)
    tables = torch.randn(3, 4, 4, 4, dtype=F64)

    def values(act):
        found = []
        for joint in act[:, 0].tolist():
            rows = []
            for i in range(3):
                index = [*joint[:i], slice(None), *joint[i + 1 :]]
                rows.append(tables[i][tuple(index)])
            found.append(torch.stack(rows))
        return torch.stack(found).unsqueeze(1)

    asked = []

    def advantage(context, logits, act):
        asked.append(len(act))
        return values(act)

    view = make_view(network, context, advantage=advantage, additive=False)
    gradient = give_gradient(network)
    second, gain = brute_force(network, context, values, gradient, joint=terms == "joint")
    return view, second, gain, asked


@pytest.mark.parametrize("kind", ["mlp", "separate"])
@pytest.mark.parametrize("terms", ["gradient", "joint"])
def test_enumeration_with_a_critic_of_joint_actions(terms, kind):
    view, second, gain, asked = joint_case(terms, kind)
    attack = VarianceAttack(terms=terms, samples=4)
    assert cosine(attack(view)[0], second) > 1 - 1e-9
    assert asked == [16]  # for 3 agents' values of 64 joint actions
    if terms == "gradient":
        assert cosine(JAttack(samples=4)(view)[0], -gain) > 1 - 1e-9
        assert VarianceAttack()(view).equal(attack(view))  # what auto chooses


@pytest.mark.parametrize("terms", ["gradient", "joint"])
def test_estimates_approach_the_enumeration(terms):
    view, second, gain, asked = joint_case(terms)
    samples = 3  # fewer than the four that would be listed
    found, gains = torch.zeros(4, dtype=F64), torch.zeros(4, dtype=F64)
    for key in range(600):
        view.draws = Draws(torch.tensor([key]))
        found += VarianceAttack(terms=terms, samples=samples)(view)[0]
        view.draws = Draws(torch.tensor([key]))
        gains += JAttack(samples=samples)(view)[0]
    assert set(asked) == {samples * 4}
    assert cosine(found, second) > 0.99
    if terms == "gradient":
        assert cosine(gains, -gain) > 0.99


@pytest.mark.parametrize(("n", "size"), [(1, 3), (2, 5), (3, 4), (4, 3)])
def test_tables_of_joint_actions(n, size):
    for agent in range(n):
        joint, words, entry, other = _joint_tables(n, size, agent)
        flat = joint.reshape(-1, n)
        assert len(flat.unique(dim=0)) == len(flat) == size**n
        assert (joint[..., agent] == torch.arange(size)).all()
        for i in range(n):  # the word and the joint action agree but for i's own action
            row, rest = entry[..., i] // (n * size), entry[..., i] % (n * size)
            assert (rest == i * size + joint[..., i]).all()
            apart = words[row] != joint
            apart[..., i] = False
            assert not apart.any()
        pi = torch.randn(n, size, dtype=F64).softmax(-1)
        chance = pi.flatten()[other].prod(-1)
        assert torch.allclose(chance.sum(), torch.tensor(1.0, dtype=F64))
        expected = math.prod(pi[i][joint[:, 0, i]] for i in range(n) if i != agent)
        assert torch.allclose(chance, torch.as_tensor(expected, dtype=F64))


def test_before_the_first_update_return_attacks_nothing():
    network = make_network()
    view = make_view(network, make_context(network), advantage=lambda c, logits, act: 1 / 0)
    assert (JAttack()(view) == 0).all()


def test_without_advantages():
    network = make_network()
    view = make_view(network, make_context(network))
    with pytest.raises(TypeError, match=r"advantages must be given by a learner, got None"):
        VarianceAttack()(view)


def test_random_directions_differ_between_rows_and_ignore_the_victim():
    network = make_network()
    view = make_view(network, make_context(network, rows=500))
    found = RandomAttack()(view)
    assert found.shape == (500, 4)
    assert len(found.unique(dim=0)) == 500
    assert unit(found).mean(0).abs().max() < 0.1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: VarianceAttack(scope="body"), r"VarianceAttack\.scope must be one of"),
        (lambda: VarianceAttack(terms="all"), r"VarianceAttack\.terms must be one of"),
        (lambda: VarianceAttack(samples=0), r"VarianceAttack\.samples must be an int >= 1, got 0"),
        (lambda: JAttack(scope="body"), r"JAttack\.scope must be one of"),
        (lambda: JAttack(samples=0), r"JAttack\.samples must be an int >= 1, got 0"),
    ],
)
def test_bad_settings(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_continuous_networks_are_refused():
    network = AgentNetwork(3, 2, 2, continuous=True)
    with pytest.raises(ValueError, match=r"linearize\.network must be of discrete actions"):
        linearize(network, torch.zeros(1, 2, 3), torch.arange(2), None, None)


# -- scale --------------------------------------------------------------------------------


def kl_of(logits, direction, beta):
    moved = (logits + beta * direction).log_softmax(-1)
    return float((moved.exp() * (moved - logits.log_softmax(-1))).sum())


def algorithm_1(logits, direction, budget):
    """Transcribe the printed algorithm for one row; differs from the batched search in nothing."""
    low, high, kept = 0.0, 1.0, 0
    for i in range(1, 56):
        kept = i - 1
        if kl_of(logits, direction, high) > budget:
            break
        high *= 2
    for _ in range(15 + kept):
        middle = (low + high) / 2
        if kl_of(logits, direction, middle) > budget:
            high = middle
        else:
            low = middle
    return low


def everything(shape):
    return torch.ones(shape, dtype=torch.bool)


@pytest.mark.parametrize(("budget", "beta"), [(0.5, 2.109467), (0.05, 0.458893)])
def test_two_uniform_actions(budget, beta):
    logits, direction = torch.zeros(1, 2), torch.tensor([[MATH, -MATH]])
    found = poison(logits, everything((1, 2)), direction, budget)
    assert abs(float(found.scale) - beta) <= 2**-15
    assert 0 <= budget - float(found.kl) < 1e-5
    if budget == 0.5:
        assert float(found.kl) == pytest.approx(0.4999993, abs=1e-7)


def test_a_budget_out_of_reach_gives_one_action():
    found = poison(torch.zeros(1, 2), everything((1, 2)), torch.tensor([[MATH, -MATH]]), 6.0)
    assert found.policy.tolist() == [[1.0, 0.0]]
    assert float(found.kl) == pytest.approx(math.log(2), abs=1e-12)
    assert float(found.scale) == 2.0**55


def test_ties_keep_their_proportions():
    logits = torch.tensor([[0.1, 0.3, 0.6]]).log()
    found = poison(logits, everything((1, 3)), torch.tensor([[1.0, 1.0, -2.0]]), 50.0)
    assert torch.allclose(found.policy, torch.tensor([[0.25, 0.75, 0.0]], dtype=F64))
    assert float(found.kl) == pytest.approx(-math.log(0.4), abs=1e-6)


def test_the_batched_search_is_algorithm_1():
    torch.manual_seed(0)
    logits = 2.0 * torch.randn(60, 4, dtype=F64)
    direction = unit(torch.randn(60, 4, dtype=F64))
    policy = logits.softmax(-1)
    highest = -policy.gather(-1, direction.argmax(-1, keepdim=True)).log().squeeze(-1)
    seen = 0
    for budget in (0.01, 0.3, 2.0):
        rows = highest > budget + 1e-6
        found = kl_scale(logits[rows].log_softmax(-1), direction[rows], budget)
        for row, beta in zip(rows.nonzero()[:, 0], found.tolist(), strict=True):
            assert algorithm_1(logits[row], direction[row], budget) == beta
            seen += 1
    assert seen > 120


@pytest.mark.parametrize("exponent", [-1000, -600, 600, 1000])
def test_a_direction_may_be_of_any_length(exponent):
    """Beyond 2^512 squares overflow, below 2^-512 they vanish."""
    torch.manual_seed(0)
    logits, direction = torch.randn(20, 4, dtype=F64), torch.randn(20, 4, dtype=F64)
    expected = poison(logits, everything((20, 4)), direction, 0.5)
    found = poison(logits, everything((20, 4)), direction * 2.0**exponent, 0.5)
    assert torch.equal(found.policy, expected.policy)
    assert bool(found.effective.all())


def test_the_fast_path_is_the_limit_of_the_loop():
    torch.manual_seed(1)
    logits = torch.randn(20, 4, dtype=F64)
    direction = unit(torch.randn(20, 4, dtype=F64))
    fast = poison(logits, everything((20, 4)), direction, 12.0)
    assert (fast.scale == 2.0**55).all()
    slow = kl_scale(logits.log_softmax(-1), direction, 12.0)
    moved = logits + slow.unsqueeze(-1) * (direction - direction.amax(-1, keepdim=True))
    assert torch.allclose(moved.softmax(-1), fast.policy, atol=1e-12)


@given(
    rows=st.integers(1, 6),
    size=st.integers(1, 7),
    budget=st.floats(1e-4, 20.0),
    spread=st.floats(0.0, 60.0),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from([torch.float32, F64]),
)
@settings(deadline=None, max_examples=150)
def test_the_budget_is_kept_and_used(rows, size, budget, spread, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, size, generator=generator, dtype=dtype)
    direction = torch.randn(rows, size, generator=generator, dtype=dtype)
    mask = torch.rand(rows, size, generator=generator) < 0.7
    mask[:, 0] = True
    found = poison(logits, mask, direction, budget)
    assert torch.isfinite(found.policy).all()
    assert (found.policy[~mask] == 0).all()
    assert torch.allclose(found.policy.sum(-1), torch.ones(rows, dtype=F64))
    clean = logits.double().masked_fill(~mask, -torch.inf).log_softmax(-1)
    q = found.policy
    kl = torch.where(q > 0, q * (q.log() - clean), 0.0).sum(-1)
    assert (kl <= budget * (1 + 1e-12) + 1e-12).all()
    assert torch.allclose(kl, found.kl, atol=1e-9)
    best = direction.masked_fill(~mask, -torch.inf).argmax(-1, keepdim=True)
    highest = -clean.gather(-1, best).squeeze(-1)
    for row in range(rows):
        if highest[row] > budget:
            slack = max(float(found.scale[row]), 1.0) * 2.0**-16
            assert budget - float(kl[row]) <= slack + 1e-9
        elif found.effective[row]:
            assert found.policy[row, best[row]] == 1.0
            assert float(kl[row]) == pytest.approx(float(highest[row]), abs=1e-6)


@pytest.mark.parametrize("budget", [0.1, 2.0])
def test_a_thousand_random_steps(budget):
    """The reported divergence is never above the budget, and close to it where it can be."""
    generator = torch.Generator().manual_seed(5)
    logits = 3.0 * torch.randn(1000, 5, generator=generator)
    direction = torch.randn(1000, 5, generator=generator)
    found = poison(logits, everything((1000, 5)), direction, budget)
    best = direction.argmax(-1, keepdim=True)
    highest = -logits.double().log_softmax(-1).gather(-1, best).squeeze(-1)
    reachable = highest > budget
    assert 100 < int(reachable.sum()) < 1000
    assert (found.kl <= budget).all()
    slack = found.scale.clamp(min=1.0) * 2.0**-16
    assert (budget - found.kl <= slack)[reachable].all()
    assert (found.policy.gather(-1, best)[~reachable] == 1.0).all()
    assert torch.allclose(found.kl[~reachable], highest[~reachable], atol=1e-6)


def test_kl_grows_with_the_scale_at_the_stated_rate():
    torch.manual_seed(2)
    logits, direction = torch.randn(5, dtype=F64), unit(torch.randn(5, dtype=F64))
    grid = [0.05 * k for k in range(200)]
    values = [kl_of(logits, direction, beta) for beta in grid]
    assert all(a <= b for a, b in itertools.pairwise(values))
    for beta in (0.3, 1.0, 4.0):
        h = 1e-5
        slope = (kl_of(logits, direction, beta + h) - kl_of(logits, direction, beta - h)) / (2 * h)
        q = (logits + beta * direction).softmax(-1)
        variance = float((q * direction.square()).sum() - (q * direction).sum() ** 2)
        assert slope == pytest.approx(beta * variance, abs=1e-6)


# -- likelihood ---------------------------------------------------------------------------


def test_likelihood_identity():
    torch.manual_seed(4)
    clean, poisoned = torch.randn(9, 5, dtype=F64).log_softmax(-1), torch.randn(9, 5, dtype=F64)
    poisoned = poisoned.softmax(-1)

    def entropy(p):
        return -(p * p.log()).sum(-1)

    kl = (poisoned * (poisoned.log() - clean)).sum(-1)
    for f in (0.0, 0.4, 1.0):
        expected = -f * entropy(poisoned) - f * kl - (1 - f) * entropy(clean.exp())
        assert torch.allclose(log_likelihood(clean, poisoned, f), expected, atol=1e-12)


def test_likelihood_of_a_uniform_policy_is_that_of_any():
    for size in (1, 2, 4, 9):
        uniform = torch.zeros(20, size, dtype=F64).log_softmax(-1)
        any_of = (5.0 * torch.randn(20, size, dtype=F64)).softmax(-1)
        any_of[0] = torch.eye(size, dtype=F64)[0]
        for f in (0.0, 0.3, 1.0):
            expected = torch.full((20,), -math.log(size), dtype=F64)
            assert torch.allclose(log_likelihood(uniform, any_of, f), expected, atol=1e-12)


def test_likelihood_with_unavailable_actions():
    clean = torch.tensor([[0.0, -torch.inf]], dtype=F64)
    assert float(log_likelihood(clean, clean.exp())) == 0.0
