"""Entry of one file in the manifest: path, digest and size."""

from dataclasses import dataclass
from typing import Annotated

from edgeexit.common.files import MAX_FILE_BYTES
from edgeexit.common.kinds import NAME_PATTERN, Matching, Whole
from edgeexit.common.records import Record

_PATH = Matching(
    rf"(?!manifest\.json$){NAME_PATTERN}(/{NAME_PATTERN})*",
    "letters, digits, '.', '_' and '-', confined to the bundle, and not the manifest itself",
)


@dataclass(frozen=True)
class FileSpec(Record, title="file"):
    """One file of the bundle."""

    path: Annotated[str, _PATH]
    """Relative to the bundle, with `/` between parts, each part a name; not `manifest.json`."""
    sha256: Annotated[str, Matching("[0-9a-f]{64}", "64 hexadecimal digits in lower case")]
    """Digest of the file's bytes, 64 hexadecimal digits in lower case."""
    bytes: Annotated[int, Whole(0, MAX_FILE_BYTES)]
    """Size, at most 16 GiB."""
