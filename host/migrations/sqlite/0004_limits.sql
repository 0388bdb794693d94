-- Limits of keys and users: a row for each, so that another thing to limit is another word and no other table.

-- The words of `holder` and `name` are not checked here: a version that doesn't know one refuses to read it.
CREATE TABLE limits (
    holder    TEXT    NOT NULL,  -- 'key' or 'user'
    holder_id TEXT    NOT NULL,
    model     TEXT    NOT NULL,  -- canonical name; empty: all models together
    name      TEXT    NOT NULL,
    value     INTEGER NOT NULL CHECK (value BETWEEN 0 AND 9007199254740991),
    PRIMARY KEY (holder, holder_id, model, name)
) STRICT, WITHOUT ROWID;

INSERT INTO limits (holder, holder_id, model, name, value)
SELECT 'key', id, '', 'requests-per-minute', min(requests_per_minute, 9007199254740991)
FROM keys
WHERE requests_per_minute IS NOT NULL;

ALTER TABLE keys DROP COLUMN requests_per_minute;
