-- What was used of budgets of the calendar: a row for each counter, so that a restart brings no second budget.

-- Several processes may share the file: each adds what it counted since the last time, and none overwrites another's.
CREATE TABLE budgets (
    policy        TEXT    NOT NULL,
    limit_name    TEXT    NOT NULL,
    partition     TEXT    NOT NULL,  -- a longer one than 64 bytes as its SHA-256 in hex
    unit          TEXT    NOT NULL,
    period        TEXT    NOT NULL,
    period_end_us INTEGER NOT NULL,  -- Unix microseconds
    used          INTEGER NOT NULL CHECK (used BETWEEN 0 AND 9007199254740991),
    PRIMARY KEY (policy, limit_name, partition, unit, period)
) STRICT, WITHOUT ROWID;

-- Rows of past periods are looked for with every change.
CREATE INDEX budgets_by_end ON budgets (period_end_us);
