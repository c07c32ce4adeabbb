"""Everything that refuses, cuts or skips work when there is too much of it."""
