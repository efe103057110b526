"""Building blocks for workers. They run on the CPU and import no framework."""
