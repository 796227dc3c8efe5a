"""CRC-32 as zlib and zip archives have it (polynomial 0xEDB88320), of records, frames and the members of archives.

Compiled kernels compute that of frames themselves. Every byte of torch's files passes through this one: zlib-ng's takes
18 us a MiB where zlib's takes 240. ISA-L's is as fast, but leaves the upper halves of vector registers in use, which
slows what follows on AMD's Zen 4: SHA-256 of 90 MiB takes 52 ms, and 70 after it; a commit of 91 MB in two threads, in
turn, 0.222 s and 0.240.
"""

from __future__ import annotations

from zlib_ng.zlib_ng import crc32

__all__ = ["crc32"]
