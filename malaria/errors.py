"""The one kind of error that is a user's to mend."""


class UserError(Exception):
    """Something a person can put right.

    The message is one sentence: what is wrong, where (file, key, value), and what to do. Commands
    print it without a traceback and end with status 1.
    """
