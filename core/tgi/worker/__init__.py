"""Building blocks for workers. They run on the host, and their only dependency is numpy."""
