"""The live view: draws the snapshots that it is handed, and never collects."""
