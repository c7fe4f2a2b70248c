"""From a report to what people and programs read. Renderers never read the system."""
