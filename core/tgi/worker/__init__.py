"""Building blocks for workers that run on the host, with numpy as the only dependency."""
