"""Everything EdgeExit raises on purpose.

::

    EdgeExitError
    |-- BundleError       a bundle is missing, damaged, changed, hostile or of an unknown schema
    |-- DataError         arrays or data files do not fit (dtype, shape, NaN, missing names)
    |-- ModelError        a source model cannot be exported as it is
    |   `-- ExportMismatch    an exported exit does not answer like the source model
    |-- PolicyError       a policy or operating point cannot be used here
    |   `-- Infeasible        no setting meets the asked budget or accuracy
    `-- BackendMissing    an engine or tool is not installed; the message has the pip line

Catch the base class to show a user one line::

    try:
        engine = edgeexit.load("digits.edgeexit")
    except edgeexit.EdgeExitError as error:
        sys.exit(f"error: {error}")
"""

from __future__ import annotations


class EdgeExitError(Exception):
    """Base of all errors a user can cause and mend; the command line prints it as one line."""


class BundleError(EdgeExitError):
    """A bundle is missing, damaged, changed since it was written, hostile, or of an unknown schema."""


class DataError(EdgeExitError):
    """Arrays or a data file do not fit what the model or the command needs."""


class ModelError(EdgeExitError):
    """A source model cannot be exported as it is."""


class ExportMismatch(ModelError):
    """An exported exit differs from the source model by more than the tolerance."""


class PolicyError(EdgeExitError):
    """A policy or operating point cannot be used with this artifact or these records."""


class Infeasible(PolicyError):
    """No setting meets what was asked; the message says what would."""


class BackendMissing(EdgeExitError):
    """A library that this step needs is not installed; the message has the pip line."""


def first_line(error: BaseException, most: int = 300) -> str:
    """What an engine's or a converter's exception says, without its pages of detail: one statement in one line.

    The first line; where that announces more (it ends in a colon, say), the next ones too. What is longer than
    `most` characters ends at a word, with three dots.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    for line in lines[1:]:
        if not text.endswith((":", ",", "indices")) or len(text) >= most:
            break
        text = f"{text} {line}"
    if len(text) <= most:
        return text
    return f"{text[: most - 4].rsplit(' ', 1)[0].rstrip(' ,:;(')} ..."
