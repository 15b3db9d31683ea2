"""External arrays: their life, their logical units as volumes, and the fences that annex holds on them."""
