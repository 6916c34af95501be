"""How a network is run in a training: compiled or not, and in which precision, with scaled gradients for float16."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from configs.training import Switch

logger = logging.getLogger(__name__)


def is_compiled(choice: Switch, device: torch.device) -> bool:
    """Return whether `torch.compile` is to be used: with "auto" on CUDA, if there is the C compiler that it needs."""
    if choice != "auto":
        return choice == "on"
    if device.type != "cuda":
        return False
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        logger.warning("there is no C compiler, so torch.compile is not used; install gcc to train faster")
        return False
    return True


class Precision:
    """Autocast and, for float16, a gradient scaler."""

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "auto":
            on_cuda = device.type == "cuda"
            # Older GPUs emulate bfloat16, which is slower than float32.
            own = on_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
            name = "float32" if not on_cuda else "bfloat16" if own else "float16"
        self._device, self._dtype = device, getattr(torch, name)
        self._scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")

    def autocast(self) -> torch.autocast:
        """Return the context in which the network runs."""
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the parameters."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], clip_norm: float) -> None:
        """Clip the gradients, update the weights, and clear the gradients."""
        self._scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, clip_norm)
        self._scaler.step(optimizer)
        self._scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return self._scaler.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        if state:
            self._scaler.load_state_dict(state)
