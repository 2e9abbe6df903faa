"""Muon: steps of equal size in all directions of a weight matrix.

The momentum of a weight matrix is replaced by the nearest matrix whose singular values are all about one, so that
directions which the gradient seldom shows are learned as fast as the others (K. Jordan et al., "Muon: an optimizer for
hidden layers in neural networks", 2024). Its size is made that of a step of AdamW (J. Liu et al., "Muon is scalable for
LLM training", 2025), so that a rate and a weight decay mean about the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "orthogonalised"]

_ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan: odd polynomial that takes (0, 1] to about 1 in five iterations
_RMS = 0.2  # Liu: root mean square of the elements of an AdamW step, for a rate of one


class Muon(torch.optim.AdamW):
    """Muon for weight matrices, AdamW for all other parameters; weight decay is decoupled in both.

    A convolution counts as the matrix [outputs, inputs x height x width].

    Args:
        matrices: weights of two or more dimensions.
        others: whatever else is trained.
        momentum: of the matrices (Nesterov), in [0, 1).
        lr, weight_decay: of both.
        more: of AdamW, such as ``betas``.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        momentum: float,
        lr: float,
        weight_decay: float,
        **more: Any,
    ) -> None:
        groups: list[dict[str, Any]] = [{"params": list(matrices), "momentum": momentum}, {"params": list(others)}]
        super().__init__([group for group in groups if group["params"]], lr=lr, weight_decay=weight_decay, **more)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient.

        Args:
            closure: not taken; it is there for the signature's sake.
        """
        assert closure is None
        held: list[tuple[nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            if "momentum" in group:
                own = [(p, p.grad) for p in group["params"] if p.grad is not None]
                self._turn(own, group)
                held += own
        for parameter, _ in held:
            parameter.grad = None  # AdamW leaves alone what has none
        super().step()
        for parameter, gradient in held:
            parameter.grad = gradient

    def _turn(self, own: list[tuple[nn.Parameter, Tensor]], group: dict[str, Any]) -> None:
        """Update matrices; those of one shape together."""
        alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter, gradient in own:
            state = self.state[parameter]
            if not state:  # AdamW asks every state that it takes up for its step
                state |= {"step": torch.tensor(0.0), "momentum_buffer": torch.zeros_like(gradient)}
            state["step"] += 1
            momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
            ahead = gradient.add(momentum, alpha=group["momentum"]).flatten(1)
            alike.setdefault((ahead.shape[0], ahead.shape[1]), []).append((parameter, ahead))
        for shape, members in alike.items():
            steps = orthogonalised(torch.stack([ahead for _, ahead in members]))
            for (parameter, _), step in zip(members, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(step.view_as(parameter), alpha=group["lr"] * _RMS * math.sqrt(max(shape)))


def orthogonalised(matrices: Tensor) -> Tensor:
    """The matrices with all singular values at about one (0.7 to 1.2), by a Newton-Schulz iteration.

    Args:
        matrices: float32 [N, rows, columns]; on a GPU products are of bfloat16, which suffices here.

    Returns:
        float32 [N, rows, columns]; zero where a matrix is zero.
    """
    first, third, fifth = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)  # no singular value above one
    if x.is_cuda:
        x = x.bfloat16()
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return (x.mT if tall else x).to(matrices.dtype)
