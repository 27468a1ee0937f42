"""What a user of the load tester can cause and mend."""

from sgl_indexcache.errors import UserError


class LoadTestError(UserError):
    """Base of this package's errors."""


class WorkloadError(LoadTestError):
    """A workload description that cannot be sent."""


class TraceError(LoadTestError):
    """A trace that is refused as a whole; names the line and the reason."""


class OptionError(LoadTestError):
    """An option's value, or a combination of options, that means nothing."""


class TargetError(LoadTestError):
    """The server under test cannot be used at all."""


class ReportError(LoadTestError):
    """A report file that cannot be read, written or compared."""
