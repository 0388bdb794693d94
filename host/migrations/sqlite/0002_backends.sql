-- Backends beside those of the configuration, and which backends are drained. Times are Unix milliseconds.

-- The words of `kind` and the form of `url` are checked by whoever uses them: what is allowed may change.
CREATE TABLE backends (
    name       TEXT    NOT NULL PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 32),
    url        TEXT    NOT NULL UNIQUE,
    kind       TEXT    NOT NULL,
    weight     INTEGER NOT NULL CHECK (weight BETWEEN 1 AND 1000),
    created_at INTEGER NOT NULL
) STRICT;

-- By name alone, for backends of the configuration can be drained too.
CREATE TABLE drained_backends (
    name TEXT NOT NULL PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 32)
) STRICT;
