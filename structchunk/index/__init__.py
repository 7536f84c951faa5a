"""The index: LevelDB, and what is kept of it in memory.

(store, key) -> where the record lies, the catalog of stores, the heads of chunks, live counts, as of any commit
that is still read. Knows rows, not the bytes of records; only ``leveldb`` imports plyvel.

Modules, from the bottom up: counts, delta, leveldb_files, near_keys, page, buckets, takers, short_pages,
cached_pages, page_cache, version, growth, private_directory, gate, leveldb, drop_notes, store_keys, stored_state,
decoding, stored_rows, first_pages, sampling, change, store_index, index_snapshot, index.
"""
