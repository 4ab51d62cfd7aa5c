"""The one kind of error that you can correct."""


class UserError(Exception):
    """Something that a person can put right.

    The message is one sentence: what is wrong, where (file, key, value), and what to do. Commands
    print it without a traceback and end with status 1.
    """
