-- What a registry and its endpoints may say beside their addresses. The defaults are what held
-- before there was anything to say.
ALTER TABLE registries ADD COLUMN
    release TEXT NOT NULL DEFAULT 'streaming' CHECK (release IN ('streaming', 'verified'));
ALTER TABLE registries ADD COLUMN
    proxy_cache INTEGER NOT NULL DEFAULT 0 CHECK (proxy_cache IN (0, 1));
ALTER TABLE registries ADD COLUMN
    count_pulls INTEGER NOT NULL DEFAULT 1 CHECK (count_pulls IN (0, 1));
ALTER TABLE registries ADD COLUMN
    offline_granted_seconds INTEGER; -- how much longer grants live; NULL: nothing is served

ALTER TABLE endpoints ADD COLUMN
    weight INTEGER NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 100);
ALTER TABLE endpoints ADD COLUMN
    standby INTEGER NOT NULL DEFAULT 0 CHECK (standby IN (0, 1));
ALTER TABLE endpoints ADD COLUMN
    proxy TEXT NOT NULL DEFAULT ''; -- '': none

CREATE TABLE caps (
    host        TEXT    NOT NULL,
    position    INTEGER NOT NULL, -- the endpoint's
    ordinal     INTEGER NOT NULL, -- among the endpoint's caps, from 0
    bytes_per_s INTEGER NOT NULL,
    from_minute INTEGER,          -- of the day; NULL: always
    to_minute   INTEGER,
    PRIMARY KEY (host, position, ordinal),
    FOREIGN KEY (host, position) REFERENCES endpoints (host, position) ON DELETE CASCADE,
    CHECK ((from_minute IS NULL) = (to_minute IS NULL))
) STRICT;
