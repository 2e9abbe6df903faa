"""The training methods by name.

To add one, write a module with a subclass of :class:`mmcl_core.methods.base.Method` and name it here.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from mmcl_core.errors import ConfigError

if TYPE_CHECKING:
    from mmcl_core.methods.base import Method

__all__ = ["METHODS", "method_class"]

#: Name of the method -> where its class is, ``module:class``. A module is imported when its method is asked for.
METHODS: dict[str, str] = {
    "mmcl": "mmcl_core.methods.mmcl:MultimodalContrastive",
    "supervised": "mmcl_core.methods.supervised:Supervised",
    "amdim": "mmcl_core.methods.amdim:UnimodalContrastive",
    "two_step": "mmcl_core.methods.two_step:TwoStep",
    "cmc": "mmcl_core.methods.cmc:ContrastiveMultiviewCoding",
    "input_dropout": "mmcl_core.methods.input_dropout:InputDropout",
    "moddrop": "mmcl_core.methods.moddrop:ModDrop",
    "pix2pix": "mmcl_core.methods.pix2pix:Pix2Pix",
    "hallucination": "mmcl_core.methods.hallucination:ModalityHallucination",
    "admd": "mmcl_core.methods.admd:AdversarialDistillation",
}


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ConfigError: no method of this name.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(METHODS)}"
        raise ConfigError(f"unknown method {name!r}; {hint}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found
