"""The tracer of descriptors: the ledger in the kernel, and what is read of it."""
