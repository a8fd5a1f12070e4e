"""Functions of the user's as expressions. What such a function may call is imported from here."""

from .functions import clamp, cos, exp, floor, log, maximum, minimum, sigmoid, sin, sqrt, tanh, where

__all__ = ["clamp", "cos", "exp", "floor", "log", "maximum", "minimum", "sigmoid", "sin", "sqrt", "tanh", "where"]
