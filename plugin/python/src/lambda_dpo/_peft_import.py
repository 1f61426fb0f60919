"""Registers λ-adapters with PEFT once it is imported; `import lambda_dpo` alone does not import it."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType


def _register() -> None:
    importlib.import_module(".lambda_lora.register", __package__)


class _Loader(importlib.abc.Loader):
    """Loads PEFT with its own loader, then registers."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on PEFT's loader is its own again, for those that look at it, such as importlib.resources.
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        _register()


class _Finder(importlib.abc.MetaPathFinder):
    """Finds PEFT by asking the other finders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        others = sys.meta_path if name == "peft" else []
        found = (finder.find_spec(name, path, target) for finder in others if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def register_with_peft() -> None:
    """Registers now if PEFT is imported, else as soon as it is."""
    if "peft" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Finder())
