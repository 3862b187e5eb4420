-- Registries of one name show their clients what the others gave.
ALTER TABLE registries ADD COLUMN
    trust TEXT NOT NULL DEFAULT ''; -- empty: it shares trust with none
