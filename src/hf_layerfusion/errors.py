"""The one error class for mistakes that the person at the command line can mend."""


class UserError(ValueError):
    """Bad input from the user: names the argument, file or row, the rule, what was found and the way out.

    The message is one line. Scripts print it and exit with code 2; library callers catch it as `ValueError`.
    """
