"""Checkpoint files: which byte ranges are tensors, found without decoding, unpickling or running anything.

The island answers one question, `read_layout`: where in this file are the tensors, and what is known of them?
It reads headers and the pickle as data, in bounded memory, whatever the bytes are. Cutting, storing and
putting files together again is the repository's.
"""

from modelvault.checkpoint.layout import (
    MAX_SEGMENTS,
    Checksum,
    Layout,
    Segment,
    Source,
    checked,
    understood_share,
)
from modelvault.checkpoint.parts import Part, part_of
from modelvault.checkpoint.reader import PARSER_FAILED, read_layout
from modelvault.checkpoint.source import BytesSource, FileSource

__all__ = [
    "read_layout",
    "Layout",
    "Segment",
    "Checksum",
    "checked",
    "understood_share",
    "MAX_SEGMENTS",
    "PARSER_FAILED",
    "Source",
    "FileSource",
    "BytesSource",
    "Part",
    "part_of",
]
