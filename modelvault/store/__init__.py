"""Bytes by key in named tables, under transactions, across generations: on disk and in memory.

`base` is the interface; `lmdb_store` and `memory` are the two stores. Nothing is imported here, so that code which
only names the interface does not load LMDB.
"""
