"""The tracer of threads: on a CPU, queued, blocked and for what."""
