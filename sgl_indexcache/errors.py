"""The one base class of errors that a user can cause and mend."""


class UserError(Exception):
    """One sentence that says what is wrong and what to do; the CLI prints it and exits non-zero.

    Everything else that escapes is a defect of ours and keeps its traceback.
    """
