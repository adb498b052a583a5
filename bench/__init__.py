"Measures the kit beside the usual way, in one run, on the same games. `make bench` runs all of it."
