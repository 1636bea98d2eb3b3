"""Every error Monosem raises on purpose.

::

    MonosemError
    ├── UserError               the caller can fix it;  the command line exits with 2
    │   ├── ConfigError         an unknown key, a value of the wrong kind
    │   ├── InputError          a path, glob, model or dictionary that is not there or cannot be used
    │   ├── EmptyCorpusError    sources that hold no text
    │   ├── HookpointError      a hookpoint the subject model does not have
    │   ├── LeaseError          a directory that another run is filling
    │   ├── PlanError           a directory that was made with another plan
    │   └── WidthError          a dictionary and a store of different widths
    └── FailureError            something broke; the command line exits with 1
        ├── StorageError        an object could not be read or written
        ├── CorruptObjectError  an object differs from what its receipt or manifest promises
        ├── DivergenceError     training produced NaN or infinity
        ├── StoppedError        work that was asked to stop, and saved its state
        └── WorkerError         a worker failed more often than it may

Each message says what was found, what was expected and what to do, in one line. Every class takes its message alone, so that
an error survives the trip between two processes (an exception with further constructor arguments does not unpickle).
"""


class MonosemError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UserError(MonosemError):
    """The caller's mistake: nothing was changed, and the message says what to change."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration with an unknown key or a value that cannot be."""


class InputError(UserError):
    """An input that is not there, cannot be read, or is not what it is taken for."""


class EmptyCorpusError(UserError):
    """Text sources that hold no text."""


class HookpointError(UserError):
    """A hookpoint that the subject model does not have."""


class LeaseError(UserError):
    """A directory that another run is filling."""


class PlanError(UserError):
    """A directory that holds the work of another plan."""


class WidthError(UserError):
    """Two things that must share a width and do not."""


class FailureError(MonosemError):
    """Something broke that the caller did not do wrong."""


class StorageError(FailureError):
    """An object that could not be read or written."""


class CorruptObjectError(FailureError):
    """An object that is not what its receipt, or the manifest, promises."""


class DivergenceError(FailureError):
    """Training that produced NaN or infinity."""


class StoppedError(FailureError):
    """Work that was asked to stop, and saved its state before it did."""


class WorkerError(FailureError):
    """A worker that failed more often than it may."""
