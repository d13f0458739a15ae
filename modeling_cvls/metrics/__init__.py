"""The project's `evaluate` modules, one folder each: load one with `evaluate.load("<path of its folder>")`."""
