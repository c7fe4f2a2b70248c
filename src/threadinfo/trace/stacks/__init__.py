"""Where in the program something was done: stacks, their frames, and who unwinds them."""
