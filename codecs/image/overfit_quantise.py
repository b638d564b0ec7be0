"""Steps for the parameters of a picture's networks: for each group the one that costs least in error and bits together."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .overfit_dense import Floats
from .overfit_loss import Loss
from .overfit_parameters import GROUPS, Network, apply_steps, encode_network, groups_of, units_of

__all__ = ["Quantised", "quantise"]

FINEST, COARSEST = 3, 12  # exponents of the first step that is tried and the last
PATIENCE = 3  # coarser steps tried after the best so far; from the other end the first best is often no change at all


class Quantised(NamedTuple):
    """A network on its grids, and its code."""

    network: Network
    code: bytes


def quantise(loss: Loss, initial: Network, parameters: Floats, tick: Callable[[], None]) -> Quantised:
    """Return the network near `parameters` for the latents in `loss`; `tick` is called now and then and may raise to stop.

    Groups are decided one after the other, with those not yet decided as they are.
    """
    groups, units = groups_of(initial.spec), units_of(initial.spec)
    wanted = parameters.astype(np.float64) / units - initial.integers  # in units away from the initial network
    exponents, numbers = [0] * len(GROUPS), np.zeros(groups.size, np.int64)
    current = np.rint(wanted).astype(np.int64)
    for group in range(len(GROUPS)):
        inside, best, tried = groups == group, np.inf, 0
        for exponent in range(FINEST, COARSEST + 1):
            tick()
            trial = numbers.copy()
            trial[inside] = np.rint(wanted[inside] / (1 << exponent))
            network = Network(initial.spec, initial.integers + np.where(inside, trial << exponent, current))
            trial_exponents = [*exponents[:group], exponent, *exponents[group + 1 :]]
            bits = 8 * len(encode_network(initial, trial_exponents, trial))
            cost = loss.cost(network.tensors(), bits)
            tried += 1
            if cost < best:
                best, tried, chosen, chosen_exponent = cost, 0, trial, exponent
            elif tried >= PATIENCE:
                break
        numbers, exponents[group] = chosen, chosen_exponent
        current[inside] = numbers[inside] << chosen_exponent
    return Quantised(apply_steps(initial, exponents, numbers), encode_network(initial, exponents, numbers))
