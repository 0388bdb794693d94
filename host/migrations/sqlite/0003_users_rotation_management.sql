-- What somebody decided about users and said of them; a key's former secret; keys that may manage. Times are Unix
-- milliseconds.

-- As with keys, a version that doesn't know a state refuses to read it.
ALTER TABLE users ADD COLUMN state      TEXT NOT NULL DEFAULT 'active';
ALTER TABLE users ADD COLUMN attributes TEXT NOT NULL DEFAULT '[]';  -- JSON [["name", ["value", …]], …]

ALTER TABLE keys ADD COLUMN may_manage INTEGER NOT NULL DEFAULT 0 CHECK (may_manage IN (0, 1));

-- The secret before the last rotation proves the key as well, until this time. Both are there, or neither.
ALTER TABLE keys ADD COLUMN former_hash  BLOB CHECK (length(former_hash) = 32);
ALTER TABLE keys ADD COLUMN former_until INTEGER CHECK ((former_hash IS NULL) = (former_until IS NULL));
