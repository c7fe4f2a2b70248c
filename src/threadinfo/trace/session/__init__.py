"""One trace: who is traced, what a tracer is, from attaching to detaching."""
