-- Whether an added backend answers in Anthropic's API too. Those that were added before didn't say so.
ALTER TABLE backends ADD COLUMN anthropic INTEGER NOT NULL DEFAULT 0 CHECK (anthropic IN (0, 1));
