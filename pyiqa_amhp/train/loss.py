"""The loss of AMHP, Eq. 8: earth mover's distance between level distributions."""

import torch
from torch import nn

from pyiqa_amhp.errors import AMHPError


def emd(p: torch.Tensor, q: torch.Tensor, r: float = 2) -> torch.Tensor:
    """Earth mover's distance of each pair, ``(mean_j |CDF_p(j) - CDF_q(j)|^r)^(1/r)``.

    Args:
        p, q: distributions over k levels, ``(N, k)``.
        r: at least 1.

    Returns:
        ``(N,)``, in [0, 1]. Its gradient is finite where ``p`` equals ``q``.
    """
    difference = p.cumsum(dim=-1) - q.cumsum(dim=-1)  # (N, k)
    return torch.linalg.vector_norm(difference, ord=r, dim=-1) / p.shape[-1] ** (1 / r)


def agreement_weight(q: torch.Tensor) -> torch.Tensor:
    """The authors' code weights each image by ``1 - sum_j q_j^2 + 0.2`` (0.1 unless k is 5).

    Args:
        q: rated distributions ``(N, k)``.

    Returns:
        ``(N,)``: less for images that the raters agree about.
    """
    return 1 - q.square().sum(dim=-1) + (0.2 if q.shape[-1] == 5 else 0.1)


class AMHPEMDLoss(nn.Module):
    """Eq. 8 in the form of each protocol.

    Args:
        loss_weight: factor of the result.
        r: 1 or 2 (any number from 1 on); paper: 2.
        protocol: ``paper``: no weights; ``reference``: the weights of the authors' code.
        weighted: use those weights; None: as the protocol says.
        root: ``image``: the r-th root of each image's distance, then the mean over the batch.
            This is the EMD that Eq. 8 cites (NIMA) and what the authors ran. ``batch``: Eq. 8 to
            the letter, the root of the mean over the batch.
        reduction: ``mean``, ``sum`` or ``none`` (with ``root='image'``).

    Raises:
        AMHPError: options that are not of this form.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        r: float = 2,
        protocol: str = 'paper',
        weighted: bool | None = None,
        root: str = 'image',
        reduction: str = 'mean',
    ):
        super().__init__()
        for name, value, allowed in (
            ('protocol', protocol, ('paper', 'reference')),
            ('root', root, ('image', 'batch')),
            ('reduction', reduction, ('mean', 'sum', 'none')),
        ):
            if value not in allowed:
                raise AMHPError(f'AMHPEMDLoss: {name}={value!r}, expected {", ".join(allowed)}')
        if not r >= 1:
            raise AMHPError(f'AMHPEMDLoss: r={r!r}, expected a number from 1 on')
        if root == 'batch' and reduction != 'mean':
            raise AMHPError("AMHPEMDLoss: root='batch' is a mean; reduction must be 'mean'")
        self.loss_weight, self.r, self.root, self.reduction = loss_weight, r, root, reduction
        self.weighted = protocol == 'reference' if weighted is None else weighted

    def forward(self, pred: torch.Tensor, target: torch.Tensor, **kwargs) -> torch.Tensor:
        """Predicted and rated level distributions ``(N, k)`` to the loss.

        Raises:
            AMHPError: shapes that differ.
        """
        if pred.shape != target.shape or pred.dim() != 2:
            raise AMHPError(
                f'AMHPEMDLoss: predictions {tuple(pred.shape)} and ratings {tuple(target.shape)}: '
                'expected the same (N, k), one column for each level'
            )
        distance = emd(pred, target, self.r)  # (N,)
        if self.root == 'batch':
            distance = distance**self.r
        if self.weighted:
            distance = distance * agreement_weight(target)
        if self.reduction != 'none':
            distance = getattr(distance, self.reduction)()
        if self.root == 'batch':
            # a root has no slope at 0; there the loss is 0 and nothing is to be learned
            distance = torch.where(distance > 0, distance, 1) ** (1 / self.r) * (distance > 0)
        return self.loss_weight * distance
