"""The tracer of CPU time: where threads were when their CPU's clock ticked."""
