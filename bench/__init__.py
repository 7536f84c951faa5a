"""Side-by-side benchmarks of structchunk and its peers: ``python -m bench --help``."""
