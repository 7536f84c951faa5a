"""Past one machine: databases published to object storage, and read from there.

What is published is immutable: objects under names that are never used again, and one manifest for each
publication, which is written last. ``objects.py`` alone reaches stores of objects, through fsspec. Credentials are
their affair: none is ever in a manifest, a message or a cache. What is read of it is kept in a cache on this
machine, as chunk files into which blocks are fetched.

Modules, from the bottom up: address, redaction, objects, layout, manifest, rows,
publications, chunk_drafts, chunk_files, comparison, uploads, row_levels, claim, publish, prune, boot, checksums,
cached_chunk, fetching, remote_chunk, cache, row_cache, remote_index, remote_storage.
"""
