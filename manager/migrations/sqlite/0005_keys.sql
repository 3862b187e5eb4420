-- Which key each daemon has: a name is its key's, and the key of a daemon that is removed is revoked.
ALTER TABLE daemons ADD COLUMN
    key_hash BLOB; -- SHA-256 of the public key; NULL: it enrolled before keys were kept, and was not seen since
ALTER TABLE daemons ADD COLUMN
    certificate_ends INTEGER NOT NULL DEFAULT 0; -- Unix seconds; of the last certificate for that key
ALTER TABLE daemons ADD COLUMN
    token TEXT; -- the id of the join token that it came with

ALTER TABLE tokens ADD COLUMN
    used_by TEXT; -- the daemon that joined with it last

CREATE UNIQUE INDEX daemons_by_key ON daemons (key_hash);

CREATE TABLE revoked_keys (
    key_hash BLOB    PRIMARY KEY,
    daemon   TEXT    NOT NULL, -- whose it was
    ends_at  INTEGER NOT NULL, -- Unix seconds; by then no certificate for it is good anywhere
    removed  INTEGER NOT NULL  -- 1: its daemon was removed; 0: its daemon has another key
) STRICT;

CREATE INDEX revoked_keys_by_end ON revoked_keys (ends_at);
