"""What else goes on in the process: other threads, and signal handlers and finalisers that interrupt a call.

Small tools of threads and locks that any layer may need. Nothing here does I/O or knows files, rows or stores.

Modules, from the bottom up: background, in_order, forks, leftovers, mutex, workers.
"""
