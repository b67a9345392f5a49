"""The objects that a live file would make, for a store that has lost them."""

from __future__ import annotations

import os
import stat as st
from collections.abc import Iterator
from contextlib import suppress
from typing import cast

from gsync.objects.chunk_list import ChunkListBuilder
from gsync.objects.chunking import CHUNKED_ABOVE_BYTES, Readable, read_chunks
from gsync.objects.encoding import NotCanonical, Reference
from gsync.objects.oid import Kind, ObjectId, object_id

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Recovered = tuple[Kind, ObjectId, bytes]


def read_objects(root: bytes, path: bytes) -> Iterator[Recovered]:
    """Yield the content of the file or link at `path` as objects: none where there is none.

    A large file comes as its chunks and chunk lists. Whether it is what somebody looks for,
    or was changed since or meanwhile, the ids tell. No link on the way is followed.
    """
    try:
        directory = _open_directory(root, path)
    except OSError:
        return
    try:
        name = path.rpartition(b"/")[2]
        with suppress(OSError):
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            if st.S_ISLNK(mode):
                yield _blob(os.fsencode(os.readlink(name, dir_fd=directory)))
            elif st.S_ISREG(mode):
                yield from _read_file(os.open(name, _READ_FLAGS, dir_fd=directory))
    finally:
        os.close(directory)


def _open_directory(root: bytes, path: bytes) -> int:
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in path.split(b"/")[:-1]:
        try:
            below = os.open(name, _DIRECTORY_FLAGS, dir_fd=directory)
        finally:
            os.close(directory)
        directory = below
    return directory


def _read_file(descriptor: int) -> Iterator[Recovered]:
    with open(descriptor, "rb", buffering=0) as file:
        if os.fstat(descriptor).st_size <= CHUNKED_ABOVE_BYTES:
            body = file.read(CHUNKED_ABOVE_BYTES + 1)
            if len(body) <= CHUNKED_ABOVE_BYTES:
                yield _blob(body)
            return
        lists: list[Recovered] = []

        def put(kind: Kind, body: bytes) -> ObjectId:
            oid = object_id(kind, body)
            lists.append((kind, oid, body))
            return oid

        builder = ChunkListBuilder(put)
        for chunk in read_chunks(cast("Readable", file)):
            found = _blob(chunk)
            yield found
            builder.add(Reference(Kind.BLOB, found[1], len(chunk)))
            yield from lists
            lists.clear()
        with suppress(NotCanonical):  # it shrank meanwhile
            builder.finish()
        yield from lists


def _blob(body: bytes) -> Recovered:
    return Kind.BLOB, object_id(Kind.BLOB, body), body
