"""How fast this machine dreams, trains and reads data with the sizes of a recipe, beside what the machine itself can do.

Weights and data are made up for it: speed does not depend on their values. Parts are timed one by one, "rest" is what the whole takes
beyond their sum: Python, bookkeeping and, for a frame, the random numbers.
"""
