"""The difference of two datafiles in words.

`difference` is never empty where a decision can change: whatever has no words of its own is named by its field. It is empty for
order that decides nothing, spacing, revisions, and audiences that nothing uses. Users are counted, never named; texts of variables
and keys of ODP are never shown. All names are text from outside: escaped and bounded.
"""

from datafile_sidecar.core.difference.lines import difference
from datafile_sidecar.core.difference.wording import summary

__all__ = ["difference", "summary"]
