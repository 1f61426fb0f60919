"""Exceptions; each message is one sentence."""


class PluginError(RuntimeError):
    """A call of the library failed. `str(error)` is its message, `status` its LAMBDA_DPO_STATUS_* code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class InvalidInputError(PluginError, ValueError):
    """An argument, a record, a tokenizer or a chat template is invalid."""


class LibraryError(ImportError):
    """liblambda_dpo.so is missing, or was built for another version of torch."""


class ConfigError(ValueError):
    """Options contradict each other, are unknown, or ask for something that is not supported."""
