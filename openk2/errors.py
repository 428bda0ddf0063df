"""The one error type a person is meant to read."""


class UserError(Exception):
    """Something a person can mend: the message says in one sentence what happened and what to do."""
