"""Refits `down_proj` in closed form when neurons go, so that the layer's output changes least.

Ridge regression on the calibration second moments H = X^T X, k the kept and r the removed:

    W_new = (H_kk + lambda I)^-1 (H_k: W^T + lambda W_k^T), transposed
          = W_k + [(H_kk + lambda I)^-1 H_kr W_r^T]^T

The second form is what is computed: it is the same, exact where nothing is removed, and goes to
the plain cut as lambda grows. This is PTL's own, not the paper's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.live import decoder_layers, ffn_output
from ptl_plugins.ranks import Ranks
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.types import PrunePlan

RIDGE = 1e-2
"""lambda as a share of the mean of H's diagonal."""
GROWTH = 10.0
MAX_RIDGE = 1e4
logger = logging.getLogger(__name__)


def refitted(
    weight: torch.Tensor,
    moment: torch.Tensor,
    removed: Sequence[int],
    *,
    name: str = "down_proj",
    ridge: float = RIDGE,
) -> torch.Tensor:
    """Return the output matrix for the kept neurons, fp32 [hidden, kept].

    Args:
        weight: [hidden, width], any float dtype; its device does the work.
        moment: fp32 [width, width], H of the same neurons.
        removed: indices of the neurons that go.
        name: what the log calls it.
        ridge: lambda as a share of the mean diagonal, above 0; grows tenfold where
            H_kk + lambda I is not positive definite, as the log then says.

    Raises:
        PruneError: the moment is not finite, so no lambda helps.
    """
    if not bool(moment.isfinite().all()):
        raise PruneError(f"{name}: its second moments are not finite; profile again")
    keep = torch.ones(weight.shape[1], dtype=torch.bool)
    keep[list(removed)] = False
    kept = keep.nonzero().flatten().to(weight.device)
    gone = (~keep).nonzero().flatten().to(weight.device)
    moment = moment.to(weight.device)
    plain = weight.index_select(1, kept).float()
    scale = moment.diagonal().mean()
    lost = moment.index_select(1, gone).index_select(0, kept)
    lost = lost @ weight.index_select(1, gone).float().T
    matrix = moment.index_select(0, kept).index_select(1, kept)
    del moment  # the factor takes its place
    return plain + _solve(matrix, lost, scale, name, ridge).T


def _solve(
    matrix: torch.Tensor, right: torch.Tensor, scale: torch.Tensor, name: str, ridge: float
) -> torch.Tensor:
    """Return (matrix + lambda I)^-1 right, with the least lambda that works."""
    assert ridge > 0, "or it would never grow"
    share, diagonal = ridge, matrix.diagonal().clone()
    if not float(scale) > 0:  # no neuron was ever active: nothing is lost
        return torch.zeros_like(right)
    while True:
        matrix.diagonal().copy_(diagonal + share * scale)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not int(failed):
            solution = torch.cholesky_solve(right, factor)
            if bool(solution.isfinite().all()):
                return solution
        if share >= MAX_RIDGE:
            raise PruneError(f"{name}: no ridge up to {share:.0e} helps; profile again")
        logger.warning(
            "%s: second moments are ill-conditioned at lambda %.0e of their mean; trying %.0e",
            name,
            share,
            share * GROWTH,
        )
        share *= GROWTH


@torch.no_grad()
def refit_live(
    model: PreTrainedModel, family: Family, plan: PrunePlan, moments: MomentFolder, ranks: Ranks
) -> None:
    """Write the refitted columns into a live model that is about to lose `plan`'s neurons.

    The main rank reads and solves, one layer at a time; the others get its columns.
    """
    layers = decoder_layers(model, family)
    for index in plan.kept_layers():
        weight, removed = ffn_output(layers[index], family).weight, plan.removed_neurons[index]
        columns = torch.tensor(plan.kept_neurons(index), device=weight.device)
        new = torch.zeros(weight.shape[0], len(columns), device=weight.device)
        if ranks.rank == 0:
            name = f"layer {index}, {family.ffn_output}"
            new = refitted(weight.data, moments.read(index, plan.width), removed, name=name)
        ranks.merge(new, "sum")
        weight.data[:, columns] = new.to(weight.dtype)
