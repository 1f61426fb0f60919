"""What goes wrong, each as one sentence."""


class PluginError(RuntimeError):
    """The library refused a call. `str(error)` is its sentence; `status` its LAMBDA_DPO_STATUS_* code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class InvalidInputError(PluginError, ValueError):
    """An argument, a record, a tokenizer or a chat template that cannot be used."""


class LibraryError(ImportError):
    """liblambda_dpo.so is missing, or was built for another torch."""


class ConfigError(ValueError):
    """Options that contradict each other, are unknown, or ask for what is not supported."""
