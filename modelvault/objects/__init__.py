"""The records of a vault as values and as bytes.

    commit    Commit, FileEntry          immutable; the commit id is the digest of its canonical bytes
    payload   Payload                    how a commit's bytes are kept; mutable
    recipe    Recipe                     how one file is rebuilt: template, skeleton patch, tensor numbers; replaceable
    template  Template, Event            what files of one shape share: where tensors, checksums and the stem stand
    tensor    TensorRecord, Extent       where a tensor's chunks are and what decodes them; replaceable
    ref       Head, Move, ReflogEntry    what names point at, and every move of them

Nothing here reads a store or decodes a chunk. Every reader checks lengths and rejects what no writer would write;
docs/format/index.md specifies the bytes. Import the module you need: light commands load no more than that.
"""
