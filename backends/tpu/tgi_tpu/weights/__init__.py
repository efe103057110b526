"""The parameters on the devices, and their conversion."""
