"""Samples of steps: gathered when they are asked for, in the order of a seeded draw."""

import pytest
import torch

from robustmarl.learning.samples import Samples


def samples(attacked=False):
    """Return two episodes of three steps, of which five were played, and which."""
    obs = torch.arange(2 * 3 * 2 * 4.0).view(2, 3, 2, 4)
    flags = torch.ones(2, 3, 2, dtype=torch.bool)
    made = Samples(
        seen=obs[:, :],
        clean=obs + 100.0 if attacked else obs[:, :],
        mask=torch.ones(2, 3, 2, 5, dtype=torch.bool),
        act=torch.arange(12).view(2, 3, 2),
        acting=flags,
        valued=flags[:, :],
        last_act=None,
        side={"mean_act": obs[..., :1]},
    )
    valid = torch.tensor([[True, True, True], [True, True, False]])
    return made, valid


@pytest.mark.parametrize("size", [None, 2, 1])
def test_minibatches_of_steps_are_those_of_a_gathered_copy(size):
    made, valid = samples(attacked=True)
    parts = list(made.steps(valid).minibatches(valid, size, torch.Generator().manual_seed(3)))
    order = torch.randperm(5, generator=torch.Generator().manual_seed(3))
    order = torch.arange(5) if size is None else order
    for name in ("seen", "clean", "mask", "act", "acting"):
        want = getattr(made, name)[valid][order]
        assert torch.equal(torch.cat([getattr(part, name) for part in parts])[:, 0], want)
    side = torch.cat([part.side["mean_act"] for part in parts])[:, 0]
    assert torch.equal(side, made.side["mean_act"][valid][order])
    assert len(made.steps(valid)) == 5
    assert len(parts) == (1 if size is None else round(5 / size))


def test_one_memory_is_copied_once():
    for attacked in (False, True):
        made, valid = samples(attacked)
        (part,) = made.steps(valid).minibatches(valid, None, torch.Generator())
        assert (part.seen is part.clean) != attacked
        assert part.acting is part.valued
        assert part.side["mean_act"] is not part.seen
        assert part.last_act is None


def test_epochs_share_one_copy_of_a_single_part():
    made, valid = samples()
    kept = made.steps(valid).for_epochs(valid, None)
    first, again = (next(kept.minibatches(valid, None, torch.Generator())) for _ in range(2))
    assert first is again
    assert torch.equal(first.seen[:, 0], made.seen[valid])
    steps = made.steps(valid)
    assert steps.for_epochs(valid, 2) is steps  # parts are selected from what is there
    assert made.for_epochs(valid, None) is made  # whole episodes need no copy
