"""The loss of AMHP, Eq. 8: the earth mover's distance between level distributions."""

import torch
from torch import nn

from pyiqa_amhp.errors import AMHPError


def emd(p: torch.Tensor, q: torch.Tensor, r: float = 2) -> torch.Tensor:
    """Compute the distance of each pair, ``(mean_j |CDF_p(j) - CDF_q(j)|^r)^(1/r)``.

    Args:
        p: predicted distributions over k levels, ``(N, k)``.
        q: rated distributions, ``(N, k)``.
        r: the exponent, at least 1.

    Returns:
        The distances, ``(N,)``, each in [0, 1]. The gradient is finite where ``p`` equals ``q``.
    """
    difference = p.cumsum(dim=-1) - q.cumsum(dim=-1)  # (N, k)
    return torch.linalg.vector_norm(difference, ord=r, dim=-1) / p.shape[-1] ** (1 / r)


def agreement_weight(q: torch.Tensor) -> torch.Tensor:
    """Compute the authors' weight of each image: lower where its raters agree.

    It is ``1 - sum_j q_j^2 + 0.2`` for 5 levels, and ``+ 0.1`` for other numbers (authors' code).

    Args:
        q: rated distributions, ``(N, k)``.

    Returns:
        The weights, ``(N,)``.
    """
    return 1 - q.square().sum(dim=-1) + (0.2 if q.shape[-1] == 5 else 0.1)


class AMHPEMDLoss(nn.Module):
    """Loss of Eq. 8, as the paper defines it or as the authors ran it.

    Args:
        loss_weight: a factor of the loss.
        r: the exponent of Eq. 8, any number from 1 on; paper: 2.
        protocol: ``paper`` gives all images the same weight; ``reference`` uses the weights of
            the authors' code (``agreement_weight``).
        weighted: whether to use these weights; None: as ``protocol`` says.
        root: ``image`` takes the r-th root for each image, and then the mean over the batch: the
            EMD that Eq. 8 cites (NIMA), and what the authors ran. ``batch`` takes the root of the
            mean over the batch: Eq. 8 to the letter.
        reduction: ``mean``, ``sum`` or ``none``; with ``root='batch'`` only ``mean``.

    Raises:
        AMHPError: the value of an option is not allowed.
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
        """Compute the loss of predicted and rated level distributions.

        Args:
            pred: predicted distributions, ``(N, k)``.
            target: rated distributions, ``(N, k)``.
            **kwargs: ignored; pyiqa may pass more.

        Returns:
            A scalar, or ``(N,)`` with ``reduction='none'``.

        Raises:
            AMHPError: the shapes differ.
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
            # A root has no slope at 0. There the loss is 0, and so is its gradient.
            distance = torch.where(distance > 0, distance, 1) ** (1 / self.r) * (distance > 0)
        return self.loss_weight * distance
