"""Where the training text comes from: Debian packages of documentation and dictionaries, by name."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """One package and the files in it that are read.

    package  name in Debian's main archive (free software only)
    licence  what its copyright file says of the files used
    include  glob over paths inside the package, relative to its root
    limit    at most this many bytes of text are taken, in the order of the pieces' hashes
    """

    package: str
    licence: str
    include: str
    limit: int


MB = 1_000_000

SOURCES: tuple[Source, ...] = (
    Source("python3.11-doc", "PSF-2.0", "usr/share/doc/python3.11/html/_sources/**/*.txt", 9 * MB),
    Source("linux-doc-6.1", "GPL-2.0", "usr/share/doc/linux-doc-6.1/html/_sources/**/*.txt*", 8 * MB),
    Source("postgresql-doc-15", "PostgreSQL", "usr/share/doc/postgresql-doc-15/html/**/*.html", 6 * MB),
    Source("perl-doc", "Artistic-1.0 or GPL-1.0+", "usr/share/perl/*/pod/*.pod", 4 * MB),
    Source("git-doc", "GPL-2.0", "usr/share/doc/git*/**/*.txt", 3 * MB),
    Source("debian-handbook", "CC-BY-SA-3.0 or GPL-2.0+", "usr/share/doc/**/en-US/**/*.html", 2 * MB),
    Source("debian-reference-en", "GPL-2.0+", "usr/share/**/*.html", 1 * MB),
    Source("debian-policy", "GPL-2.0+", "usr/share/doc/debian-policy/**/*.html", 1 * MB),
    Source("developers-reference", "GPL-2.0+", "usr/share/**/*.html", 1 * MB),
    Source("dict-gcide", "GPL-2.0+", "usr/share/dictd/*.dict.dz", 9 * MB),
    Source("dict-wn", "WordNet-3.0", "usr/share/dictd/*.dict.dz", 2 * MB),
    Source("dict-foldoc", "GFDL-1.2+", "usr/share/dictd/*.dict.dz", 3 * MB),
    Source("dict-jargon", "public domain", "usr/share/dictd/*.dict.dz", 2 * MB),
)
