"""How a device's memory is divided: sizes, limits and the errors when it runs out."""
