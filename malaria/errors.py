"""The errors that you can correct, and those that pass."""


class UserError(Exception):
    """Something that a person can put right.

    The message is one sentence: what is wrong, where (file, key, value), and what to do. Commands
    print it without a traceback and end with status 1.
    """


class UnavailableError(UserError):
    """Something that may be there again in a minute, as a server or a network: the status is 75 instead.

    That is EX_TEMPFAIL of sysexits.h, by which a scheduler tells what to try again.
    """
