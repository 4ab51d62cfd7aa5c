"""Errors that the user can correct, and temporary ones."""


class UserError(Exception):
    """An error that the user can correct.

    The message is one sentence: what is wrong, where (file, key, value), and what to do. Commands
    print it without a traceback and end with status 1.
    """


class UnavailableError(UserError):
    """A temporary failure, as of a server or a network: commands end with status 75 instead.

    That is EX_TEMPFAIL of sysexits.h, by which a scheduler knows what to try again.
    """
