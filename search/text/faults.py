"""Errors of the search whose message is meant for people. Apart, so that a command can name them and load no more."""

from __future__ import annotations


class JournalError(RuntimeError):
    """A journal that cannot be read or written; the message names the file, the line and what to do."""


class RunError(ValueError):
    """A results folder that cannot be read; the message names the file and what is wrong."""
