"""The engine: how the files of a database change, and how they are found whole again.

Staging, commit, checkpoint, the log in the chunks' directories, recovery. Whatever makes a change atomic or durable
is here. Knows chunks and the index, but none of the objects that users hold.

Modules, from the bottom up: commit_log, losses, names, in_place, live_objects, flushing, drafts, staged_rows,
staged_view, growing, staging, commit, completeness, provision, checkpoint, storage, history, written_rows,
roll_forward, recovery, private_copy, follow.
"""
