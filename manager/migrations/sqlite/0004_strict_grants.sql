-- Whether a registry is asked about each blob, whatever it granted a moment ago.
ALTER TABLE registries ADD COLUMN
    strict_grants INTEGER NOT NULL DEFAULT 0 CHECK (strict_grants IN (0, 1));
