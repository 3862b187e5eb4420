-- One row: whose database this is, and how often its settings have changed.
CREATE TABLE cluster (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    name     TEXT    NOT NULL,
    revision INTEGER NOT NULL
) STRICT;

CREATE TABLE regions (
    name        TEXT PRIMARY KEY,
    description TEXT NOT NULL
) STRICT;

CREATE TABLE registries (
    host TEXT PRIMARY KEY
) STRICT;

CREATE TABLE endpoints (
    host     TEXT    NOT NULL REFERENCES registries (host) ON DELETE CASCADE,
    position INTEGER NOT NULL, -- order of preference, from 0
    url      TEXT    NOT NULL,
    ca_pem   TEXT    NOT NULL, -- '': the system's roots alone
    address  TEXT    NOT NULL, -- '': resolve the name
    PRIMARY KEY (host, position)
) STRICT;

CREATE TABLE daemons (
    id          TEXT PRIMARY KEY,
    region      TEXT    NOT NULL REFERENCES regions (name),
    role        TEXT    NOT NULL,
    address     TEXT    NOT NULL, -- '': it has not said yet
    version     TEXT    NOT NULL,
    enrolled_at INTEGER NOT NULL, -- Unix seconds
    seen_at     INTEGER NOT NULL  -- Unix seconds
) STRICT;

CREATE INDEX daemons_by_region ON daemons (region);

CREATE TABLE tokens (
    id          TEXT PRIMARY KEY,
    secret_hash BLOB    NOT NULL UNIQUE, -- BLAKE3; the secret itself is nowhere
    region      TEXT    NOT NULL REFERENCES regions (name) ON DELETE CASCADE,
    role        TEXT    NOT NULL,
    created_at  INTEGER NOT NULL, -- Unix seconds
    expires_at  INTEGER NOT NULL, -- Unix seconds
    uses_left   INTEGER           -- NULL: any number
) STRICT;
