-- Keys and the users who own them. Ids are text, times are Unix milliseconds.

-- One row. Every change raises the number in its own transaction, so that other processes notice.
CREATE TABLE revision (
    id     INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    number INTEGER NOT NULL
) STRICT;

INSERT INTO revision (id, number) VALUES (1, 0);

CREATE TABLE users (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 200),
    created_at INTEGER NOT NULL
) STRICT;

-- The words of `state` are not checked here: a later version may add one without rebuilding the table, and a version
-- that doesn't know a word refuses to read it.
CREATE TABLE keys (
    id                  TEXT    NOT NULL PRIMARY KEY,
    name                TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    user_id             TEXT             REFERENCES users (id),
    hash                BLOB    NOT NULL CHECK (length(hash) = 32),
    state               TEXT    NOT NULL,
    requests_per_minute INTEGER          CHECK (requests_per_minute >= 0),
    models              TEXT,              -- JSON ["name", …]; null: all models
    attributes          TEXT    NOT NULL,  -- JSON [["name", ["value", …]], …]
    expires_at          INTEGER,
    created_at          INTEGER NOT NULL
) STRICT;

-- A user has one live key of a name; keys without a user count as one user's. No id is empty.
CREATE UNIQUE INDEX keys_live_name ON keys (name, coalesce(user_id, '')) WHERE state <> 'revoked';
CREATE INDEX keys_user ON keys (user_id);
